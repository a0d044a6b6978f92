//! Hands committed entries to state machines, and what comes of them to whoever waits.
//!
//! Invariant: an apply that panics leaves nothing behind but a state machine that nobody looks at any more. It is shown
//! the state, the entry, which it cannot change, and an output that is dropped with the panic; no other state of the
//! process can be reached from there. So the state is all that has to be made again (see [`super::quarantine`]). What
//! follows apply, as storing its batches, is not guarded: a panic there is a broken invariant of the node.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytes::Bytes;
use slog::error;

use super::{
    Broker,
    replica::{Machine, Owner},
};
use crate::{
    api::Event,
    command::{ApplyOutput, CommandHeader, Entry, StateMachine},
    ids::{GroupId, LogIndex, Term},
    io::Exit,
    time::Now,
};

/// Applies one entry to a state machine and its storage. The one path that live operation and replay share; whoever
/// only replays drops what it returns.
/// `poison`: see [`NodeConfig::poison`](crate::config::NodeConfig::poison).
pub(crate) fn apply_entry(
    machine: &mut Machine,
    now: Now,
    entry: &Entry,
    poison: Option<&Bytes>,
) -> Result<Applied, ApplyFailure> {
    match machine {
        Machine::Metadata(state) => Ok(Applied::Metadata(apply_to_state(state, entry, poison)?)),
        Machine::Partition(partition) => {
            let mut out = apply_to_state(&mut partition.state, entry, poison)?;
            for batch in out.batches.drain(..) {
                partition.log.append(now.monotonic, batch).map_err(|damage| ApplyFailure::Exit(damage.into()))?;
            }
            // A state transfer may have brought batches to storage that the state machine comes to later.
            assert_eq!(partition.state.next_offset(), partition.log.applied_offset(), "state and storage go together");
            Ok(Applied::Partition(out))
        }
    }
}

/// Applies one entry to a state alone. After a panic the state is good for nothing.
pub(super) fn apply_to_state<M: StateMachine>(
    state: &mut M,
    entry: &Entry,
    poison: Option<&Bytes>,
) -> Result<ApplyOutput<M::Response>, Poisonous> {
    let applied = catch_unwind(AssertUnwindSafe(|| {
        let mut out = ApplyOutput::default();
        if let Some(poison) = poison.filter(|poison| !poison.is_empty()) {
            let is_poisoned = entry.data.windows(poison.len()).any(|window| window == &poison[..]);
            assert!(!is_poisoned, "this build was told not to apply such a command");
        }
        state.apply(entry, &mut out);
        out
    }));
    applied.map_err(|panic| Poisonous { index: entry.index, term: entry.term, what: said(&*panic) })
}

/// What a panic says.
fn said(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    literal.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it says nothing".to_owned())
}

/// The command of a committed entry, from its payload.
pub(crate) fn entry_of(index: LogIndex, term: Term, context: &[u8], data: Bytes) -> Result<Entry, Poisonous> {
    match CommandHeader::decode_understood(context) {
        Ok(header) => Ok(Entry { index, term, header, data }),
        Err(error) => Err(Poisonous { index, term, what: error.to_string() }),
    }
}

/// This build cannot apply an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Poisonous {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    /// What the panic says, or why the command is not understood.
    pub(crate) what: String,
}

/// Why an entry is not applied.
#[derive(Debug)]
pub(crate) enum ApplyFailure {
    Poisonous(Poisonous),
    Exit(Exit),
}

impl From<Poisonous> for ApplyFailure {
    fn from(poisonous: Poisonous) -> Self {
        Self::Poisonous(poisonous)
    }
}

/// What applying an entry tells this node.
pub(crate) enum Applied {
    Metadata(ApplyOutput<<crate::metadata::MetadataState as StateMachine>::Response>),
    Partition(ApplyOutput<<crate::partition::PartitionState as StateMachine>::Response>),
}

impl Broker {
    pub(super) fn apply(&mut self, now: Now, id: GroupId, entry: &Entry) -> Result<(), Poisonous> {
        let Some(replica) = self.replicas.get_mut(&id) else { return Ok(()) };
        let applied = match apply_entry(&mut replica.machine, now, entry, self.config.poison.as_ref()) {
            Ok(applied) => applied,
            Err(ApplyFailure::Poisonous(poisonous)) => return Err(poisonous),
            Err(ApplyFailure::Exit(exit)) => {
                error!(self.logger, "a partition's files differ from its log"; "group" => id.0, "reason" => %exit);
                self.exit.get_or_insert(exit);
                return Ok(());
            }
        };
        let own = replica.group.replica();
        match applied {
            Applied::Metadata(out) => {
                self.image_moved = true;
                for response in out.responses {
                    if response.origin != own {
                        continue;
                    }
                    match self.take_owner(id, response.token, response.term) {
                        Some(Owner::Call(call)) => {
                            // The image that callers see is the state's own from the next step of this turn on.
                            let version = response.response.version;
                            self.calls.answered(call, response.response, version);
                        }
                        Some(Owner::Forwarded { node, call }) => self.answer_forwarded(node, call, response.response),
                        Some(Owner::Liveness(node)) => self.liveness_settled(node),
                        Some(Owner::Produce(_) | Owner::Nobody) | None => {}
                    }
                }
            }
            Applied::Partition(out) => {
                self.watch.wake(id);
                self.live_logs.appended(id, now.monotonic);
                for response in out.responses {
                    if response.origin != own {
                        continue;
                    }
                    if let Some(Owner::Produce(waiter)) = self.take_owner(id, response.token, response.term) {
                        let event = Event::Appended { part: waiter.part, outcome: response.response };
                        self.events.push_back((waiter.request, event));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whoever waits for this very command: same token, same term.
    fn take_owner(&mut self, id: GroupId, token: crate::command::WaiterToken, term: Term) -> Option<Owner> {
        let replica = self.replicas.get_mut(&id)?;
        let proposed = replica.proposed.get(&token).filter(|proposed| proposed.term == term)?;
        let owner = proposed.owner;
        replica.proposed.remove(&token);
        Some(owner)
    }
}
