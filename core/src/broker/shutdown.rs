//! A requested stop: leaderships are handed over first, so that clients wait for a moment instead of an election.

use std::time::Duration;

use slog::info;

use super::Broker;
use crate::{
    io::Exit,
    replication::group::{ReplicaProgress, ReplicationState},
    time::{Monotonic, Now},
};

/// A shutdown that cannot hand everything over within this time ends all the same: nothing is lost by it.
const HAND_OVER_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(super) struct Shutdown {
    give_up: Option<Monotonic>,
    /// Nothing was led for a moment. What others hand over from then on is not handed back.
    handed_over: bool,
}

impl Shutdown {
    pub(super) fn has_begun(&self) -> bool {
        self.give_up.is_some()
    }
}

impl Broker {
    pub(super) fn begin_shutdown(&mut self, now: Now) {
        if self.shutdown.give_up.is_none() {
            info!(self.logger, "stopping");
            self.shutdown.give_up = Some(now.monotonic + HAND_OVER_MAX);
            self.hand_over();
        }
    }

    /// Called every turn; asks where somebody is able to take over now, and ends once nothing is led.
    pub(super) fn advance_shutdown(&mut self, now: Now) {
        let Some(give_up) = self.shutdown.give_up else { return };
        if !self.shutdown.handed_over {
            self.shutdown.handed_over = !self.hand_over();
        }
        // The next start has little to read after a checkpoint.
        let is_over = self.shutdown.handed_over && self.wal.queued_bytes() == 0 && !self.checkpoint_before_end();
        if is_over || now.monotonic >= give_up {
            self.exit.get_or_insert(Exit::Stopped);
        }
    }

    /// Whether anything is still led that another node could lead.
    fn hand_over(&mut self) -> bool {
        let mut leads = false;
        for (id, replica) in &mut self.replicas {
            if !replica.group.is_leader() {
                continue;
            }
            let own = replica.group.replica();
            let candidates: Vec<ReplicaProgress> = replica
                .group
                .progress()
                .into_iter()
                .filter(|member| {
                    member.replica != own
                        && replica.group.membership().is_voter(member.replica)
                        && replica.node_of(member.replica).is_some_and(|node| self.peers.is_up(node))
                })
                .collect();
            leads |= !candidates.is_empty();
            let ready = candidates.into_iter().filter(|member| member.state == ReplicationState::Replicate);
            // One that is held before an entry has everything, perhaps, and answers nothing.
            if let Some(best) = ready.max_by_key(|member| (member.recently_active, member.matched))
                && !replica.handing_over
            {
                replica.handing_over = true;
                // A refusal means that this replica stopped leading meanwhile.
                let _ = replica.group.transfer_leader(best.replica);
                self.dirty.insert(*id);
            }
        }
        leads
    }
}
