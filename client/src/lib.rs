//! The Kauri client SDK, for Kauri and every other broker that speaks Kafka's protocol.
//!
//! The half in this crate's root is pure: connections, metadata, producer and consumer are state machines that are
//! told the time and hand out effects, so that the simulator runs exactly what applications run. A thin driver on top
//! plugs them into tokio. Does not depend on Kauri's core.
#![forbid(unsafe_code)]

pub mod admin;
pub mod cluster;
pub mod connection;
pub mod consumer;
pub mod io;
pub mod metadata;
pub mod offsets;
pub mod producer;
#[cfg(feature = "tokio")]
pub mod tokio;
