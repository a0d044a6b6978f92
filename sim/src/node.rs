//! One simulated node: its machine with disk and clocks, and the process that runs on it or does not.
//!
//! Invariant: a process is started, takes turns, and ends by an exit, a crash or a panic; what survives it is the disk.
//! Does not own the network nor when things happen: the world does.

use std::collections::{BTreeMap, VecDeque};

use kauri_core::{
    config::{Endpoint, NodeConfig, PeerConfig},
    ids::{ConnectionId, LinkId, NodeId, OperationId},
    io::Input,
};

use crate::{
    client,
    clock::Clock,
    core::NodeView,
    dice::Dice,
    disk::{Disk, PowerMode, queue::Queue},
    network::Socket,
    plan::{Configuration, CrashKind, Moment, NodePlan, Plan, TurnCost},
    time::{Instant, Span},
};

/// The ports that all nodes listen at.
const CLIENT_PORT: u16 = 9092;
const PEER_PORT: u16 = 9192;

/// Accepted links are numbered from here; dialled ones have the top bit set by the core, so the two never meet.
const FIRST_ACCEPTED_LINK: u64 = 1;

/// A socket of a node, as its core names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Client(ConnectionId),
    Link(LinkId),
}

/// A crash that waits for its moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim {
    pub(crate) moment: Moment,
    pub(crate) left: u32,
    pub(crate) kind: CrashKind,
    pub(crate) down: Span,
    pub(crate) until: Instant,
    /// The sum of all terms of the node when the aim was taken: a write that follows a higher one holds a vote.
    pub(crate) terms: u64,
    pub(crate) vote_in_flight: bool,
}

#[derive(Debug)]
pub(crate) struct Node<C> {
    pub(crate) index: usize,
    seed: u64,
    /// Of the next start, but for its seed.
    pub(crate) configuration: NodeConfig,
    pub(crate) clock: Clock,
    pub(crate) queue: Queue,
    pub(crate) power: PowerMode,
    turns: TurnCost,
    pub(crate) slow_factor: u64,
    pub(crate) paused_until: Instant,
    pub(crate) aim: Option<Aim>,
    /// Copies of the disk that some entries of the plan took.
    pub(crate) copies: BTreeMap<usize, Disk>,
    /// What its process said when it ended because of its disk, until one serves again.
    pub(crate) loud: Option<String>,
    /// Asked to stop: how long it then stays down.
    pub(crate) stopping: Option<Span>,
    dice: Dice,
    crashes: Dice,
    pub(crate) process: Option<Process<C>>,
    /// Processes started so far.
    pub(crate) starts: u32,
    pub(crate) view: NodeView,
    pub(crate) viewed_at: Instant,
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Process<C> {
    pub(crate) core: C,
    pub(crate) inbox: VecDeque<Input>,
    pub(crate) busy_until: Instant,
    pub(crate) owners: BTreeMap<Socket, Owner>,
    pub(crate) links: BTreeMap<LinkId, Socket>,
    pub(crate) connections: BTreeMap<ConnectionId, Socket>,
    pub(crate) told_errors: ToldErrors,
    /// The operation whose failure ends it.
    pub(crate) fatal: Option<OperationId>,
    next_accepted_link: u64,
    next_connection: u64,
}

/// Errors of its disk that a process was told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ToldErrors {
    pub(crate) io: bool,
    pub(crate) full: bool,
}

impl<C> Node<C> {
    pub(crate) fn new(plan: &Plan, index: usize) -> Self {
        let NodePlan { disk, power, wall_offset_milliseconds, wall_drift_ppm, monotonic_rate_ppm, turns, .. } =
            &plan.nodes[index];
        Self {
            index,
            seed: plan.seed,
            configuration: configuration(plan, index),
            clock: Clock::new(*wall_offset_milliseconds, *wall_drift_ppm, *monotonic_rate_ppm),
            queue: Queue::new(disk.clone(), Dice::new(plan.seed, "disk latency", index, 0)),
            power: *power,
            turns: turns.clone(),
            slow_factor: 1,
            paused_until: Instant::default(),
            aim: None,
            copies: BTreeMap::new(),
            loud: None,
            stopping: None,
            dice: Dice::new(plan.seed, "turns", index, 0),
            crashes: Dice::new(plan.seed, "crashes", index, 0),
            process: None,
            starts: 0,
            view: NodeView::default(),
            viewed_at: Instant::default(),
        }
    }

    /// What the process about to start is configured with: each start has a seed of its own.
    pub(crate) fn configure(&mut self, now: Instant) -> NodeConfig {
        let mut starts = Dice::new(self.seed, "start", self.index, self.starts as usize);
        self.starts += 1;
        // After a reboot a monotonic clock starts anew; where, nobody may rely on.
        self.clock.restart(now, if starts.coin() { 0 } else { starts.below(1 << 50) });
        NodeConfig { seed: starts.next_u64(), ..self.configuration.clone() }
    }

    pub(crate) fn start(&mut self, core: C, now: Instant) {
        assert!(self.process.is_none(), "a node runs one process");
        self.process = Some(Process {
            core,
            inbox: VecDeque::new(),
            busy_until: now,
            owners: BTreeMap::new(),
            links: BTreeMap::new(),
            connections: BTreeMap::new(),
            told_errors: ToldErrors::default(),
            fatal: None,
            next_accepted_link: FIRST_ACCEPTED_LINK,
            next_connection: 1,
        });
    }

    /// The process is gone; with `power` the page cache too.
    pub(crate) fn end(&mut self, kind: CrashKind, bites: &mut crate::bites::Bites) {
        self.process = None;
        self.aim = None;
        self.stopping = None;
        self.paused_until = Instant::default();
        self.queue.kill(&mut self.crashes, bites);
        match kind {
            CrashKind::Process => {}
            CrashKind::Power => self.queue.lose_power(&mut self.crashes, self.power, bites),
        }
    }

    /// How many of the waiting inputs the next turn takes.
    pub(crate) fn turn_inputs(&mut self, waiting: usize) -> usize {
        let most = if self.dice.below(8) == 0 { 1 + self.dice.below(16) } else { self.turns.inputs_max };
        waiting.min(usize::try_from(most).unwrap_or(usize::MAX))
    }

    /// What a turn with that many inputs costs.
    pub(crate) fn turn_cost(&self, inputs: usize) -> Span {
        (self.turns.turn + self.turns.input * inputs as u64) * self.slow_factor
    }
}

impl<C> Process<C> {
    pub(crate) fn accept_link(&mut self, socket: Socket) -> LinkId {
        let link = LinkId(self.next_accepted_link);
        self.next_accepted_link += 1;
        self.add_link(link, socket);
        link
    }

    pub(crate) fn add_link(&mut self, link: LinkId, socket: Socket) {
        self.links.insert(link, socket);
        self.owners.insert(socket, Owner::Link(link));
    }

    pub(crate) fn accept_client(&mut self, socket: Socket) -> ConnectionId {
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 1;
        self.connections.insert(connection, socket);
        self.owners.insert(socket, Owner::Client(connection));
        connection
    }

    /// The socket is gone: whoever owned it is told once, by the input that this returns.
    pub(crate) fn forget(&mut self, socket: Socket) -> Option<Input> {
        match self.owners.remove(&socket)? {
            Owner::Client(connection) => {
                self.connections.remove(&connection);
                Some(Input::ClientClosed { connection })
            }
            Owner::Link(link) => {
                self.links.remove(&link);
                Some(Input::LinkDown { link })
            }
        }
    }
}

/// Nodes look for damage this often, so that a run sees it found and repaired.
const SCRUB_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);

/// Node ids as the cluster sees them: counted from 1, for a zero that was forgotten should show.
pub(crate) fn node_id(index: usize) -> NodeId {
    NodeId(i32::try_from(index + 1).expect("clusters are small"))
}

fn configuration(plan: &Plan, index: usize) -> NodeConfig {
    let peers = plan
        .nodes
        .iter()
        .enumerate()
        .map(|(node, NodePlan { voter, .. })| PeerConfig {
            node: node_id(node),
            address: format!("{}:{PEER_PORT}", client::host(node)),
            voter: *voter,
        })
        .collect();
    let advertised = Endpoint { host: client::host(index), port: CLIENT_PORT };
    let Configuration { wal_file_bytes, wal_budget_bytes, checkpoint_interval, segment_bytes } = plan.configuration;
    let mut configuration = NodeConfig::new(node_id(index), peers, advertised, 0);
    configuration.auto_create_topics = false;
    configuration.wal_file_bytes = wal_file_bytes;
    configuration.wal_budget_bytes = wal_budget_bytes;
    configuration.checkpoint_interval = std::time::Duration::from_nanos(checkpoint_interval.0);
    configuration.segment_bytes = segment_bytes;
    configuration.scrub_interval = SCRUB_INTERVAL;
    configuration
}
