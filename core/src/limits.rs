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
/// Largest first frame of a link: a hello and nothing else. Whoever opened the link may still be anybody.
pub const PEER_HELLO_BYTES_MAX: usize = 64 << 10;

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
/// What all WAL files of a shard may take, unless the configuration names another budget.
pub const WAL_BUDGET_BYTES: u64 = 4 << 30;
/// The smallest budget, in files.
pub const WAL_FILES_MIN: u64 = 8;
/// Files of the budget that data does not count on: the one made ahead, and one each for two starts.
pub const WAL_RESERVED_FILES: u64 = 3;
/// Fill of the WAL, in thousandths, from which on producers are slowed down.
pub const WAL_SLOW_FROM: u32 = 700;
/// From here on producers have one part in [`WAL_SLOW_REST_PART`] of the budgets of proposals, and no less until the WAL
/// is full.
pub const WAL_SLOWEST_FROM: u32 = 950;
pub const WAL_SLOW_REST_PART: usize = 64;
/// A start writes what the start before it wrote once more, instead of keeping its file, unless that is more than this
/// part of a file.
pub const WAL_CARRIED_FILE_PART: u64 = 8;
/// A mark follows the last WAL write within this time.
pub const WAL_MARK_DELAY: Duration = Duration::from_millis(50);
/// How long the WAL waits before it asks a full disk for room again.
pub const WAL_FULL_RETRY: Duration = Duration::from_secs(1);
/// What recovery and replay read at once, unless a single payload is larger.
pub const WAL_READ_BYTES: usize = 1 << 20;
/// The smallest unit in which a device loses bytes.
pub const SECTOR_BYTES: usize = 512;
/// Sectors of the WAL that a start may find unreadable before it takes the device for broken: each may take seconds.
pub const WAL_UNREADABLE_SECTORS_MAX: usize = 2048;
/// What a checkpoint gives to the disk at once, and about what one turn adds to it, unless a single group is larger.
pub const CHECKPOINT_SLICE_BYTES: usize = 256 << 10;
/// Applied entries of a group that a checkpoint names by their places, for members that are a little behind.
pub const CHECKPOINT_LOCATED_ENTRIES_MAX: u64 = 4096;
/// Applied batches that a checkpoint carries because they are not in segments yet; beyond it the largest are written to
/// segments first. As much as waits in memory without being urgent, so that thousands of small tails cost no sync each.
pub const CHECKPOINT_TAIL_BYTES_MAX: u64 = SHARD_TAIL_BYTES_MAX as u64 / 2;
/// Time between two checkpoints if little changes.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);
/// A checkpoint is due when the WAL has grown by so much, even if that is little of its budget, but not before some time
/// has passed: a start replays no more.
pub const CHECKPOINT_GROWTH_BYTES: u64 = 64 << 20;
pub const CHECKPOINT_GROWTH_INTERVAL: Duration = Duration::from_secs(5);
/// Checkpoints that recovery can start from once a newer one is done.
pub const CHECKPOINTS_KEPT: usize = 2;
/// What is read of a checkpoint at once, unless a single group is larger.
pub const CHECKPOINT_READ_BYTES: usize = 1 << 20;
/// The image of a state machine above this size gets a file of its own.
pub const IMAGE_INLINE_BYTES_MAX: usize = 1 << 20;
/// A start waits for so long until what its metadata log holds is committed and applied, before it takes requests.
pub const METADATA_SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest identity file.
pub const IDENTITY_BYTES_MAX: usize = 64 << 10;
/// What is made ahead for the next change of the identity file: enough for what it says of a cluster of many nodes.
pub const IDENTITY_AHEAD_BYTES: usize = 4 << 10;

/// What applied batches may hold of memory during a start, when clients and peers need none yet: so much may be replayed
/// without a sync for each of thousands of small tails. Afterwards it goes back to [`SHARD_TAIL_BYTES_MAX`] as tails
/// are written.
pub const STARTUP_TAIL_BYTES_MAX: usize = 4 * SHARD_TAIL_BYTES_MAX;
/// Partitions whose files a start opens at the same time: enough to keep the disk's threads busy, and few descriptors.
pub const STARTUP_LOGS_MAX: usize = 64;

/// Groups whose files are removed at the same time.
pub const REMOVALS_MAX: usize = 16;

/// Unit of the side file of a segment: a checksum, and the position of the first batch, for so many bytes. A cold read
/// fetches and verifies whole chunks anyway, so a finer index would cost memory and save no read.
pub const SEGMENT_CHUNK_BYTES: usize = 64 << 10;
/// Kafka's default of segment.bytes.
pub const SEGMENT_BYTES_DEFAULT: u64 = 1 << 30;
/// Largest segment: offsets and positions within one are kept in 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;
/// A partition is written to its segment when this much waits to be written (or when memory is short).
pub const SEGMENT_FLUSH_BYTES: usize = 1 << 20;
/// One write to a segment.
pub const SEGMENT_WRITE_BYTES_MAX: usize = 8 << 20;
/// First allocation of a partition's tail; each further one is twice as large, up to [`SEGMENT_CHUNK_BYTES`].
pub const TAIL_CHUNK_BYTES_MIN: usize = 4 << 10;

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
/// Payload of one entry: the largest batch and what a command adds to it.
pub const RAFT_ENTRY_BYTES_MAX: usize = BATCH_BYTES_MAX + (1 << 16);
/// Bytes of entries a follower holds that are not applied yet; beyond it appends are dropped before they reach Raft.
pub const GROUP_UNAPPLIED_BYTES_MAX: usize = 48 << 20;
/// Reads of log entries from disk under way per group, and how many deliveries may wait for one of them.
pub const RAFT_FETCHES_MAX: usize = 8;
pub const RAFT_FETCH_WAITERS_MAX: usize = 16;
/// Linearizable reads of one group that wait for their confirmation.
pub const RAFT_READS_WAITING_MAX: usize = 4096;
/// Unacknowledged append bytes per peer.
pub const PEER_WINDOW_BYTES: usize = 32 << 20;

/// Unacknowledged append bytes per peer and group, unless a single message is larger.
pub const PEER_GROUP_WINDOW_BYTES: usize = 8 << 20;
/// Received append bytes that may wait for the WAL; beyond it appends are dropped before they reach Raft.
pub const PEER_BACKLOG_BYTES_MAX: usize = 64 << 20;
/// What is queued for one peer and lane in a turn becomes frames of this size, unless a single message is larger.
pub const PEER_FRAME_BYTES_TARGET: usize = 1 << 20;
/// Messages with more payload than this take the bulk lane.
pub const RAFT_LANE_PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// Bytes on one link of the Raft lane that its socket did not take yet; beyond it messages are dropped.
pub const RAFT_LANE_UNSENT_BYTES_MAX: usize = 8 << 20;
/// Entries of one append message.
pub const RAFT_MESSAGE_ENTRIES_MAX: usize = 64 << 10;
/// A Raft message without its entries' payloads (a snapshot's data included).
pub const RAFT_MESSAGE_STRIPPED_BYTES_MAX: usize = 16 << 20;
/// Links that peers opened to us.
pub const PEER_ACCEPTED_LINKS_MAX: usize = 256;

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
/// A pair of nodes that lost a connection proves within this time that it works in both directions, or counts as down.
pub const PEER_RELINK_AFTER: Duration = Duration::from_millis(200);
/// A limit doubled by a false alarm is halved each time the pair was up for this long.
pub const PEER_ALARM_DECAY: Duration = Duration::from_secs(30);
/// Time between two turns beyond this is our own pause: what a peer did meanwhile is unknown, not missing.
pub const PEER_OWN_PAUSE: Duration = Duration::from_millis(200);
/// A dial without an answer for this long counts as failed.
pub const PEER_DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after the first failed dial; doubles up to the longest.
pub const PEER_DIAL_PAUSE_MIN: Duration = Duration::from_millis(50);
pub const PEER_DIAL_PAUSE_MAX: Duration = Duration::from_secs(1);
/// An accepted link without a valid hello for this long is closed.
pub const PEER_HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A link to a peer that is down is dialled anew each time this has passed, for a connection made before a cut may
/// stay silent long after it.
pub const PEER_REDIAL_WHILE_DOWN: Duration = Duration::from_secs(2);
/// A bulk link on which nothing was acknowledged for this long, with bytes unacknowledged, is dialled anew.
pub const PEER_BULK_STALL: Duration = Duration::from_secs(10);
/// Replicas that miss a leader campaign in rank order, one each time this has passed.
pub const CAMPAIGN_INTERVAL: Duration = Duration::from_millis(200);

/// Vote requests kept for replicas that are about to be created.
pub const EARLY_VOTES_MAX: usize = 10_000;
/// Calls of one node to the metadata group that have not ended.
pub const CALLS_MAX: usize = 10_000;
/// Topics that one Metadata request creates.
pub const AUTO_CREATED_TOPICS_MAX: usize = 100;
/// Most partitions of one topic and of one CreateTopics request.
pub const TOPIC_PARTITIONS_MAX: i32 = 10_000;
/// Kafka's limit of a topic name.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
/// Replication factor.
pub const REPLICAS_MAX: usize = 5;
/// Data directories of a node that were replaced and are remembered.
pub const NODE_REPLACEMENTS_MAX: usize = 1000;
/// Voters of the metadata group.
pub const METADATA_VOTERS_MAX: usize = 5;

/// Partitions of all topics together, and so partition groups of a cluster.
pub const CLUSTER_PARTITIONS_MAX: usize = 200_000;
/// Nodes of a cluster.
pub const CLUSTER_NODES_MAX: usize = 1000;
/// A host name or rack name of a node.
pub const NODE_TEXT_BYTES_MAX: usize = 255;
/// The value of one topic configuration.
pub const CONFIG_VALUE_BYTES_MAX: usize = 4096;
/// Producer ids handed out in one block.
pub const PRODUCER_ID_BLOCK_MAX: u32 = 100_000;
/// Records of one leader gossip message; a digest is split into as many messages as it needs.
pub const LEADER_RECORDS_MAX: usize = 4096;

/// Fetch sessions per node (Kafka: max.incremental.fetch.session.cache.slots).
pub const FETCH_SESSIONS_MAX: usize = 1000;
/// Memory that answers, and reads for them, may hold until sockets take them. A fetch takes at most a quarter of what is
/// free; beyond it a connection starts nothing before its socket took all it was given.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Beyond that, for answers with small batches. When it is used up as well nothing but produce requests is started.
pub const ANSWER_RESERVE_BYTES: usize = 16 << 20;
/// Batches of an answer from the reserve.
pub const ANSWER_SMALL_BYTES: usize = 16 << 10;
/// A client that takes nothing of its answers for so long is closed.
pub const CLIENT_STALL_MAX: Duration = Duration::from_secs(30);
/// And so is one that takes nothing for so long while others wait for the memory.
pub const CLIENT_STALL_CROWDED_MAX: Duration = Duration::from_secs(3);
/// Frames that batches, entries and answers keep alive; beyond it what holds them is written and dropped.
pub const FRAMES_BYTES_MAX: usize = 128 << 20;
/// Records of one answer to a fetch, unless a single batch is larger, and what it reads from the disk for them. Kafka's
/// default of fetch.max.bytes is 55 MiB; here a client that does not read its answers keeps so much in memory for a while.
pub const FETCH_BYTES_MAX: usize = 16 << 20;
/// Bytes of one disk read on behalf of a fetch.
pub const FETCH_READ_BYTES: usize = 1 << 20;

/// Leader epochs remembered per partition.
pub const LEADER_EPOCHS_MAX: usize = 1024;
/// Batches remembered per producer (Kafka's protocol allows five in flight).
pub const PRODUCER_BATCHES: usize = 5;
/// Producers remembered per partition.
pub const PRODUCERS_MAX: usize = 100_000;
/// Uncompressed records that a search by time may produce from one batch; of a larger one it finds the first record.
pub const SEARCH_RECORDS_BYTES_MAX: usize = 4 << 20;
/// Syncs of segments and their side files that a shard spends while it has room in memory.
pub const SEGMENT_SYNCS_PER_SECOND: u32 = 5;
/// Entries of a side file that are worth a write of their own; until then a checkpoint holds them.
pub const SEGMENT_PROVE_CHUNKS: usize = 64;
/// Segment files written at a time.
pub const SEGMENT_FILES_MAX: usize = 8;
/// Applied batches that a partition keeps in memory for readers that follow, although they are on disk.
pub const TAIL_KEEP_BYTES: usize = 256 << 10;
/// Entries proposed to Raft at once.
pub const PROPOSAL_ENTRIES_MAX: usize = 1024;
/// Partitions in all fetch sessions of a node.
pub const FETCH_SESSION_PARTITIONS_MAX: usize = 200_000;
/// Bytes of their topics' names, once for each partition: an answer that names every partition of a session holds them.
pub const FETCH_SESSION_NAME_BYTES_MAX: usize = 16 << 20;

/// State transfers that a shard receives at a time; further ones wait for their turn.
pub const TRANSFERS_MAX: usize = 8;
/// Batches, or a part of an image, in one answer of a state transfer, unless a single batch is larger.
pub const TRANSFER_ANSWER_BYTES_MAX: usize = 1 << 20;
/// The same after answers did not come in time: a slow path is not filled with answers that nobody waits for any more.
pub const TRANSFER_ANSWER_BYTES_MIN: usize = 16 << 10;
/// A replica that is so close to its leader's end asks for a snapshot: what is left is fetched below that.
pub const TRANSFER_DELTA_BYTES_MAX: u64 = 8 << 20;
/// The image of one state machine that can be transferred: it becomes part of one record of the WAL.
pub const TRANSFER_IMAGE_BYTES_MAX: usize = 32 << 20;
/// All images that a shard keeps for others.
pub const TRANSFER_IMAGES_BYTES_MAX: usize = 128 << 20;
/// Bytes per second that one replica fetches at first, and at most.
pub const TRANSFER_RATE_MIN: u64 = 16 << 20;
pub const TRANSFER_RATE_MAX: u64 = 1 << 30;
/// Reads from the disk for other replicas' transfers under way.
pub const TRANSFER_READS_MAX: usize = 8;
/// A question without an answer for this long is asked again.
pub const TRANSFER_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a refusal.
pub const TRANSFER_PAUSE: Duration = Duration::from_millis(100);
/// A transfer that did not get on for this long ends; the leader announces another if it is needed.
pub const TRANSFER_STUCK: Duration = Duration::from_secs(30);
/// A leader that did not hear from the receiver of its announcement for this long takes the transfer for failed.
pub const TRANSFER_SILENCE: Duration = Duration::from_secs(10);
/// A replica tells its leader of a switch for at most this long.
pub const TRANSFER_REPORT: Duration = Duration::from_secs(10);

/// A member that does not answer a question for a lost payload for so long is passed over.
pub const REPAIR_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two rounds in which all members are asked.
pub const REPAIR_PAUSE_MIN: Duration = Duration::from_millis(200);
pub const REPAIR_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Questions of a node that are open at a time.
pub const REPAIR_QUESTIONS_MAX: usize = 16;
/// Reads of a node under way for replicas that ask.
pub const REPAIR_READS_MAX: usize = 8;
/// Chunks of a segment that are repaired at once; a shard repairs one such run at a time.
pub const SEGMENT_REPAIR_CHUNKS_MAX: usize = 4;
/// What one answer of a repair holds at most.
pub const SEGMENT_REPAIR_ANSWER_BYTES_MAX: usize = SEGMENT_REPAIR_CHUNKS_MAX * SEGMENT_CHUNK_BYTES;
/// Reads from the disk for other replicas' repairs under way.
pub const SEGMENT_REPAIR_READS_MAX: usize = 4;
/// Bytes per second that a shard fetches to repair segments.
pub const SEGMENT_REPAIR_RATE: u64 = 16 << 20;
/// A question of a repair without an answer for this long goes to another replica.
pub const SEGMENT_REPAIR_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after no replica could help; doubles up to the longest.
pub const SEGMENT_REPAIR_PAUSE_MIN: Duration = Duration::from_millis(200);
pub const SEGMENT_REPAIR_PAUSE_MAX: Duration = Duration::from_secs(10);
/// Default of the rate at which files are read to find damage.
pub const SCRUB_BYTES_PER_SECOND: u64 = 8 << 20;
/// Time between two rounds of that.
pub const SCRUB_INTERVAL: Duration = Duration::from_secs(3600);
/// The first round of a start begins after this time at the latest.
pub const SCRUB_FIRST_AFTER: Duration = Duration::from_secs(60);
/// Nothing is read to find damage while more than this waits for the WAL, and for so long when the node is busy.
pub const SCRUB_WAL_QUEUED_BYTES_MAX: usize = 1 << 20;
pub const SCRUB_BUSY_PAUSE: Duration = Duration::from_millis(100);
/// What is read of a checkpoint at once.
pub const SCRUB_READ_BYTES: usize = 256 << 10;

const _: () = assert!(BATCH_BYTES_MAX < PRODUCE_FRAME_BYTES_MAX, "the largest batch fits into a frame");
const _: () = assert!(FETCH_BYTES_MAX * 4 <= ANSWER_BYTES_MAX, "a fetch gets all it may have when nothing else waits");
const _: () = assert!(CLIENT_STALL_CROWDED_MAX.as_nanos() < CLIENT_STALL_MAX.as_nanos());
const _: () = assert!(BATCH_BYTES_MAX < PEER_FRAME_BYTES_MAX, "the largest batch fits into a peer's frame");
const _: () = assert!(BATCH_BYTES_MAX as u64 + (1 << 20) < WAL_FILE_BYTES, "the largest batch fits into a WAL file");
const _: () = assert!(WAL_WRITE_BYTES_MAX as u64 * 2 < WAL_FILE_BYTES, "a file holds several writes");
const _: () = assert!(WAL_RESERVED_FILES < WAL_FILES_MIN, "a budget leaves room for data");
const _: () = assert!(WAL_SLOW_FROM < WAL_SLOWEST_FROM && WAL_SLOWEST_FROM < 1000);
const _: () = assert!(WAL_FILES_MIN * WAL_FILE_BYTES <= WAL_BUDGET_BYTES, "the defaults fit each other");
const _: () = assert!(NODE_TEXT_BYTES_MAX * 2 + 1024 < PEER_HELLO_BYTES_MAX, "a hello names a host and a rack");
const _: () = assert!(PEER_GROUP_WINDOW_BYTES <= PEER_WINDOW_BYTES);
const _: () = assert!(RAFT_MESSAGE_BYTES_MAX as usize <= PEER_GROUP_WINDOW_BYTES);
const _: () = assert!(RAFT_LANE_PAYLOAD_BYTES_MAX < PEER_FRAME_BYTES_TARGET);
const _: () = assert!(PEER_FRAME_BYTES_TARGET <= RAFT_LANE_UNSENT_BYTES_MAX);
const _: () = assert!(RAFT_MESSAGE_STRIPPED_BYTES_MAX + BATCH_BYTES_MAX < PEER_FRAME_BYTES_MAX);
const _: () = assert!(PEER_RELINK_AFTER.as_nanos() < PEER_DOWN_AFTER.as_nanos());
const _: () = assert!(PING_INTERVAL.as_nanos() * 4 < PEER_DOWN_AFTER.as_nanos(), "three lost pings are no alarm");
const _: () = assert!(PEER_DOWN_AFTER.as_nanos() < TICK.as_nanos() * ELECTION_TICKS as u128);
const _: () = assert!(RAFT_ENTRY_BYTES_MAX < PEER_FRAME_BYTES_MAX, "the largest entry fits into a peer's frame");
const _: () = assert!(GROUP_PROPOSED_BYTES_MAX < GROUP_UNAPPLIED_BYTES_MAX, "followers hold what a leader may propose");
const _: () = assert!(RAFT_ENTRY_BYTES_MAX < GROUP_UNAPPLIED_BYTES_MAX, "the largest entry can be taken");
const _: () = assert!(SEGMENT_CHUNK_BYTES > BATCH_SHARED_BYTES_MIN);
const _: () = assert!(TAIL_CHUNK_BYTES_MIN.is_power_of_two() && SEGMENT_CHUNK_BYTES.is_power_of_two());
const _: () = assert!(SEGMENT_WRITE_BYTES_MAX.is_multiple_of(SEGMENT_CHUNK_BYTES), "writes end between chunks");
const _: () = assert!(SEGMENT_FLUSH_BYTES <= SEGMENT_WRITE_BYTES_MAX);
const _: () = assert!(SEGMENT_BYTES_DEFAULT <= SEGMENT_BYTES_MAX);
const _: () = assert!(SEGMENT_BYTES_MAX + (BATCH_BYTES_MAX as u64) < u32::MAX as u64, "a position fits 32 bits");
const _: () = assert!(HEARTBEAT_TICKS * 3 < ELECTION_TICKS, "two lost heartbeats start no election");
const _: () = assert!(TRANSFER_ANSWER_BYTES_MAX <= PEER_GROUP_WINDOW_BYTES);
const _: () =
    assert!(TRANSFER_ANSWER_TIMEOUT.as_nanos() * 2 < TRANSFER_SILENCE.as_nanos(), "a lost answer is no failure");
const _: () = assert!(TRANSFER_SILENCE.as_nanos() < TRANSFER_STUCK.as_nanos());
const _: () = assert!(TRANSFER_RATE_MIN <= TRANSFER_RATE_MAX);
const _: () =
    assert!(TRANSFER_IMAGE_BYTES_MAX as u64 + (1 << 20) < WAL_FILE_BYTES, "the largest image fits into a WAL file");
