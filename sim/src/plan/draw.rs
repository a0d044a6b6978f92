//! A plan from a seed.
//!
//! Swarm: each seed first draws which kinds of fault exist at all, then how often and how long. Invariant: each kind
//! draws from a stream of its own, so that a change to one kind leaves the plans of all others as they were.

use super::{
    ClientKind, Configuration, ConsumerPlan, CrashKind, DiskBudget, DiskFault, Fault, Moment, NetworkPlan, NodePlan,
    Plan, ProbePlan, ProducerPlan, Swarm, TimedFault, TopicPlan, TurnCost, Workload,
};
use crate::{
    dice::{Chance, Dice},
    disk::{PowerMode, queue::DiskSpeed},
    network::{Delay, PathQuality, SocketLimits},
    time::Span,
};

/// The chaos lasts this long; together with the least time to heal a run has its 120 simulated seconds.
pub(super) const CHAOS: Span = Span::seconds(100);
/// Elections, retries that back off and reading everything again fit well into this.
const HEAL: Span = Span::seconds(60);
/// A cluster first forms, most of the time, in peace.
pub(super) const QUIET_START: Span = Span::seconds(5);
/// Groups of a run at least, the metadata group included.
const GROUPS_MIN: u64 = 12;
/// A fault is over this long before the chaos is.
pub(super) const LAST_END: Span = Span::milliseconds(500);

/// What a seed's faults may touch.
struct Sites {
    nodes: usize,
    all: usize,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(seed: u64) -> Self {
        Self::draw_with(seed, &Swarm::default())
    }

    /// The plan of a seed with these kinds of damage to disks.
    pub fn draw_with(seed: u64, swarm: &Swarm) -> Self {
        let mut shape = Dice::new(seed, "plan shape", 0, 0);
        let nodes = match shape.below(100) {
            0..=2 => 1,
            3..=62 => 3,
            63..=72 => 4,
            _ => 5,
        };
        let is_peaceful = shape.below(100) < 3;
        let voters = if nodes == 5 && shape.coin() { 5 } else { nodes.min(3) };
        let mut plan = Self {
            seed,
            nodes: (0..nodes).map(|node| draw_node(seed, node, node < voters)).collect(),
            configuration: draw_configuration(seed),
            network: draw_network(seed),
            workload: draw_workload(seed, nodes),
            budget: DiskBudget::default(),
            chaos: CHAOS,
            heal: HEAL,
            faults: Vec::new(),
        };
        let sites = Sites { nodes, all: plan.sites() };
        plan.network.delays = draw_slow_paths(seed, &sites);
        if !is_peaceful {
            plan.faults = draw_faults(seed, &sites);
            plan.add_media_faults(swarm);
        }
        plan
    }
}

fn draw_node(seed: u64, node: usize, voter: bool) -> NodePlan {
    let mut dice = Dice::new(seed, "plan node", node, 0);
    let year: i64 = 365 * 86_400_000;
    NodePlan {
        voter,
        disk: DiskSpeed {
            operation: Span::microseconds(*dice.pick(&[20, 50, 100, 500])),
            sync: Span::microseconds(*dice.pick(&[200, 500, 2_000, 10_000])),
            bytes_per_microsecond: *dice.pick(&[100, 500, 2_000]),
            depth: *dice.pick(&[1, 4, 16]),
            sector_bytes: *dice.pick(&[512, 4_096]),
        },
        power: *dice.pick(&PowerMode::ALL),
        wall_offset_milliseconds: *dice.pick(&[0, 0, 0, 40, -700, 90_000, -3_600_000, 7 * year, -40 * year]),
        wall_drift_ppm: *dice.pick(&[0, 0, 50, -200]),
        monotonic_rate_ppm: *dice.pick(&[0, 0, 100, -100, 20_000, -20_000]),
        turns: TurnCost {
            turn: Span::microseconds(*dice.pick(&[2, 10, 50])),
            input: Span::microseconds(*dice.pick(&[1, 3, 20])),
            inputs_max: *dice.pick(&[1, 32, 1_000, 10_000, 10_000]),
        },
    }
}

fn draw_configuration(seed: u64) -> Configuration {
    let mut dice = Dice::new(seed, "plan configuration", 0, 0);
    // Small files and budgets, so that runs reach their ends and use files again.
    let wal_file_bytes = *dice.pick(&[64 << 10, 256 << 10, 256 << 10, 1 << 20, 8 << 20]);
    Configuration {
        wal_file_bytes,
        segment_bytes: *dice.pick(&[1, 2, 16]) << 20,
        wal_budget_bytes: *dice.pick(&[8, 8, 12, 64]) * wal_file_bytes,
        checkpoint_interval: Span::milliseconds(*dice.pick(&[300, 2_000, 10_000, 60_000])),
    }
}

fn draw_delay(dice: &mut Dice) -> Delay {
    match dice.below(4) {
        0 => Delay::Constant(Span::microseconds(*dice.pick(&[50, 300, 5_000]))),
        1 => Delay::Exponential {
            least: Span::microseconds(50),
            mean: Span::microseconds(*dice.pick(&[200, 1_000, 10_000])),
        },
        2 => Delay::HeavyTail { least: Span::microseconds(100), most: Span::milliseconds(*dice.pick(&[20, 200, 800])) },
        _ => Delay::Bimodal {
            fast: Span::microseconds(200),
            slow: Span::milliseconds(*dice.pick(&[5, 50, 300])),
            chance: Chance::percent(*dice.pick(&[1, 5])),
        },
    }
}

fn draw_network(seed: u64) -> NetworkPlan {
    let mut dice = Dice::new(seed, "plan network", 0, 0);
    NetworkPlan {
        quality: PathQuality {
            delay: draw_delay(&mut dice),
            loss: Chance(*dice.pick(&[0, 0, 100, 2_000])),
            fragment: Chance(*dice.pick(&[0, 1_000, 20_000, 200_000])),
            bytes_per_microsecond: *dice.pick(&[12, 125, 1_250]),
        },
        delays: Vec::new(),
        sockets: SocketLimits {
            buffer_bytes: *dice.pick(&[16 << 10, 64 << 10, 256 << 10, 4 << 20]),
            give_up: (Span::seconds(2), Span::seconds(*dice.pick(&[5, 15]))),
            dial_timeout: Span::seconds(*dice.pick(&[1, 3, 10])),
        },
    }
}

fn draw_slow_paths(seed: u64, sites: &Sites) -> Vec<(usize, usize, Delay)> {
    let mut dice = Dice::new(seed, "plan slow paths", 0, 0);
    if sites.nodes < 2 || dice.below(3) > 0 {
        return Vec::new();
    }
    let from = dice.index(sites.nodes);
    let to = (from + 1 + dice.index(sites.nodes - 1)) % sites.nodes;
    vec![(from, to, draw_delay(&mut dice))]
}

fn draw_workload(seed: u64, nodes: usize) -> Workload {
    let mut dice = Dice::new(seed, "plan workload", 0, 0);
    let mut topics = Vec::new();
    let mut partitions = 0;
    let replicas_max = nodes.min(5) as u64;
    while partitions + 1 < GROUPS_MIN {
        let count = dice.range(1, 6);
        partitions += count;
        // Most topics have copies enough to survive a node.
        let replicas = if dice.below(4) == 0 { dice.range(1, replicas_max) } else { replicas_max.min(3) };
        topics.push(TopicPlan {
            name: format!("topic-{}", topics.len()),
            partitions: u32::try_from(count).expect("few"),
            replicas: u32::try_from(replicas).expect("few"),
        });
    }
    let producers = (0..dice.range(2, 4)).map(|_| ProducerPlan {
        client: draw_client(&mut dice),
        pause: Span::milliseconds(*dice.pick(&[30, 60, 120])),
        value_bytes: *dice.pick(&[16, 100, 1_000, 10_000]),
    });
    let producers = producers.collect();
    let consumers = (0..dice.range(1, 2))
        .map(|_| ConsumerPlan {
            client: draw_client(&mut dice),
            fetch_bytes_max: *dice.pick(&[1 << 10, 64 << 10, 1 << 20]),
        })
        .collect();
    let probes =
        (0..dice.range(1, 2)).map(|_| ProbePlan { pause: Span::milliseconds(*dice.pick(&[100, 500])) }).collect();
    Workload { topics, producers, consumers, probes }
}

fn draw_client(dice: &mut Dice) -> ClientKind {
    if dice.below(3) == 0 { ClientKind::Plain } else { ClientKind::Sdk }
}

/// The kinds of fault that a seed may have, each with a stream of its own.
#[derive(Clone, Copy)]
enum Kind {
    CrashOne,
    CrashAll,
    Aimed,
    Shutdown,
    Pause,
    SlowNode,
    SlowDisk,
    DiskStall,
    SyncError,
    BrokenDisk,
    CutPair,
    Isolate,
    Split,
    CutOneWay,
    Bridge,
    Clog,
    Loss,
    Reset,
    ClockJump,
}

const KINDS: [(Kind, &str); 19] = [
    (Kind::CrashOne, "plan crash one"),
    (Kind::CrashAll, "plan crash all"),
    (Kind::Aimed, "plan aimed"),
    (Kind::Shutdown, "plan shutdown"),
    (Kind::Pause, "plan pause"),
    (Kind::SlowNode, "plan slow node"),
    (Kind::SlowDisk, "plan slow disk"),
    (Kind::DiskStall, "plan disk stall"),
    (Kind::SyncError, "plan sync error"),
    (Kind::BrokenDisk, "plan broken disk"),
    (Kind::CutPair, "plan cut pair"),
    (Kind::Isolate, "plan isolate"),
    (Kind::Split, "plan split"),
    (Kind::CutOneWay, "plan cut one way"),
    (Kind::Bridge, "plan bridge"),
    (Kind::Clog, "plan clog"),
    (Kind::Loss, "plan loss"),
    (Kind::Reset, "plan reset"),
    (Kind::ClockJump, "plan clock jump"),
];

fn draw_faults(seed: u64, sites: &Sites) -> Vec<TimedFault> {
    let mut faults = Vec::new();
    for (kind, name) in KINDS {
        let mut dice = Dice::new(seed, name, 0, 0);
        // A third of the kinds exist in a seed: with all of them at once, a cluster does little but recover.
        if dice.below(3) > 0 {
            continue;
        }
        let mean = Span::seconds(*dice.pick(&[4, 10, 25]));
        let mut at = if dice.below(4) == 0 { Span::ZERO } else { QUIET_START } + dice.exponential(mean);
        while at < CHAOS - Span::seconds(5) {
            if let Some(fault) = draw_fault(kind, &mut dice, sites, CHAOS - LAST_END - at) {
                faults.push(TimedFault { at, fault });
            }
            at += Span::milliseconds(1) + dice.exponential(mean);
        }
    }
    faults.sort_by_key(|fault| fault.at);
    faults
}

/// One fault that is over after `left`; None if the cluster is too small for its kind.
fn draw_fault(kind: Kind, dice: &mut Dice, sites: &Sites, left: Span) -> Option<Fault> {
    let node = dice.index(sites.nodes);
    let crash_kind = if dice.coin() { CrashKind::Process } else { CrashKind::Power };
    let short = dice.exponential(Span::milliseconds(800)).min(left);
    let long = dice.heavy_tail(Span::milliseconds(500), Span::seconds(20)).min(left);
    let fault = match kind {
        Kind::CrashOne => Fault::Crash { nodes: vec![node], kind: crash_kind, down: long },
        Kind::CrashAll => {
            let mut nodes: Vec<usize> = (0..sites.nodes).collect();
            if sites.nodes > 2 && dice.below(3) == 0 {
                // A power domain that holds a majority.
                nodes.remove(node);
            }
            Fault::Crash {
                nodes,
                kind: if dice.below(4) == 0 { CrashKind::Process } else { CrashKind::Power },
                down: short,
            }
        }
        Kind::Aimed => {
            let moments = [
                Moment::WalWritten,
                Moment::WalWritten,
                Moment::WalSynced,
                Moment::VoteWritten,
                Moment::VoteSynced,
                Moment::OtherDone,
                Moment::AnyBegun,
            ];
            let moment = *dice.pick(&moments);
            let is_vote = matches!(moment, Moment::VoteWritten | Moment::VoteSynced);
            Fault::Aimed {
                node,
                moment,
                // Votes are rare: the next one it is, and it may take a while.
                count: if is_vote { 1 } else { u32::try_from(dice.range(1, 20)).expect("few") },
                kind: if dice.below(4) == 0 { CrashKind::Process } else { CrashKind::Power },
                down: short,
                within: Span::seconds(if is_vote { 30 } else { 5 }).min(left - short),
            }
        }
        Kind::Shutdown => Fault::Shutdown { node, down: short },
        Kind::Pause => Fault::Pause { node, lasting: long },
        Kind::SlowNode => Fault::SlowNode { node, factor: *dice.pick(&[10, 100, 1_000]), lasting: long },
        Kind::SlowDisk => Fault::SlowDisk { node, factor: *dice.pick(&[10, 100, 1_000]), lasting: long },
        Kind::DiskStall => {
            // Now and then as long as the longest that disks were seen to take.
            let most = Span::seconds(if dice.below(8) == 0 { 60 } else { 10 });
            Fault::DiskStall { node, lasting: dice.heavy_tail(Span::milliseconds(100), most).min(left) }
        }
        Kind::SyncError => {
            let within = Span::seconds(5).min(left);
            Fault::Disk { node, fault: DiskFault::SyncError { within, draw: dice.next_u64() } }
        }
        Kind::BrokenDisk => Fault::Disk { node, fault: DiskFault::Broken { read_only: dice.coin(), lasting: long } },
        Kind::CutPair => {
            let (a, b) = pair(dice, sites.nodes)?;
            Fault::Cut { ways: both(&[(a, b)]), lasting: long }
        }
        Kind::Isolate => {
            // Half of the time from the other nodes only, and clients still reach it.
            let others = if dice.coin() { sites.nodes } else { sites.all };
            let pairs: Vec<(usize, usize)> =
                (0..others).filter(|other| *other != node).map(|other| (node, other)).collect();
            if pairs.is_empty() {
                return None;
            }
            let ways = match dice.below(3) {
                0 => pairs,
                1 => pairs.into_iter().map(|(a, b)| (b, a)).collect(),
                _ => both(&pairs),
            };
            Fault::Cut { ways, lasting: long }
        }
        Kind::Split => {
            // Clients fall to one side or the other as nodes do.
            let sides: Vec<bool> = (0..sites.all).map(|_| dice.coin()).collect();
            let pairs: Vec<(usize, usize)> = (0..sites.all)
                .flat_map(|a| (a + 1..sites.all).map(move |b| (a, b)))
                .filter(|(a, b)| sides[*a] != sides[*b] && *a < sites.nodes)
                .collect();
            if pairs.is_empty() {
                return None;
            }
            Fault::Cut { ways: both(&pairs), lasting: long }
        }
        Kind::CutOneWay => {
            let (a, b) = pair(dice, sites.nodes)?;
            Fault::Cut { ways: vec![(a, b)], lasting: long }
        }
        Kind::Bridge => {
            // Two halves that only one node reaches both of.
            if sites.nodes < 3 {
                return None;
            }
            let others: Vec<usize> = (0..sites.nodes).filter(|other| *other != node).collect();
            let (left_half, right_half) = others.split_at(1 + dice.index(others.len() - 1));
            let pairs: Vec<(usize, usize)> =
                left_half.iter().flat_map(|a| right_half.iter().map(move |b| (*a, *b))).collect();
            Fault::Cut { ways: both(&pairs), lasting: long }
        }
        Kind::Clog => {
            let mut ways: Vec<(usize, usize)> = (0..sites.all)
                .flat_map(|a| (0..sites.all).map(move |b| (a, b)))
                .filter(|(a, b)| a != b && (*a < sites.nodes || *b < sites.nodes))
                .collect();
            dice.shuffle(&mut ways);
            let most = ways.len().min(8);
            if most == 0 {
                return None;
            }
            ways.truncate(1 + dice.index(most));
            Fault::Clog { ways, lasting: short }
        }
        Kind::Loss => {
            let (a, b) = pair(dice, sites.nodes)?;
            let percent = *dice.pick(&[1, 10, 40]);
            Fault::Loss { ways: both(&[(a, b)]), loss: Chance::percent(percent), lasting: long }
        }
        Kind::Reset => {
            let other = dice.index(sites.all);
            if other == node {
                return None;
            }
            Fault::Reset { a: node, b: other }
        }
        Kind::ClockJump => {
            let year: i64 = 365 * 86_400_000;
            let jumps = [1_000, -1_000, 60_000, -60_000, 3_600_000, -3_600_000, year, -year, 30 * year, -30 * year];
            Fault::ClockJump { node, milliseconds: *dice.pick(&jumps) }
        }
    };
    Some(fault)
}

fn pair(dice: &mut Dice, nodes: usize) -> Option<(usize, usize)> {
    if nodes < 2 {
        return None;
    }
    let a = dice.index(nodes);
    Some((a, (a + 1 + dice.index(nodes - 1)) % nodes))
}

fn both(pairs: &[(usize, usize)]) -> Vec<(usize, usize)> {
    pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_keep_the_floor_and_the_shares_that_are_promised() {
        let plans: Vec<Plan> = (0..2_000).map(Plan::draw).collect();
        let share = |wanted: fn(&Plan) -> bool| plans.iter().filter(|plan| wanted(plan)).count() * 100 / plans.len();
        assert!(plans.iter().all(|plan| plan.partitions() + 1 >= 12));
        assert!(plans.iter().all(|plan| matches!(plan.nodes.len(), 1 | 3..=5)));
        assert!(share(|plan| plan.nodes.len() == 1) <= 5);
        assert!(share(|plan| plan.faults.is_empty()) <= 5);
        assert!(share(|plan| plan.nodes.len() == 5) >= 20);
    }

    #[test]
    fn every_fault_is_over_when_the_chaos_is() {
        for seed in 0..500 {
            let plan = Plan::draw(seed);
            for TimedFault { at, fault } in &plan.faults {
                let lasting = match fault {
                    Fault::Crash { down, .. } | Fault::Shutdown { down, .. } => *down,
                    Fault::Aimed { down, within, .. } => *down + *within,
                    Fault::Pause { lasting, .. }
                    | Fault::SlowNode { lasting, .. }
                    | Fault::SlowDisk { lasting, .. }
                    | Fault::DiskStall { lasting, .. }
                    | Fault::Cut { lasting, .. }
                    | Fault::Clog { lasting, .. }
                    | Fault::Loss { lasting, .. }
                    | Fault::Poison { lasting, .. } => *lasting,
                    Fault::Disk { fault, .. } => fault.lasting(),
                    Fault::Reset { .. } | Fault::ClockJump { .. } => Span::ZERO,
                };
                assert!(*at + lasting <= plan.chaos, "seed {seed}: {fault} at {at}");
            }
        }
    }
}
