//! The content of a file, as pages that several versions of the file share.
//!
//! Invariant: a page that was never written, or cut away, reads as zeros and takes no memory.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// Bytes of a page: the unit of sharing, not of atomicity (that is the disk's sector).
pub(super) const PAGE_BYTES: usize = 4096;

type Page = [u8; PAGE_BYTES];

/// What reads as zeros is not copied if it is no longer than this.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    pages: Vec<Option<Arc<Page>>>,
    size: u64,
}

/// The page that holds a position, and the place in it.
fn locate(position: u64) -> (usize, usize) {
    let page = usize::try_from(position / PAGE_BYTES as u64).expect("simulated files fit into memory");
    (page, usize::try_from(position % PAGE_BYTES as u64).expect("below a page"))
}

impl Pages {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn resize(&mut self, size: u64) {
        if size < self.size {
            let (page, within) = locate(size);
            self.pages.truncate(page + usize::from(within > 0));
            // What comes back by a later extension must be zeros.
            if within > 0
                && let Some(Some(last)) = self.pages.get_mut(page)
            {
                Arc::make_mut(last)[within..].fill(0);
            }
        }
        self.size = size;
    }

    pub(super) fn write(&mut self, offset: u64, mut bytes: &[u8]) {
        let mut position = offset;
        while !bytes.is_empty() {
            let (page, within) = locate(position);
            let taken = bytes.len().min(PAGE_BYTES - within);
            if self.pages.len() <= page {
                self.pages.resize(page + 1, None);
            }
            if taken == PAGE_BYTES {
                let whole: Page = bytes[..PAGE_BYTES].try_into().expect("a whole page");
                self.pages[page] = Some(Arc::new(whole));
            } else {
                let target = self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
                Arc::make_mut(target)[within..within + taken].copy_from_slice(&bytes[..taken]);
            }
            bytes = &bytes[taken..];
            position += taken as u64;
        }
        self.size = self.size.max(position);
    }

    pub(super) fn zero(&mut self, offset: u64, length: u64) {
        let end = offset + length;
        let mut position = offset;
        while position < end {
            let (page, within) = locate(position);
            let taken = (PAGE_BYTES - within).min(usize::try_from(end - position).unwrap_or(PAGE_BYTES));
            match self.pages.get_mut(page) {
                None => break,
                Some(slot) if taken == PAGE_BYTES => *slot = None,
                Some(None) => {}
                Some(Some(target)) => Arc::make_mut(target)[within..within + taken].fill(0),
            }
            position += taken as u64;
        }
        self.size = self.size.max(end);
    }

    /// Takes over what `from` holds in the pages that touch a range.
    pub(super) fn share(&mut self, from: &Self, offset: u64, length: u64) {
        if length == 0 {
            return;
        }
        let (first, _) = locate(offset);
        let (last, _) = locate(offset + length - 1);
        for page in first..=last {
            let content = from.pages.get(page).cloned().flatten();
            if page < self.pages.len() {
                self.pages[page] = content;
            } else if content.is_some() {
                self.pages.resize(page + 1, None);
                self.pages[page] = content;
            }
        }
    }

    /// Up to `length` bytes; fewer only at the end of the file.
    pub(super) fn read(&self, offset: u64, length: usize) -> Bytes {
        self.read_into(BytesMut::new(), offset, length)
    }

    /// The same, in a buffer that may hold anything.
    pub(super) fn read_into(&self, buffer: BytesMut, offset: u64, length: usize) -> Bytes {
        let end = self.size.min(offset.saturating_add(length as u64));
        if end <= offset {
            return Bytes::new();
        }
        let length = usize::try_from(end - offset).expect("at most `length`");
        let (first, _) = locate(offset);
        let (last, _) = locate(end - 1);
        let pages = &self.pages[first.min(self.pages.len())..(last + 1).min(self.pages.len())];
        // Most of a log that was filled with zeros ahead is still that, and recovery reads all of it.
        if length <= ZEROS.len() && pages.iter().all(Option::is_none) {
            return Bytes::from_static(&ZEROS[..length]);
        }
        let mut bytes = buffer;
        bytes.clear();
        bytes.reserve(length);
        let mut position = offset;
        while position < end {
            let (page, within) = locate(position);
            let taken = (PAGE_BYTES - within).min(usize::try_from(end - position).unwrap_or(PAGE_BYTES));
            match self.pages.get(page) {
                Some(Some(content)) => bytes.extend_from_slice(&content[within..within + taken]),
                Some(None) | None => bytes.resize(bytes.len() + taken, 0),
            }
            position += taken as u64;
        }
        bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Change {
        Write(u64, Vec<u8>),
        Zero(u64, u64),
        Resize(u64),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (0..12_000u64, proptest::collection::vec(1..=255u8, 1..9_000)).prop_map(|(at, b)| Change::Write(at, b)),
            (0..12_000u64, 1..12_000u64).prop_map(|(at, length)| Change::Zero(at, length)),
            (0..20_000u64).prop_map(Change::Resize),
        ]
    }

    proptest! {
        #[test]
        fn pages_hold_what_a_plain_vector_holds(changes in proptest::collection::vec(change(), 1..12)) {
            let mut pages = Pages::default();
            let mut plain: Vec<u8> = Vec::new();
            for change in changes {
                let before = pages.clone();
                let untouched = before.read(0, usize::MAX);
                match change {
                    Change::Write(at, bytes) => {
                        pages.write(at, &bytes);
                        let (at, end) = (at as usize, at as usize + bytes.len());
                        plain.resize(plain.len().max(end), 0);
                        plain[at..end].copy_from_slice(&bytes);
                    }
                    Change::Zero(at, length) => {
                        pages.zero(at, length);
                        let (at, end) = (at as usize, (at + length) as usize);
                        plain.resize(plain.len().max(end), 0);
                        plain[at..end].fill(0);
                    }
                    Change::Resize(size) => {
                        pages.resize(size);
                        plain.resize(size as usize, 0);
                    }
                }
                prop_assert_eq!(&pages.read(0, usize::MAX)[..], &plain[..]);
                prop_assert_eq!(before.read(0, usize::MAX), untouched, "an older version keeps its pages");
            }
            prop_assert_eq!(pages.read(5, 4_100), pages.read(0, usize::MAX).slice(5.min(plain.len())..4_105.min(plain.len()).max(5.min(plain.len()))));
        }
    }
}
