//! A header that cannot be read any more, put together again from what stands around it.
//!
//! Pure. The next write names its predecessor's place, end and header CRC and repeats its directory; the write before
//! gives the number and the rest. Invariant: a header comes out only if its CRC is the one that the next write names, so
//! it is the one that was written, to the last bit.

use super::reader::Tail;
use crate::{
    ids::{FileSequence, WriteNumber},
    log::wal::format::{Directory, Extent, Header, PreviousWrite},
};

/// The header of the write behind `tail`, which lies at `offset` of `file` and is not the first of that file.
/// `directory`: the copy that `next` has of it. `file_bytes`: as other headers of the file say.
pub(super) fn rebuild(
    tail: &Tail,
    (file, offset, file_bytes): (FileSequence, u64, u64),
    next: &Header,
    directory: &[u8],
) -> Option<(Header, u32)> {
    let directory_extent = Extent::of(directory);
    let (items, payload_length) = Directory::measure(directory).ok()?;
    let number = WriteNumber(tail.number.0 + 1);
    let header = Header {
        key: next.key,
        opens: false,
        file,
        offset,
        number,
        synced: tail.number,
        previous: tail.previous,
        items,
        directory: directory_extent,
        previous_directory: tail.directory_extent,
        payload_length,
        file_bytes,
    };
    let (_, header_crc) = header.encode();
    let named = PreviousWrite { file, end: header.end(), header_crc };
    (next.previous == named && next.previous_directory == directory_extent).then_some((header, header_crc))
}
