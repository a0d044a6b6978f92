//! Cuts the bytes of a connection into frames: four bytes of length, then as many bytes.
//!
//! Pure: whoever reads the socket asks where to put bytes, says how many arrived, and takes out whole frames. Small
//! frames share a read buffer of at most 64 KiB. A large frame gets an allocation of its own, filled in place, so that
//! its payload is never copied.
//!
//! Invariant: memory follows the bytes that arrived, not the length that was claimed: what is touched is at most a step
//! ahead of them, and what is allocated a quarter. Nothing is known here of what a frame means, except that the API key
//! of a request decides how long it may be.

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

use crate::api::ApiKey;

const LENGTH_BYTES: usize = 4;
const API_KEY_BYTES: usize = 2;

/// Frames longer than this leave the shared read buffer.
pub const SMALL_FRAME_BYTES_MAX: usize = 32 * 1024;
/// The shared read buffer starts small, because most connections are idle, and grows while reads fill it.
const READ_BUFFER_BYTES_MIN: usize = 4 * 1024;
const READ_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Below this much room a new read buffer is cheaper than a short read.
const SPARE_BYTES_MIN: usize = 1024;
/// What a claimed length may allocate before a byte of it arrived.
const LARGE_FRAME_BYTES_UP_FRONT: usize = 2 * 1024 * 1024;
/// How much of a large frame is offered for one read. Memory that was allocated and not touched costs nothing yet.
const LARGE_FRAME_STEP_BYTES: usize = 256 * 1024;

const _: () = assert!(LENGTH_BYTES + SMALL_FRAME_BYTES_MAX + SPARE_BYTES_MIN <= READ_BUFFER_BYTES_MAX);

/// How long a frame may be, length prefix excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameLimits {
    /// The same for every frame: between peers, and for the responses that a client reads.
    Fixed { bytes_max: usize },
    /// For requests: only Produce carries payloads, so everything else is kept small.
    ByApi { produce_bytes_max: usize, other_bytes_max: usize },
}

/// The connection cannot be understood any further and must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("a frame has the negative length {length}")]
    NegativeLength { length: i32 },
    #[error("a frame of {length} bytes exceeds the limit of {bytes_max} bytes")]
    TooLong { length: usize, bytes_max: usize },
}

/// The splitter of one direction of one connection.
///
/// The loop of a driver: fill the front of [`FrameSplitter::spare`], [`FrameSplitter::commit`] what was filled, then
/// call [`FrameSplitter::next_frame`] until it returns `None`. The next `spare` must come after that.
#[derive(Debug)]
pub struct FrameSplitter {
    limits: FrameLimits,
    /// Initialised up to its length; the first `filled` bytes are received and not yet handed out.
    buffer: BytesMut,
    filled: usize,
    buffer_bytes_next: usize,
    large: Option<LargeFrame>,
}

#[derive(Debug)]
struct LargeFrame {
    length: usize,
    /// Initialised one step ahead of what is filled.
    bytes: Vec<u8>,
    filled: usize,
}

impl FrameSplitter {
    #[must_use]
    pub fn new(limits: FrameLimits) -> Self {
        Self { limits, buffer: BytesMut::new(), filled: 0, buffer_bytes_next: READ_BUFFER_BYTES_MIN, large: None }
    }

    /// Changes the limits from the next frame on, as after authentication.
    pub fn set_limits(&mut self, limits: FrameLimits) {
        self.limits = limits;
    }

    /// Where the next bytes go; never empty. Panics if a whole frame is waiting to be taken out.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.large.is_none() {
            self.make_room();
        }
        match &mut self.large {
            Some(large) => large.spare(),
            None => &mut self.buffer[self.filled..],
        }
    }

    /// Takes note that the first `count` bytes of [`FrameSplitter::spare`] were received.
    pub fn commit(&mut self, count: usize) {
        if let Some(large) = &mut self.large {
            large.filled += count;
            assert!(large.filled <= large.bytes.len(), "more bytes were received than there was room for");
            return;
        }
        self.filled += count;
        assert!(self.filled <= self.buffer.len(), "more bytes were received than there was room for");
        if self.filled == self.buffer.len() {
            self.buffer_bytes_next = (self.buffer.len() * 2).clamp(READ_BUFFER_BYTES_MIN, READ_BUFFER_BYTES_MAX);
        } else if count < self.buffer_bytes_next / 8 {
            self.buffer_bytes_next = (self.buffer_bytes_next / 2).max(READ_BUFFER_BYTES_MIN);
        }
    }

    /// The next whole frame without its length prefix, or `None` if it has not arrived yet. An error stays.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        if let Some(large) = self.large.take_if(|large| large.filled == large.length) {
            return Ok(Some(Bytes::from(large.bytes)));
        }
        if self.large.is_some() {
            return Ok(None);
        }
        let Some(length) = self.claimed_length() else {
            return Ok(None);
        };
        let Some(length) = self.check_length(length)? else {
            return Ok(None);
        };
        if self.filled >= LENGTH_BYTES + length {
            self.filled -= LENGTH_BYTES + length;
            self.buffer.advance(LENGTH_BYTES);
            return Ok(Some(self.buffer.split_to(length).freeze()));
        }
        if length > SMALL_FRAME_BYTES_MAX {
            self.large = Some(LargeFrame::new(length, &self.buffer[LENGTH_BYTES..self.filled]));
            self.buffer.advance(self.filled);
            self.filled = 0;
        }
        Ok(None)
    }

    /// Puts `chunk` through the splitter and appends the frames that it completes: the driver's loop, for those who
    /// hold bytes already.
    pub fn push(&mut self, mut chunk: &[u8], frames: &mut Vec<Bytes>) -> Result<(), FrameError> {
        while !chunk.is_empty() {
            let spare = self.spare();
            let count = spare.len().min(chunk.len());
            spare[..count].copy_from_slice(&chunk[..count]);
            chunk = &chunk[count..];
            self.commit(count);
            while let Some(frame) = self.next_frame()? {
                frames.push(frame);
            }
        }
        Ok(())
    }

    /// Memory held for bytes that are not handed out yet.
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        self.buffer.capacity() + self.large.as_ref().map_or(0, |large| large.bytes.capacity())
    }

    /// Whether no part of a frame is waiting.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.filled == 0 && self.large.is_none()
    }

    /// Gives the read buffer back if no part of a frame is in it, for connections that have been quiet for a while.
    pub fn release_if_idle(&mut self) {
        if self.is_idle() {
            self.buffer = BytesMut::new();
            self.buffer_bytes_next = READ_BUFFER_BYTES_MIN;
        }
    }

    fn make_room(&mut self) {
        let waiting = match self.claimed_length() {
            Some(length) => LENGTH_BYTES + usize::try_from(length).unwrap_or(0),
            None => 0,
        };
        assert!(waiting == 0 || waiting > self.filled, "frames must be taken out before more bytes are read");
        if self.buffer.len() - self.filled < SPARE_BYTES_MIN {
            // A frame that is longer than the buffer moves out of it as soon as its length is accepted, in next_frame.
            let mut buffer =
                BytesMut::zeroed(self.buffer_bytes_next.max(waiting + SPARE_BYTES_MIN).min(READ_BUFFER_BYTES_MAX));
            buffer[..self.filled].copy_from_slice(&self.buffer[..self.filled]);
            self.buffer = buffer;
        }
    }

    fn claimed_length(&self) -> Option<i32> {
        let prefix = self.buffer[..self.filled].first_chunk()?;
        Some(i32::from_be_bytes(*prefix))
    }

    /// The length if it is allowed, `None` if that depends on an API key that has not arrived.
    fn check_length(&self, length: i32) -> Result<Option<usize>, FrameError> {
        let length = usize::try_from(length).map_err(|_| FrameError::NegativeLength { length })?;
        let bytes_max = match self.limits {
            FrameLimits::Fixed { bytes_max } => bytes_max,
            FrameLimits::ByApi { other_bytes_max, .. } if length <= other_bytes_max => other_bytes_max,
            FrameLimits::ByApi { produce_bytes_max, .. } if length > produce_bytes_max => produce_bytes_max,
            FrameLimits::ByApi { produce_bytes_max, other_bytes_max } => {
                match self.buffer[LENGTH_BYTES..self.filled].first_chunk::<API_KEY_BYTES>() {
                    None => return Ok(None),
                    Some(key) if i16::from_be_bytes(*key) == i16::from(ApiKey::Produce) => produce_bytes_max,
                    Some(_) => other_bytes_max,
                }
            }
        };
        if length > bytes_max {
            return Err(FrameError::TooLong { length, bytes_max });
        }
        Ok(Some(length))
    }
}

impl LargeFrame {
    fn new(length: usize, received: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(length.min(LARGE_FRAME_BYTES_UP_FRONT));
        bytes.extend_from_slice(received);
        Self { length, bytes, filled: received.len() }
    }

    fn spare(&mut self) -> &mut [u8] {
        if self.filled == self.bytes.capacity() {
            // A quarter at a time: what many unfinished frames have allocated for nothing stays small.
            let grown = (self.filled + self.filled.div_ceil(4)).min(self.length);
            self.bytes.reserve_exact(grown - self.bytes.len());
        }
        if self.filled == self.bytes.len() {
            let end = (self.filled + LARGE_FRAME_STEP_BYTES).min(self.bytes.capacity()).min(self.length);
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.filled..]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: FrameLimits = FrameLimits::ByApi { produce_bytes_max: 8 << 20, other_bytes_max: 64 << 10 };

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    fn frames_of(limits: FrameLimits, bytes: &[u8]) -> Result<Vec<Bytes>, FrameError> {
        let mut frames = Vec::new();
        FrameSplitter::new(limits).push(bytes, &mut frames).map(|()| frames)
    }

    #[test]
    fn a_frame_that_arrives_byte_by_byte_comes_out_whole() {
        let mut splitter = FrameSplitter::new(LIMITS);
        let mut frames = Vec::new();
        for byte in framed(b"hello") {
            assert!(frames.is_empty());
            splitter.push(&[byte], &mut frames).unwrap();
        }
        assert_eq!(frames, [Bytes::from_static(b"hello")]);
        assert!(splitter.is_idle());
    }

    #[test]
    fn only_produce_may_be_long() {
        let length = 1 << 20;
        let claim = |api_key: u16| [&(length as u32).to_be_bytes()[..], &api_key.to_be_bytes()].concat();
        assert_eq!(frames_of(LIMITS, &claim(0)), Ok(vec![]));
        assert_eq!(frames_of(LIMITS, &claim(3)), Err(FrameError::TooLong { length, bytes_max: 64 << 10 }));
        // Not decided before the key is there.
        assert_eq!(frames_of(LIMITS, &claim(3)[..5]), Ok(vec![]));
        assert_eq!(
            frames_of(LIMITS, &(9u32 << 20).to_be_bytes()),
            Err(FrameError::TooLong { length: 9 << 20, bytes_max: 8 << 20 })
        );
    }

    #[test]
    fn a_negative_length_is_an_error_that_stays() {
        let mut splitter = FrameSplitter::new(FrameLimits::Fixed { bytes_max: 100 });
        let error = FrameError::NegativeLength { length: -1 };
        assert_eq!(splitter.push(&[0xff; 4], &mut Vec::new()), Err(error));
        assert_eq!(splitter.next_frame(), Err(error));
    }

    #[test]
    fn a_claimed_length_costs_no_more_than_the_first_step() {
        let mut splitter = FrameSplitter::new(FrameLimits::Fixed { bytes_max: 1 << 30 });
        splitter.push(&(1u32 << 30).to_be_bytes(), &mut Vec::new()).unwrap();
        assert!(splitter.allocated_bytes() <= LARGE_FRAME_BYTES_UP_FRONT + READ_BUFFER_BYTES_MAX);
        // Later steps add a quarter of what has arrived, and touch little of it.
        let arrived = vec![1; LARGE_FRAME_BYTES_UP_FRONT + 1];
        splitter.push(&arrived, &mut Vec::new()).unwrap();
        assert!(splitter.allocated_bytes() <= arrived.len() / 4 * 5 + READ_BUFFER_BYTES_MAX);
        assert!(splitter.spare().len() <= LARGE_FRAME_STEP_BYTES);
    }

    #[test]
    fn a_large_frame_is_filled_in_place() {
        let body: Vec<u8> = (0..1 << 20).map(|index| index as u8).collect();
        let stream = [framed(&body), framed(b"next")].concat();
        let mut splitter = FrameSplitter::new(FrameLimits::Fixed { bytes_max: 8 << 20 });
        splitter.push(&stream[..100], &mut Vec::new()).unwrap();

        let (mut filled, mut address) = (96, None);
        while filled < body.len() {
            let spare = splitter.spare();
            assert!(spare.len() <= body.len() - filled, "nothing behind the frame gets into its allocation");
            address.get_or_insert(spare.as_ptr());
            let count = spare.len();
            spare.copy_from_slice(&body[filled..filled + count]);
            splitter.commit(count);
            filled += count;
        }
        let frame = splitter.next_frame().unwrap().expect("all of it was committed");
        assert_eq!(frame, body);
        assert_eq!(Some(frame[96..].as_ptr()), address, "what was filled first has not moved");
        let mut frames = Vec::new();
        splitter.push(&stream[4 + body.len()..], &mut frames).unwrap();
        assert_eq!(frames, [Bytes::from_static(b"next")]);
    }

    #[test]
    fn an_idle_connection_can_give_its_memory_back() {
        let mut splitter = FrameSplitter::new(LIMITS);
        splitter.push(&framed(&[0; 3000]), &mut Vec::new()).unwrap();
        assert!(splitter.allocated_bytes() > 0);
        splitter.release_if_idle();
        assert_eq!(splitter.allocated_bytes(), 0);
        splitter.push(&framed(b"half")[..6], &mut Vec::new()).unwrap();
        splitter.release_if_idle();
        assert!(!splitter.is_idle());
    }

    #[test]
    #[should_panic(expected = "frames must be taken out")]
    fn reading_on_over_a_whole_frame_is_a_bug() {
        let mut splitter = FrameSplitter::new(LIMITS);
        let bytes = framed(b"hello");
        splitter.spare()[..bytes.len()].copy_from_slice(&bytes);
        splitter.commit(bytes.len());
        splitter.spare();
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            lengths in prop::collection::vec(prop_oneof![0usize..64, 0usize..5000, 30_000usize..100_000], 1..12),
            cuts in prop::collection::vec(1usize..70_000, 1..20),
        ) {
            let bodies: Vec<Vec<u8>> =
                lengths.iter().enumerate().map(|(index, &length)| vec![index as u8; length]).collect();
            let stream: Vec<u8> = bodies.iter().flat_map(|body| framed(body)).collect();
            let mut splitter = FrameSplitter::new(FrameLimits::Fixed { bytes_max: 100_000 });
            let mut frames = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, tail) = rest.split_at((*cut).min(rest.len()));
                splitter.push(chunk, &mut frames).unwrap();
                rest = tail;
            }
            prop_assert_eq!(&frames, &bodies);
            prop_assert!(splitter.is_idle());
        }
    }
}
