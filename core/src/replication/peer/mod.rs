//! Everything between two nodes below Raft: links, frames, lanes, windows, failure detection.
//!
//! [`Peers`] is what a shard uses: it is told what happened to links, takes messages for other nodes, and answers with
//! effects and [`PeerEvent`]s. Invariants: a message is handed on only if its frame is whole (checksum), comes over a
//! link whose dialler proved to be a configured node of this cluster in its newest process, and was addressed to this
//! node; what exceeds a bound is dropped, because Raft sends again.
//!
//! Does not know Raft groups beyond their ids, nor what control messages mean.

pub mod campaign;
mod clock;
pub mod detector;
pub mod frame;
mod links;
mod receive;
pub mod section;
mod window;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raft::prelude::{Message, MessageType};

use crate::{
    config::Endpoint,
    ids::{BootNumber, ClusterId, DirectoryId, GroupId, LinkId, NodeId, WriteNumber},
    io::{Effects, Input, PeerDial, PeerSend},
    limits,
    rng::Stream,
    time::{Monotonic, Now, earliest},
};

use self::{
    clock::ClockSample,
    detector::{Detector, LinkChange, Verdict},
    frame::{Header, Lane, Received},
    links::{Hopeless, Incoming, LinkIds, Outgoing},
    section::RaftSection,
    window::{Backlog, SendWindow},
};
pub use self::{
    receive::Rejection,
    section::{ControlKind, Envelope, Hello, Seen},
};

#[cfg(test)]
mod tests;

/// Received bytes after which a frame is sent at once, so that a sender does not wait for the next ping to go on.
const ACKNOWLEDGE_BYTES: usize = limits::PEER_GROUP_WINDOW_BYTES / 4;

/// What this node says about itself to others.
#[derive(Clone, Debug)]
pub struct Identity {
    pub node: NodeId,
    /// Of this process; durable before the first peer hears of it.
    pub boot: BootNumber,
    /// Durable before the first peer hears of it.
    pub directory: DirectoryId,
    /// None until the cluster is formed.
    pub cluster: Option<ClusterId>,
    /// See [`Hello::configuration`].
    pub configuration: u64,
    pub advertised: Endpoint,
    pub rack: Option<String>,
}

/// What a shard hears from its peers.
#[derive(Debug)]
pub enum PeerEvent {
    /// Both directions of the pair work (again).
    Up(NodeId),
    /// The pair does not work, or the node is another process than before.
    Down(NodeId),
    /// Messages to this node were lost with a link: replication to its replicas has to probe (`report_unreachable`).
    Unreachable(NodeId),
    /// A peer opened its Raft lane. `boot` and `cluster` are the sender's; any of the rest may differ from before.
    Hello {
        from: NodeId,
        boot: BootNumber,
        cluster: Option<ClusterId>,
        hello: Hello,
    },
    /// A message of another node's replica. Sender and cluster are checked; group, replicas and contents are not.
    Raft {
        from: NodeId,
        envelope: Envelope,
        message: Message,
    },
    Control {
        from: NodeId,
        kind: ControlKind,
        bytes: Bytes,
    },
    /// A link was closed because of what came over it. [`Rejection::PositionLost`] is about this node's own disk.
    Rejected {
        link: LinkId,
        from: Option<NodeId>,
        reason: Rejection,
    },
}

/// Why a message was not taken. Dropped messages need no answer but Raft's own: a group may be told that the replica
/// is unreachable, so that it probes instead of running ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    #[error("no such peer is configured")]
    UnknownNode,
    #[error("the lane has no established link")]
    NoLink,
    #[error("too much is under way to the peer")]
    WindowFull,
    #[error("the message is larger than any frame")]
    TooLarge,
}

/// Links to all other nodes.
#[derive(Debug)]
pub struct Peers {
    own: Identity,
    durable: WriteNumber,
    detector: Detector,
    peers: BTreeMap<NodeId, Peer>,
    /// Links that peers dialled.
    incoming: BTreeMap<LinkId, Incoming>,
    ids: LinkIds,
    jitter: Stream,
    backlog: Backlog,
    closes: Vec<LinkId>,
    /// Collected since the last poll.
    events: Vec<PeerEvent>,
    /// Set by a poll that left nothing to do, and taken away by whatever happens after it.
    rest: Option<Rest>,
}

/// Nothing is to be done before `until`, unless something happens.
#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Option<Monotonic>,
}

#[derive(Debug)]
struct Peer {
    address: String,
    outgoing: [Outgoing; 2],
    window: SendWindow,
    /// Per lane the newest link that the peer dialled.
    incoming: [Option<LinkId>; 2],
    /// Bytes received since a frame told the peer what arrived.
    unacknowledged: usize,
    /// A frame goes out although neither time nor data ask for it.
    ping_now: bool,
    clock: Option<ClockSample>,
    /// The peer's directory, as its last hello said, and its highest durable position heard of since.
    seen: Option<Seen>,
    /// The peer's directory by the metadata, and those that were replaced.
    registered: Option<DirectoryId>,
    replaced: BTreeSet<DirectoryId>,
}

impl Peer {
    fn new(now: Monotonic, address: String) -> Self {
        Self {
            address,
            outgoing: [Outgoing::new(now), Outgoing::new(now)],
            window: SendWindow::default(),
            incoming: [None; 2],
            unacknowledged: 0,
            ping_now: false,
            clock: None,
            seen: None,
            registered: None,
            replaced: BTreeSet::new(),
        }
    }

    fn lane_of(&self, link: LinkId) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| self.outgoing[lane.index()].link() == Some(link))
    }
}

impl Peers {
    /// `durable` is the end of this node's WAL as recovered; `jitter` a stream of this node of its own.
    pub fn new(own: Identity, durable: WriteNumber, jitter: Stream) -> Self {
        Self {
            detector: Detector::new(own.boot),
            own,
            durable,
            peers: BTreeMap::new(),
            incoming: BTreeMap::new(),
            ids: LinkIds::default(),
            jitter,
            backlog: Backlog::default(),
            closes: Vec::new(),
            events: Vec::new(),
            rest: None,
        }
    }

    /// The other nodes and their addresses (`host:port`) from now on; this node itself may be among them. Links to a
    /// node that is no longer named or has moved are closed.
    pub fn set_peers(&mut self, now: Now, addresses: &BTreeMap<NodeId, String>) {
        self.rest = None;
        let now = now.monotonic;
        let gone: Vec<NodeId> = self.peers.keys().copied().filter(|node| !addresses.contains_key(node)).collect();
        for node in gone {
            let peer = self.peers.remove(&node).expect("the key was just listed");
            self.closes.extend(peer.outgoing.iter().filter_map(Outgoing::link));
            self.closes.extend(peer.incoming.iter().flatten());
            for link in peer.incoming.iter().flatten() {
                self.incoming.remove(link);
            }
        }
        let own = self.own.node;
        for (&node, address) in addresses.iter().filter(|&(&node, _)| node != own) {
            match self.peers.get_mut(&node) {
                None => {
                    self.peers.insert(node, Peer::new(now, address.clone()));
                }
                Some(peer) if peer.address != *address => {
                    peer.address.clone_from(address);
                    for lane in Lane::ALL {
                        self.renew_lane(now, node, lane);
                    }
                }
                Some(_) => {}
            }
        }
        self.detector.set_peers(now, self.peers.keys().copied());
    }

    /// What the metadata say about the data directories of other nodes: the present one, and those it replaced, which are
    /// not listened to any more.
    pub fn set_directories(
        &mut self,
        now: Now,
        directories: impl IntoIterator<Item = (NodeId, DirectoryId, BTreeSet<DirectoryId>)>,
    ) {
        self.rest = None;
        for (node, registered, replaced) in directories {
            let Some(peer) = self.peers.get_mut(&node) else { continue };
            peer.registered = Some(registered);
            peer.replaced = replaced;
            let Some(seen) = peer.seen.filter(|seen| peer.replaced.contains(&seen.directory)) else { continue };
            for link in peer.incoming.into_iter().flatten() {
                self.reject(now.monotonic, link, Some(node), Rejection::ReplacedDirectory(seen.directory));
            }
        }
    }

    /// The cluster is formed or joined: frames carry its id from now on.
    pub fn set_cluster(&mut self, cluster: ClusterId) {
        assert!(self.own.cluster.is_none_or(|known| known == cluster), "a node belongs to one cluster for ever");
        self.own.cluster = Some(cluster);
    }

    /// This node's WAL is durable up to here.
    pub fn set_durable(&mut self, durable: WriteNumber) {
        self.durable = self.durable.max(durable);
    }

    /// Takes inputs about links; false for all others.
    pub fn handle(&mut self, now: Now, input: &Input) -> bool {
        match input {
            Input::LinkUp { link } => self.link_up(now, *link),
            Input::LinkAccepted { link } => self.link_accepted(now, *link),
            Input::LinkFrame { link, frame } => self.link_frame(now, *link, frame.clone()),
            Input::LinkWritten { link, bytes } => self.link_written(*link, *bytes),
            Input::LinkDown { link } => self.link_down(now, *link),
            Input::ClientConnected { .. }
            | Input::ClientFrame { .. }
            | Input::ClientWritten { .. }
            | Input::ClientClosed { .. }
            | Input::Disk { .. }
            | Input::Shutdown => return false,
        }
        self.rest = None;
        true
    }

    /// Queues a Raft message for a replica on another node; it leaves with the next poll.
    ///
    /// # Panics
    /// If `to` is this node, or message and envelope name different replicas.
    pub fn send_raft(&mut self, now: Now, to: NodeId, envelope: Envelope, message: Message) -> Result<(), NotSent> {
        assert!(to != self.own.node, "messages to the own node do not travel");
        let peer = self.peers.get_mut(&to).ok_or(NotSent::UnknownNode)?;
        self.rest = None;
        let append = message.msg_type == MessageType::MsgAppend as i32;
        let section = RaftSection::new(envelope, message).ok_or(NotSent::TooLarge)?;
        // An append that overtakes an earlier one of its group is refused there and makes the leader probe.
        let large = section.payload_bytes() > limits::RAFT_LANE_PAYLOAD_BYTES_MAX;
        let follows = append && peer.window.holds(Lane::Bulk, envelope.group);
        let lane = if large || follows { Lane::Bulk } else { Lane::Raft };
        let group = append.then_some(envelope.group);
        peer.queue(now.monotonic, lane, group, section.bytes(), |frame| section.encode(frame))
    }

    /// Queues a control message; it leaves with the next poll. Large ones take the bulk lane, where smaller ones may
    /// overtake them.
    ///
    /// # Panics
    /// If `to` is this node.
    pub fn send_control(&mut self, now: Now, to: NodeId, kind: ControlKind, bytes: Bytes) -> Result<(), NotSent> {
        self.send_control_parts(now, to, kind, vec![bytes])
    }

    /// The same with a message in parts, so that large ones need no copy.
    ///
    /// # Panics
    /// If `to` is this node.
    pub fn send_control_parts(
        &mut self,
        now: Now,
        to: NodeId,
        kind: ControlKind,
        parts: Vec<Bytes>,
    ) -> Result<(), NotSent> {
        assert!(to != self.own.node, "messages to the own node do not travel");
        let peer = self.peers.get_mut(&to).ok_or(NotSent::UnknownNode)?;
        self.rest = None;
        let bytes = parts.iter().map(Bytes::len).sum();
        let length = section::control_bytes(bytes);
        if length > section::SECTION_BYTES_MAX {
            return Err(NotSent::TooLarge);
        }
        let lane = if bytes > limits::RAFT_LANE_PAYLOAD_BYTES_MAX { Lane::Bulk } else { Lane::Raft };
        peer.queue(now.monotonic, lane, None, length, |frame| section::encode_control(kind, parts, frame))
    }

    /// What happened since the last poll goes to `events`, verdicts about nodes first; what is queued and due goes to
    /// `effects`. May be called several times in a turn: messages sent in answer to events leave with the next call.
    /// `backlog` is how many bytes wait for the WAL now: beyond [`limits::PEER_BACKLOG_BYTES_MAX`] arriving appends
    /// are dropped.
    pub fn poll(&mut self, now: Now, backlog: usize, effects: &mut Effects, events: &mut Vec<PeerEvent>) {
        self.backlog.handed_on(backlog);
        // Most turns are about clients, disks and one peer: the others then cost nothing.
        let moved = self.detector.pass(now.monotonic);
        if let Some(Rest { until }) = self.rest
            && !moved
            && until.is_none_or(|until| until > now.monotonic)
        {
            return;
        }
        self.give_up_links(now.monotonic);
        let verdicts: Vec<Verdict> = self.detector.poll(now.monotonic).collect();
        for verdict in verdicts {
            match verdict {
                Verdict::Up(node) => events.push(PeerEvent::Up(node)),
                Verdict::Down(node) => {
                    events.push(PeerEvent::Down(node));
                    // A connection made before a cut may stay silent long after it.
                    for lane in Lane::ALL {
                        if self.peers[&node].outgoing[lane.index()].established().is_some() {
                            self.renew_lane(now.monotonic, node, lane);
                        }
                    }
                }
            }
        }
        events.append(&mut self.events);
        self.flush(now, effects);
        self.rest = Some(Rest { until: self.find_deadline() });
    }

    /// When [`Peers::poll`] has to be called if nothing else happens.
    pub fn next_deadline(&self) -> Option<Monotonic> {
        match self.rest {
            Some(Rest { until }) => until,
            None => self.find_deadline(),
        }
    }

    fn find_deadline(&self) -> Option<Monotonic> {
        let mut next = self.detector.next_deadline();
        for (&node, peer) in &self.peers {
            let down = !self.detector.is_up(node);
            for lane in Lane::ALL {
                next = earliest(next, peer.outgoing[lane.index()].deadline(lane, down));
            }
        }
        for incoming in self.incoming.values() {
            match incoming {
                Incoming::Fresh { deadline } => next = earliest(next, Some(*deadline)),
                Incoming::Open(_) => {}
            }
        }
        next
    }

    /// Whether both directions of the pair with this node work. True for this node itself.
    pub fn is_up(&self, node: NodeId) -> bool {
        node == self.own.node || self.detector.is_up(node)
    }

    /// Whether the node is up and runs with this data directory.
    pub fn is_up_with(&self, node: NodeId, directory: DirectoryId) -> bool {
        let runs_with = if node == self.own.node {
            Some(self.own.directory)
        } else {
            self.position_of(node).map(|seen| seen.directory)
        };
        self.is_up(node) && runs_with == Some(directory)
    }

    /// Whether the node is up and our Raft lane to it stands: false from the moment its process is gone, which is
    /// sooner than a verdict. True for this node itself.
    pub fn is_connected(&self, node: NodeId) -> bool {
        node == self.own.node
            || self.is_up(node)
                && self.peers.get(&node).is_some_and(|peer| peer.outgoing[Lane::Raft.index()].is_established())
    }

    /// The newest boot number heard of; for this node its own.
    pub fn boot_of(&self, node: NodeId) -> Option<BootNumber> {
        if node == self.own.node { Some(self.own.boot) } else { self.detector.boot_of(node) }
    }

    /// The highest durable WAL position that a peer told of the directory of its last hello.
    pub fn position_of(&self, node: NodeId) -> Option<Seen> {
        self.peers.get(&node).and_then(|peer| peer.seen)
    }

    /// How far the median of the wall clocks of all reachable nodes, this one included, is ahead of ours, in
    /// milliseconds. `None` unless these are a majority of all nodes.
    pub fn median_clock_offset(&self, now: Now) -> Option<i64> {
        let offsets: Vec<i64> = self
            .peers
            .iter()
            .filter(|(node, _)| self.detector.is_up(**node))
            .filter_map(|(_, peer)| peer.clock)
            .map(|sample| sample.offset(now))
            .chain([0])
            .collect();
        if offsets.len() * 2 > self.peers.len() + 1 { clock::median(offsets) } else { None }
    }

    fn link_up(&mut self, now: Now, link: LinkId) {
        let Some((node, lane)) = self.dialled(link) else { return };
        let peer = self.peers.get_mut(&node).expect("the node of a link is a peer");
        let outgoing = &mut peer.outgoing[lane.index()];
        if !outgoing.is_dialling(link) {
            return;
        }
        outgoing.up(now.monotonic, link);
        let hello = Hello {
            directory: self.own.directory,
            link,
            configuration: self.own.configuration,
            advertised: self.own.advertised.clone(),
            rack: self.own.rack.clone(),
            empty: self.own.cluster.is_none(),
            seen: peer.seen,
        };
        // Alone in the first frame: until it came, a receiver takes no more than a hello from whoever dialled it.
        let (frame, _) = outgoing.frame_for(0);
        hello.encode(frame);
        assert!(frame.bytes() <= limits::PEER_HELLO_BYTES_MAX, "texts of the configuration are short");
        outgoing.complete();
    }

    fn link_written(&mut self, link: LinkId, bytes: usize) {
        if let Some((node, lane)) = self.dialled(link) {
            let peer = self.peers.get_mut(&node).expect("the node of a link is a peer");
            peer.outgoing[lane.index()].written(bytes);
        }
    }

    fn link_down(&mut self, now: Now, link: LinkId) {
        if LinkIds::is_dialled(link) {
            if let Some((node, lane)) = self.dialled(link) {
                self.dialled_link_lost(now.monotonic, node, lane);
            }
        } else if let Some(incoming) = self.incoming.remove(&link) {
            self.incoming_link_lost(now.monotonic, link, &incoming);
        }
    }

    fn dialled(&self, link: LinkId) -> Option<(NodeId, Lane)> {
        self.peers.iter().find_map(|(&node, peer)| peer.lane_of(link).map(|lane| (node, lane)))
    }

    /// The link of a lane is gone, or the attempt to dial it failed.
    fn dialled_link_lost(&mut self, now: Monotonic, node: NodeId, lane: Lane) {
        let peer = self.peers.get_mut(&node).expect("the node of a link is a peer");
        let outgoing = &mut peer.outgoing[lane.index()];
        let established = outgoing.established().is_some();
        outgoing.lost(now, &mut self.jitter);
        peer.window.link_lost(lane);
        let change = if established { LinkChange::Lost } else { LinkChange::DialFailed };
        if established {
            self.events.push(PeerEvent::Unreachable(node));
        }
        match lane {
            Lane::Raft => self.detector.handle_link(now, node, change),
            // Failure detection looks at the lane that heartbeats take; a stuck transfer is no dead node.
            Lane::Bulk => {}
        }
    }

    /// A link that a peer dialled is gone; it was taken out of the table already.
    fn incoming_link_lost(&mut self, now: Monotonic, link: LinkId, incoming: &Incoming) {
        let Incoming::Open(open) = incoming else { return };
        let Some(peer) = self.peers.get_mut(&open.node) else { return };
        let newest = &mut peer.incoming[open.lane.index()];
        // A link that was replaced already says nothing when it goes.
        if *newest == Some(link) {
            *newest = None;
            if open.lane == Lane::Raft {
                self.detector.handle_link(now, open.node, LinkChange::Lost);
                peer.ping_now = true;
            }
        }
    }

    /// Closes the link that we dialled to a node for a lane, and dials again at once.
    fn renew_lane(&mut self, now: Monotonic, node: NodeId, lane: Lane) {
        let peer = self.peers.get_mut(&node).expect("links are renewed for peers");
        let outgoing = &mut peer.outgoing[lane.index()];
        if outgoing.established().is_some() {
            self.events.push(PeerEvent::Unreachable(node));
        }
        self.closes.extend(outgoing.renew(now));
        peer.window.link_lost(lane);
    }

    /// Ends links that nobody will ever report as gone.
    fn give_up_links(&mut self, now: Monotonic) {
        let mut hopeless = Vec::new();
        for (&node, peer) in &self.peers {
            let down = !self.detector.is_up(node);
            for lane in Lane::ALL {
                match peer.outgoing[lane.index()].is_hopeless(now, lane, down) {
                    Hopeless::No => {}
                    reason @ (Hopeless::DialTimeout | Hopeless::Silent) => hopeless.push((node, lane, reason)),
                }
            }
        }
        for (node, lane, reason) in hopeless {
            match reason {
                Hopeless::No => {}
                Hopeless::DialTimeout => {
                    self.closes.extend(self.peers[&node].outgoing[lane.index()].link());
                    self.dialled_link_lost(now, node, lane);
                }
                Hopeless::Silent => self.renew_lane(now, node, lane),
            }
        }
        let late: Vec<LinkId> = self
            .incoming
            .iter()
            .filter(|(_, incoming)| matches!(incoming, Incoming::Fresh { deadline } if *deadline <= now))
            .map(|(&link, _)| link)
            .collect();
        for link in late {
            self.reject(now, link, None, Rejection::HelloTimeout);
        }
    }

    fn flush(&mut self, now: Now, effects: &mut Effects) {
        for (&node, peer) in &mut self.peers {
            let received =
                Lane::ALL.map(|lane| match peer.incoming[lane.index()].and_then(|link| self.incoming.get(&link)) {
                    Some(Incoming::Open(open)) => Received { link: open.number, frame: open.frame },
                    Some(Incoming::Fresh { .. }) | None => Received::default(),
                });
            let raft = &mut peer.outgoing[Lane::Raft.index()];
            let due = raft.ping_due(now.monotonic) || peer.ping_now || peer.unacknowledged >= ACKNOWLEDGE_BYTES;
            if due && raft.established().is_some() {
                // An empty frame is a ping.
                raft.frame_for(0);
            }
            for lane in Lane::ALL {
                let Some((link, first, frames)) = peer.outgoing[lane.index()].take_frames(now.monotonic) else {
                    continue;
                };
                if lane == Lane::Raft {
                    peer.ping_now = false;
                    peer.unacknowledged = 0;
                }
                let stamp = self.detector.stamp(now.monotonic, node);
                let header = Header {
                    lane,
                    cluster: self.own.cluster,
                    from: self.own.node,
                    to: node,
                    boot: self.own.boot,
                    number: first,
                    wall: now.wall,
                    durable: self.durable,
                    ping: stamp.ping,
                    echo: stamp.echo,
                    received,
                };
                let slices = (first..)
                    .zip(frames)
                    .flat_map(|(number, frame)| frame.finish(&Header { number, ..header }))
                    .collect();
                effects.peer_sends.push(PeerSend { link, slices });
            }
            for lane in Lane::ALL {
                if let Some(link) = peer.outgoing[lane.index()].dial(now.monotonic, &mut self.ids) {
                    effects.peer_dials.push(PeerDial { link, node, address: peer.address.clone() });
                }
            }
        }
        effects.peer_closes.append(&mut self.closes);
    }
}

impl Peer {
    /// Puts a section into the frame of a lane if the bounds allow it.
    fn queue(
        &mut self,
        now: Monotonic,
        lane: Lane,
        group: Option<GroupId>,
        bytes: usize,
        encode: impl FnOnce(&mut frame::FrameBuilder),
    ) -> Result<(), NotSent> {
        let outgoing = &mut self.outgoing[lane.index()];
        if outgoing.established().is_none() {
            return Err(NotSent::NoLink);
        }
        // What is small and belongs to no window is bounded by what its socket takes.
        let windowed = group.is_some() || lane == Lane::Bulk;
        if (windowed && !self.window.admits(group))
            || (lane == Lane::Raft && outgoing.queued_bytes() >= limits::RAFT_LANE_UNSENT_BYTES_MAX)
        {
            return Err(NotSent::WindowFull);
        }
        let (frame, number) = outgoing.frame_for(bytes);
        encode(frame);
        if windowed {
            self.window.charge(lane, number, group, bytes);
            outgoing.charged(now);
        }
        Ok(())
    }
}
