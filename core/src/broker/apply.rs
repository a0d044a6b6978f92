//! Hands committed entries to state machines, and what comes of them to whoever waits.

use slog::error;

use super::{
    Broker,
    replica::{Machine, Owner},
};
use crate::{
    api::Event,
    command::{ApplyOutput, Entry, StateMachine},
    ids::{GroupId, Term},
    io::Exit,
    time::Now,
};

/// Applies one entry to a state machine and its storage. The one path that live operation and replay share; whoever
/// only replays drops what it returns.
pub(crate) fn apply_entry(machine: &mut Machine, now: Now, entry: &Entry) -> Result<Applied, Exit> {
    match machine {
        Machine::Metadata(state) => {
            let mut out = ApplyOutput::default();
            state.apply(entry, &mut out);
            Ok(Applied::Metadata(out))
        }
        Machine::Partition(partition) => {
            let mut out = ApplyOutput::default();
            partition.state.apply(entry, &mut out);
            for batch in out.batches.drain(..) {
                partition.log.append(now.monotonic, batch).map_err(Exit::from)?;
            }
            // A state transfer may have brought batches to storage that the state machine comes to later.
            assert_eq!(partition.state.next_offset(), partition.log.applied_offset(), "state and storage go together");
            Ok(Applied::Partition(out))
        }
    }
}

/// What applying an entry tells this node.
pub(crate) enum Applied {
    Metadata(ApplyOutput<<crate::metadata::MetadataState as StateMachine>::Response>),
    Partition(ApplyOutput<<crate::partition::PartitionState as StateMachine>::Response>),
}

impl Broker {
    pub(super) fn apply(&mut self, now: Now, id: GroupId, entry: &Entry) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let applied = match apply_entry(&mut replica.machine, now, entry) {
            Ok(applied) => applied,
            Err(exit) => {
                error!(self.logger, "a partition's files differ from its log"; "group" => id.0, "reason" => %exit);
                self.exit.get_or_insert(exit);
                return;
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
