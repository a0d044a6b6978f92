//! The client's state machines on tokio: sockets, clocks and waiting tasks.
//!
//! Every handle shares one state machine with one task that drives it. Invariant: no decision about Kafka is made
//! here; bytes, times and wake-ups are carried between the machines and the world.

pub mod admin;
mod clock;
pub mod consumer;
mod driver;
pub mod producer;
mod socket;
