//! Answers of one connection that its socket has not taken, in order.
//!
//! Invariant: the sums are those of the answers. An answer holds its memory until its last byte was taken: a slice of
//! it keeps a whole allocation alive.

use std::collections::VecDeque;

#[derive(Debug, Default)]
pub(super) struct Unsent {
    /// Answers that the driver has.
    given: VecDeque<Given>,
    /// Memory of all answers, also of those that wait behind the answer to an earlier request.
    held_bytes: usize,
}

#[derive(Debug)]
struct Given {
    left_bytes: usize,
    held_bytes: usize,
}

impl Unsent {
    /// An answer is complete.
    pub(super) fn answered(&mut self, held_bytes: usize) {
        self.held_bytes += held_bytes;
    }

    /// An answer that was not handed to the driver never will be.
    pub(super) fn dropped(&mut self, held_bytes: usize) {
        self.held_bytes -= held_bytes;
    }

    /// The next answer is handed to the driver.
    pub(super) fn give(&mut self, bytes: usize, held_bytes: usize) {
        self.given.push_back(Given { left_bytes: bytes, held_bytes });
    }

    /// The socket took so many bytes.
    pub(super) fn take(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let first = self.given.front_mut().expect("the socket takes only what it was given");
            let taken = first.left_bytes.min(bytes);
            first.left_bytes -= taken;
            bytes -= taken;
            if first.left_bytes == 0 {
                self.held_bytes -= first.held_bytes;
                self.given.pop_front();
            }
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Whether the socket has taken everything that the driver has.
    pub(super) fn is_taken(&self) -> bool {
        self.given.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_its_memory_until_its_last_byte_was_taken() {
        let mut unsent = Unsent::default();
        unsent.answered(1000);
        unsent.answered(50);
        unsent.give(100, 1000);
        unsent.take(99);
        assert_eq!(unsent.held_bytes(), 1050);
        unsent.give(50, 50);
        unsent.take(2);
        assert_eq!((unsent.held_bytes(), unsent.is_taken()), (50, false));
        unsent.take(49);
        assert_eq!((unsent.held_bytes(), unsent.is_taken()), (0, true));
    }
}
