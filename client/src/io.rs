//! The surface between the client's state machines and whoever owns the sockets.

use std::{ops::Add, time::Duration};

use bytes::Bytes;

/// Both clocks, read by the driver once per turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub monotonic: Monotonic,
    /// Milliseconds since 1970; goes into records that bring no timestamp of their own.
    pub wall_ms: i64,
}

/// Nanoseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(pub u64);

impl Monotonic {
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Monotonic {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// One attempt to connect, and the connection that came of it. Chosen by the client, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Something happened to a connection.
#[derive(Debug)]
pub enum Input {
    Connected(ConnectionId),
    /// One complete frame, without its length prefix.
    Frame(ConnectionId, Bytes),
    /// Closed by the other side, failed, or could not be established. Nothing follows.
    Closed(ConnectionId),
    /// Could not be established, for a reason that people understand. Nothing follows.
    Unreachable(ConnectionId, String),
}

/// What the client wants done; one value is reused for every turn and emptied by the driver.
#[derive(Debug, Default)]
pub struct Effects {
    pub dials: Vec<Dial>,
    pub sends: Vec<Send>,
    /// Connections to close at once; no [`Input::Closed`] follows.
    pub closes: Vec<ConnectionId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    pub connection: ConnectionId,
    pub host: String,
    pub port: u16,
}

/// A whole frame, length prefix included, as slices to be written in order.
#[derive(Debug)]
pub struct Send {
    pub connection: ConnectionId,
    pub slices: Vec<Bytes>,
}

/// The earlier of two deadlines.
pub fn earliest(a: Option<Monotonic>, b: Option<Monotonic>) -> Option<Monotonic> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, None) => a,
        (None, b) => b,
    }
}
