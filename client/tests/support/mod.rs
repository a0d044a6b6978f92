//! Brokers in memory, and a world in which a client's state machine talks to them: time, delays, broken connections.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

pub mod broker;
pub mod world;

use kauri_client::{
    admin::Admin,
    cluster::ClusterConfig,
    consumer::Consumer,
    io::{Effects, Input, Monotonic, Now},
    producer::Producer,
};

/// What all state machines of the client have in common.
pub trait Machine {
    fn handle(&mut self, now: Now, input: Input);
    fn poll(&mut self, now: Now, effects: &mut Effects);
    fn next_deadline(&self) -> Option<Monotonic>;
}

macro_rules! machines {
    ($($machine:ty)*) => {$(
        impl Machine for $machine {
            fn handle(&mut self, now: Now, input: Input) {
                Self::handle(self, now, input);
            }

            fn poll(&mut self, now: Now, effects: &mut Effects) {
                Self::poll(self, now, effects);
            }

            fn next_deadline(&self) -> Option<Monotonic> {
                Self::next_deadline(self)
            }
        }
    )*};
}
machines! { Producer Consumer Admin kauri_client::cluster::Cluster }

/// A client that starts at broker 1.
pub fn cluster_config() -> ClusterConfig {
    ClusterConfig::new(vec![world::address(1)], "test")
}
