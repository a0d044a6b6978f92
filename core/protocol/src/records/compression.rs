//! The four compressions of record batches, with a limit on what comes out.
//!
//! Snappy data are in the framing of snappy-java, which Kafka's clients write, or bare, which some others do. LZ4 is
//! the standard frame with independent blocks, the only kind Kafka's Java client reads. The libraries are behind the
//! feature `compression`.

use std::fmt;

use bytes::Bytes;

use super::BatchError;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
pub enum Compression {
    #[default]
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

impl Compression {
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// Kafka's name in configurations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// `body` uncompressed, or an error as soon as that takes more than `limit_bytes`. Without compression it is `body`
    /// itself.
    pub(super) fn decompress(self, body: Bytes, limit_bytes: usize) -> Result<Bytes, BatchError> {
        match self {
            Self::None if body.len() > limit_bytes => Err(BatchError::OverLimit { limit_bytes }),
            Self::None => Ok(body),
            #[cfg(feature = "compression")]
            Self::Gzip | Self::Snappy | Self::Lz4 | Self::Zstd => {
                libraries::decompress(self, &body, limit_bytes).map(Bytes::from)
            }
            #[cfg(not(feature = "compression"))]
            Self::Gzip | Self::Snappy | Self::Lz4 | Self::Zstd => {
                Err(BatchError::CompressionNotBuilt { compression: self })
            }
        }
    }

    /// Appends `body` compressed to `output`.
    pub(super) fn compress(self, body: &[u8], output: &mut Vec<u8>) -> Result<(), BatchError> {
        match self {
            Self::None => {
                output.extend_from_slice(body);
                Ok(())
            }
            #[cfg(feature = "compression")]
            Self::Gzip | Self::Snappy | Self::Lz4 | Self::Zstd => libraries::compress(self, body, output),
            #[cfg(not(feature = "compression"))]
            Self::Gzip | Self::Snappy | Self::Lz4 | Self::Zstd => {
                Err(BatchError::CompressionNotBuilt { compression: self })
            }
        }
    }
}

impl TryFrom<i16> for Compression {
    type Error = BatchError;

    fn try_from(code: i16) -> Result<Self, BatchError> {
        match code {
            0 => Ok(Self::None),
            1 => Ok(Self::Gzip),
            2 => Ok(Self::Snappy),
            3 => Ok(Self::Lz4),
            4 => Ok(Self::Zstd),
            _ => Err(BatchError::UnknownCompression { code }),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(feature = "compression")]
mod libraries {
    use std::{
        cell::RefCell,
        io::{Read, Write},
    };

    use flate2::{Compress, Crc, FlushCompress, Status};
    use zstd::zstd_safe::{CCtx, DCtx, ResetDirective, compress_bound};

    use super::{BatchError, Compression};

    /// What snappy-java writes in front: its magic, version 1, compatible with 1.
    const XERIAL_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
    const XERIAL_MAGIC_BYTES: usize = 8;
    const SNAPPY_BLOCK_BYTES: usize = 32 * 1024;
    /// A copy of 64 bytes takes three, so no valid data unpack to more than this many times their length.
    const SNAPPY_RATIO_MAX: usize = 22;
    /// zstd allocates the window that a frame asks for. No level of a usual client asks for more than 2²³ bytes.
    const ZSTD_WINDOW_LOG_MAX: u32 = 23;
    /// A context that grew beyond this, by a large batch or because a frame asked for a large window, is not kept.
    const ZSTD_KEPT_BYTES_MAX: usize = 1 << 20;
    /// Compressed data follow; no name, no time, no hint about the level, unknown operating system (RFC 1952).
    const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

    // Making a context costs more than packing or unpacking a small batch. Each is reset before it is used: what comes
    // out never depends on what it was used for before.
    thread_local! {
        static PACK_ZSTD: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
        static UNPACK_ZSTD: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
        static PACK_GZIP: RefCell<Option<Compress>> = const { RefCell::new(None) };
    }

    pub(super) fn decompress(compression: Compression, body: &[u8], limit_bytes: usize) -> Result<Vec<u8>, BatchError> {
        match compression {
            Compression::None => Ok(body.to_vec()),
            Compression::Gzip => read_limited(compression, flate2::read::MultiGzDecoder::new(body), limit_bytes),
            Compression::Snappy => snappy(body, limit_bytes),
            Compression::Lz4 => read_limited(compression, lz4_flex::frame::FrameDecoder::new(body), limit_bytes),
            Compression::Zstd => UNPACK_ZSTD.with_borrow_mut(|kept| {
                let context = kept.get_or_insert_default();
                let result = unpack_zstd(context, body, limit_bytes);
                if context.sizeof() > ZSTD_KEPT_BYTES_MAX {
                    *kept = None;
                }
                result
            }),
        }
    }

    fn unpack_zstd(context: &mut DCtx<'static>, body: &[u8], limit_bytes: usize) -> Result<Vec<u8>, BatchError> {
        let compression = Compression::Zstd;
        context
            .reset(ResetDirective::SessionAndParameters)
            .map_err(|_| BatchError::DamagedCompression { compression })?;
        let mut decoder = zstd::stream::read::Decoder::with_context(body, context);
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|_| BatchError::DamagedCompression { compression })?;
        read_limited(compression, decoder, limit_bytes)
    }

    fn read_limited(compression: Compression, reader: impl Read, limit_bytes: usize) -> Result<Vec<u8>, BatchError> {
        let mut output = Vec::new();
        reader
            .take((limit_bytes as u64).saturating_add(1))
            .read_to_end(&mut output)
            .map_err(|_| BatchError::DamagedCompression { compression })?;
        if output.len() > limit_bytes {
            return Err(BatchError::OverLimit { limit_bytes });
        }
        Ok(output)
    }

    fn snappy(body: &[u8], limit_bytes: usize) -> Result<Vec<u8>, BatchError> {
        let damaged = BatchError::DamagedCompression { compression: Compression::Snappy };
        let mut output = Vec::new();
        if !body.starts_with(&XERIAL_HEADER[..XERIAL_MAGIC_BYTES]) {
            snappy_block(body, limit_bytes, &mut output)?;
            return Ok(output);
        }
        let mut rest = body.get(XERIAL_HEADER.len()..).ok_or(damaged.clone())?;
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<4>().ok_or(damaged.clone())?;
            let length = u32::from_be_bytes(*length) as usize;
            let (block, after) = after.split_at_checked(length).ok_or(damaged.clone())?;
            snappy_block(block, limit_bytes, &mut output)?;
            rest = after;
        }
        Ok(output)
    }

    fn snappy_block(block: &[u8], limit_bytes: usize, output: &mut Vec<u8>) -> Result<(), BatchError> {
        let damaged = BatchError::DamagedCompression { compression: Compression::Snappy };
        let length = snap::raw::decompress_len(block).map_err(|_| damaged.clone())?;
        // The length is only a claim and decides an allocation.
        if length > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
            return Err(damaged);
        }
        let start = output.len();
        if length > limit_bytes - start {
            return Err(BatchError::OverLimit { limit_bytes });
        }
        output.resize(start + length, 0);
        snap::raw::Decoder::new().decompress(block, &mut output[start..]).map_err(|_| damaged)?;
        Ok(())
    }

    pub(super) fn compress(compression: Compression, body: &[u8], output: &mut Vec<u8>) -> Result<(), BatchError> {
        const MEMORY: &str = "writing into memory does not fail";
        match compression {
            Compression::None => output.extend_from_slice(body),
            Compression::Gzip => {
                PACK_GZIP.with_borrow_mut(|kept| {
                    let context = kept.get_or_insert_with(|| Compress::new(flate2::Compression::default(), false));
                    pack_gzip(context, body, output);
                });
            }
            Compression::Snappy => {
                output.extend_from_slice(&XERIAL_HEADER);
                let mut encoder = snap::raw::Encoder::new();
                for block in body.chunks(SNAPPY_BLOCK_BYTES) {
                    let packed = encoder.compress_vec(block).expect("a block is far below snappy's limit of 4 GiB");
                    output.extend_from_slice(&(packed.len() as u32).to_be_bytes());
                    output.extend_from_slice(&packed);
                }
            }
            Compression::Lz4 => {
                let frame = lz4_flex::frame::FrameInfo::new()
                    .block_size(lz4_flex::frame::BlockSize::Max64KB)
                    .block_mode(lz4_flex::frame::BlockMode::Independent);
                let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, output);
                encoder.write_all(body).expect(MEMORY);
                encoder.finish().expect(MEMORY);
            }
            Compression::Zstd => {
                let packed = PACK_ZSTD.with_borrow_mut(|kept| {
                    let context = kept.get_or_insert_default();
                    let packed = pack_zstd(context, body);
                    if context.sizeof() > ZSTD_KEPT_BYTES_MAX {
                        *kept = None;
                    }
                    packed
                });
                output.extend_from_slice(&packed);
            }
        }
        Ok(())
    }

    fn pack_gzip(context: &mut Compress, body: &[u8], output: &mut Vec<u8>) {
        context.reset();
        output.extend_from_slice(&GZIP_HEADER);
        loop {
            let packed = usize::try_from(context.total_in()).expect("a part of the body");
            output.reserve((body.len() - packed).max(1024));
            let status = context.compress_vec(&body[packed..], output, FlushCompress::Finish);
            match status.expect("packing goes on until it is told to finish") {
                Status::StreamEnd => break,
                Status::Ok | Status::BufError => {}
            }
        }
        let mut crc = Crc::new();
        crc.update(body);
        output.extend_from_slice(&crc.sum().to_le_bytes());
        output.extend_from_slice(&crc.amount().to_le_bytes());
    }

    /// In one call, because zstd then knows the length: for a stream it clears tables of a megabyte and more, however
    /// small the batch is.
    fn pack_zstd(context: &mut CCtx<'static>, body: &[u8]) -> Vec<u8> {
        let mut packed = Vec::with_capacity(compress_bound(body.len()));
        context.compress(&mut packed, body, 0).expect("there is room for the worst case");
        packed
    }
}
