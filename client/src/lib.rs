//! The Kauri client SDK, for Kauri and every other broker that speaks Kafka's protocol.
//!
//! The half in this crate's root is pure: connections, metadata, producer and consumer are state machines that are
//! told the time and hand out effects, so that the simulator runs exactly what applications run. A thin driver on top
//! plugs them into tokio. Does not depend on Kauri's core.
//!
//! With tokio, one handle each for writing, reading and administration:
//!
//! ```no_run
//! # #[cfg(feature = "tokio")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use kauri_client::{
//!     cluster::ClusterConfig,
//!     consumer::{ConsumerConfig, Start},
//!     producer::{ProducerConfig, ProducerRecord},
//!     tokio::{consumer, producer},
//! };
//!
//! let cluster = ClusterConfig::new(vec![("127.0.0.1".to_owned(), 9092)], "example");
//!
//! let producer = producer::Handle::start(cluster.clone(), ProducerConfig::default());
//! let record = ProducerRecord { topic: "greetings", value: Some(b"hello"), ..ProducerRecord::default() };
//! let delivered = producer.send(record).await?.await?;
//!
//! let consumer = consumer::Handle::start(cluster, ConsumerConfig::default());
//! consumer.assign("greetings", delivered.partition, Start::Earliest);
//! let record = consumer.next().await?;
//! # let _ = record;
//! # Ok(())
//! # }
//! ```
//!
//! The first `await` of `send` waits for room, the second for the acknowledgement; many records may be under way at a
//! time.
//!
//! Without tokio, whoever owns the sockets runs this loop for any of the state machines: hand every
//! [`Input`](io::Input) to `handle`, then call `poll`, carry out its [`Effects`](io::Effects), take results, and come
//! back with the next input or at `next_deadline`. Every change (`send`, `assign`, ...) is followed by a `poll`.
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
