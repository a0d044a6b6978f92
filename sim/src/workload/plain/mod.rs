//! Clients that speak Kafka's protocol directly, each in versions of its own choice: what the SDK never sends, because
//! it always takes the newest version, other clients do send.

pub(super) mod admin;
pub(super) mod consumer;
mod kafka;
pub(super) mod probe;
pub(super) mod producer;
mod routes;
mod wire;
