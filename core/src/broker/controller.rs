//! Commands to the metadata group from any node.
//!
//! A command is proposed here if this node leads the metadata group, and is otherwise forwarded to the node that does.
//! The outcome is handed on only when this node's own image is as new as the one the command was applied to: whoever
//! got an answer from this node sees the change on this node.
//!
//! Invariant: every call ends exactly once: with what was decided, or with an error that says whether it may still be
//! decided. A call is forwarded again only if the node it went to said that it did not propose it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use kauri_protocol::error::ErrorCode;

use crate::{
    api::Waiter,
    codec::{self, CodecError, Decoder, Encode},
    ids::{BootNumber, DirectoryId, ImageVersion, NodeId},
    limits::CALLS_MAX,
    metadata::{MetadataCommand, MetadataOutcome, MetadataResponse, Refusal},
    replication::peer::ControlKind,
    time::Monotonic,
};

/// Control messages of this module.
pub(super) const FORWARD: ControlKind = ControlKind(16);
pub(super) const FORWARDED: ControlKind = ControlKind(17);

/// How long a call may take in all.
const CALL_MAX: Duration = Duration::from_secs(20);
/// A node that says it does not lead is not asked again before: it may not serve yet, and says so at once.
const RETRY: Duration = Duration::from_millis(20);
/// A call to a leader that does not answer is given up after this; what became of it is then unknown.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Why a command was refused, for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerError {
    pub code: ErrorCode,
    pub message: String,
}

pub type ControllerOutcome = MetadataOutcome;

impl ControllerError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<ErrorCode> for ControllerError {
    fn from(code: ErrorCode) -> Self {
        Self { code, message: code.message().to_owned() }
    }
}

impl From<Refusal> for ControllerError {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code(), message: refusal.to_string() }
    }
}

/// Who made a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// A client's request.
    Request(Waiter),
    /// This node registers itself.
    Registration,
    /// This node wants a block of producer ids.
    ProducerIds,
}

/// A call that ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) caller: Caller,
    pub(super) outcome: Result<MetadataOutcome, ControllerError>,
}

/// What the broker shall do with a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Propose it here; report with `proposed_here`, `answered` or `not_proposed`.
    Propose { call: u64 },
    /// Send these bytes as [`FORWARD`].
    Forward { to: NodeId, bytes: Bytes },
}

/// The calls of this node.
#[derive(Debug, Default)]
pub(super) struct Calls {
    next: u64,
    open: BTreeMap<u64, Call>,
    /// Not proposed anywhere so far.
    unsent: BTreeSet<u64>,
    /// Decided, but this node's image is older.
    behind: BTreeMap<(ImageVersion, u64), (Caller, Result<MetadataOutcome, Refusal>)>,
    ended: Vec<Ended>,
}

#[derive(Debug)]
struct Call {
    caller: Caller,
    command: MetadataCommand,
    give_up: Monotonic,
    /// Where it was sent and until when an answer is awaited.
    sent: Option<(NodeId, Monotonic)>,
    retry: Retry,
}

/// When a call may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    AtOnce,
    /// It was turned down since the last poll.
    Paused,
    At(Monotonic),
}

impl Calls {
    /// Numbers of calls do not repeat over starts of this node, whose disk may have been replaced between two: an answer
    /// to an earlier process's call is nobody's.
    pub(super) fn new(directory: DirectoryId, boot: BootNumber) -> Self {
        Self { next: codec::hash(&directory.0.0).wrapping_add(boot.0) << 32, ..Self::default() }
    }

    /// No more calls for clients.
    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= CALLS_MAX
    }

    /// Whether the call waits for an answer of this node.
    pub(super) fn is_at(&self, call: u64, node: NodeId) -> bool {
        self.open.get(&call).is_some_and(|call| call.sent.is_some_and(|(to, _)| to == node))
    }

    pub(super) fn start(&mut self, now: Monotonic, command: MetadataCommand, caller: Caller) {
        let id = self.next;
        self.next += 1;
        self.open.insert(id, Call { caller, command, give_up: now + CALL_MAX, sent: None, retry: Retry::AtOnce });
        self.unsent.insert(id);
    }

    /// Sends what is not sent. `leader` is the node that leads the metadata group and can be reached.
    pub(super) fn poll(&mut self, now: Monotonic, own: NodeId, leader: Option<NodeId>, steps: &mut Vec<Step>) {
        let late: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, call)| call.give_up <= now || call.sent.is_some_and(|(_, until)| until <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            let sent = !self.unsent.contains(&id);
            let error = if sent {
                ControllerError::new(
                    ErrorCode::RequestTimedOut,
                    "the metadata group did not answer in time; the request may still be carried out",
                )
            } else {
                ControllerError::new(ErrorCode::NotController, "the metadata group has no leader that can be reached")
            };
            self.end(id, Err(error));
        }
        for id in &self.unsent {
            let call = self.open.get_mut(id).expect("an unsent call is open");
            call.retry = match call.retry {
                Retry::Paused => Retry::At(now + RETRY),
                Retry::At(at) if at > now => Retry::At(at),
                Retry::At(_) | Retry::AtOnce => Retry::AtOnce,
            };
        }
        let Some(leader) = leader else { return };
        for id in std::mem::take(&mut self.unsent) {
            let call = self.open.get_mut(&id).expect("an unsent call is open");
            if call.retry != Retry::AtOnce {
                self.unsent.insert(id);
                continue;
            }
            call.sent = Some((leader, now + ANSWER_MAX));
            steps.push(if leader == own {
                Step::Propose { call: id }
            } else {
                Step::Forward { to: leader, bytes: encode_forward(id, &call.command) }
            });
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        let next = |call: &Call| match (call.sent, call.retry) {
            (Some((_, until)), _) => until.min(call.give_up),
            // Without a leader it waits for one, and the leader's coming is an event.
            (None, Retry::At(at)) => at.min(call.give_up),
            (None, Retry::AtOnce | Retry::Paused) => call.give_up,
        };
        self.open.values().map(next).min()
    }

    /// Whether [`Calls::poll`] has anything to look at.
    pub(super) fn are_open(&self) -> bool {
        !self.open.is_empty()
    }

    pub(super) fn command(&self, call: u64) -> Option<&MetadataCommand> {
        self.open.get(&call).map(|call| &call.command)
    }

    /// The command was applied.
    pub(super) fn answered(&mut self, id: u64, response: MetadataResponse, image: ImageVersion) {
        let Some(call) = self.open.remove(&id) else { return };
        self.unsent.remove(&id);
        if let Ok(outcome) = &response.result
            && !fits(&call.command, outcome)
        {
            // Another node said so; what it decided is not known.
            let error = ControllerError::new(ErrorCode::UnknownServerError, "the answer does not fit the request");
            self.ended.push(Ended { caller: call.caller, outcome: Err(error) });
            return;
        }
        // A node that is not taken in has no image that could catch up.
        let is_final = call.caller == Caller::Registration && response.result.is_err();
        if response.version <= image || is_final {
            let outcome = response.result.map_err(ControllerError::from);
            self.ended.push(Ended { caller: call.caller, outcome });
        } else {
            self.behind.insert((response.version, id), (call.caller, response.result));
        }
    }

    /// The node it went to did not propose it: another attempt is safe.
    pub(super) fn not_proposed(&mut self, id: u64) {
        if let Some(call) = self.open.get_mut(&id) {
            call.sent = None;
            call.retry = Retry::Paused;
            self.unsent.insert(id);
        }
    }

    /// It was proposed, and then leadership moved: it may or may not be applied.
    pub(super) fn lost(&mut self, id: u64) {
        self.end(
            id,
            Err(ControllerError::new(
                ErrorCode::RequestTimedOut,
                "the leader of the metadata group changed; the request may still be carried out",
            )),
        );
    }

    /// Links to the node broke: answers of it are lost.
    pub(super) fn peer_lost(&mut self, node: NodeId) {
        let lost: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, call)| call.sent.is_some_and(|(to, _)| to == node))
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            self.lost(id);
        }
    }

    /// This node's image moved on.
    pub(super) fn image_moved(&mut self, image: ImageVersion) {
        while let Some(entry) = self.behind.first_entry() {
            if entry.key().0 > image {
                break;
            }
            let (caller, result) = entry.remove();
            self.ended.push(Ended { caller, outcome: result.map_err(ControllerError::from) });
        }
    }

    /// Calls that have not ended.
    pub(super) fn len(&self) -> usize {
        self.open.len() + self.behind.len() + self.ended.len()
    }

    pub(super) fn take_ended(&mut self) -> Vec<Ended> {
        std::mem::take(&mut self.ended)
    }

    fn end(&mut self, id: u64, outcome: Result<MetadataOutcome, ControllerError>) {
        if let Some(call) = self.open.remove(&id) {
            self.unsent.remove(&id);
            self.ended.push(Ended { caller: call.caller, outcome });
        }
    }
}

/// Whether an outcome is one of this command's.
fn fits(command: &MetadataCommand, outcome: &MetadataOutcome) -> bool {
    match (command, outcome) {
        (MetadataCommand::CreateTopic(command), MetadataOutcome::TopicCreated(topic)) => command.topic == *topic,
        (MetadataCommand::DeleteTopic(command), MetadataOutcome::TopicDeleted(topic)) => command.topic == *topic,
        (MetadataCommand::FormCluster(_), MetadataOutcome::ClusterFormed)
        | (
            MetadataCommand::RegisterNode(_) | MetadataCommand::ReplaceNode(_),
            MetadataOutcome::NodeRegistered { .. },
        )
        | (MetadataCommand::AllocateProducerIds(_), MetadataOutcome::ProducerIds { .. })
        | (MetadataCommand::SetNodeLiveness(_), MetadataOutcome::LivenessSet) => true,
        (
            _,
            MetadataOutcome::ClusterFormed
            | MetadataOutcome::NodeRegistered { .. }
            | MetadataOutcome::TopicCreated(_)
            | MetadataOutcome::TopicDeleted(_)
            | MetadataOutcome::ProducerIds { .. }
            | MetadataOutcome::LivenessSet,
        ) => false,
    }
}

const VERSION: u8 = 1;

fn encode_forward(call: u64, command: &MetadataCommand) -> Bytes {
    let mut out = vec![VERSION];
    out.put_u64(call);
    out.put_u8(command.kind());
    out.put_counted(&command.encode());
    Bytes::from(out)
}

/// A forwarded command: the sender's number of the call, and the command.
pub(super) fn decode_forward(bytes: &[u8]) -> Result<(u64, MetadataCommand), CodecError> {
    let mut from = Decoder::new(bytes);
    from.version("a forwarded command", VERSION)?;
    let call = from.u64()?;
    let kind = from.u8()?;
    let command = MetadataCommand::decode(kind, from.counted()?)?;
    from.finish()?;
    Ok((call, command))
}

/// What became of a forwarded command at the node it was forwarded to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Forwarded {
    Applied(MetadataResponse),
    /// This node does not lead; nothing was proposed.
    NotProposed,
    /// Proposed, and leadership moved.
    Lost,
}

impl Forwarded {
    pub(super) fn encode(&self, call: u64) -> Bytes {
        let mut out = vec![VERSION];
        out.put_u64(call);
        match self {
            Self::NotProposed => out.put_u8(0),
            Self::Lost => out.put_u8(1),
            Self::Applied(response) => {
                out.put_u8(2);
                out.put_counted(&response.encode());
            }
        }
        Bytes::from(out)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<(u64, Self), CodecError> {
        let mut from = Decoder::new(bytes);
        from.version("the answer to a forwarded command", VERSION)?;
        let call = from.u64()?;
        let forwarded = match from.u8()? {
            0 => Self::NotProposed,
            1 => Self::Lost,
            2 => Self::Applied(MetadataResponse::decode(from.counted()?)?),
            _ => return Err(CodecError::Value("the answer to a forwarded command")),
        };
        from.finish()?;
        Ok((call, forwarded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{ConnectionId, ProducerId, TopicId, Uuid},
        metadata::commands::DeleteTopic,
        session::RequestId,
    };

    const NOW: Monotonic = Monotonic(1);
    const OWN: NodeId = NodeId(1);
    const LEADER: NodeId = NodeId(2);

    fn command() -> MetadataCommand {
        MetadataCommand::DeleteTopic(DeleteTopic { topic: TopicId(Uuid([7; 16])) })
    }

    fn caller() -> Caller {
        Caller::Request(Waiter { request: RequestId { connection: ConnectionId(1), sequence: 1 }, part: 0 })
    }

    fn response(version: u64) -> MetadataResponse {
        let outcome = MetadataOutcome::TopicDeleted(TopicId(Uuid([7; 16])));
        MetadataResponse { version: ImageVersion(version), result: Ok(outcome) }
    }

    #[test]
    fn an_outcome_waits_for_this_nodes_image() {
        let mut calls = Calls::default();
        calls.start(NOW, command(), caller());
        let mut steps = Vec::new();
        calls.poll(NOW, OWN, Some(LEADER), &mut steps);
        let [Step::Forward { to: LEADER, bytes }] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!(decode_forward(bytes), Ok((0, command())));
        calls.answered(0, response(10), ImageVersion(9));
        assert!(calls.take_ended().is_empty());
        calls.image_moved(ImageVersion(10));
        assert_eq!(calls.take_ended().len(), 1);
        assert_eq!(calls.next_deadline(), None);
    }

    #[test]
    fn a_call_that_was_not_proposed_is_sent_again_and_one_that_was_is_not() {
        let mut calls = Calls::default();
        calls.start(NOW, command(), caller());
        let mut steps = Vec::new();
        calls.poll(NOW, OWN, None, &mut steps);
        assert!(steps.is_empty(), "no leader is known");
        calls.poll(NOW, OWN, Some(LEADER), &mut steps);
        calls.not_proposed(0);
        calls.poll(NOW, OWN, Some(OWN), &mut steps);
        assert_eq!(steps.len(), 1, "not at once: whoever turned it down would do so again");
        let later = calls.next_deadline().unwrap();
        assert!(later <= NOW + RETRY);
        calls.poll(later, OWN, Some(OWN), &mut steps);
        assert_eq!(steps[1], Step::Propose { call: 0 });
        calls.lost(0);
        let ended = calls.take_ended();
        assert_eq!(ended[0].outcome.as_ref().unwrap_err().code, ErrorCode::RequestTimedOut);
        steps.clear();
        calls.poll(later, OWN, Some(OWN), &mut steps);
        assert!(steps.is_empty());
    }

    #[test]
    fn an_answer_to_another_call_answers_nothing() {
        let directory = |number| DirectoryId(Uuid([number; 16]));
        let mut calls = Calls::new(directory(1), BootNumber(3));
        calls.start(NOW, command(), caller());
        let mut steps = Vec::new();
        calls.poll(NOW, OWN, Some(LEADER), &mut steps);
        let first = |calls: Calls| calls.next;
        let earlier = first(Calls::new(directory(1), BootNumber(2)));
        assert!(!calls.is_at(earlier, LEADER), "a call of an earlier process had this number");
        let replaced = first(Calls::new(directory(2), BootNumber(3)));
        assert!(!calls.is_at(replaced, LEADER), "a call of the disk before had this number");
        let call = first(Calls::new(directory(1), BootNumber(3)));
        assert!(calls.is_at(call, LEADER) && !calls.is_at(call, NodeId(3)));
        let other = MetadataOutcome::ProducerIds { first: ProducerId(5), count: 1 };
        calls.answered(call, MetadataResponse { version: ImageVersion(1), result: Ok(other) }, ImageVersion(1));
        assert_eq!(calls.take_ended()[0].outcome.as_ref().unwrap_err().code, ErrorCode::UnknownServerError);
    }

    #[test]
    fn answers_survive_the_way_between_nodes() {
        for forwarded in [Forwarded::NotProposed, Forwarded::Lost, Forwarded::Applied(response(3))] {
            assert_eq!(Forwarded::decode(&forwarded.encode(9)), Ok((9, forwarded)));
        }
        assert!(Forwarded::decode(&[1, 0, 0]).is_err());
    }
}
