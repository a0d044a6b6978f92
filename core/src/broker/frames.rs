//! Frames that are kept alive by the batches in them.
//!
//! A batch of 32 KiB or more is never copied: it is a slice of the frame that it came in, and keeps all of it in memory.
//! Whoever holds such a slice charges the bytes of the slice, because apply does not know frames; a frame whose other
//! batches are long gone is then held for little. So frames are counted here as well, whole: a handle of each large one is
//! kept, and let go when it is the only one left. Past [`crate::limits::FRAMES_BYTES_MAX`] everything applied is written
//! to segments and dropped from memory.
//!
//! Invariant: what is not counted is smaller than the smallest shared batch, and nothing is a slice of it for long.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::limits::BATCH_SHARED_BYTES_MIN;

#[derive(Debug, Default)]
pub(super) struct Frames {
    alive: VecDeque<Bytes>,
}

impl Frames {
    pub(super) fn watch(&mut self, frame: &Bytes) {
        if frame.len() >= BATCH_SHARED_BYTES_MIN {
            self.alive.push_back(frame.clone());
        }
    }

    /// Bytes of the frames that somebody else holds a part of.
    pub(super) fn bytes(&mut self) -> usize {
        self.alive.retain(|frame| !frame.is_unique());
        self.alive.iter().map(Bytes::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_counts_whole_as_long_as_a_part_of_it_is_held() {
        let mut frames = Frames::default();
        let frame = Bytes::from(vec![0; 10 * BATCH_SHARED_BYTES_MIN]);
        frames.watch(&frame);
        let part = frame.slice(100..200);
        drop(frame);
        assert_eq!(frames.bytes(), 10 * BATCH_SHARED_BYTES_MIN);
        drop(part);
        assert_eq!(frames.bytes(), 0);
        assert!(frames.alive.is_empty());
    }
}
