//! Clients that are Kauri's SDK.
//!
//! The SDK's effects and inputs become those of the simulated machine. Invariant: nothing is decided here that the
//! SDK's own driver does not decide as well.

pub(super) mod consumer;
pub(super) mod producer;

use std::time::Duration;

use kauri_client::{
    cluster::ClusterConfig,
    io::{ConnectionId, Effects, Input, Monotonic, Now},
};

use crate::{
    client::{ClientEffects, ClientInput, ClientSocket, host},
    dice::Dice,
    time::{Instant, Span},
};

const PORT: u16 = 9092;

/// The sockets of one process after the other on one machine.
#[derive(Debug, Default)]
struct Sockets {
    process: u32,
    open: Vec<ConnectionId>,
    effects: Effects,
}

fn duration(span: Span) -> Duration {
    Duration::from_nanos(span.0)
}

fn instant(at: Monotonic) -> Instant {
    Instant(at.0)
}

/// The SDK's clocks. The wall clock stands at 1970: brokers refuse records from their own future, and their clocks may be
/// wrong by decades.
fn now(at: Instant) -> Now {
    Now { monotonic: Monotonic(at.0), wall_ms: i64::try_from(at.0 / 1_000_000).expect("runs are short") }
}

/// How a client finds the cluster, and how patient it is.
fn cluster_config(dice: &mut Dice, nodes: usize, name: &str) -> ClusterConfig {
    let mut nodes: Vec<usize> = (0..nodes).collect();
    dice.shuffle(&mut nodes);
    let bootstrap = nodes.into_iter().map(|node| (host(node), PORT)).collect();
    ClusterConfig {
        request_timeout: duration(*dice.pick(&[Span::seconds(2), Span::seconds(5), Span::seconds(30)])),
        connect_timeout: duration(*dice.pick(&[Span::seconds(1), Span::seconds(5)])),
        metadata_age_max: duration(*dice.pick(&[Span::seconds(5), Span::seconds(300)])),
        ..ClusterConfig::new(bootstrap, name)
    }
}

impl Sockets {
    /// The input of the SDK, if it is one: what a process left behind is none for its successor.
    fn input(&mut self, input: ClientInput) -> Option<Input> {
        match input {
            ClientInput::Connected { socket } => self.name(socket).map(Input::Connected),
            ClientInput::Frame { socket, frame } => Some(Input::Frame(self.name(socket)?, frame)),
            ClientInput::Down { socket } => {
                let name = self.name(socket)?;
                self.open.retain(|open| *open != name);
                Some(Input::Closed(name))
            }
            ClientInput::Heal => None,
        }
    }

    fn name(&self, socket: ClientSocket) -> Option<ConnectionId> {
        let name = ConnectionId(socket.0 & u64::from(u32::MAX));
        (socket.0 >> 32 == u64::from(self.process) && self.open.contains(&name)).then_some(name)
    }

    fn socket(&self, name: ConnectionId) -> ClientSocket {
        assert!(name.0 <= u64::from(u32::MAX), "a process opens fewer connections");
        ClientSocket(u64::from(self.process) << 32 | name.0)
    }

    /// Lets the SDK act, and hands on what it wants.
    fn poll(&mut self, out: &mut ClientEffects, poll: impl FnOnce(&mut Effects)) {
        let mut effects = std::mem::take(&mut self.effects);
        poll(&mut effects);
        for dial in effects.dials.drain(..) {
            self.open.push(dial.connection);
            out.dials.push((self.socket(dial.connection), dial.host));
        }
        for send in effects.sends.drain(..) {
            out.sends.push((self.socket(send.connection), send.slices));
        }
        for connection in effects.closes.drain(..) {
            self.open.retain(|open| *open != connection);
            out.closes.push(self.socket(connection));
        }
        self.effects = effects;
    }

    /// The process ends: its machine closes its connections.
    fn restart(&mut self, out: &mut ClientEffects) {
        for connection in std::mem::take(&mut self.open) {
            out.closes.push(self.socket(connection));
        }
        self.process += 1;
    }
}
