//! What a producer can be told. The defaults are meant to stay.

use std::time::Duration;

use kauri_protocol::records::Compression;

/// When a record counts as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// When it was sent; nobody knows what became of it.
    None,
    /// When the leader has it. Kauri makes no difference between this and `All`.
    Leader,
    /// When all replicas that count have it.
    #[default]
    All,
}

impl Acks {
    pub const fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

#[derive(Clone, Debug)]
pub struct ProducerConfig {
    pub acks: Acks,
    /// Whether the broker is given what it needs to drop what was written already, so that a record is in the log once
    /// and in order however often it was sent (KIP-98). Takes effect with [`Acks::All`] only.
    pub idempotent: bool,
    pub compression: Compression,
    /// How long the first record of a batch waits for more. While a broker is busy, batches fill for longer.
    pub linger: Duration,
    /// A batch of this length, before compression, is full. Not more than the topic's `max.message.bytes`: a batch that
    /// the broker finds too large fails as a whole.
    pub batch_bytes: usize,
    /// A request ends with the batch that brings it to this length; a record longer than this is refused.
    pub request_bytes: usize,
    /// Records that wait or are being sent, and results that were not taken, may take this much memory.
    pub buffer_bytes: usize,
    /// Requests that a broker has not answered; at most five, as many as brokers remember (KIP-98).
    pub in_flight_max: usize,
    /// After this time a record is not sent any more. Its failure may be told later by a request's timeout, because a
    /// request in flight is waited for.
    pub delivery_timeout: Duration,
    /// Pause after a failed attempt; doubles up to `retry_pause_max`.
    pub retry_pause: Duration,
    pub retry_pause_max: Duration,
}

/// Kafka's brokers remember this many batches of each producer.
pub const IN_FLIGHT_LIMIT: usize = 5;

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            idempotent: true,
            compression: Compression::None,
            linger: Duration::from_millis(5),
            batch_bytes: 128 << 10,
            request_bytes: 1 << 20,
            buffer_bytes: 32 << 20,
            in_flight_max: IN_FLIGHT_LIMIT,
            delivery_timeout: Duration::from_secs(120),
            retry_pause: Duration::from_millis(20),
            retry_pause_max: Duration::from_secs(1),
        }
    }
}

impl ProducerConfig {
    pub(super) fn is_idempotent(&self) -> bool {
        self.idempotent && self.acks == Acks::All
    }
}
