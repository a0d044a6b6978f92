//! What comes over links that peers dialled: who may speak there, and what of it is handed on.
//!
//! Invariant: nothing a link says is used before a valid hello was the first thing on it, and every later frame
//! repeats who that was. The first frame that breaks a rule closes its link, with a reason.

use bytes::Bytes;
use raft::prelude::{Message, MessageType};

use crate::{
    ids::{BootNumber, ClusterId, DirectoryId, LinkId, NodeId, WriteNumber},
    limits,
    replication::peer::{
        PeerEvent, Peers,
        clock::ClockSample,
        detector::Heard,
        frame::{Frame, FrameError, Header, Lane, Sections},
        links::{Incoming, LinkIds, OpenLink},
        section::{Hello, Section, Seen},
    },
    time::{Monotonic, Now},
};

/// Why a link was closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("it was meant for node {0}")]
    WrongReceiver(NodeId),
    #[error("node {0} is not configured as a peer")]
    UnknownNode(NodeId),
    #[error("it belongs to cluster {0}")]
    WrongCluster(ClusterId),
    #[error("it comes from boot {theirs} of a node that runs as boot {known}")]
    StaleBoot { theirs: BootNumber, known: BootNumber },
    #[error("it comes from data directory {0}, which was replaced")]
    ReplacedDirectory(DirectoryId),
    #[error("it comes from data directory {theirs}, while the node runs with {known}")]
    OtherDirectory { theirs: DirectoryId, known: DirectoryId },
    #[error("a newer link of the same node and lane exists")]
    StaleLink,
    #[error("the first frame did not start with a hello")]
    NoHello,
    #[error("a hello came in the middle of a link")]
    SecondHello,
    #[error("a frame names another sender, boot or lane than the hello of its link")]
    Changed,
    #[error("no hello came in time")]
    HelloTimeout,
    #[error("peers have opened too many links")]
    TooManyLinks,
    #[error("a peer sent on a link that it was only to receive from")]
    WrongWay,
    /// This node's own WAL ends before what it once told to be durable: its disk was damaged or rolled back. The
    /// node must not go on.
    #[error("node {witness} saw this node's WAL durable up to write {seen}, but it ends at write {durable}")]
    PositionLost { witness: NodeId, seen: WriteNumber, durable: WriteNumber },
}

impl Peers {
    pub(super) fn link_accepted(&mut self, now: Now, link: LinkId) {
        assert!(!LinkIds::is_dialled(link), "a driver names accepted links with the top bit clear");
        let deadline = now.monotonic + limits::PEER_HELLO_TIMEOUT;
        let before = self.incoming.insert(link, Incoming::Fresh { deadline });
        assert!(before.is_none(), "link ids are unique");
        if self.incoming.len() > limits::PEER_ACCEPTED_LINKS_MAX {
            self.reject(now.monotonic, link, None, Rejection::TooManyLinks);
        }
    }

    pub(super) fn link_frame(&mut self, now: Now, link: LinkId, frame: Bytes) {
        let verdict = match self.incoming.get(&link) {
            Some(&incoming) => self.take_frame(now, link, incoming, frame),
            None => match self.dialled(link) {
                Some((node, lane)) => {
                    self.closes.push(link);
                    self.events.push(PeerEvent::Rejected { link, from: Some(node), reason: Rejection::WrongWay });
                    self.dialled_link_lost(now.monotonic, node, lane);
                    return;
                }
                // Closed by us; what was under way when we did is not wanted.
                None => return,
            },
        };
        if let Err((from, reason)) = verdict {
            self.reject(now.monotonic, link, from, reason);
        }
    }

    pub(super) fn reject(&mut self, now: Monotonic, link: LinkId, from: Option<NodeId>, reason: Rejection) {
        self.closes.push(link);
        self.events.push(PeerEvent::Rejected { link, from, reason });
        let incoming = self.incoming.remove(&link).expect("an accepted link is rejected once");
        self.incoming_link_lost(now, link, &incoming);
    }

    fn take_frame(
        &mut self,
        now: Now,
        link: LinkId,
        incoming: Incoming,
        bytes: Bytes,
    ) -> Result<(), (Option<NodeId>, Rejection)> {
        let length = bytes.len();
        let frame = Frame::decode(bytes).map_err(|error| (None, error.into()))?;
        let header = frame.header;
        let from = header.from;
        let blame = |reason| (Some(from), reason);
        self.check_header(&header).map_err(blame)?;
        let mut sections = frame.sections();
        let hello = match incoming {
            Incoming::Fresh { .. } => {
                let hello = first_hello(&mut sections).map_err(blame)?;
                self.open(now.monotonic, link, &header, &hello).map_err(blame)?;
                Some(hello)
            }
            Incoming::Open(open) => {
                self.check_boot(&header).map_err(blame)?;
                if (open.node, open.lane, open.boot) != (from, header.lane, header.boot) {
                    return Err(blame(Rejection::Changed));
                }
                None
            }
        };
        self.heard(now, link, &header, length);
        if let Some(hello) = hello.filter(|_| header.lane == Lane::Raft) {
            self.events.push(PeerEvent::Hello { from, boot: header.boot, cluster: header.cluster, hello });
        }
        for section in sections {
            match section.map_err(|error| blame(error.into()))? {
                Section::Hello(_) => return Err(blame(Rejection::SecondHello)),
                Section::Raft(envelope, message) => {
                    // Only nodes that both know to which cluster they belong have groups in common.
                    let same = self.own.cluster.is_some() && self.own.cluster == header.cluster;
                    if same && self.admits(&message) {
                        self.events.push(PeerEvent::Raft { from, envelope, message });
                    }
                }
                Section::Control(kind, bytes) => self.events.push(PeerEvent::Control { from, kind, bytes }),
            }
        }
        Ok(())
    }

    fn check_header(&self, header: &Header) -> Result<(), Rejection> {
        if header.to != self.own.node {
            return Err(Rejection::WrongReceiver(header.to));
        }
        if !self.peers.contains_key(&header.from) {
            return Err(Rejection::UnknownNode(header.from));
        }
        if let (Some(ours), Some(theirs)) = (self.own.cluster, header.cluster)
            && ours != theirs
        {
            return Err(Rejection::WrongCluster(theirs));
        }
        Ok(())
    }

    /// Boot numbers are compared only with those of the same data directory.
    fn check_boot(&self, header: &Header) -> Result<(), Rejection> {
        match self.detector.boot_of(header.from) {
            Some(known) if header.boot < known => Err(Rejection::StaleBoot { theirs: header.boot, known }),
            Some(_) | None => Ok(()),
        }
    }

    /// A valid hello came: the link replaces the one before of the same node and lane.
    fn open(&mut self, now: Monotonic, link: LinkId, header: &Header, hello: &Hello) -> Result<(), Rejection> {
        if let Some(seen) = hello.seen
            && seen.directory == self.own.directory
            && seen.durable > self.durable
        {
            let (seen, durable) = (seen.durable, self.durable);
            return Err(Rejection::PositionLost { witness: header.from, seen, durable });
        }
        let is_up = self.detector.is_up(header.from);
        let peer = self.peers.get_mut(&header.from).expect("the header was checked");
        let theirs = hello.directory;
        if peer.replaced.contains(&theirs) {
            return Err(Rejection::ReplacedDirectory(theirs));
        }
        let known = peer.seen.map(|seen| seen.directory);
        let is_other = known.is_some_and(|known| known != theirs);
        match known {
            // Which of two directories a node has is the metadata's business. Until they say so, the one that runs has it.
            Some(known) if is_other && is_up && peer.registered != Some(theirs) => {
                return Err(Rejection::OtherDirectory { theirs, known });
            }
            Some(_) if is_other => {}
            Some(_) | None => self.check_boot(header)?,
        }
        let peer = self.peers.get_mut(&header.from).expect("the header was checked");
        // Links of an earlier process are no longer of use on either lane.
        for before in &mut peer.incoming {
            let Some(&Incoming::Open(open)) = before.and_then(|before| self.incoming.get(&before)) else { continue };
            let same_process = open.boot == header.boot && !is_other;
            if same_process && open.lane == header.lane && hello.link <= open.number {
                return Err(Rejection::StaleLink);
            }
            if !same_process || open.lane == header.lane {
                let before = before.take().expect("it is open");
                self.incoming.remove(&before);
                self.closes.push(before);
            }
        }
        peer.incoming[header.lane.index()] = Some(link);
        if known != Some(theirs) {
            // Positions of another directory say nothing about this one.
            peer.seen = Some(Seen { directory: theirs, durable: WriteNumber(0) });
            peer.clock = None;
        }
        // The peer lost a link or is new: it wants to know at once whether we hear it.
        peer.ping_now = true;
        let open = OpenLink { node: header.from, lane: header.lane, boot: header.boot, number: hello.link, frame: 0 };
        self.incoming.insert(link, Incoming::Open(open));
        if is_other {
            self.detector.handle_replacement(now, header.from, header.boot);
        } else {
            self.detector.handle_boot(now, header.from, header.boot);
        }
        Ok(())
    }

    /// What the header of every valid frame tells.
    fn heard(&mut self, now: Now, link: LinkId, header: &Header, length: usize) {
        let Some(Incoming::Open(open)) = self.incoming.get_mut(&link) else {
            panic!("frames are heard on open links");
        };
        open.frame = open.frame.max(header.number);
        let peer = self.peers.get_mut(&header.from).expect("the header was checked");
        peer.unacknowledged += length;
        let seen = peer.seen.as_mut().expect("the hello of the link said which directory");
        seen.durable = seen.durable.max(header.durable);
        for lane in Lane::ALL {
            let received = header.received[lane.index()];
            let outgoing = &mut peer.outgoing[lane.index()];
            if received.frame > 0 && outgoing.established() == Some(received.link) {
                let progress = peer.window.acknowledged(lane, received.frame);
                outgoing.acknowledged(now.monotonic, progress, peer.window.is_idle(lane));
            }
        }
        if header.lane == Lane::Raft {
            if let Some(echo) = header.echo.filter(|echo| echo.boot == self.own.boot) {
                let round_trip = now.monotonic.since(Monotonic(echo.ping.0)).saturating_sub(echo.hold);
                peer.clock = Some(ClockSample::new(now, header.wall, round_trip));
            }
            let heard = Heard { boot: header.boot, ping: header.ping, echo: header.echo };
            self.detector.handle_frame(now.monotonic, header.from, &heard);
        }
    }

    /// Whether an append still fits; all other messages always do.
    fn admits(&mut self, message: &Message) -> bool {
        let bytes: usize = message.entries.iter().map(|entry| entry.data.len() + entry.context.len()).sum();
        let append = message.msg_type == MessageType::MsgAppend as i32 && !message.entries.is_empty();
        !append || self.backlog.admit(bytes)
    }
}

fn first_hello(sections: &mut Sections) -> Result<Hello, Rejection> {
    match sections.next() {
        Some(Ok(Section::Hello(hello))) => Ok(hello),
        Some(Ok(Section::Raft(..) | Section::Control(..))) | None => Err(Rejection::NoHello),
        Some(Err(error)) => Err(error.into()),
    }
}
