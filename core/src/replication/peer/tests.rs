//! Whole nodes' peers in memory: what a shard sees of links that break, nodes that die and frames that are forged.

mod faults;
mod flow;
mod handshake;
mod world;
