//! Both clocks of the machine this runs on.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::io::{Monotonic, Now};

#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    #[allow(clippy::disallowed_methods, reason = "a driver reads clocks")]
    pub(super) fn start() -> Self {
        Self { start: Instant::now() }
    }

    #[allow(clippy::disallowed_methods, reason = "a driver reads clocks")]
    pub(super) fn now(&self) -> Now {
        let nanos = u64::try_from(self.start.elapsed().as_nanos()).expect("no process runs for 500 years");
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { monotonic: Monotonic(nanos), wall_ms: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX) }
    }

    pub(super) async fn sleep_until(&self, at: Option<Monotonic>) {
        match at.and_then(|at| self.start.checked_add(Duration::from_nanos(at.0))) {
            Some(at) => ::tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }
}
