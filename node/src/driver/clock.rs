//! The two clocks of a node, read here and nowhere else in the driver.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kauri_core::time::{Monotonic, Now, Wall};

/// Monotonic time counts from when the clock was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is where a node's time comes from")]
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }

    #[expect(clippy::disallowed_methods, reason = "this is where a node's time comes from")]
    pub(crate) fn now(self) -> Now {
        let wall = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |millis| -millis),
        };
        Now { monotonic: self.monotonic(), wall: Wall(wall) }
    }

    pub(crate) fn monotonic(self) -> Monotonic {
        Monotonic(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}
