//! The clients of a plan: one that creates the topics, idempotent producers, consumers and probes.
//!
//! They speak Kafka's protocol over the simulated network, each in versions of its own choice, and write down what they
//! did and saw. Invariant: no client looks into a node.

mod admin;
mod consumer;
mod kafka;
mod partitions;
mod probe;
mod producer;
mod routes;
mod wire;

use crate::{client::Client, plan::Plan};

/// All clients of a plan, in the order of their sites.
pub fn clients(plan: &Plan) -> Vec<Box<dyn Client>> {
    let mut clients: Vec<Box<dyn Client>> = vec![Box::new(admin::Admin::new(plan))];
    for (number, producer) in plan.workload.producers.iter().enumerate() {
        clients.push(Box::new(producer::Writer::new(plan, number, producer)));
    }
    for (number, consumer) in plan.workload.consumers.iter().enumerate() {
        clients.push(Box::new(consumer::Reader::new(plan, number, consumer)));
    }
    for (number, probe) in plan.workload.probes.iter().enumerate() {
        clients.push(Box::new(probe::Prober::new(plan, number, probe)));
    }
    clients
}
