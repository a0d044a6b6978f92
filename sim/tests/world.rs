//! The world with a core small enough to be understood at a glance: a number that only grows, kept in a file.
//!
//! What is shown here is the simulator itself: runs repeat exactly, crashes take away what was not synced and nothing
//! else, and every kind of fault bites.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use kauri_core::{
    config::NodeConfig,
    ids::{ConnectionId, FileSequence, GroupId, LinkId, NodeId, OperationId},
    io::{
        ClientSend, Directory, DiskAction, DiskOperation, DiskOutput, Effects, Exit, FileName, Input, Notice, PeerDial,
        PeerSend,
    },
    time::{Monotonic, Now},
};
use kauri_sim::{
    bites::{Bite, Bites},
    client::{Client, ClientEffects, ClientInput, ClientSocket, host},
    core::{Core, Depth, Members, NodeView},
    failure::Failure,
    history::{History, Partition, Value},
    plan::Plan,
    time::{Instant, Span},
    trace::Trace,
    world::World,
};
use slog::{Logger, o};

const FILE: FileName = FileName::Wal(FileSequence(1));
/// Slots of the file, each in a sector of its own: one that was acknowledged is written again long after others were.
const SLOTS: u64 = 16;
const SLOT_BYTES: u64 = 4_096;
const PING: std::time::Duration = std::time::Duration::from_millis(100);

/// Keeps the largest number that a client sent, and answers with it: after the sync, or, planted, before.
struct Toy<const SYNCS: bool> {
    config: NodeConfig,
    next_operation: u64,
    kept: Option<u64>,
    next_slot: u64,
    recovering: Vec<OperationId>,
    writes: BTreeMap<OperationId, (ConnectionId, u64)>,
    syncs: BTreeMap<OperationId, (ConnectionId, u64)>,
    dials: BTreeMap<LinkId, NodeId>,
    up: Vec<LinkId>,
    next_link: u64,
    next_ping: Monotonic,
    started: bool,
    out: Effects,
}

fn frame(number: u64) -> Vec<Bytes> {
    // The first two bytes are what a request's API key would be: zero is Produce.
    let mut bytes = BytesMut::new();
    bytes.put_u32(18);
    bytes.put_slice(&[0; 10]);
    bytes.put_u64(number);
    vec![bytes.freeze()]
}

fn number(frame: &[u8]) -> u64 {
    u64::from_be_bytes(frame[10..18].try_into().expect("eight bytes"))
}

/// The largest number of a file, and its slot.
fn largest(file: &[u8]) -> (u64, u64) {
    let slot = |(slot, bytes): (u64, &[u8])| {
        let number = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
        let check = u64::from_be_bytes(bytes.get(8..16)?.try_into().ok()?);
        (number == !check).then_some((number, slot))
    };
    (0..).zip(file.chunks(SLOT_BYTES as usize)).filter_map(slot).max().unwrap_or_default()
}

impl<const SYNCS: bool> Toy<SYNCS> {
    fn operation(&mut self, action: DiskAction) -> DiskOperation {
        self.next_operation += 1;
        DiskOperation { id: OperationId(self.next_operation), action }
    }

    fn answer(&mut self, connection: ConnectionId, number: u64) {
        self.out.client_sends.push(ClientSend { connection, slices: frame(number) });
    }

    fn disk(&mut self, operation: OperationId, output: DiskOutput) {
        if let Some((connection, number)) = self.writes.remove(&operation) {
            let sync = self.operation(DiskAction::Sync { file: FILE });
            self.syncs.insert(sync.id, (connection, number));
            self.out.wal.push(sync);
            if !SYNCS {
                self.answer(connection, number);
            }
        } else if let Some((connection, number)) = self.syncs.remove(&operation) {
            if SYNCS {
                self.answer(connection, number);
            }
        } else if self.recovering.contains(&operation) {
            match output {
                DiskOutput::List(files) if files.is_empty() => {
                    let create = self.operation(DiskAction::Create { file: FILE, size: SLOTS * SLOT_BYTES });
                    let sync = self.operation(DiskAction::Sync { file: FILE });
                    let directory = self.operation(DiskAction::SyncDirectory { directory: Directory::Wal });
                    self.recovering = vec![directory.id];
                    self.out.wal.extend([create, sync, directory]);
                }
                DiskOutput::List(_) => {
                    let read = self.operation(DiskAction::Read {
                        file: FILE,
                        offset: 0,
                        length: (SLOTS * SLOT_BYTES) as usize,
                    });
                    self.recovering = vec![read.id];
                    self.out.disk.push(read);
                }
                DiskOutput::Read(bytes) => {
                    let (kept, slot) = largest(&bytes);
                    self.kept = Some(kept);
                    self.next_slot = slot + 1;
                    self.out.notices.push(Notice::Recovered);
                }
                DiskOutput::Done => {
                    self.kept = Some(0);
                    self.out.notices.push(Notice::Recovered);
                }
            }
        }
    }
}

impl<const SYNCS: bool> Core for Toy<SYNCS> {
    fn start(config: NodeConfig, _logger: Logger) -> Self {
        Self {
            config,
            next_operation: 0,
            kept: None,
            next_slot: 0,
            recovering: Vec::new(),
            writes: BTreeMap::new(),
            syncs: BTreeMap::new(),
            dials: BTreeMap::new(),
            up: Vec::new(),
            next_link: 1,
            next_ping: Monotonic(0),
            started: false,
            out: Effects::default(),
        }
    }

    fn handle(&mut self, _now: Now, input: Input) {
        match input {
            Input::ClientFrame { connection, frame } => {
                self.out.client_credits.push((connection, frame.len()));
                let Some(kept) = self.kept else { return };
                let kept = kept.max(number(&frame));
                self.kept = Some(kept);
                let slices = vec![Bytes::copy_from_slice(&[kept.to_be_bytes(), (!kept).to_be_bytes()].concat())];
                let offset = self.next_slot % SLOTS * SLOT_BYTES;
                self.next_slot += 1;
                let write = self.operation(DiskAction::Write { file: FILE, offset, slices });
                self.writes.insert(write.id, (connection, number(&frame)));
                self.out.wal.push(write);
            }
            Input::Disk { operation, result: Ok(output) } => self.disk(operation, output),
            Input::Disk { result: Err(error), .. } => {
                let (operation, file) = ("operation", FILE.path());
                self.out.exit = Some(Exit::DiskFailed { operation, file, error });
            }
            Input::LinkUp { link } => self.up.push(link),
            Input::LinkDown { link } => {
                self.dials.remove(&link);
                self.up.retain(|up| *up != link);
            }
            Input::ClientConnected { .. }
            | Input::ClientWritten { .. }
            | Input::ClientClosed { .. }
            | Input::LinkAccepted { .. }
            | Input::LinkFrame { .. }
            | Input::LinkWritten { .. } => {}
            Input::Shutdown => self.out.exit = Some(Exit::Stopped),
        }
    }

    fn poll(&mut self, now: Now, effects: &mut Effects) {
        if !self.started {
            self.started = true;
            let list = self.operation(DiskAction::List { directory: Directory::Wal });
            self.recovering = vec![list.id];
            self.out.disk.push(list);
        }
        if now.monotonic >= self.next_ping {
            self.next_ping = now.monotonic + PING;
            for peer in self.config.peers.clone() {
                if peer.node != self.config.node && !self.dials.values().any(|node| *node == peer.node) {
                    let link = LinkId(self.next_link);
                    self.next_link += 1;
                    self.dials.insert(link, peer.node);
                    self.out.peer_dials.push(PeerDial { link, node: peer.node, address: peer.address });
                }
            }
            self.out
                .peer_sends
                .extend(self.up.iter().map(|link| PeerSend { link: *link, slices: frame(now.wall.0 as u64) }));
        }
        std::mem::swap(effects, &mut self.out);
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        Some(self.next_ping)
    }

    fn view(&self, _depth: Depth, view: &mut NodeView) {
        view.groups.clear();
    }

    fn partitions(&self) -> Vec<(String, i32, GroupId)> {
        Vec::new()
    }

    fn members(&self) -> Vec<Members> {
        Vec::new()
    }
}

/// Sends growing numbers to one node, one after the other. An answer below what the node once answered is a loss.
struct Counter {
    node: usize,
    producer: u32,
    next_socket: u64,
    socket: Option<ClientSocket>,
    is_up: bool,
    waiting: bool,
    next: u32,
    send_at: Instant,
}

impl Client for Counter {
    fn handle(&mut self, now: Instant, input: ClientInput, history: &mut History) {
        match input {
            ClientInput::Connected { .. } => self.is_up = true,
            ClientInput::Down { .. } => {
                self.socket = None;
                self.is_up = false;
                self.waiting = false;
                self.send_at = now + Span::milliseconds(50);
            }
            ClientInput::Frame { frame, .. } => {
                self.waiting = false;
                let value = Value { producer: self.producer, number: number(&frame) as u32 };
                let send = history.send(Partition(self.node as u32), value, now);
                history.acknowledge(send, kauri_core::ids::Offset(0), now);
            }
            ClientInput::Heal => {}
        }
    }

    fn poll(&mut self, now: Instant, effects: &mut ClientEffects, _history: &mut History) {
        if now < self.send_at {
            return;
        }
        self.send_at = now + Span::milliseconds(20);
        match self.socket {
            None => {
                let socket = ClientSocket(self.next_socket);
                self.next_socket += 1;
                self.socket = Some(socket);
                effects.dials.push((socket, host(self.node)));
            }
            Some(socket) if self.is_up && !self.waiting => {
                self.waiting = true;
                self.next += 1;
                effects.sends.push((socket, frame(u64::from(self.next))));
            }
            Some(_) => {}
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        Some(self.send_at)
    }

    fn has_healed(&self, _history: &History) -> bool {
        true
    }

    fn stuck(&self, _history: &History) -> Vec<Partition> {
        Vec::new()
    }

    fn waits_for(&self, _history: &History) -> String {
        String::new()
    }
}

fn run<const SYNCS: bool>(seed: u64) -> Result<(u64, Bites, History, World<Toy<SYNCS>>), Failure> {
    let plan = Plan::draw_with(seed, &"none".parse().expect("a name of a swarm"));
    let nodes = plan.nodes.len();
    let counters = (0..plan.clients()).map(|client| {
        let counter = Counter {
            node: client % nodes,
            producer: client as u32,
            next_socket: 0,
            socket: None,
            is_up: false,
            waiting: false,
            next: 0,
            send_at: Instant::default(),
        };
        Box::new(counter) as Box<dyn Client>
    });
    let mut world =
        World::<Toy<SYNCS>>::new(plan.clone(), counters.collect(), Logger::root(slog::Discard, o!()), Trace::default());
    world.run_until(Instant::default() + plan.chaos + Span::seconds(20))?;
    Ok((world.digest(), world.bites().clone(), world.history().clone(), world))
}

/// For each node the largest number it answered, against the number that its disk holds at the end.
fn losses<const SYNCS: bool>(seed: u64) -> usize {
    let (_, _, history, world) = run::<SYNCS>(seed).expect("the toy does not fail");
    let mut answered: BTreeMap<u32, u32> = BTreeMap::new();
    for (send, _) in history.acknowledged() {
        let largest = answered.entry(send.partition.0).or_default();
        *largest = send.value.number.max(*largest);
    }
    let lost = answered.iter().filter(|(node, answered)| {
        let content = world.disk(**node as usize).content(FILE).expect("it was created");
        largest(&content).0 < u64::from(**answered)
    });
    lost.count()
}

#[test]
fn a_seed_repeats_exactly_and_others_differ() {
    for seed in 0..6 {
        let (first, bites, history, _) = run::<true>(seed).unwrap();
        let (second, again, history_again, _) = run::<true>(seed).unwrap();
        assert_eq!(first, second, "seed {seed}");
        assert_eq!(bites, again);
        assert_eq!(history, history_again);
        let (other, ..) = run::<true>(seed + 1000).unwrap();
        assert_ne!(first, other);
    }
}

#[test]
fn what_was_synced_before_the_answer_is_never_lost() {
    for seed in 0..30 {
        assert_eq!(losses::<true>(seed), 0, "seed {seed}");
    }
}

#[test]
fn an_answer_before_the_sync_is_caught_within_a_few_seeds() {
    let found = (0..30).find(|seed| losses::<false>(*seed) > 0);
    assert!(found.is_some());
}

#[test]
fn every_kind_of_fault_bites_in_some_seed() {
    let mut bites = Bites::default();
    let mut acknowledged = 0;
    for seed in 0..40 {
        let (_, bitten, history, _) = run::<true>(seed).unwrap();
        bites.merge(&bitten);
        acknowledged += history.acknowledged().count();
    }
    assert!(acknowledged > 40 * 500, "{acknowledged}");
    // The toy has no window to exhaust, sends too little to fill a buffer, writes one sector at a time, and creates its
    // only file before the first fault; it has no copies that damage could be repaired from, no state that another could
    // send, and no commands.
    let unreachable = [
        Bite::CreditExhausted,
        Bite::BufferFull,
        Bite::Reordered,
        Bite::TornWrite,
        Bite::SizeWithoutData,
        Bite::DataWithoutSize,
        Bite::NamesReordered,
        Bite::DirectoryEntryLost,
        Bite::LateSyncError,
        Bite::FullDisk,
        Bite::SectorError,
        Bite::BitRot,
        Bite::MisdirectedWrite,
        Bite::MisdirectedRead,
        Bite::PhantomWrite,
        Bite::StaleRead,
        Bite::Wipe,
        Bite::Rollback,
        Bite::StateTransfer,
        Bite::EntryRepaired,
        Bite::Held,
    ];
    let idle: Vec<&str> = Bite::ALL
        .iter()
        .filter(|bite| !unreachable.contains(bite) && bites.of(**bite) == 0)
        .map(|bite| bite.name())
        .collect();
    assert!(idle.is_empty(), "these never changed an outcome: {idle:?}");
}
