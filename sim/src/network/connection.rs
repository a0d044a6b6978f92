//! One connection as TCP would keep it: two ends, and an ordered stream of bytes each way.
//!
//! Invariant: bytes arrive in the order in which they were sent, without a gap, until an end of the stream; after that
//! nothing arrives. Does not own where the bytes go nor how long they take: the network does.

use std::collections::VecDeque;

use bytes::Bytes;
use kauri_protocol::frame::{FrameError, FrameSplitter};

use super::Site;
use crate::time::Instant;

/// The state of one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Dialled and not yet answered, or dialled at and not yet told.
    Connecting,
    Open,
    /// Its process closed it or is gone; its machine answers what still arrives with a reset.
    Closed,
    /// Its machine is gone, and nobody answers.
    Silent,
}

#[derive(Debug)]
pub(super) struct Connection {
    /// First who dialled, then who was dialled.
    pub(super) sites: [Site; 2],
    pub(super) ends: [End; 2],
    /// First the bytes of the end that dialled.
    pub(super) streams: [Stream; 2],
}

/// What is on its way.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) arrives: Instant,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// The dialling end knows that it is connected: comes before its first byte.
    Open,
    Bytes(Bytes),
    /// The end of the stream, orderly or not: receivers treat both alike.
    End,
}

#[derive(Debug)]
pub(super) struct Stream {
    /// What the sender's buffer had no room for.
    pub(super) unsent: VecDeque<Bytes>,
    pub(super) segments: VecDeque<Segment>,
    /// Bytes in the buffers of both ends: sent, and not known by the sender to have arrived.
    pub(super) buffered: usize,
    /// Bytes that arrived, but whose acknowledgement could not pass.
    pub(super) acknowledgements_held: usize,
    pub(super) last_arrival: Instant,
    /// Nothing arrives before this: retransmissions after a cut take their time.
    pub(super) held_until: Instant,
    pub(super) give_up_armed: bool,
    pub(super) splitter: FrameSplitter,
    /// Bytes that the receiver read and has not put through the splitter.
    pub(super) read: Bytes,
    /// Bytes of frames the receiver is still ready to take; None if it always reads.
    pub(super) credit: Option<i64>,
}

impl Stream {
    pub(super) fn new(splitter: FrameSplitter, credit: Option<i64>) -> Self {
        Self {
            unsent: VecDeque::new(),
            segments: VecDeque::new(),
            buffered: 0,
            acknowledgements_held: 0,
            last_arrival: Instant::default(),
            held_until: Instant::default(),
            give_up_armed: false,
            splitter,
            read: Bytes::new(),
            credit,
        }
    }

    /// Bytes that the sender still waits to see acknowledged.
    pub(super) fn is_waiting(&self) -> bool {
        self.acknowledgements_held > 0 || !self.segments.is_empty()
    }

    /// The next whole frame of what the receiver read, or None if it must read on.
    pub(super) fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            if let Some(frame) = self.splitter.next_frame()? {
                return Ok(Some(frame));
            }
            if self.read.is_empty() {
                return Ok(None);
            }
            let spare = self.splitter.spare();
            let taken = self.read.split_to(self.read.len().min(spare.len()));
            spare[..taken.len()].copy_from_slice(&taken);
            self.splitter.commit(taken.len());
        }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.segments.front().is_some_and(|segment| segment.arrives <= now)
    }

    pub(super) fn may_read(&self) -> bool {
        self.credit.is_none_or(|credit| credit > 0)
    }

    /// Keeps `kept` of the bytes on their way and forgets the rest, and everything that was not sent.
    pub(super) fn cut_after(&mut self, mut kept: usize) {
        self.unsent.clear();
        let mut remaining = VecDeque::new();
        for Segment { arrives, content } in self.segments.drain(..) {
            match content {
                Content::Open => remaining.push_back(Segment { arrives, content }),
                Content::Bytes(bytes) if kept > 0 => {
                    let taken = kept.min(bytes.len());
                    kept -= taken;
                    remaining.push_back(Segment { arrives, content: Content::Bytes(bytes.slice(..taken)) });
                }
                Content::Bytes(_) => {}
                Content::End => {}
            }
        }
        self.segments = remaining;
    }

    pub(super) fn bytes_in_flight(&self) -> usize {
        self.segments
            .iter()
            .map(|segment| match &segment.content {
                Content::Bytes(bytes) => bytes.len(),
                Content::Open | Content::End => 0,
            })
            .sum()
    }
}

impl Connection {
    pub(super) fn is_over(&self) -> bool {
        self.ends.iter().all(|end| matches!(end, End::Closed | End::Silent))
    }
}
