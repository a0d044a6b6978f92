//! A client's process, as the world drives it.
//!
//! Invariant: clients touch the cluster through connections only, and what they did and saw stands in the history.
//! Their clocks are true: what clients believe about time is no subject of these runs.

use bytes::Bytes;

use crate::{
    history::{History, Partition},
    time::Instant,
};

/// One connection of one client, numbered by the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientSocket(pub u64);

/// Something happened to a client.
#[derive(Debug)]
pub enum ClientInput {
    Connected {
        socket: ClientSocket,
    },
    /// A whole frame without its length prefix.
    Frame {
        socket: ClientSocket,
        frame: Bytes,
    },
    /// The connection is gone, or the dial failed. Told once for each socket, also after [`ClientEffects::closes`].
    Down {
        socket: ClientSocket,
    },
    /// The chaos is over: what the workload does from now on must succeed.
    Heal,
}

/// What a client wants done. The world empties it.
#[derive(Debug, Default)]
pub struct ClientEffects {
    /// Sockets to connect to a host, as the cluster advertises it or as [`host`] names it.
    pub dials: Vec<(ClientSocket, String)>,
    pub sends: Vec<(ClientSocket, Vec<Bytes>)>,
    pub closes: Vec<ClientSocket>,
}

/// A client's process.
pub trait Client {
    fn handle(&mut self, now: Instant, input: ClientInput, history: &mut History);
    /// To be called after [`Client::handle`] and when the deadline has come.
    fn poll(&mut self, now: Instant, effects: &mut ClientEffects, history: &mut History);
    fn next_deadline(&self) -> Option<Instant>;
    /// Whether everything was done that must be possible after the chaos.
    fn has_healed(&self, history: &History) -> bool;
    /// The partitions without which it has not healed; none if it waits for something else.
    fn stuck(&self, history: &History) -> Vec<Partition>;
    /// What the client waits for, for whoever asks why a run did not heal.
    fn waits_for(&self, history: &History) -> String;
}

/// The host name of a node, as clients and peers dial it.
pub fn host(node: usize) -> String {
    format!("node-{node}")
}

/// The node behind a host name.
pub fn node_of(host: &str) -> Option<usize> {
    host.strip_prefix("node-")?.parse().ok()
}
