//! Topics and producer ids: requests that become commands of the metadata group.

use std::time::Duration;

use kauri_protocol::error::ErrorCode;
use slog::warn;

use super::{
    Broker,
    controller::{Caller, ControllerError, Ended, Forwarded, Step},
    producer_ids,
    proposals::Proposal,
    replica::{Machine, Owner, Replica},
};
use crate::{
    api::{Event, Waiter},
    ids::{GroupId, NodeId, ProducerId, TopicId},
    io::{Effects, Notice},
    metadata::{
        MetadataCommand, MetadataOutcome, MetadataResponse, TopicName,
        commands::{AllocateProducerIds, CreateTopic, DeleteTopic, RegisterNode, ReplaceNode},
        node::Registration,
        placement::{Demand, Placer},
        refusal::Refusal,
    },
    session::RequestId,
    time::{Monotonic, Now},
};

/// A registration that was refused or lost is tried again after this.
const REGISTER_PAUSE: Duration = Duration::from_millis(200);
/// No registration is due, because one is under way.
const UNDER_WAY: Monotonic = Monotonic(u64::MAX);

impl Broker {
    /// The command that creates a topic, placed beside others of the same request.
    pub(crate) fn plan_topic(
        &mut self,
        placer: &mut Placer,
        name: &str,
        demand: &Demand,
        configs: Vec<(String, String)>,
    ) -> Result<CreateTopic, ControllerError> {
        // The name comes before the placement, as in Kafka: a topic that exists is the more useful answer.
        TopicName::new(name)?;
        if self.image.topic_by_name(name).is_some() {
            return Err(Refusal::TopicExists.into());
        }
        let partitions = placer.place(demand, self.mint.next_u64())?;
        let topic = TopicId(crate::ids::Uuid(self.mint.bytes16()));
        Ok(CreateTopic { name: name.to_owned(), topic, partitions, configs })
    }

    /// Whether the topic could be created, as far as this node knows.
    pub(crate) fn check_topic(&self, command: &CreateTopic) -> Result<(), ControllerError> {
        if let Some(Machine::Metadata(state)) = self.replicas.get(&GroupId::METADATA).map(|replica| &replica.machine) {
            command.check(state)?;
        }
        Ok(())
    }

    pub(crate) fn create_topic(
        &mut self,
        now: Now,
        command: CreateTopic,
        waiter: Waiter,
    ) -> Result<(), ControllerError> {
        self.call(now, MetadataCommand::CreateTopic(command), waiter)
    }

    /// Creates a topic that a client asked about, with the defaults.
    pub(crate) fn create_default_topic(
        &mut self,
        now: Now,
        placer: &mut Placer,
        name: &str,
        waiter: Waiter,
    ) -> Result<(), ControllerError> {
        let demand = Demand::numbers(self.config.default_partitions, self.config.default_replication_factor);
        let command = self.plan_topic(placer, name, &demand, Vec::new())?;
        self.create_topic(now, command, waiter)
    }

    fn call(&mut self, now: Now, command: MetadataCommand, waiter: Waiter) -> Result<(), ControllerError> {
        if self.calls.is_full() {
            return Err(ControllerError::new(
                ErrorCode::RequestTimedOut,
                "too many changes of the metadata wait for their turn; nothing was done",
            ));
        }
        self.calls.start(now.monotonic, command, Caller::Request(waiter));
        Ok(())
    }

    pub(crate) fn delete_topic(&mut self, now: Now, topic: TopicId, waiter: Waiter) -> Result<(), ControllerError> {
        self.call(now, MetadataCommand::DeleteTopic(DeleteTopic { topic }), waiter)
    }

    pub(crate) fn take_producer_id(&mut self) -> Option<ProducerId> {
        self.producer_ids.take()
    }

    pub(crate) fn wait_for_producer_ids(&mut self, request: RequestId) {
        self.producer_ids.wait(request);
    }

    /// Everything about the metadata group that the groups' progress made possible.
    pub(super) fn advance_metadata(&mut self, now: Now, effects: &mut Effects) {
        self.advance_formation(now, effects);
        if std::mem::take(&mut self.image_moved) {
            self.follow_image(now);
        }
        self.register_if_due(now);
        if self.producer_ids.should_ask(now.monotonic) {
            let command = AllocateProducerIds { node: self.config.node, count: producer_ids::BLOCK };
            self.calls.start(now.monotonic, MetadataCommand::AllocateProducerIds(command), Caller::ProducerIds);
        }
        self.poll_calls(now);
        for ended in self.calls.take_ended() {
            self.call_ended(now, ended);
        }
        for bytes in self.leaders.take_delta() {
            let others: Vec<NodeId> = self.other_nodes().collect();
            for node in others {
                // Whoever is not connected gets everything when it is.
                let _ = self.peers.send_control(now, node, super::peering::GOSSIP, bytes.clone());
            }
        }
    }

    fn poll_calls(&mut self, now: Now) {
        if !self.calls.are_open() {
            return;
        }
        let leader = self.leader_of(GroupId::METADATA).map(|known| known.node);
        let own = self.config.node;
        // A leader that does not serve yet will in a moment; the call waits for it.
        let leader = leader.filter(|node| if *node == own { self.leads_metadata() } else { self.peers.is_up(*node) });
        let mut steps = Vec::new();
        self.calls.poll(now.monotonic, own, leader, &mut steps);
        for step in steps {
            match step {
                Step::Propose { call } => {
                    let command = self.calls.command(call).expect("it was just asked for").clone();
                    self.propose_metadata(command, Owner::Call(call));
                }
                Step::Forward { to, bytes } => {
                    let call = super::controller::decode_forward(&bytes).expect("it was just encoded").0;
                    if self.peers.send_control(now, to, super::controller::FORWARD, bytes).is_err() {
                        self.calls.not_proposed(call);
                    }
                }
            }
        }
    }

    fn leads_metadata(&self) -> bool {
        self.replicas.get(&GroupId::METADATA).is_some_and(Replica::is_serving)
    }

    /// Queues a command of the metadata group, which this node leads.
    pub(super) fn propose_metadata(&mut self, command: MetadataCommand, owner: Owner) {
        let Some(replica) = self.replicas.get_mut(&GroupId::METADATA) else {
            self.fail_owner(owner, true);
            return;
        };
        replica.queue.push(Proposal { kind: command.kind(), data: command.encode(), owner });
        self.mark(GroupId::METADATA);
    }

    /// When this node registers, or tries again.
    pub(super) fn register_deadline(&self) -> Option<Monotonic> {
        let waits = !self.registered && self.identity.cluster.is_some() && self.register_at != UNDER_WAY;
        waits.then_some(self.register_at)
    }

    fn register_if_due(&mut self, now: Now) {
        if self.registered || now.monotonic < self.register_at || self.identity.cluster.is_none() {
            return;
        }
        self.register_at = UNDER_WAY;
        let registration = RegisterNode {
            node: self.config.node,
            directory: self.identity.directory,
            registration: Registration {
                boot: self.identity.boot,
                advertised: self.config.advertised.clone(),
                rack: self.config.rack.clone(),
            },
        };
        let command = if self.formation.is_replacement() {
            MetadataCommand::ReplaceNode(ReplaceNode(registration))
        } else {
            MetadataCommand::RegisterNode(registration)
        };
        self.calls.start(now.monotonic, command, Caller::Registration);
    }

    fn call_ended(&mut self, now: Now, ended: Ended) {
        let Ended { caller, outcome } = ended;
        match caller {
            Caller::Request(waiter) => {
                self.events.push_back((waiter.request, Event::Controller { part: waiter.part, outcome }));
            }
            Caller::Registration => match outcome {
                Ok(_) => {
                    self.registered = true;
                    if !std::mem::replace(&mut self.serving, true) {
                        self.notices.push(Notice::Serving);
                    }
                }
                Err(error) if error.code == ErrorCode::DuplicateBrokerRegistration => {
                    self.exit.get_or_insert(crate::io::Exit::Refused(error.message));
                }
                Err(error) => {
                    warn!(self.logger, "this node is not registered yet"; "reason" => error.message);
                    self.register_at = now.monotonic + REGISTER_PAUSE;
                }
            },
            Caller::ProducerIds => match outcome {
                Ok(MetadataOutcome::ProducerIds { first, count }) => {
                    for request in self.producer_ids.arrived(now.monotonic, first, count) {
                        self.events.push_back((request, Event::ProducerIds));
                    }
                }
                Ok(_) | Err(_) => self.producer_ids.failed(now.monotonic),
            },
        }
    }

    /// Another node wants a command proposed.
    pub(super) fn forwarded(&mut self, now: Now, from: NodeId, bytes: &[u8]) {
        let Ok((call, command)) = super::controller::decode_forward(bytes) else {
            warn!(self.logger, "a forwarded command cannot be read"; "from" => from.0);
            return;
        };
        if self.leads_metadata() {
            self.propose_metadata(command, Owner::Forwarded { node: from, call });
        } else {
            self.send_forwarded(now, from, call, &Forwarded::NotProposed);
        }
    }

    pub(super) fn forward_answered(&mut self, now: Now, from: NodeId, bytes: &[u8]) {
        let Ok((call, outcome)) = Forwarded::decode(bytes) else {
            warn!(self.logger, "the answer to a forwarded command cannot be read"; "from" => from.0);
            return;
        };
        if !self.calls.is_at(call, from) {
            // It was given up meanwhile.
            return;
        }
        match outcome {
            Forwarded::Applied(response) => {
                if let Ok(MetadataOutcome::NodeRegistered { replica, members }) = &response.result {
                    self.taken_in(now, response.version, *replica, members.clone());
                }
                self.calls.answered(call, response, self.image.version());
            }
            Forwarded::NotProposed => self.calls.not_proposed(call),
            Forwarded::Lost => self.calls.lost(call),
        }
    }

    pub(super) fn answer_forwarded(&mut self, node: NodeId, call: u64, response: MetadataResponse) {
        self.forward_answers.push((node, call, Forwarded::Applied(response)));
    }

    pub(super) fn answer_forwarded_failure(&mut self, node: NodeId, call: u64, never_proposed: bool) {
        let outcome = if never_proposed { Forwarded::NotProposed } else { Forwarded::Lost };
        self.forward_answers.push((node, call, outcome));
    }

    pub(super) fn send_forward_answers(&mut self, now: Now) {
        for (node, call, outcome) in std::mem::take(&mut self.forward_answers) {
            self.send_forwarded(now, node, call, &outcome);
        }
    }

    fn send_forwarded(&mut self, now: Now, to: NodeId, call: u64, outcome: &Forwarded) {
        // Lost if the link is: the caller hears of the broken link, too.
        let _ = self.peers.send_control(now, to, super::controller::FORWARDED, outcome.encode(call));
    }

    /// The state of the metadata group as this node applied it.
    pub(super) fn metadata_image(&self) -> Option<&crate::metadata::MetadataImage> {
        // One that could not apply an entry has no state until it is made again; this node goes on with the image it has.
        match &self.replicas.get(&GroupId::METADATA).filter(|replica| !replica.is_rebuilding())?.machine {
            Machine::Metadata(state) => Some(state.image()),
            Machine::Partition(_) => None,
        }
    }
}
