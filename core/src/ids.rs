//! Identifiers and positions as distinct types.
//!
//! Invariant: no bare integer that names a thing or a place crosses a function boundary. Two of these types never
//! convert into each other by accident: a Raft index is not a Kafka offset, a term is not a leader epoch except in
//! [`LeaderEpoch::from_term`], the one place that says how.

use std::fmt;

pub use kauri_protocol::wire::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

macro_rules! uuid {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// A node of the cluster; Kafka calls it broker id. Never negative.
    NodeId(i32)
);
number!(
    /// A Raft group. Group 0 is the metadata group; ids are minted by it and never reused.
    GroupId(u64)
);
number!(
    /// One replica of one group: raft-rs's peer id. Never zero, never reused within its group, not even after the
    /// replica was destroyed.
    ReplicaId(u64)
);
number!(
    /// How often this data directory was started; durable before the node speaks to a peer.
    BootNumber(u64)
);
number!(
    /// A Raft term.
    Term(u64)
);
number!(
    /// A position in a group's Raft log. The first entry of a group has index 2: groups start at truncated index 1,
    /// so that an empty replica can only be filled by state transfer.
    LogIndex(u64)
);
number!(
    /// A position in a partition: the number of a record in the order of the log.
    Offset(i64)
);
number!(
    /// Kafka's leader epoch: the Raft term in 32 bits.
    LeaderEpoch(i32)
);
number!(
    /// An idempotent producer.
    ProducerId(i64)
);
number!(
    /// Fences earlier incarnations of a producer id.
    ProducerEpoch(i16)
);
number!(
    /// The number of a partition within its topic.
    PartitionIndex(i32)
);
number!(
    /// One client connection of one node, unique while the process lives.
    ConnectionId(u64)
);
number!(
    /// One connection to or from a peer, unique while the process lives.
    LinkId(u64)
);
number!(
    /// A disk operation in flight, unique while the process lives.
    OperationId(u64)
);
number!(
    /// The number of one WAL write of a shard, counted from 1 over all its WAL files.
    WriteNumber(u64)
);
number!(
    /// The number of a WAL file of a shard, counted from 1 and never reused, though the file's blocks are.
    FileSequence(u64)
);
number!(
    /// The number of a checkpoint of a shard, counted from 1.
    CheckpointNumber(u64)
);
number!(
    /// The version of the metadata image: the applied Raft index of group 0.
    ImageVersion(u64)
);
uuid!(
    /// Minted once, when the cluster forms.
    ClusterId
);
uuid!(
    /// One data directory: minted when it is first used, so that a wiped disk is a different directory.
    DirectoryId
);
uuid!(
    /// One topic. A topic re-created under the same name has another id.
    TopicId
);

impl GroupId {
    /// The metadata group.
    pub const METADATA: Self = Self(0);
}

impl LinkId {
    /// Drivers number the links they accept from here. Those that the core dials have the top bit set, so the two
    /// never meet.
    pub const FIRST_ACCEPTED: Self = Self(1);
}

impl LogIndex {
    /// Every group's log starts behind this index (see [`LogIndex`]).
    pub const TRUNCATED_AT_CREATION: Self = Self(1);

    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LeaderEpoch {
    /// What clients send when they know no epoch.
    pub const UNKNOWN: Self = Self(-1);

    /// The one place where a term becomes an epoch. A group would need 2^31 elections to leave the range; the term
    /// is an invariant of ours by then, not input.
    pub fn from_term(term: Term) -> Self {
        Self(i32::try_from(term.0).expect("a group holds fewer than 2^31 elections"))
    }
}

impl Offset {
    pub fn plus(self, records: u32) -> Self {
        Self(self.0 + i64::from(records))
    }
}

impl ProducerId {
    /// A batch without a producer id.
    pub const NONE: Self = Self(-1);
}
