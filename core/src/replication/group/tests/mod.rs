//! The group against memory disks and a memory network.
//!
//! Tests whose names start with a `p` and a number are regressions of pitfalls of raft-rs 0.7.0: each panics, loses
//! data or hangs when the part of the wrapper that it is about is taken out.

mod cluster;
mod disk;
mod member;

mod chaos;
mod elections;
mod faulty;
mod log_reads;
mod memberships;
mod messages;
mod persistence;
mod proposals;
mod reads;
mod snapshots;
