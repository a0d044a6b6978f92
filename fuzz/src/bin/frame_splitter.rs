//! The bytes of a connection. Cut anywhere, they must give the frames that a plain reading of the whole gives. The
//! first byte of the input chooses the limits, the second the cuts.

use std::process::ExitCode;

use bytes::Bytes;
use kauri_fuzz::{Random, fuzz, peak_of};
use kauri_protocol::frame::{FrameLimits, FrameSplitter};

fn main() -> ExitCode {
    fuzz("frame_splitter", include_str!("../../corpus/frame_splitter.txt"), |input| {
        let [limits, cuts, stream @ ..] = input else {
            return;
        };
        let limits = match limits % 3 {
            0 => FrameLimits::Fixed { bytes_max: 1 << 30 },
            1 => FrameLimits::ByApi { produce_bytes_max: 1 << 20, other_bytes_max: 1 << 10 },
            _ => FrameLimits::ByApi { produce_bytes_max: 100, other_bytes_max: 10 },
        };
        let (expected, fails) = plainly(stream, limits);

        let mut random = Random::new(u64::from(*cuts));
        let mut splitter = FrameSplitter::new(limits);
        let mut frames: Vec<Bytes> = Vec::new();
        let mut rest = stream;
        let mut failed = false;
        while !rest.is_empty() && !failed {
            let (chunk, tail) = rest.split_at(1 + random.below(rest.len().min(100)));
            let (result, peak) = peak_of(|| splitter.push(chunk, &mut frames));
            // The list of frames counts too: an empty one takes four bytes in and thirty-two out.
            assert!(peak <= (2 << 20) + (128 << 10) + 32 * stream.len(), "{peak} bytes for {}", stream.len());
            failed = result.is_err();
            rest = tail;
        }
        assert_eq!(frames, expected);
        assert_eq!(failed, fails);
    })
}

/// What the frames are, said as simply as possible, and whether the stream ends in an error.
fn plainly(mut stream: &[u8], limits: FrameLimits) -> (Vec<&[u8]>, bool) {
    let mut frames = Vec::new();
    while let Some((length, rest)) = stream.split_first_chunk::<4>() {
        let length = i32::from_be_bytes(*length);
        let bytes_max = match limits {
            FrameLimits::Fixed { bytes_max } => bytes_max,
            FrameLimits::ByApi { produce_bytes_max, other_bytes_max } => match rest {
                [0, 0, ..] => produce_bytes_max,
                [_, _, ..] => other_bytes_max,
                _ if length <= other_bytes_max as i32 => other_bytes_max,
                // The key of the API is not there: only what no API may send is an error already.
                _ => produce_bytes_max,
            },
        };
        if length < 0 || length as usize > bytes_max.max(fits_anyway(limits)) {
            return (frames, true);
        }
        let Some((frame, after)) = rest.split_at_checked(length as usize) else {
            break;
        };
        frames.push(frame);
        stream = after;
    }
    (frames, false)
}

/// A length that is allowed whatever the API.
fn fits_anyway(limits: FrameLimits) -> usize {
    match limits {
        FrameLimits::Fixed { bytes_max } => bytes_max,
        FrameLimits::ByApi { other_bytes_max, .. } => other_bytes_max,
    }
}
