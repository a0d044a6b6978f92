//! The client that creates the topics.

use kauri_protocol::{
    ErrorCode, Message as _,
    messages::{CreateTopicsRequest, CreateTopicsResponse, create_topics::CreatableTopic},
};

use super::{
    super::partitions::Partitions,
    kafka::{Kafka, Told, version},
    wire,
};
use crate::{
    client::{Client, ClientEffects, ClientInput},
    dice::Dice,
    history::{History, Partition},
    plan::{Plan, TopicPlan},
    time::{Instant, Span},
};

const RETRY: Span = Span::milliseconds(250);

/// Asks until all topics exist.
pub(in crate::workload) struct Admin {
    kafka: Kafka<()>,
    missing: Vec<TopicPlan>,
    version: i16,
    asked: bool,
    ask_at: Instant,
    last_error: Option<ErrorCode>,
}

impl Admin {
    pub(in crate::workload) fn new(plan: &Plan) -> Self {
        let mut dice = Dice::new(plan.seed, "admin", 0, 0);
        let version = version(&mut dice, CreateTopicsRequest::API);
        let partitions = Partitions::of(&plan.workload);
        Self {
            kafka: Kafka::new("admin".to_owned(), plan.nodes.len(), partitions, dice),
            missing: plan.workload.topics.clone(),
            version,
            asked: false,
            ask_at: Instant::default() + RETRY,
            last_error: None,
        }
    }

    fn answered(&mut self, answer: &CreateTopicsResponse) {
        for topic in &answer.topics {
            match topic.error_code {
                ErrorCode::None | ErrorCode::TopicAlreadyExists => {
                    self.missing.retain(|missing| missing.name != topic.name.as_str());
                }
                error => self.last_error = Some(error),
            }
        }
    }
}

impl Client for Admin {
    fn handle(&mut self, _now: Instant, input: ClientInput, history: &mut History) {
        self.kafka.handle(input, history);
    }

    fn poll(&mut self, now: Instant, effects: &mut ClientEffects, history: &mut History) {
        while let Some(told) = self.kafka.next(now, history) {
            self.asked = false;
            self.ask_at = now + RETRY;
            if let Told::Answer { version, mut body, .. } = told {
                match wire::read::<CreateTopicsResponse>(&mut body, version) {
                    Ok(answer) => self.answered(&answer),
                    Err(error) => history.refuse(format!("admin: {error}")),
                }
            }
        }
        if !self.asked && now >= self.ask_at && !self.missing.is_empty() {
            self.asked = true;
            let topics = self.missing.iter().map(|topic| CreatableTopic {
                name: topic.name.clone().into(),
                num_partitions: i32::try_from(topic.partitions).expect("few partitions"),
                replication_factor: i16::try_from(topic.replicas).expect("few replicas"),
                ..Default::default()
            });
            let request = CreateTopicsRequest { topics: topics.collect(), timeout_ms: 5_000, validate_only: false };
            let node = self.kafka.any_node();
            self.kafka.request(now, node, &request, self.version, ());
        }
        self.kafka.poll(now, effects);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let ask = (!self.asked && !self.missing.is_empty()).then_some(self.ask_at);
        [ask, self.kafka.next_deadline()].into_iter().flatten().min()
    }

    fn has_healed(&self, _history: &History) -> bool {
        self.missing.is_empty()
    }

    fn stuck(&self, _history: &History) -> Vec<Partition> {
        Vec::new()
    }

    fn waits_for(&self, _history: &History) -> String {
        let names: Vec<&str> = self.missing.iter().map(|topic| topic.name.as_str()).collect();
        format!("topics {} were not created; the last error was {:?}", names.join(", "), self.last_error)
    }
}
