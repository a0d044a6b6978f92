//! Carries out the faults of a plan when their time comes, and undoes them when it is over.
//!
//! Invariant: what an entry did is undone by the same entry, and by nothing else; whatever is still in force when the
//! chaos ends is over by then, because plans let no fault last longer.

use kauri_core::{config::NodeConfig, io::Input};

use crate::{
    bites::Bite,
    core::Core,
    dice::Chance,
    network::Site,
    node::Aim,
    plan::{CrashKind, Fault},
    time::Span,
    world::{Event, World, trace},
};

/// A process is replaced by one of another build in this time.
const UPGRADE: Span = Span::milliseconds(300);

/// The build of nodes that an entry of the plan poisons.
fn poisoned(entry: usize) -> String {
    format!("poisoned by {entry}")
}

impl<C: Core> World<C> {
    pub(crate) fn fault_begins(&mut self, entry: usize) {
        let fault = self.plan.faults[entry].fault.clone();
        trace!(self, "fault: {fault}");
        self.digest.numbers([4, entry as u64]);
        let lasting = match fault {
            Fault::Crash { nodes, kind, down } => {
                let running = nodes.iter().filter(|node| self.nodes[**node].process.is_some()).count();
                self.bites.add_if(running > 1 && running == self.nodes.len(), Bite::CrashAll);
                for node in nodes {
                    self.crash(node, kind, down);
                }
                self.deliver();
                None
            }
            Fault::Aimed { node, moment, count, kind, down, within } => {
                let until = self.schedule.now() + within;
                let terms = self.terms(node);
                self.nodes[node].aim =
                    Some(Aim { moment, left: count, kind, down, until, terms, vote_in_flight: false });
                None
            }
            Fault::Shutdown { node, down } => {
                if self.nodes[node].process.is_some() {
                    self.nodes[node].stopping = Some(down);
                    self.input(node, Input::Shutdown);
                }
                None
            }
            Fault::Pause { node, lasting } => {
                self.nodes[node].paused_until = self.nodes[node].paused_until.max(self.schedule.now() + lasting);
                None
            }
            Fault::SlowNode { node, factor, lasting } => {
                self.nodes[node].slow_factor = factor;
                Some(lasting)
            }
            Fault::SlowDisk { node, factor, lasting } => {
                self.nodes[node].queue.slow_down(factor);
                Some(lasting)
            }
            Fault::DiskStall { node, lasting } => {
                self.nodes[node].queue.stall(self.schedule.now() + lasting);
                None
            }
            Fault::Disk { node, fault } => self.disk_fault_begins(entry, node, fault),
            Fault::Cut { ways, lasting } => {
                for (from, to) in ways {
                    self.network.cut(Site(from), Site(to));
                }
                Some(lasting)
            }
            Fault::Clog { ways, lasting } => {
                // Undone one after the other, which is what stirs up the order of everything that waited.
                let step = Span(lasting.0 / (ways.len() as u64 + 1));
                for (way, (from, to)) in ways.into_iter().enumerate() {
                    self.network.clog(Site(from), Site(to));
                    self.schedule.after(step * (way as u64 + 1), Event::Unclog { entry, way });
                }
                None
            }
            Fault::Loss { ways, loss, lasting } => {
                for (from, to) in ways {
                    self.network.lose(Site(from), Site(to), loss);
                }
                Some(lasting)
            }
            Fault::Reset { a, b } => {
                self.network.reset(Site(a), Site(b), &mut self.schedule, &mut self.bites);
                None
            }
            Fault::Poison { nodes, number, lasting } => {
                for node in nodes {
                    let configuration = &mut self.nodes[node].configuration;
                    configuration.build = poisoned(entry);
                    configuration.poison = Some(number.to_be_bytes().to_vec().into());
                    self.crash(node, CrashKind::Process, UPGRADE);
                }
                self.deliver();
                Some(lasting)
            }
            Fault::ClockJump { node, milliseconds } => {
                self.nodes[node].clock.jump(milliseconds);
                self.bites.add(Bite::ClockJump);
                None
            }
        };
        if let Some(lasting) = lasting {
            self.schedule.after(lasting, Event::FaultEnds { entry });
        }
    }

    pub(crate) fn fault_ends(&mut self, entry: usize) {
        let fault = self.plan.faults[entry].fault.clone();
        trace!(self, "over: {fault}");
        match fault {
            Fault::SlowNode { node, .. } => self.nodes[node].slow_factor = 1,
            Fault::SlowDisk { node, .. } => self.nodes[node].queue.slow_down(1),
            Fault::Disk { node, fault } => self.disk_fault_ends(entry, node, &fault),
            Fault::Cut { ways, .. } => {
                for (from, to) in ways {
                    self.network.mend(Site(from), Site(to), &mut self.schedule, &mut self.bites);
                }
                self.deliver();
            }
            Fault::Loss { ways, .. } => {
                let usual: Chance = self.plan.network.quality.loss;
                for (from, to) in ways {
                    self.network.lose(Site(from), Site(to), usual);
                }
            }
            Fault::Poison { nodes, .. } => {
                for node in nodes {
                    let configuration = &mut self.nodes[node].configuration;
                    // Another one may have taken its place.
                    if configuration.build != poisoned(entry) {
                        continue;
                    }
                    configuration.build = NodeConfig::BUILD.to_owned();
                    configuration.poison = None;
                    self.crash(node, CrashKind::Process, UPGRADE);
                }
                self.deliver();
            }
            Fault::Crash { .. }
            | Fault::Aimed { .. }
            | Fault::Shutdown { .. }
            | Fault::Pause { .. }
            | Fault::DiskStall { .. }
            | Fault::Clog { .. }
            | Fault::Reset { .. }
            | Fault::ClockJump { .. } => unreachable!("these end by themselves"),
        }
    }

    pub(crate) fn unclog(&mut self, entry: usize, way: usize) {
        let Fault::Clog { ways, .. } = &self.plan.faults[entry].fault else {
            unreachable!("only a clog has ways to open one after the other")
        };
        let (from, to) = ways[way];
        self.network.unclog(Site(from), Site(to), &mut self.schedule, &mut self.bites);
        self.deliver();
    }
}
