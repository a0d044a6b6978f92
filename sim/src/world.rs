//! A whole cluster with its clients, network and disks, driven by one heap of events.
//!
//! Invariant: nothing happens but by an event of the heap, and every event goes into the digest. A core is driven as the
//! real driver drives it: inputs in the order in which they came, one poll, then every effect. Does not own what is
//! checked ([`crate::check`]) nor what goes wrong when ([`crate::plan`]).

use std::{collections::BTreeSet, hash::Hash as _};

use kauri_core::{
    ids::{GroupId, ReplicaId},
    io::{DiskAction, DiskError, DiskOperation, Effects, Exit, Input, Notice},
};
use slog::Logger;

use crate::{
    bites::{Bite, Bites},
    check::inside::Inside,
    client::{self, Client, ClientEffects, ClientInput},
    client_site::ClientSite,
    copies::Copies,
    core::{Core, Depth},
    digest::Digest,
    disk::{
        Disk,
        queue::{Boundary, Completion, Slot},
    },
    failure::Failure,
    history::{History, Partition},
    network::{Arrival, Network, Port, Site, Socket, Wake},
    node::{Aim, Node, Owner},
    panic,
    plan::{CrashKind, Moment, Plan},
    schedule::{Alarm, Schedule},
    time::{Instant, Span},
    trace::Trace,
};

/// From the moment an input arrives to the turn that takes it, if the process is idle.
const WAKE_UP: Span = Span::microseconds(20);
/// A process that ended by itself is started again after this, as a supervisor would.
const RESTART: Span = Span::seconds(1);
/// A client is polled again after this at the earliest, unless something happens to it.
const CLIENT_POLL: Span = Span::microseconds(10);
/// Shallow looks into a node are at least this far apart, deep ones at least that far.
const SHALLOW_LOOK: Span = Span::milliseconds(20);
/// Disks are compared with what is committed this often.
const AUDIT: Span = Span::seconds(10);
const DEEP_LOOK: Span = Span::seconds(2);

/// What the heap holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Network(Wake),
    /// A turn of a process.
    Turn {
        node: usize,
    },
    Disk {
        node: usize,
        start: u32,
        slot: Slot,
    },
    /// A node starts again.
    Boot {
        node: usize,
    },
    Client {
        client: usize,
    },
    /// An entry of the plan begins, or ends.
    FaultBegins {
        entry: usize,
    },
    FaultEnds {
        entry: usize,
    },
    /// One way of a clog opens again.
    Unclog {
        entry: usize,
        way: usize,
    },
    /// The chaos is over.
    Heal,
    /// What is committed is compared with what is durable.
    Audit,
}

impl From<Wake> for Event {
    fn from(wake: Wake) -> Self {
        Self::Network(wake)
    }
}

pub struct World<C> {
    pub(crate) plan: Plan,
    pub(crate) schedule: Schedule<Event>,
    /// The next turn of each node's process, and the next poll of each client.
    turn_alarms: Vec<Alarm>,
    client_alarms: Vec<Alarm>,
    pub(crate) network: Network,
    pub(crate) nodes: Vec<Node<C>>,
    clients: Vec<ClientSite>,
    pub(crate) history: History,
    pub(crate) bites: Bites,
    pub(crate) digest: Digest,
    pub(crate) inside: Inside,
    pub(crate) copies: Copies,
    /// Replicas that lay on disks that were wiped.
    pub(crate) lost: BTreeSet<(GroupId, ReplicaId)>,
    pub(crate) trace: Trace,
    logger: Logger,
    /// Reused by every event.
    effects: Effects,
    client_effects: ClientEffects,
    arrivals: Vec<Arrival>,
    /// Turns of all cores so far.
    pub(crate) turns: u64,
}

macro_rules! trace {
    ($world:expr, $($line:tt)*) => {
        $world.trace.line($world.schedule.now(), format_args!($($line)*))
    };
}
pub(crate) use trace;

impl<C: Core> World<C> {
    /// The cluster of a plan, about to start, with one client for each of the plan's (see [`Plan::clients`]).
    pub fn new(plan: Plan, clients: Vec<Box<dyn Client>>, logger: Logger, trace: Trace) -> Self {
        assert_eq!(clients.len(), plan.clients(), "the plan says how many clients there are");
        let mut schedule = Schedule::default();
        for (entry, fault) in plan.faults.iter().enumerate() {
            schedule.at(Instant::default() + fault.at, Event::FaultBegins { entry });
        }
        let mut boots = crate::dice::Dice::new(plan.seed, "first start", 0, 0);
        for node in 0..plan.nodes.len() {
            schedule.after(boots.span(Span::ZERO, Span::milliseconds(500)), Event::Boot { node });
        }
        let client_alarms: Vec<Alarm> =
            (0..clients.len()).map(|client| schedule.alarm(Event::Client { client })).collect();
        for alarm in &client_alarms {
            schedule.set(*alarm, Instant::default());
        }
        schedule.at(Instant::default() + plan.chaos, Event::Heal);
        schedule.after(AUDIT, Event::Audit);
        let network =
            Network::new(plan.seed, plan.sites(), plan.network.sockets.clone(), |from, to| plan.quality(from.0, to.0));
        let turn_alarms = (0..plan.nodes.len()).map(|node| schedule.alarm(Event::Turn { node })).collect();
        let nodes = (0..plan.nodes.len()).map(|index| Node::new(&plan, index)).collect();
        let clients = clients.into_iter().map(ClientSite::new).collect();
        let mut history = History::default();
        if trace.is_on() {
            history.listen();
        }
        Self {
            inside: Inside::new(plan.nodes.len()),
            copies: Copies::new(plan.budget),
            lost: BTreeSet::new(),
            plan,
            schedule,
            turn_alarms,
            client_alarms,
            network,
            nodes,
            clients,
            history,
            bites: Bites::default(),
            digest: Digest::default(),
            trace,
            logger,
            effects: Effects::default(),
            client_effects: ClientEffects::default(),
            arrivals: Vec::new(),
            turns: 0,
        }
    }

    pub fn now(&self) -> Instant {
        self.schedule.now()
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    /// The disk of a node, as its page cache shows it.
    pub fn disk(&self, node: usize) -> &Disk {
        self.nodes[node].queue.disk()
    }

    pub fn bites(&self) -> &Bites {
        &self.bites
    }

    pub fn digest(&self) -> u64 {
        self.digest.value()
    }

    /// Events so far, and turns of cores among them.
    pub fn events(&self) -> (u64, u64) {
        (self.schedule.scheduled(), self.turns)
    }

    /// Lets the world run until a time, or to the first failure.
    pub fn run_until(&mut self, until: Instant) -> Result<(), Failure> {
        while let Some(event) = self.schedule.next(until) {
            self.happen(event)?;
        }
        Ok(())
    }

    pub fn have_clients_healed(&self) -> bool {
        self.clients.iter().all(|site| site.client.has_healed(&self.history))
    }

    /// What the clients that did not heal wait for.
    pub fn clients_wait_for(&self) -> Vec<String> {
        self.clients
            .iter()
            .filter(|site| !site.client.has_healed(&self.history))
            .map(|site| site.client.waits_for(&self.history))
            .collect()
    }

    /// For each client that did not heal the partitions that it waits for.
    pub(crate) fn clients_are_stuck_at(&self) -> Vec<Vec<Partition>> {
        let history = &self.history;
        let waiting = self.clients.iter().filter(|site| !site.client.has_healed(history));
        waiting.map(|site| site.client.stuck(history)).collect()
    }

    /// A deep look into every node that runs.
    pub fn look_into_all(&mut self) -> Result<(), Failure> {
        for node in 0..self.nodes.len() {
            self.look(node, Depth::Deep)?;
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Failure> {
        self.digest.number(self.schedule.now().0);
        crate::trace::set_now(self.schedule.now());
        match event {
            Event::Network(wake) => {
                self.network.wake(wake, &mut self.schedule, &mut self.bites);
                self.deliver();
            }
            Event::Turn { node } => self.turn(node)?,
            Event::Disk { node, start, slot } => {
                if self.nodes[node].starts == start && self.nodes[node].process.is_some() {
                    self.disk_done(node, slot);
                }
            }
            Event::Boot { node } => self.boot(node),
            Event::Client { client } => {
                self.poll_client(client);
                self.deliver();
            }
            Event::FaultBegins { entry } => self.fault_begins(entry),
            Event::FaultEnds { entry } => self.fault_ends(entry),
            Event::Unclog { entry, way } => self.unclog(entry, way),
            Event::Heal => self.heal(),
            Event::Audit => {
                self.audit()?;
                self.schedule.after(AUDIT, Event::Audit);
            }
        }
        Ok(())
    }

    fn heal(&mut self) {
        trace!(self, "heal");
        for client in 0..self.clients.len() {
            self.clients[client].client.handle(self.schedule.now(), ClientInput::Heal, &mut self.history);
            self.poll_client(client);
        }
        self.deliver();
    }

    fn boot(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            return;
        }
        let now = self.schedule.now();
        let configuration = self.nodes[node].configure(now);
        let start = self.nodes[node].starts;
        trace!(self, "node {node}: start {start}");
        self.digest.numbers([1, node as u64, u64::from(start)]);
        let logger = self.logger.new(slog::o!("node" => node, "start" => start));
        self.nodes[node].start(C::start(configuration, logger), now);
        self.inside.node_started(node);
        self.network.listen(Site(node), &mut self.schedule);
        self.schedule_turn(node, now);
        self.deliver();
    }

    /// The process of a node is gone; it starts again after `down`.
    pub(crate) fn crash(&mut self, node: usize, kind: CrashKind, down: Span) {
        if self.nodes[node].process.is_none() {
            return;
        }
        trace!(self, "node {node}: {kind:?} crash, down for {down}");
        self.digest.numbers([2, node as u64, kind as u64]);
        match kind {
            CrashKind::Process => {
                self.bites.add(Bite::ProcessCrash);
                self.network.kill_process(Site(node), &mut self.schedule, &mut self.bites);
            }
            CrashKind::Power => {
                self.bites.add(Bite::PowerLoss);
                self.network.power_off(Site(node));
            }
        }
        self.end_process(node, kind, down);
    }

    /// The process of a node is gone; it starts again after `down`.
    fn end_process(&mut self, node: usize, kind: CrashKind, down: Span) {
        self.nodes[node].end(kind, &mut self.bites);
        self.schedule.clear(self.turn_alarms[node]);
        self.schedule.after(down, Event::Boot { node });
    }

    /// Makes sure that a turn comes at `at` or before.
    fn schedule_turn(&mut self, node: usize, at: Instant) {
        let paused_until = self.nodes[node].paused_until;
        let Some(process) = &self.nodes[node].process else { return };
        self.schedule.set_by(self.turn_alarms[node], at.max(process.busy_until).max(paused_until));
    }

    pub(crate) fn input(&mut self, node: usize, input: Input) {
        let Some(process) = &mut self.nodes[node].process else { return };
        process.inbox.push_back(input);
        self.schedule_turn(node, self.schedule.now() + WAKE_UP);
    }

    fn turn(&mut self, index: usize) -> Result<(), Failure> {
        let now = self.schedule.now();
        let node = &mut self.nodes[index];
        let waiting = node.process.as_ref().expect("only a running process has turns").inbox.len();
        if now < node.paused_until {
            // A pause began after this turn was scheduled.
            self.bites.add_if(waiting > 0, Bite::Pause);
            let until = node.paused_until;
            self.schedule_turn(index, until);
            return Ok(());
        }
        let taken = node.turn_inputs(waiting);
        let cost = node.turn_cost(taken);
        self.bites.add_if(waiting > 100, Bite::Backlog);
        self.bites.add_if(node.slow_factor > 1, Bite::SlowNode);
        let process = node.process.as_mut().expect("runs");
        process.busy_until = now + cost;
        self.turns += 1;
        let clocks = node.clock.read(now);
        let effects = &mut self.effects;
        let digest = &mut self.digest;
        digest.numbers([3, index as u64, taken as u64]);
        let start = node.starts;
        let fatal = process.fatal;
        let mut heard_fatal = false;
        let result = panic::catch(|| {
            for input in process.inbox.drain(..taken) {
                if fatal.is_some() {
                    heard_fatal |= matches!(&input, Input::Disk { operation, .. } if Some(*operation) == fatal);
                }
                hash_input(digest, &input);
                process.core.handle(clocks, input);
            }
            process.core.poll(clocks, effects);
            process.core.next_deadline()
        });
        let deadline = match result {
            Ok(deadline) => deadline,
            Err(message) => {
                self.effects = Effects::default();
                return Err(Failure::new("panic", format!("node {index}: {message}")).at(now));
            }
        };
        let left = process.inbox.len();
        self.carry_out(index)?;
        if heard_fatal {
            self.must_have_ended(index, start)?;
        }
        if left > 0 {
            self.schedule_turn(index, now + cost);
        }
        if let Some(deadline) = deadline {
            let at = self.nodes[index].clock.when(deadline);
            self.schedule_turn(index, at);
        }
        let since = now.since(self.nodes[index].viewed_at);
        if self.nodes[index].process.is_some() && since >= SHALLOW_LOOK {
            self.nodes[index].viewed_at = now;
            let deep = now.0 / DEEP_LOOK.0 != (now.0 - since.0) / DEEP_LOOK.0;
            self.look(index, if deep { Depth::Deep } else { Depth::Shallow })?;
        }
        Ok(())
    }

    fn look(&mut self, index: usize, depth: Depth) -> Result<(), Failure> {
        let node = &mut self.nodes[index];
        let Some(process) = &node.process else { return Ok(()) };
        let before = std::mem::take(&mut node.view.states_received);
        let held = std::mem::take(&mut node.view.held);
        let repaired = std::mem::take(&mut node.view.entries_repaired);
        process.core.view(depth, &mut node.view);
        (repaired..node.view.entries_repaired).for_each(|_| self.bites.add(Bite::EntryRepaired));
        (held..node.view.held).for_each(|_| self.bites.add(Bite::Held));
        (before..node.view.states_received).for_each(|_| self.bites.add(Bite::StateTransfer));
        let is_damaged = self.copies.is_hurt(index) || self.copies.is_over_budget();
        self.inside.look(index, &node.view, is_damaged).map_err(|failure| failure.at(self.schedule.now()))
    }

    fn carry_out(&mut self, index: usize) -> Result<(), Failure> {
        let mut effects = std::mem::take(&mut self.effects);
        let now = self.schedule.now();
        if let Some(exit) = effects.exit.take() {
            self.effects = Effects::default();
            return self.exited(index, &exit);
        }
        let node = &mut self.nodes[index];
        if !effects.wal.is_empty() || !effects.disk.is_empty() {
            for operation in effects.wal.iter().chain(&effects.disk) {
                hash_operation(&mut self.digest, operation);
            }
            let writes_wal = !effects.wal.is_empty();
            node.queue.submit(effects.wal.drain(..), effects.disk.drain(..));
            if writes_wal {
                self.watch_votes(index);
            }
            self.start_operations(index);
            if self.nodes[index].process.is_none() {
                // It crashed right then, and said nothing any more.
                return Ok(());
            }
        }
        for dial in effects.peer_dials.drain(..) {
            let host = dial.address.rsplit_once(':').map_or(dial.address.as_str(), |(host, _)| host);
            let peer = client::node_of(host).filter(|peer| *peer < self.nodes.len());
            // A name that nobody has is a defect of this simulator's configuration, not of the cluster.
            let peer = peer.expect("nodes dial the addresses they were configured with");
            let socket = self.network.dial(Site(index), Site(peer), Port::Peers, &mut self.schedule);
            self.nodes[index].process.as_mut().expect("runs").add_link(dial.link, socket);
        }
        self.check_acknowledged(index, &effects.peer_sends)?;
        let process = self.nodes[index].process.as_mut().expect("runs");
        for send in effects.peer_sends.drain(..) {
            if let Some(socket) = process.links.get(&send.link) {
                self.network.send(*socket, send.slices, &mut self.schedule, &mut self.bites);
            }
        }
        for send in effects.client_sends.drain(..) {
            if let Some(socket) = process.connections.get(&send.connection) {
                self.network.send(*socket, send.slices, &mut self.schedule, &mut self.bites);
            }
        }
        for (connection, bytes) in effects.client_credits.drain(..) {
            if let Some(socket) = process.connections.get(&connection) {
                self.network.credit(*socket, bytes, &mut self.schedule);
            }
        }
        let mut ended = Vec::new();
        for connection in effects.client_closes.drain(..) {
            if let Some(socket) = process.connections.get(&connection) {
                self.network.finish(*socket, &mut self.schedule, &mut self.bites);
                ended.extend(process.forget(*socket));
            }
        }
        for connection in effects.client_aborts.drain(..) {
            if let Some(socket) = process.connections.get(&connection).copied() {
                self.network.close(socket, &mut self.schedule, &mut self.bites);
                ended.extend(process.forget(socket));
            }
        }
        for link in effects.peer_closes.drain(..) {
            if let Some(socket) = process.links.get(&link).copied() {
                self.network.close(socket, &mut self.schedule, &mut self.bites);
                ended.extend(process.forget(socket));
            }
        }
        for notice in effects.notices.drain(..) {
            let name = match notice {
                Notice::Recovered => "recovered",
                Notice::Serving => {
                    self.nodes[index].loud = None;
                    "serving"
                }
            };
            self.trace.line(now, format_args!("node {index}: {name}"));
        }
        self.effects = effects;
        // Whoever opened a connection announces its end exactly once, also when the core itself wanted it.
        for input in ended {
            self.input(index, input);
        }
        self.deliver();
        Ok(())
    }

    fn exited(&mut self, index: usize, exit: &Exit) -> Result<(), Failure> {
        trace!(self, "node {index}: exit: {exit}");
        let now = self.schedule.now();
        match exit {
            Exit::Stopped if self.nodes[index].stopping.is_some() => {
                let down = self.nodes[index].stopping.take().unwrap_or(RESTART);
                self.network.kill_process(Site(index), &mut self.schedule, &mut self.bites);
                // A process that stopped cleanly has nothing in flight; if it has, its sync is its own concern.
                self.end_process(index, CrashKind::Process, down);
                Ok(())
            }
            exit if self.may_end(index, exit) => {
                self.network.kill_process(Site(index), &mut self.schedule, &mut self.bites);
                self.nodes[index].end(CrashKind::Process, &mut self.bites);
                let down = self.disk_failed(index, exit);
                self.schedule.after(down, Event::Boot { node: index });
                Ok(())
            }
            // Every other end is the core's own.
            Exit::Stopped | Exit::DiskFailed { .. } | Exit::Damaged { .. } | Exit::Refused(_) => {
                Err(Failure::new("unexpected_exit", format!("node {index} ended by itself: {exit}")).at(now))
            }
        }
    }

    fn start_operations(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let start = node.starts;
        let schedule = &mut self.schedule;
        let now = schedule.now();
        let mut begun = Vec::new();
        let is_aimed = node.aim.is_some_and(|aim| aim.moment == Moment::AnyBegun);
        node.queue.start(now, &mut self.bites, |done, slot| {
            schedule.at(done, Event::Disk { node: index, start, slot });
            if is_aimed {
                begun.push(slot);
            }
        });
        begun.retain(|slot| self.nodes[index].queue.is_change(*slot));
        for _ in begun {
            if self.is_aimed_at(index, Boundary::Begun) {
                break;
            }
        }
    }

    fn disk_done(&mut self, index: usize, slot: Slot) {
        let now = self.schedule.now();
        let Completion { operation, result, boundary, must_end } =
            self.nodes[index].queue.complete(now, slot, &mut self.bites);
        if boundary.is_some_and(|boundary| self.is_aimed_at(index, boundary)) {
            return;
        }
        if let Err(error) = &result
            && let Some(process) = &mut self.nodes[index].process
        {
            process.told_errors.io |= matches!(error, DiskError::Io { .. });
            process.told_errors.full |= matches!(error, DiskError::Full);
            if must_end {
                process.fatal.get_or_insert(operation);
            }
        }
        self.input(index, Input::Disk { operation, result });
        self.start_operations(index);
    }

    /// Whether this moment is the one at which the node was to crash; then it has.
    fn is_aimed_at(&mut self, index: usize, boundary: Boundary) -> bool {
        let now = self.schedule.now();
        let Some(aim) = &mut self.nodes[index].aim else { return false };
        if now > aim.until {
            self.nodes[index].aim = None;
            return false;
        }
        let hit = match (aim.moment, boundary) {
            (Moment::WalWritten, Boundary::WalWritten)
            | (Moment::WalSynced, Boundary::WalSynced)
            | (Moment::OtherDone, Boundary::OtherDone)
            | (Moment::AnyBegun, Boundary::Begun)
            | (Moment::AnyDone, Boundary::WalWritten | Boundary::WalSynced | Boundary::OtherDone) => true,
            (Moment::VoteWritten, Boundary::WalWritten) | (Moment::VoteSynced, Boundary::WalSynced) => {
                aim.vote_in_flight
            }
            (
                Moment::WalWritten
                | Moment::WalSynced
                | Moment::OtherDone
                | Moment::VoteWritten
                | Moment::VoteSynced
                | Moment::AnyDone
                | Moment::AnyBegun,
                Boundary::WalWritten | Boundary::WalSynced | Boundary::OtherDone | Boundary::Begun,
            ) => false,
        };
        if !hit {
            return false;
        }
        aim.left -= 1;
        if aim.left > 0 {
            return false;
        }
        let aim = *aim;
        self.bites.add(Bite::AimedCrash);
        self.crash(index, aim.kind, aim.down);
        self.deliver();
        true
    }

    /// The sum of the terms of all replicas of a node: it grows when one of them votes or learns of a new term.
    pub(crate) fn terms(&mut self, index: usize) -> u64 {
        let node = &mut self.nodes[index];
        let Some(process) = &node.process else { return 0 };
        process.core.view(Depth::Shallow, &mut node.view);
        node.view.groups.iter().map(|group| group.term.0).sum()
    }

    /// A write to the WAL begins: if a term grew since the aim was taken, it is in this write.
    fn watch_votes(&mut self, index: usize) {
        let Some(aim) = self.nodes[index].aim else { return };
        if matches!(aim.moment, Moment::VoteWritten | Moment::VoteSynced) && self.terms(index) > aim.terms {
            self.nodes[index].aim = Some(Aim { vote_in_flight: true, ..aim });
        }
    }

    /// Hands what the network delivered to its receivers.
    pub(crate) fn deliver(&mut self) {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        loop {
            self.network.take_arrivals(&mut arrivals);
            if arrivals.is_empty() {
                self.arrivals = arrivals;
                return;
            }
            for arrival in arrivals.drain(..) {
                let site = match &arrival {
                    Arrival::Connected { site, .. }
                    | Arrival::Accepted { site, .. }
                    | Arrival::Frame { site, .. }
                    | Arrival::Written { site, .. }
                    | Arrival::Down { site, .. } => *site,
                };
                if site.0 < self.nodes.len() {
                    self.deliver_to_node(site.0, arrival);
                } else {
                    self.deliver_to_client(site.0 - self.nodes.len(), arrival);
                }
            }
        }
    }

    fn deliver_to_node(&mut self, index: usize, arrival: Arrival) {
        let Some(process) = &mut self.nodes[index].process else { return };
        let owner = |socket: &Socket| process.owners.get(socket).copied();
        let input = match arrival {
            Arrival::Accepted { socket, port: Port::Peers, .. } => {
                Some(Input::LinkAccepted { link: process.accept_link(socket) })
            }
            Arrival::Accepted { socket, port: Port::Clients, .. } => {
                Some(Input::ClientConnected { connection: process.accept_client(socket) })
            }
            Arrival::Connected { socket, .. } => match owner(&socket) {
                Some(Owner::Link(link)) => Some(Input::LinkUp { link }),
                Some(Owner::Client(_)) => unreachable!("clients dial nodes, never the other way"),
                None => None,
            },
            Arrival::Frame { socket, frame, .. } => match owner(&socket) {
                Some(Owner::Link(link)) => Some(Input::LinkFrame { link, frame }),
                Some(Owner::Client(connection)) => Some(Input::ClientFrame { connection, frame }),
                None => None,
            },
            Arrival::Written { socket, bytes, .. } => match owner(&socket) {
                Some(Owner::Link(link)) => Some(Input::LinkWritten { link, bytes }),
                Some(Owner::Client(connection)) => Some(Input::ClientWritten { connection, bytes }),
                None => None,
            },
            Arrival::Down { socket, .. } => process.forget(socket),
        };
        if let Some(input) = input {
            self.input(index, input);
        }
    }

    fn deliver_to_client(&mut self, client: usize, arrival: Arrival) {
        let now = self.schedule.now();
        let site = &mut self.clients[client];
        let Some(input) = site.translate(arrival) else { return };
        if let ClientInput::Frame { frame, .. } = &input {
            self.digest.bytes(frame);
        }
        site.client.handle(now, input, &mut self.history);
        self.poll_client(client);
    }

    fn poll_client(&mut self, client: usize) {
        let now = self.schedule.now();
        let from = Site(self.nodes.len() + client);
        let site = &mut self.clients[client];
        let mut effects = std::mem::take(&mut self.client_effects);
        site.client.poll(now, &mut effects, &mut self.history);
        for (name, host) in effects.dials.drain(..) {
            let node = client::node_of(&host).filter(|node| *node < self.nodes.len());
            let node = node.expect("clients dial hosts that the cluster advertises");
            let socket = self.network.dial(from, Site(node), Port::Clients, &mut self.schedule);
            site.add(name, socket);
        }
        for (name, slices) in effects.sends.drain(..) {
            if let Some(socket) = site.socket(name) {
                self.network.send(socket, slices, &mut self.schedule, &mut self.bites);
            }
        }
        let mut closed = Vec::new();
        for name in effects.closes.drain(..) {
            if let Some(socket) = site.remove(name) {
                self.network.close(socket, &mut self.schedule, &mut self.bites);
                closed.push(name);
            }
        }
        for note in self.history.take_notes() {
            self.trace.line(now, format_args!("{note}"));
        }
        let deadline = site.client.next_deadline();
        self.client_effects = effects;
        if !closed.is_empty() {
            for socket in closed {
                self.clients[client].client.handle(now, ClientInput::Down { socket }, &mut self.history);
            }
            self.schedule.set(self.client_alarms[client], now);
        } else if let Some(deadline) = deadline {
            self.schedule.set(self.client_alarms[client], deadline.max(now + CLIENT_POLL));
        } else {
            self.schedule.clear(self.client_alarms[client]);
        }
    }
}

fn hash_operation(digest: &mut Digest, operation: &DiskOperation) {
    digest.number(operation.id.0);
    match &operation.action {
        DiskAction::Create { file, size } => {
            file.hash(digest);
            digest.numbers([30, *size]);
        }
        DiskAction::Write { file, offset, slices } => {
            file.hash(digest);
            digest.numbers([31, *offset]);
            digest.slices(slices);
        }
        DiskAction::Sync { file } => {
            file.hash(digest);
            digest.number(32);
        }
        DiskAction::SyncDirectory { directory } => {
            directory.hash(digest);
            digest.number(33);
        }
        DiskAction::Read { file, offset, length } => {
            file.hash(digest);
            digest.numbers([34, *offset, *length as u64]);
        }
        DiskAction::Truncate { file, length } => {
            file.hash(digest);
            digest.numbers([35, *length]);
        }
        DiskAction::Rename { from, to } => {
            from.hash(digest);
            to.hash(digest);
            digest.number(36);
        }
        DiskAction::Remove { file } => {
            file.hash(digest);
            digest.number(37);
        }
        DiskAction::List { directory } => {
            directory.hash(digest);
            digest.number(38);
        }
    }
}

fn hash_input(digest: &mut Digest, input: &Input) {
    match input {
        Input::ClientConnected { connection } => digest.numbers([10, connection.0]),
        Input::ClientFrame { connection, frame } => {
            digest.numbers([11, connection.0]);
            digest.bytes(frame);
        }
        Input::ClientWritten { connection, bytes } => digest.numbers([12, connection.0, *bytes as u64]),
        Input::ClientClosed { connection } => digest.numbers([13, connection.0]),
        Input::LinkUp { link } => digest.numbers([14, link.0]),
        Input::LinkAccepted { link } => digest.numbers([15, link.0]),
        Input::LinkFrame { link, frame } => {
            digest.numbers([16, link.0]);
            digest.bytes(frame);
        }
        Input::LinkWritten { link, bytes } => digest.numbers([17, link.0, *bytes as u64]),
        Input::LinkDown { link } => digest.numbers([18, link.0]),
        Input::Disk { operation, result } => digest.numbers([19, operation.0, u64::from(result.is_ok())]),
        Input::Shutdown => digest.number(20),
    }
}
