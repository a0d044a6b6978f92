//! Links: one connection that we dial per peer and lane, only to send; connections that peers dial, only to receive.
//!
//! Owns when to dial, which frames are filled, and how far a link got. Invariants: nothing is queued for a link that
//! is not established; the first frame of a link starts with a hello; numbers of frames on a link count from 1
//! without gaps, on both ends. Does not decide which message goes where, nor whether a sender is believed.

use std::time::Duration;

use crate::{
    ids::{BootNumber, LinkId, NodeId},
    limits,
    replication::peer::frame::{FrameBuilder, HEADER_BYTES, Lane, PREFIX_BYTES},
    rng::Stream,
    time::{Monotonic, earliest},
};

/// Names the links that this node dials. The top bit tells them from those that a driver names when it accepts one.
#[derive(Debug, Default)]
pub(super) struct LinkIds {
    dialled: u64,
}

impl LinkIds {
    const DIALLED: u64 = 1 << 63;

    pub(super) fn next(&mut self) -> LinkId {
        self.dialled += 1;
        LinkId(Self::DIALLED | self.dialled)
    }

    pub(super) fn is_dialled(link: LinkId) -> bool {
        link.0 & Self::DIALLED != 0
    }
}

/// The link that we keep to one peer for one lane.
#[derive(Debug)]
pub(super) struct Outgoing {
    state: OutgoingState,
    /// Links lost and dials failed since a frame was last acknowledged: sets the pause before the next dial.
    failures: u32,
    /// Complete frames that wait for the end of the turn, and the one being filled.
    full: Vec<FrameBuilder>,
    open: Option<FrameBuilder>,
    /// Bytes of `full`, and of what the socket did not take yet.
    full_bytes: usize,
    unsent_bytes: usize,
    /// Frames completed on the present link, the number of the newest one.
    frames: u64,
    last_sent: Monotonic,
    /// Since when something is unacknowledged without any progress.
    waiting_since: Option<Monotonic>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutgoingState {
    Idle { dial_at: Monotonic },
    Dialling { link: LinkId, deadline: Monotonic },
    Established { link: LinkId, since: Monotonic },
}

impl Outgoing {
    pub(super) fn new(now: Monotonic) -> Self {
        Self {
            state: OutgoingState::Idle { dial_at: now },
            failures: 0,
            full: Vec::new(),
            open: None,
            full_bytes: 0,
            unsent_bytes: 0,
            frames: 0,
            last_sent: now,
            waiting_since: None,
        }
    }

    /// The established link.
    pub(super) fn established(&self) -> Option<LinkId> {
        match self.state {
            OutgoingState::Established { link, .. } => Some(link),
            OutgoingState::Idle { .. } | OutgoingState::Dialling { .. } => None,
        }
    }

    pub(super) fn is_dialling(&self, link: LinkId) -> bool {
        matches!(self.state, OutgoingState::Dialling { link: dialled, .. } if dialled == link)
    }

    /// The link to dial now, if it is time to.
    pub(super) fn dial(&mut self, now: Monotonic, ids: &mut LinkIds) -> Option<LinkId> {
        match self.state {
            OutgoingState::Idle { dial_at } if dial_at <= now => {
                let link = ids.next();
                self.state = OutgoingState::Dialling { link, deadline: now + limits::PEER_DIAL_TIMEOUT };
                Some(link)
            }
            OutgoingState::Idle { .. } | OutgoingState::Dialling { .. } | OutgoingState::Established { .. } => None,
        }
    }

    /// The dial succeeded. The caller puts the hello into the first frame.
    pub(super) fn up(&mut self, now: Monotonic, link: LinkId) {
        assert!(self.is_dialling(link), "a link comes up once, after it was dialled");
        self.state = OutgoingState::Established { link, since: now };
        self.last_sent = now;
    }

    /// The link is gone or was never there: dialled again at once if it had worked, after a growing pause otherwise.
    pub(super) fn lost(&mut self, now: Monotonic, jitter: &mut Stream) {
        let pause = match self.failures {
            0 => Duration::ZERO,
            failures => {
                let pause = limits::PEER_DIAL_PAUSE_MIN.saturating_mul(1 << (failures - 1).min(16));
                let pause = pause.min(limits::PEER_DIAL_PAUSE_MAX);
                // Half to all of it, so that nodes which lost each other at once do not meet again and again.
                pause / 2 + Duration::from_nanos(jitter.below(pause.as_nanos() as u64 / 2))
            }
        };
        self.failures = self.failures.saturating_add(1);
        self.forget(now + pause);
    }

    /// Gives the present link up and dials another one at once. Returns the link to close.
    pub(super) fn renew(&mut self, now: Monotonic) -> Option<LinkId> {
        let link = self.link();
        if link.is_some() {
            self.forget(now);
        }
        link
    }

    /// The link in any state.
    pub(super) fn is_established(&self) -> bool {
        matches!(self.state, OutgoingState::Established { .. })
    }

    pub(super) fn link(&self) -> Option<LinkId> {
        match self.state {
            OutgoingState::Idle { .. } => None,
            OutgoingState::Dialling { link, .. } | OutgoingState::Established { link, .. } => Some(link),
        }
    }

    fn forget(&mut self, dial_at: Monotonic) {
        self.state = OutgoingState::Idle { dial_at };
        self.full.clear();
        self.open = None;
        self.full_bytes = 0;
        self.unsent_bytes = 0;
        self.frames = 0;
        self.waiting_since = None;
    }

    /// Bytes that wait for the end of the turn or for the socket.
    pub(super) fn queued_bytes(&self) -> usize {
        self.unsent_bytes + self.full_bytes + self.open.as_ref().map_or(0, FrameBuilder::bytes)
    }

    /// The frame into which a section of this size goes, and its number.
    pub(super) fn frame_for(&mut self, section_bytes: usize) -> (&mut FrameBuilder, u64) {
        assert!(self.established().is_some(), "nothing is queued without a link");
        let full = self.open.as_ref().is_some_and(|open| {
            open.bytes() > PREFIX_BYTES + HEADER_BYTES && open.bytes() + section_bytes > limits::PEER_FRAME_BYTES_TARGET
        });
        if full {
            self.complete();
        }
        (self.open.get_or_insert_default(), self.frames + 1)
    }

    /// What is queued from now on goes into another frame.
    pub(super) fn complete(&mut self) {
        if let Some(frame) = self.open.take() {
            self.frames += 1;
            self.full_bytes += frame.bytes();
            self.full.push(frame);
        }
    }

    /// Whether a frame is due although nothing is queued.
    pub(super) fn ping_due(&self, now: Monotonic) -> bool {
        self.established().is_some() && now.since(self.last_sent) >= limits::PING_INTERVAL
    }

    /// Everything queued, to be sent now on the established link, and the number of the first frame.
    pub(super) fn take_frames(&mut self, now: Monotonic) -> Option<(LinkId, u64, Vec<FrameBuilder>)> {
        self.complete();
        let link = self.established().filter(|_| !self.full.is_empty())?;
        self.last_sent = now;
        self.unsent_bytes += self.full_bytes;
        self.full_bytes = 0;
        let first = self.frames - self.full.len() as u64 + 1;
        Some((link, first, std::mem::take(&mut self.full)))
    }

    pub(super) fn written(&mut self, bytes: usize) {
        self.unsent_bytes = self.unsent_bytes.saturating_sub(bytes);
    }

    /// Something was charged to the window of this link.
    pub(super) fn charged(&mut self, now: Monotonic) {
        self.waiting_since.get_or_insert(now);
    }

    /// The peer has frames of this link; `progress` if any of them were news, `idle` if nothing else is under way.
    pub(super) fn acknowledged(&mut self, now: Monotonic, progress: bool, idle: bool) {
        self.failures = 0;
        if idle {
            self.waiting_since = None;
        } else if progress {
            self.waiting_since = Some(now);
        }
    }

    /// When this link needs attention because of itself; `down`: the pair of nodes is.
    pub(super) fn deadline(&self, lane: Lane, down: bool) -> Option<Monotonic> {
        match self.state {
            OutgoingState::Idle { dial_at } => Some(dial_at),
            OutgoingState::Dialling { deadline, .. } => Some(deadline),
            OutgoingState::Established { since, .. } => {
                let renew = down.then(|| since + limits::PEER_REDIAL_WHILE_DOWN);
                let other = match lane {
                    Lane::Raft => Some(self.last_sent + limits::PING_INTERVAL),
                    Lane::Bulk => self.waiting_since.map(|since| since + limits::PEER_BULK_STALL),
                };
                earliest(renew, other)
            }
        }
    }

    /// Whether the link has to be given up although nobody said that it is gone.
    pub(super) fn is_hopeless(&self, now: Monotonic, lane: Lane, down: bool) -> Hopeless {
        match self.state {
            OutgoingState::Idle { .. } => Hopeless::No,
            OutgoingState::Dialling { deadline, .. } if deadline <= now => Hopeless::DialTimeout,
            OutgoingState::Dialling { .. } => Hopeless::No,
            OutgoingState::Established { since, .. } => {
                let silent = down && now.since(since) >= limits::PEER_REDIAL_WHILE_DOWN;
                let stalled = lane == Lane::Bulk
                    && self.waiting_since.is_some_and(|since| now.since(since) >= limits::PEER_BULK_STALL);
                if silent || stalled { Hopeless::Silent } else { Hopeless::No }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hopeless {
    No,
    DialTimeout,
    Silent,
}

/// A link that a peer dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// No hello yet.
    Fresh {
        deadline: Monotonic,
    },
    Open(OpenLink),
}

/// Who speaks on a link, as its hello said and every later frame has to repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenLink {
    pub(super) node: NodeId,
    pub(super) lane: Lane,
    pub(super) boot: BootNumber,
    /// The dialler's number of the link.
    pub(super) number: LinkId,
    /// The highest number of a frame received.
    pub(super) frame: u64,
}
