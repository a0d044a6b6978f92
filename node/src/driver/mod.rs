//! Carries out the effects of one node's core and feeds it with what happened.
//!
//! Threads of a node: one for the core (it owns the shard and never blocks on anything but its queue of events), one
//! for the WAL (strictly in order), a few for all other disk operations, and a small tokio runtime for sockets.
//! They talk through queues only.
//!
//! Invariant: no queue is ever waited for by the core's thread. Each is bounded by what the core hands out: credits
//! towards clients, windows towards peers, its own count of disk operations in flight.
//!
//! Decides nothing: there is no branch on a Kafka request, a Raft message or the content of a file below this module.

mod clients;
mod clock;
mod core;
mod core_thread;
mod data_directory;
mod disk;
mod disk_threads;
mod event;
mod links;
mod node;
mod socket;
mod thread;
mod window;

pub(crate) use self::clock::Clock;
pub use self::{
    core::Core,
    data_directory::{DataDirectory, DataDirectoryError},
    disk::Disk,
    node::{Node, NodeEnd, NodeSetup, NodeState},
};
