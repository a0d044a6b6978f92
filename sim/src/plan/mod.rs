//! A run as data: topology, configuration, workload and every fault, drawn from a seed or read from a text.
//!
//! Invariant: a plan and its seed decide a run completely, and the text of a plan read back is the same plan. Each fault
//! is one entry that both begins and ends it, so that an entry can be removed and the rest still makes sense.

mod disk_fault;
mod draw;
mod fields;
mod media;
mod text;

use crate::{
    dice::Chance,
    disk::{PowerMode, queue::DiskSpeed},
    network::{Delay, PathQuality, SocketLimits},
    time::Span,
};

pub use disk_fault::{DiskFault, Place};
pub use fields::LineError;
pub use media::{DiskBudget, MediaKind, Swarm, UnknownKind};
pub use text::PlanError;

/// Everything that decides a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub nodes: Vec<NodePlan>,
    pub configuration: Configuration,
    pub network: NetworkPlan,
    pub workload: Workload,
    pub budget: DiskBudget,
    /// Faults begin within this time.
    pub chaos: Span,
    /// Progress must be made within this time after the chaos.
    pub heal: Span,
    /// Sorted by time.
    pub faults: Vec<TimedFault>,
}

/// One node and its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// Votes in the metadata group.
    pub voter: bool,
    pub disk: DiskSpeed,
    pub power: PowerMode,
    pub wall_offset_milliseconds: i64,
    pub wall_drift_ppm: i64,
    pub monotonic_rate_ppm: i64,
    pub turns: TurnCost,
}

/// The simulated processor of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnCost {
    pub turn: Span,
    pub input: Span,
    /// Inputs of one turn: some turns take only a few, so that what is left must wait.
    pub inputs_max: u64,
}

/// What all nodes are configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    pub wal_file_bytes: u64,
    /// What all WAL files may take.
    pub wal_budget_bytes: u64,
    /// A checkpoint is taken after this time if anything changed.
    pub checkpoint_interval: Span,
    pub segment_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPlan {
    /// Between nodes, and between nodes and clients.
    pub quality: PathQuality,
    /// Paths that differ, one direction each; sites are nodes first, then clients.
    pub delays: Vec<(usize, usize, Delay)>,
    pub sockets: SocketLimits,
}

/// What clients do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub topics: Vec<TopicPlan>,
    pub producers: Vec<ProducerPlan>,
    pub consumers: Vec<ConsumerPlan>,
    /// Clients that ask for the latest offset of a partition, one after the other.
    pub probes: Vec<ProbePlan>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPlan {
    pub name: String,
    pub partitions: u32,
    pub replicas: u32,
}

/// Which code a client runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientKind {
    /// Kauri's SDK, with the newest versions of everything.
    Sdk,
    /// The simulator's own, in versions drawn from all there are.
    Plain,
}

/// An idempotent producer with acks=all that writes to all partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerPlan {
    pub client: ClientKind,
    /// Between two records on average.
    pub pause: Span,
    pub value_bytes: usize,
}

/// Reads all partitions from the beginning and goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerPlan {
    pub client: ClientKind,
    pub fetch_bytes_max: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbePlan {
    pub pause: Span,
}

/// A fault and when it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimedFault {
    pub at: Span,
    pub fault: Fault,
}

/// How a process ends against its will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CrashKind {
    /// kill -9: the page cache survives.
    Process,
    /// The machine loses power, as its disk's mode says.
    Power,
}

/// A moment around an operation of the disk, at which a crash is worth aiming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// A write to a WAL file is done, and its sync is not.
    WalWritten,
    /// The sync of a WAL file is done, and the core does not know yet.
    WalSynced,
    /// As [`Moment::WalWritten`], of a write that records a new term or vote.
    VoteWritten,
    /// As [`Moment::WalSynced`], of a write that records a new term or vote.
    VoteSynced,
    /// Any other operation that changes the disk is done.
    OtherDone,
    /// Whichever operation that changes the disk is done.
    AnyDone,
    /// Whichever operation that changes the disk is under way: some of it may be done.
    AnyBegun,
}

/// One fault with its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Some nodes crash at once and start again after `down`.
    Crash {
        nodes: Vec<usize>,
        kind: CrashKind,
        down: Span,
    },
    /// A node crashes at the `count`-th such moment of its disk from now on, if that comes `within` a time.
    Aimed {
        node: usize,
        moment: Moment,
        count: u32,
        kind: CrashKind,
        down: Span,
        within: Span,
    },
    /// A node is asked to stop, and starts again `down` after it did.
    Shutdown {
        node: usize,
        down: Span,
    },
    /// A process does nothing for a while.
    Pause {
        node: usize,
        lasting: Span,
    },
    /// A processor takes `factor` times as long.
    SlowNode {
        node: usize,
        factor: u64,
        lasting: Span,
    },
    SlowDisk {
        node: usize,
        factor: u64,
        lasting: Span,
    },
    DiskStall {
        node: usize,
        lasting: Span,
    },
    /// Something else is wrong with a disk.
    Disk {
        node: usize,
        fault: DiskFault,
    },
    /// Nothing passes in these directions.
    Cut {
        ways: Vec<(usize, usize)>,
        lasting: Span,
    },
    /// Everything waits in these directions, and comes out in this order, one after the other.
    Clog {
        ways: Vec<(usize, usize)>,
        lasting: Span,
    },
    /// More segments are lost in these directions.
    Loss {
        ways: Vec<(usize, usize)>,
        loss: Chance,
        lasting: Span,
    },
    /// All connections between two sites are reset.
    Reset {
        a: usize,
        b: usize,
    },
    /// Some nodes are started anew with a build that cannot apply the records with this number, and at the end with one
    /// that can.
    Poison {
        nodes: Vec<usize>,
        number: u32,
        lasting: Span,
    },
    /// A wall clock jumps.
    ClockJump {
        node: usize,
        milliseconds: i64,
    },
}

impl Plan {
    pub fn sites(&self) -> usize {
        self.nodes.len() + self.clients()
    }

    pub fn clients(&self) -> usize {
        // One more that creates the topics.
        1 + self.workload.producers.len() + self.workload.consumers.len() + self.workload.probes.len()
    }

    pub fn partitions(&self) -> u32 {
        self.workload.topics.iter().map(|topic| topic.partitions).sum()
    }

    pub fn quality(&self, from: usize, to: usize) -> PathQuality {
        let mut quality = self.network.quality.clone();
        if let Some((_, _, delay)) = self.network.delays.iter().find(|(a, b, _)| (*a, *b) == (from, to)) {
            quality.delay = *delay;
        }
        quality
    }
}
