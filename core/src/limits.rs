//! Every bound of the core, by name.
//!
//! Invariant: no buffer, window or queue of the core grows past a constant of this file; relations between constants
//! are checked when the core is compiled. Full means back-pressure, never growth.

use std::time::Duration;

/// Largest request frame of a client that carries records (Produce).
pub const PRODUCE_FRAME_BYTES_MAX: usize = 100 << 20;
/// Largest request frame of any other API.
pub const SMALL_FRAME_BYTES_MAX: usize = 1 << 20;
/// Largest frame of a peer. Holds one maximal append message.
pub const PEER_FRAME_BYTES_MAX: usize = 128 << 20;

/// Frame bytes of one connection that may wait for their answers before its socket is no longer read.
pub const CLIENT_WINDOW_BYTES: usize = 8 << 20;
/// Response bytes of one connection that may wait for its socket before further requests are left waiting.
pub const CLIENT_UNSENT_BYTES_MAX: usize = 4 << 20;
/// Requests of one connection in flight.
pub const CLIENT_REQUESTS_MAX: usize = 1024;

/// Largest record batch a topic may allow (max.message.bytes is per topic and below).
pub const BATCH_BYTES_MAX: usize = 32 << 20;
/// Kafka's default of max.message.bytes.
pub const BATCH_BYTES_DEFAULT: usize = 1_048_588;
/// Batches of at least this size are shared with the frame they came in; smaller ones are copied at most twice.
pub const BATCH_SHARED_BYTES_MIN: usize = 32 << 10;

/// What one WAL write gathers at most, unless a single batch of records is larger.
pub const WAL_WRITE_BYTES_MAX: usize = 8 << 20;
/// A WAL write starts on a multiple of this.
pub const WAL_BLOCK_BYTES: usize = 4 << 10;
/// Size of a WAL file, unless the configuration names another.
pub const WAL_FILE_BYTES: u64 = 64 << 20;
/// A mark follows the last WAL write within this time.
pub const WAL_MARK_DELAY: Duration = Duration::from_millis(50);
/// How long the WAL waits before it asks a full disk for room again.
pub const WAL_FULL_RETRY: Duration = Duration::from_secs(1);
/// What recovery and replay read at once, unless a single payload is larger.
pub const WAL_READ_BYTES: usize = 1 << 20;
/// Largest identity file.
pub const IDENTITY_BYTES_MAX: usize = 64 << 10;

/// Unit of the CRC side file of a segment.
pub const SEGMENT_CHUNK_BYTES: usize = 64 << 10;
/// Kafka's default of segment.bytes.
pub const SEGMENT_BYTES_DEFAULT: u64 = 1 << 30;
/// A position goes into the sparse index each time this many bytes were appended.
pub const SEGMENT_INDEX_INTERVAL_BYTES: usize = 4 << 10;

/// Payload of entries kept in memory per shard for followers and apply, beyond what is in flight.
pub const ENTRY_CACHE_BYTES: usize = 64 << 20;
/// Bytes proposed but not yet applied, per group and per shard; beyond it produce requests wait.
pub const GROUP_PROPOSED_BYTES_MAX: usize = 16 << 20;
pub const SHARD_PROPOSED_BYTES_MAX: usize = 64 << 20;
/// Applied batches in memory that are not yet in segments, per shard.
pub const SHARD_TAIL_BYTES_MAX: usize = 64 << 20;
/// One Raft append message.
pub const RAFT_MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Append messages in flight per follower of a group.
pub const RAFT_INFLIGHT_MESSAGES_MAX: usize = 32;
/// Unacknowledged append bytes per peer.
pub const PEER_WINDOW_BYTES: usize = 32 << 20;

/// One Raft tick.
pub const TICK: Duration = Duration::from_millis(100);
/// Ticks between heartbeats of an idle group.
pub const HEARTBEAT_TICKS: usize = 10;
/// Ticks without a leader before a follower campaigns when the failure detector saw nothing.
pub const ELECTION_TICKS: usize = 50;
/// A frame goes to every peer at least this often.
pub const PING_INTERVAL: Duration = Duration::from_millis(100);
/// Without an echo for this long a pair of nodes counts as down.
pub const PEER_DOWN_AFTER: Duration = Duration::from_millis(500);
/// Replicas that miss a leader campaign in rank order, one each time this has passed.
pub const CAMPAIGN_INTERVAL: Duration = Duration::from_millis(200);

/// Most partitions of one topic and of one CreateTopics request.
pub const TOPIC_PARTITIONS_MAX: i32 = 10_000;
/// Kafka's limit of a topic name.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
/// Replication factor.
pub const REPLICAS_MAX: usize = 5;
/// Voters of the metadata group.
pub const METADATA_VOTERS_MAX: usize = 5;

/// Fetch sessions per node (Kafka: max.incremental.fetch.session.cache.slots).
pub const FETCH_SESSIONS_MAX: usize = 1000;
/// Kafka's default of fetch.max.bytes on the broker.
pub const FETCH_BYTES_MAX: usize = 55 << 20;
/// Bytes of one disk read on behalf of a fetch.
pub const FETCH_READ_BYTES: usize = 1 << 20;

/// Batches remembered per producer (Kafka's protocol allows five in flight).
pub const PRODUCER_BATCHES: usize = 5;

const _: () = assert!(BATCH_BYTES_MAX < PRODUCE_FRAME_BYTES_MAX, "the largest batch fits into a frame");
const _: () = assert!(BATCH_BYTES_MAX < PEER_FRAME_BYTES_MAX, "the largest batch fits into a peer's frame");
const _: () = assert!(BATCH_BYTES_MAX as u64 + (1 << 20) < WAL_FILE_BYTES, "the largest batch fits into a WAL file");
const _: () = assert!(WAL_WRITE_BYTES_MAX as u64 * 2 < WAL_FILE_BYTES, "a file holds several writes");
const _: () = assert!(SEGMENT_CHUNK_BYTES > BATCH_SHARED_BYTES_MIN);
const _: () = assert!(HEARTBEAT_TICKS * 3 < ELECTION_TICKS, "two lost heartbeats start no election");
