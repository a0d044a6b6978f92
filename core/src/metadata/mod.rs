//! The metadata group (group 0): topics, nodes, ids, placement.
//!
//! Owns the replicated state of the cluster ([`state::MetadataState`]), the immutable image that the rest of a node
//! reads ([`image::MetadataImage`]), how a cluster comes into being ([`formation`]), where replicas are placed
//! ([`placement`]) and the gossip of who leads what ([`leaders`]), which deliberately does not pass through the
//! replicated state. Invariant: an image never changes, and a later one never shows less than an earlier one did.
//! Does not own the replication of group 0, nor any socket or file.

pub mod commands;
pub mod creation;
pub mod formation;
pub mod image;
pub mod leaders;
pub mod node;
pub mod placement;
pub mod refusal;
pub mod state;
pub mod topic;
pub mod topic_config;

pub use commands::{MetadataCommand, MetadataOutcome, MetadataResponse};
pub use creation::{GroupCreation, GroupMember};
pub use image::{MetadataDelta, MetadataImage};
pub use leaders::{Leader, Leaders};
pub use node::{Node, Registration};
pub use refusal::Refusal;
pub use state::MetadataState;
pub use topic::{Partition, Replica, Topic, TopicName};
pub use topic_config::TopicConfigs;
