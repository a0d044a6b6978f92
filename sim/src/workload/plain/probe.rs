//! A client that asks for the latest offset of one partition after the other.

use kauri_core::ids::Offset;
use kauri_protocol::{
    ErrorCode, Message as _,
    messages::{
        ListOffsetsRequest, ListOffsetsResponse,
        list_offsets::{LATEST_TIMESTAMP, ListOffsetsPartition, ListOffsetsTopic},
    },
};

use super::{
    super::partitions::Partitions,
    kafka::{Kafka, Told, version},
    wire,
};
use crate::{
    client::{Client, ClientEffects, ClientInput},
    dice::Dice,
    history::{History, Partition, ProbeNumber},
    plan::{Plan, ProbePlan},
    time::{Instant, Span},
};

pub(in crate::workload) struct Prober {
    kafka: Kafka<(Partition, ProbeNumber)>,
    pause: Span,
    version: i16,
    ask_at: Instant,
    asked: bool,
    healing: bool,
    answered_since_heal: bool,
    last_error: Option<ErrorCode>,
}

impl Prober {
    pub(in crate::workload) fn new(plan: &Plan, number: usize, probe: &ProbePlan) -> Self {
        let mut dice = Dice::new(plan.seed, "probe", number, 0);
        let ProbePlan { pause } = *probe;
        // Version 0 answers with a list of offsets, which is another question.
        let version = version(&mut dice, ListOffsetsRequest::API).max(1);
        Self {
            kafka: Kafka::new(format!("probe-{number}"), plan.nodes.len(), Partitions::of(&plan.workload), dice),
            pause,
            version,
            ask_at: Instant::default(),
            asked: false,
            healing: false,
            answered_since_heal: false,
            last_error: None,
        }
    }

    fn ask(&mut self, now: Instant, history: &mut History) {
        self.ask_at = now + self.pause;
        let partition = Partition(self.kafka.dice.below(u64::from(self.kafka.partitions.count())) as u32);
        let Some(leader) = self.kafka.leader(partition) else { return };
        let (topic, index) = self.kafka.partitions.name(partition);
        let asked = ListOffsetsPartition { partition_index: index, timestamp: LATEST_TIMESTAMP, ..Default::default() };
        let topics = vec![ListOffsetsTopic { name: topic.clone(), partitions: vec![asked] }];
        let request = ListOffsetsRequest { topics, ..Default::default() };
        let probe = history.probe(partition, now);
        self.asked = true;
        self.kafka.request(now, leader.node, &request, self.version, (partition, probe));
    }

    fn answered(&mut self, now: Instant, answer: &ListOffsetsResponse, probe: ProbeNumber, history: &mut History) {
        let told = answer.topics.first().and_then(|topic| topic.partitions.first());
        match told {
            Some(told) if told.error_code == ErrorCode::None => {
                history.answer(probe, Offset(told.offset), now);
                self.answered_since_heal |= self.healing;
            }
            Some(told) => {
                self.last_error = Some(told.error_code);
                self.kafka.doubt(now);
            }
            None => history.refuse(format!("{}: an answer to ListOffsets names no partition", self.kafka.name)),
        }
    }
}

impl Client for Prober {
    fn handle(&mut self, _now: Instant, input: ClientInput, history: &mut History) {
        self.healing |= matches!(input, ClientInput::Heal);
        self.kafka.handle(input, history);
    }

    fn poll(&mut self, now: Instant, effects: &mut ClientEffects, history: &mut History) {
        while let Some(told) = self.kafka.next(now, history) {
            self.asked = false;
            if let Told::Answer { what: (_, probe), version, mut body } = told {
                match wire::read::<ListOffsetsResponse>(&mut body, version) {
                    Ok(answer) => self.answered(now, &answer, probe, history),
                    Err(error) => history.refuse(format!("{}: {error}", self.kafka.name)),
                }
            }
        }
        if !self.asked && now >= self.ask_at {
            self.ask(now, history);
        }
        self.kafka.poll(now, effects);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let ask = (!self.asked).then_some(self.ask_at);
        [ask, self.kafka.next_deadline()].into_iter().flatten().min()
    }

    fn has_healed(&self, _history: &History) -> bool {
        self.answered_since_heal
    }

    fn stuck(&self, _history: &History) -> Vec<Partition> {
        Vec::new()
    }

    fn waits_for(&self, _history: &History) -> String {
        format!("{} got no answer to ListOffsets; the last error was {:?}", self.kafka.name, self.last_error)
    }
}
