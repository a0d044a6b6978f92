//! Hints about the current leader, which save a client the round trip of a metadata request (KIP-951).

use crate::wire::Str;

structure! {
    /// Who leads a partition, as part of an error that says that this broker does not.
    pub struct LeaderIdAndEpoch {
        leader_id: i32 [0..] = -1,
        leader_epoch: i32 [0..] = -1,
    }
}

structure! {
    /// Where a leader named in the same response can be reached.
    pub struct NodeEndpoint {
        node_id: i32 [0..],
        host: Str [0..],
        port: i32 [0..],
        rack: Option<Str> [0..],
    }
}
