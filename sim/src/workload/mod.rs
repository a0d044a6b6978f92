//! The clients of a plan: one that creates the topics, idempotent producers, consumers and probes.
//!
//! Some are Kauri's SDK, the very state machines that applications run; some speak the protocol directly. All write down
//! what they did and saw. Invariant: no client looks into a node.

mod partitions;
mod plain;
mod sdk;

use crate::{
    client::Client,
    history::Partition,
    plan::{ClientKind, Plan},
};

/// The partition of a plan with this topic and index.
pub fn partition(plan: &Plan, topic: &str, index: i32) -> Option<Partition> {
    partitions::Partitions::of(&plan.workload).find(topic, index)
}

/// All clients of a plan, in the order of their sites.
pub fn clients(plan: &Plan) -> Vec<Box<dyn Client>> {
    let mut clients: Vec<Box<dyn Client>> = vec![Box::new(plain::admin::Admin::new(plan))];
    for (number, producer) in plan.workload.producers.iter().enumerate() {
        clients.push(match producer.client {
            ClientKind::Sdk => Box::new(sdk::producer::Writer::new(plan, number, producer)),
            ClientKind::Plain => Box::new(plain::producer::Writer::new(plan, number, producer)),
        });
    }
    for (number, consumer) in plan.workload.consumers.iter().enumerate() {
        clients.push(match consumer.client {
            ClientKind::Sdk => Box::new(sdk::consumer::Reader::new(plan, number, consumer)),
            ClientKind::Plain => Box::new(plain::consumer::Reader::new(plan, number, consumer)),
        });
    }
    for (number, probe) in plan.workload.probes.iter().enumerate() {
        clients.push(Box::new(plain::probe::Prober::new(plan, number, probe)));
    }
    clients
}
