//! A Kafka client as far as all clients of the workload are alike: connections, and who leads what.

use kauri_protocol::{
    Message as _, Reader, RequestMessage,
    api::Api,
    messages::{MetadataRequest, MetadataResponse},
};

use super::{
    super::partitions::Partitions,
    routes::{Leader, Routes},
    wire::{self, Heard, Wire},
};
use crate::{
    client::{ClientEffects, ClientInput},
    dice::Dice,
    history::{History, Partition},
    time::{Instant, Span},
};

/// What a request was for.
#[derive(Debug)]
enum What<T> {
    Metadata,
    Own(T),
}

/// What became of a request of the client itself.
#[derive(Debug)]
pub(super) enum Told<T> {
    Answer { what: T, version: i16, body: Reader },
    Lost { what: T },
}

#[derive(Debug)]
pub(super) struct Kafka<T> {
    pub(super) name: String,
    pub(super) partitions: Partitions,
    pub(super) dice: Dice,
    nodes: usize,
    routes: Routes,
    wire: Wire<What<T>>,
    metadata_version: i16,
    heard: Vec<Heard<What<T>>>,
}

impl<T> Kafka<T> {
    pub(super) fn new(name: String, nodes: usize, partitions: Partitions, mut dice: Dice) -> Self {
        let patience = *dice.pick(&[Span::seconds(2), Span::seconds(5), Span::seconds(15)]);
        // Older versions would create topics.
        let metadata_version = version(&mut dice, MetadataRequest::API).max(4);
        Self {
            nodes,
            routes: Routes::new(&partitions),
            wire: Wire::new(&name, patience),
            metadata_version,
            name,
            partitions,
            dice,
            heard: Vec::new(),
        }
    }

    pub(super) fn leader(&self, partition: Partition) -> Option<Leader> {
        self.routes.leader(partition)
    }

    /// What is known of leaders turned out to be wrong.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.routes.doubt(now);
    }

    pub(super) fn any_node(&mut self) -> usize {
        self.dice.index(self.nodes)
    }

    pub(super) fn request<M: RequestMessage>(&mut self, now: Instant, node: usize, request: &M, version: i16, what: T) {
        self.wire.request(now, node, request, version, What::Own(what));
    }

    pub(super) fn handle(&mut self, input: ClientInput, history: &mut History) {
        if let Err(error) = self.wire.handle(input, &mut self.heard) {
            history.refuse(format!("{}: {error}", self.name));
        }
    }

    /// Closes all connections, as a process that ends does.
    pub(super) fn crash(&mut self) {
        self.wire.close_all(&mut self.heard);
    }

    /// The next thing that became of a request.
    pub(super) fn next(&mut self, now: Instant, history: &mut History) -> Option<Told<T>> {
        self.wire.give_up(now, &mut self.heard);
        while !self.heard.is_empty() {
            match self.heard.remove(0) {
                Heard::Answer { what: What::Own(what), version, body } => {
                    return Some(Told::Answer { what, version, body });
                }
                Heard::Lost { what: What::Own(what) } => {
                    self.routes.doubt(now);
                    return Some(Told::Lost { what });
                }
                Heard::Lost { what: What::Metadata } => self.routes.lost(now),
                Heard::Answer { what: What::Metadata, version, mut body } => {
                    match wire::read::<MetadataResponse>(&mut body, version) {
                        Ok(answer) => self.routes.learn(now, &self.partitions, &answer),
                        Err(error) => {
                            history.refuse(format!("{}: {error}", self.name));
                            self.routes.lost(now);
                        }
                    }
                }
            }
        }
        None
    }

    /// To be called last in a poll.
    pub(super) fn poll(&mut self, now: Instant, effects: &mut ClientEffects) {
        if self.routes.ask(now) {
            let node = self.any_node();
            let request = Routes::request(&self.partitions);
            self.wire.request(now, node, &request, self.metadata_version, What::Metadata);
        }
        self.wire.poll(effects);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match (self.wire.next_deadline(), self.routes.next_deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

/// A version of an API that a client may use.
pub(super) fn version(dice: &mut Dice, api: &Api) -> i16 {
    let (low, high) = (api.supported.min.max(0), api.supported.max);
    let drawn = dice.range(u64::from(low.unsigned_abs()), u64::from(high.unsigned_abs()));
    i16::try_from(drawn).expect("between two versions")
}
