//! One running node: its replicas, its peers, its WAL, and the requests that wait for them.
//!
//! Owns what connects the layers below and decides as little as possible itself: groups decide what is committed,
//! state machines what it means. [`crate::api`] asks it on behalf of clients; [`crate::shard`] feeds it and hands its
//! events back to waiting requests.
//!
//! Invariant: everything a group wants written is appended to the WAL in the order the group asked for it, and a group
//! hears of durability only from the WAL's own report. Groups are visited in the order of their ids.

mod answers;
mod append;
mod apply;
pub mod broker_config;
mod checkpoint;
pub mod controller;
mod deadlines;
mod forming;
mod frames;
mod groups;
mod inspect;
mod joining;
mod leadership;
mod live_logs;
mod membership;
mod peering;
mod places;
mod producer_ids;
mod proposals;
mod quarantine;
mod raft;
pub mod reads;
mod rebuild;
mod removals;
mod repair;
mod replica;
mod runs;
mod scrub;
mod segment_repair;
mod shutdown;
mod slowdown;
mod storage;
mod topics;
mod transfer;
mod views;
mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use slog::{Logger, error, info};

pub(crate) use answers::Room;
pub use append::Refusal;
pub(crate) use apply::{ApplyFailure, apply_entry, entry_of};
pub(crate) use checkpoint::{CheckpointStart, Kept};
pub use inspect::{Depth, GroupInspection, Inspection, Outstanding};
pub(crate) use quarantine::{Hold, Met, Transferred};
pub use rebuild::{NotRebuilt, Rebuilt};
pub(crate) use rebuild::{Rebuild, RebuildOrder, RebuildStep};
pub(crate) use replica::Replica;
pub(crate) use replica::{Machine, Partition};
pub use scrub::ScrubCounts;
pub use segment_repair::RepairCounts;
pub use views::{Leader, View};

use self::{
    answers::Answers,
    checkpoint::Checkpoints,
    controller::{Calls, Forwarded},
    deadlines::Deadlines,
    frames::Frames,
    leadership::{Campaigns, Liveness},
    live_logs::LiveLogs,
    producer_ids::ProducerIds,
    proposals::ProposedBytes,
    quarantine::Quarantines,
    reads::Reads,
    removals::Removals,
    repair::Repairs,
    scrub::Scrub,
    segment_repair::SegmentRepairs,
    shutdown::Shutdown,
    transfer::Transfers,
    watch::Watch,
};
use crate::{
    api::{Event, FetchSessions},
    config::NodeConfig,
    ids::{ClusterId, ConnectionId, GroupId, ImageVersion, LogIndex, NodeId, OperationId, ReplicaId, WriteNumber},
    io::{DiskError, DiskOutput, Effects, Exit, FileName, Input, Notice, OperationIds},
    limits,
    log::{
        identity::{Identity, IdentityKeeper},
        record::WalEvent,
        segment::SyncPace,
        wal::Wal,
    },
    metadata::{GroupMember, MetadataImage, formation::Formation, leaders::Leaders},
    replication::{
        RaftMessage,
        group::GroupOutput,
        peer::{self, PeerEvent, Peers},
    },
    rng::Stream,
    session::{CloseReason, RequestId},
    time::{Monotonic, Now, Wall, earliest},
};

/// What start-up leaves for a running node.
pub(crate) struct Start {
    pub(crate) config: NodeConfig,
    pub(crate) logger: Logger,
    pub(crate) keeper: IdentityKeeper,
    pub(crate) wal: Wal,
    pub(crate) recovered: WriteNumber,
    pub(crate) replicas: BTreeMap<GroupId, Replica>,
    /// Replicas that were removed; a crash may have interrupted that.
    pub(crate) destroyed: BTreeSet<(GroupId, ReplicaId)>,
    /// Operations of partitions' files under way.
    pub(crate) segment_operations: BTreeMap<OperationId, GroupId>,
    pub(crate) checkpoints: CheckpointStart,
    pub(crate) ids: OperationIds,
}

/// See the module head.
pub struct Broker {
    pub config: NodeConfig,
    pub(crate) fetch_sessions: FetchSessions,
    logger: Logger,
    identity: Identity,
    ids: OperationIds,
    wal: Wal,
    wal_events: Vec<WalEvent>,
    checkpoints: Checkpoints,
    /// Groups that wait for a write of the WAL to be durable.
    writing: BTreeMap<WriteNumber, BTreeSet<GroupId>>,
    peers: Peers,
    peer_events: Vec<PeerEvent>,
    replicas: BTreeMap<GroupId, Replica>,
    /// Groups that may have something to do.
    dirty: BTreeSet<GroupId>,
    group_output: GroupOutput,
    removals: Removals,
    segment_operations: BTreeMap<OperationId, GroupId>,
    forward_answers: Vec<(NodeId, u64, Forwarded)>,
    image: MetadataImage,
    image_moved: bool,
    /// Where the replicas of the metadata group are, by the newest metadata that anybody spoke of.
    metadata_members: (ImageVersion, Vec<GroupMember>),
    formation: Formation,
    keeper: IdentityKeeper,
    /// The cluster's formation is being made durable.
    forming: bool,
    leaders: Leaders,
    liveness: Liveness,
    campaigns: Campaigns,
    /// Requests for the votes of replicas that are not here yet.
    early: BTreeMap<GroupId, (NodeId, peer::Envelope, RaftMessage)>,
    /// Replicas that this node removed and that its image may still show, because it is read again after a start.
    destroyed: BTreeSet<(GroupId, ReplicaId)>,
    calls: Calls,
    registered: bool,
    register_at: Monotonic,
    /// What the metadata log held at the start is not applied yet; nobody is told of topics before it is, or before this
    /// time: perhaps there is no majority.
    metadata_settles: Option<(LogIndex, Monotonic)>,
    producer_ids: ProducerIds,
    deadlines: Deadlines,
    watch: Watch,
    reads: Reads,
    transfers: Transfers,
    repairs: Repairs,
    quarantines: Quarantines,
    segment_repairs: SegmentRepairs,
    scrub: Scrub,
    events: VecDeque<(RequestId, Event)>,
    tick_at: Monotonic,
    ticks: u64,
    /// Of the files of partitions.
    sync_pace: SyncPace,
    wal_full: bool,
    /// While the WAL slows producers down: what all groups together hold that is proposed and not applied.
    unapplied_while_slow: Option<usize>,
    /// Applied batches hold as much memory as they may: nothing more is applied until segments were written.
    tails_full: bool,
    /// Groups that have something to apply and wait for that.
    held_back: BTreeSet<GroupId>,
    shutdown: Shutdown,
    mint: Stream,
    jitter: Stream,
    answers: Answers,
    proposed_bytes: ProposedBytes,
    frames: Frames,
    /// Frames that batches keep alive hold as much as they may.
    frames_held: bool,
    live_logs: LiveLogs,
    notices: Vec<Notice>,
    serving: bool,
    exit: Option<Exit>,
}

impl Broker {
    /// # Errors
    ///
    /// [`Exit::Damaged`] if the record of the cluster's formation cannot be read.
    pub(crate) fn new(now: Now, start: Start) -> Result<Self, Exit> {
        let Start { config, logger, keeper, wal, recovered, replicas, destroyed, segment_operations, checkpoints, ids } =
            start;
        let identity = keeper.identity().expect("a start ends with its identity durable").clone();
        let own = peer::Identity {
            node: config.node,
            boot: identity.boot,
            directory: identity.directory,
            cluster: identity.cluster,
            configuration: crate::metadata::formation::configuration_hash(&config),
            advertised: config.advertised.clone(),
            rack: config.rack.clone(),
        };
        let is_damaged = |replica: &&Replica| replica.partition().is_some_and(|partition| partition.log.is_damaged());
        let damaged = replicas.iter().filter(|(_, replica)| is_damaged(replica)).map(|(group, _)| *group).collect();
        let wal_full = wal.is_full();
        let metadata_settles = replicas
            .get(&GroupId::METADATA)
            .map(|replica| (replica.group.last_index(), now.monotonic + limits::METADATA_SETTLE_TIMEOUT));
        let gone: BTreeSet<GroupId> = destroyed.iter().map(|(group, _)| *group).collect();
        let removals = Removals::new(gone.into_iter().filter(|group| !replicas.contains_key(group)));
        let stream = |purpose| Stream::new(config.seed, config.node, purpose, identity.boot.0);
        let mut peers = Peers::new(own, recovered, stream("peers"));
        let addresses = config.peers.iter().map(|peer| (peer.node, peer.address.clone())).collect();
        peers.set_peers(now, &addresses);
        let formation =
            Formation::new(now, &config, &identity, stream("formation")).map_err(|error| Exit::Damaged {
                file: FileName::Identity.path(),
                offset: 0,
                what: format!("the record of the cluster's formation: {error}"),
            })?;
        let mut broker = Self {
            fetch_sessions: FetchSessions::default(),
            logger,
            ids,
            wal,
            wal_events: Vec::new(),
            checkpoints: Checkpoints::new(now, checkpoints),
            writing: BTreeMap::new(),
            peers,
            peer_events: Vec::new(),
            dirty: replicas.keys().copied().collect(),
            group_output: GroupOutput::default(),
            removals,
            segment_operations,
            forward_answers: Vec::new(),
            image: MetadataImage::empty(),
            image_moved: true,
            metadata_members: Default::default(),
            formation,
            keeper,
            forming: false,
            leaders: Leaders::new(config.node),
            liveness: Liveness::default(),
            campaigns: Campaigns::default(),
            early: BTreeMap::new(),
            destroyed,
            calls: Calls::new(identity.directory, identity.boot),
            registered: false,
            register_at: now.monotonic,
            metadata_settles,
            producer_ids: ProducerIds::default(),
            deadlines: Deadlines::default(),
            watch: Watch::default(),
            reads: Reads::default(),
            transfers: Transfers::default(),
            repairs: Repairs::default(),
            quarantines: Quarantines::default(),
            segment_repairs: SegmentRepairs::new(damaged),
            scrub: Scrub::new(now.monotonic, &config, stream("scrub")),
            events: VecDeque::new(),
            tick_at: now.monotonic + limits::TICK,
            ticks: 0,
            sync_pace: SyncPace::default(),
            wal_full,
            unapplied_while_slow: None,
            tails_full: false,
            held_back: BTreeSet::new(),
            shutdown: Shutdown::default(),
            mint: stream("mint"),
            jitter: stream("campaign"),
            answers: Answers::default(),
            proposed_bytes: ProposedBytes::default(),
            frames: Frames::default(),
            frames_held: false,
            live_logs: LiveLogs::new(now.monotonic, replicas.keys().copied()),
            notices: vec![Notice::Recovered],
            serving: false,
            exit: None,
            replicas,
            identity,
            config,
        };
        broker.start_repairs();
        broker.take_up_holds(now);
        broker.start_campaigns(now);
        broker.join_metadata(now);
        Ok(broker)
    }

    /// Takes every input but those about clients.
    pub(crate) fn handle(&mut self, now: Now, input: Input) {
        if let Input::LinkFrame { frame, .. } = &input {
            self.frames.watch(frame);
        }
        if self.peers.handle(now, &input) {
            return;
        }
        match input {
            Input::Disk { operation, result } => {
                if let Err(exit) = self.disk(now, operation, result) {
                    self.exit.get_or_insert(exit);
                }
            }
            Input::Shutdown => self.begin_shutdown(now),
            Input::ClientConnected { .. }
            | Input::ClientFrame { .. }
            | Input::ClientWritten { .. }
            | Input::ClientClosed { .. }
            | Input::LinkUp { .. }
            | Input::LinkAccepted { .. }
            | Input::LinkFrame { .. }
            | Input::LinkWritten { .. }
            | Input::LinkDown { .. } => unreachable!("sessions and peers take their own inputs"),
        }
    }

    fn disk(&mut self, now: Now, operation: OperationId, result: Result<DiskOutput, DiskError>) -> Result<(), Exit> {
        if self.wal.handle(now, operation, &result, &mut self.wal_events)? {
            return Ok(());
        }
        if self.reads.owns(operation) {
            return self.finish_read(now, operation, result);
        }
        if self.keeper.handle(operation, &result)?
            || self.finish_checkpoint_operation(operation, &result)?
            || self.finish_checkpoint_read(now, operation, &result)
            || self.quarantines.handle(operation, &result)
        {
            return Ok(());
        }
        self.finish_storage(operation, result)
    }

    /// Does everything that the inputs since the last call made possible. May be called again in a turn, after events
    /// were handed out.
    pub(crate) fn advance(&mut self, now: Now, effects: &mut Effects) {
        self.tick_if_due(now);
        loop {
            self.peers.poll(now, self.wal.queued_bytes(), effects, &mut self.peer_events);
            self.take_peer_events(now);
            self.take_wal_events(now);
            self.campaign_where_due(now);
            self.advance_groups(now, effects);
            self.advance_quarantines(effects);
            self.advance_repairs(now);
            self.advance_transfers(now);
            self.advance_segment_repairs(now);
            self.advance_scrub(now);
            self.advance_metadata(now, effects);
            self.settle_metadata(now);
            self.send_forward_answers(now);
            if self.dirty.is_empty() && self.peer_events.is_empty() && self.wal_events.is_empty() {
                break;
            }
        }
        self.expire(now);
        for request in self.watch.take_woken() {
            self.events.push_back((request, Event::Woken));
        }
    }

    /// Ends a turn: what was gathered leaves.
    pub(crate) fn finish(&mut self, now: Now, effects: &mut Effects) {
        // A checkpoint waits for logs that are being written, and goes on in the turn in which the last of them is done.
        self.settle_logs(now, effects);
        self.advance_checkpoint(now, effects);
        // Once per turn, when everything that the turn appends is there: it shares one write and one sync.
        self.wal.poll(now, effects, &mut self.ids, &mut self.wal_events);
        self.take_wal_events(now);
        self.write_behind(now, effects);
        self.advance_shutdown(now);
        self.peers.set_durable(self.wal.durable());
        self.peers.poll(now, self.wal.queued_bytes(), effects, &mut self.peer_events);
        effects.notices.append(&mut self.notices);
        if let Some(exit) = &self.exit {
            match exit {
                Exit::Stopped => info!(self.logger, "stopped"),
                Exit::DiskFailed { .. } | Exit::Damaged { .. } | Exit::Refused(_) => {
                    error!(self.logger, "the node ends"; "reason" => %exit);
                }
            }
            effects.exit = Some(exit.clone());
        }
    }

    pub(crate) fn next_event(&mut self) -> Option<(RequestId, Event)> {
        self.events.pop_front()
    }

    /// The request is answered, or its connection is gone: nobody wants its events any more.
    pub(crate) fn forget(&mut self, request: RequestId) {
        self.deadlines.remove(request);
        self.watch.remove(request);
        self.answers.remove(request);
        self.producer_ids.forget(request);
    }

    /// A connection was closed by us.
    pub(crate) fn client_closed(&self, connection: ConnectionId, reason: CloseReason) {
        info!(self.logger, "a client's connection is closed"; "connection" => connection.0, "reason" => %reason);
    }

    /// Its connection is gone before it was answered.
    pub(crate) fn abandon(&mut self, request: RequestId) {
        self.forget(request);
        self.withdraw_if_crowded(request);
    }

    /// How much answers hold that sockets have not taken.
    pub(crate) fn set_unsent(&mut self, bytes: usize) {
        self.answers.set_unsent(bytes);
        if self.answer_room().at_least_one {
            self.events.extend(self.answers.take_starved().into_iter().map(|request| (request, Event::Woken)));
        }
    }

    /// What an answer may have now.
    pub(crate) fn answer_room(&self) -> Room {
        self.answers.room(self.reads.fetch_bytes())
    }

    /// A part of the answer is there, and waits for others.
    pub(crate) fn keep_part(&mut self, request: RequestId, held_bytes: usize) {
        self.answers.keep(request, held_bytes);
    }

    /// The request is woken when there is room for its answer.
    pub(crate) fn wait_for_room(&mut self, request: RequestId) {
        self.answers.starve(request);
    }

    /// Batches may be slices of this frame from now on.
    pub(crate) fn watch_frame(&mut self, frame: &Bytes) {
        self.frames.watch(frame);
    }

    pub(crate) fn set_deadline(&mut self, request: RequestId, at: Monotonic) {
        self.deadlines.set(request, at);
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotonic> {
        let fixed = [Some(self.tick_at), self.wal.next_deadline(), self.peers.next_deadline(), self.deadlines.next()];
        let checkpoint = self.checkpoint_deadline();
        let rest = [
            self.calls.next_deadline(),
            self.campaigns.at,
            self.formation.next_deadline(),
            self.write_deadline(),
            checkpoint,
        ];
        let rest = rest.into_iter().chain([
            self.transfers.next_deadline(),
            self.repairs.next_deadline(),
            self.segment_repairs.next_deadline(),
            self.metadata_settles.map(|(_, until)| until),
            self.register_deadline(),
            self.scrub.next_deadline(),
        ]);
        let earliest_of = fixed.into_iter().chain(rest).fold(None, earliest);
        // What is left over from this turn is done in the next one, at once.
        let idle = self.peer_events.is_empty() && self.dirty.is_empty() && self.events.is_empty();
        if idle { earliest_of } else { Some(Monotonic(0)) }
    }

    fn expire(&mut self, now: Now) {
        while let Some(request) = self.deadlines.pop_due(now.monotonic) {
            self.events.push_back((request, Event::Deadline));
        }
    }

    /// A topic that was there before the start is there after it, though its entry was not known to be committed.
    fn settle_metadata(&mut self, now: Now) {
        let Some((last, until)) = self.metadata_settles else { return };
        let is_behind = self.replicas.get(&GroupId::METADATA).is_some_and(|replica| {
            // Another leader may have replaced what was never committed.
            replica.group.applied() < last.min(replica.group.last_index())
        });
        if !is_behind || now.monotonic >= until {
            self.metadata_settles = None;
        }
    }

    /// Whether requests may be started: not before the first checkpoint of a start, nor before the metadata are what they
    /// were, and not by a node with a new disk before it knows of the topics that there are.
    pub(crate) fn takes_requests(&self) -> bool {
        self.checkpoints.has_begun()
            && self.metadata_settles.is_none()
            && (self.image.cluster().is_some() || !self.formation.is_replacement())
    }

    pub(crate) fn image(&self) -> &MetadataImage {
        &self.image
    }

    pub(crate) fn cluster_id(&self) -> Option<ClusterId> {
        self.identity.cluster
    }

    fn mark(&mut self, group: GroupId) {
        self.dirty.insert(group);
    }

    fn wall(now: Now) -> Wall {
        now.wall
    }
}
