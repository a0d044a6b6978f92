//! How fast something was.

use std::{fmt, time::Instant};

#[derive(Debug)]
pub struct Rate(Instant);

/// Bytes and the seconds they took.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub bytes: u64,
    pub seconds: f64,
}

impl Rate {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn stop(self, bytes: u64) -> Measured {
        Measured { bytes, seconds: self.0.elapsed().as_secs_f64() }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = self.bytes as f64 / 1e6;
        write!(f, "{megabytes:.0} MB in {:.1} s, {:.0} MB/s", self.seconds, megabytes / self.seconds)
    }
}
