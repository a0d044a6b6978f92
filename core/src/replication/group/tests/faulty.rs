//! Replicas whose disks lost payloads of their logs.

use raft::prelude::MessageType;

use super::super::{Copy, Payload, Refused, Role, SnapshotOffer};
use super::cluster::Cluster;
use super::member::command;
use crate::{
    ids::{LogIndex, ReplicaId, Term},
    limits,
    log::record::WalRecord,
};

/// Entry 2 is the first leader's empty one: commands begin here.
const FIRST: LogIndex = LogIndex(3);

impl Cluster {
    /// Three members that applied these commands; 1 leads.
    fn with_commands(commands: &[&'static str]) -> Self {
        let mut cluster = Self::new(3);
        cluster.elect(1);
        for data in commands {
            cluster.propose(1, data);
        }
        cluster.settle();
        cluster.tick(2 * limits::HEARTBEAT_TICKS);
        cluster
    }

    fn restart(&mut self, id: u64, damaged: &[LogIndex]) {
        self.member(id).crash(0);
        damaged.iter().for_each(|index| self.member(id).disk.damage(*index));
        self.member(id).start();
    }

    /// What a member can give.
    fn copy(&mut self, from: u64, index: LogIndex, term: Term, crc: u32) -> Option<Payload> {
        match self.group(from).copy_of(index, term, crc) {
            Copy::Payload(payload) => Some(payload),
            Copy::OnDisk(read) => self.member(from).disk.read(&read.location),
            Copy::Compacted | Copy::Faulty | Copy::Absent => None,
        }
    }

    /// Writes what others have of the first lost entry; whether anybody has it.
    fn repair(&mut self, id: u64) -> bool {
        let entry = self.group(id).faulty().next().expect("something is lost");
        for other in self.members.keys().copied().collect::<Vec<_>>() {
            if other != id
                && self.member(other).is_running()
                && let Some(payload) = self.copy(other, entry.index, entry.term, entry.crc)
            {
                let record = self.group(id).repair(entry.index, entry.term, payload).expect("it is what is missing");
                let (write, placed) = self.member(id).disk.append(vec![record]);
                self.group(id).wrote_repair(entry.index, write);
                for (index, term, location) in placed {
                    self.group(id).placed(index, term, location);
                }
                return true;
            }
        }
        false
    }

    fn acknowledged(&self, by: u64) -> u64 {
        let is_response = |message: &&raft::prelude::Message| {
            message.get_msg_type() == MessageType::MsgAppendResponse && !message.reject
        };
        let of = self.delivered.iter().filter(|message| message.from == by);
        of.filter(is_response).map(|message| message.index).max().unwrap_or_default()
    }
}

#[test]
fn a_commit_counts_intact_copies() {
    let mut cluster = Cluster::with_commands(&["a", "b"]);
    let lost = LogIndex(FIRST.0 + 1);
    cluster.restart(2, &[lost]);
    cluster.delivered.clear();
    cluster.isolate(3);
    cluster.cut.remove(&(1, 2));
    cluster.cut.remove(&(2, 1));
    let (_, index) = cluster.propose(1, "c");
    cluster.tick(3 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.group(2).last_index(), index, "it takes what comes");
    assert_eq!(cluster.acknowledged(2), FIRST.0, "and acknowledges nothing from the lost entry on");
    assert!(cluster.group(1).commit_index() < index);
    assert_eq!(cluster.applied(2), ["a"], "nothing lost is applied, nor what follows");

    assert!(cluster.repair(2));
    cluster.member(2).pump();
    assert_eq!(cluster.acknowledged(2), FIRST.0, "a repair counts when it is durable");
    cluster.settle();
    assert_eq!(cluster.acknowledged(2), index.0, "what was held back goes out at once");
    assert_eq!(cluster.group(1).commit_index(), index);
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.applied(2), ["a", "b", "c"]);
    cluster.restart(2, &[]);
    assert!(!cluster.group(2).is_faulty(), "the repair is on its disk");
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.applied(2), ["a", "b", "c"]);
}

#[test]
fn of_several_repairs_each_lets_go_as_much_as_it_may() {
    let mut cluster = Cluster::with_commands(&["a", "b", "c", "d"]);
    cluster.restart(2, &[FIRST, LogIndex(FIRST.0 + 2)]);
    cluster.delivered.clear();
    // Another leader has to find out how far it goes.
    cluster.elect(3);
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.acknowledged(2), FIRST.0 - 1);
    assert!(cluster.repair(2));
    cluster.settle();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.acknowledged(2), FIRST.0 + 1);
    assert_eq!(cluster.applied(2), ["a", "b"]);
    assert!(cluster.repair(2));
    cluster.settle();
    assert_eq!(cluster.acknowledged(2), cluster.group(2).last_index().0);
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.applied(2), ["a", "b", "c", "d"]);
}

#[test]
fn it_votes_by_the_true_end_of_its_log_and_never_leads() {
    let mut cluster = Cluster::with_commands(&["a"]);
    cluster.isolate(3);
    cluster.cut.remove(&(1, 2));
    cluster.cut.remove(&(2, 1));
    cluster.propose(1, "b");
    cluster.settle();
    cluster.restart(2, &[FIRST]);
    cluster.heal();
    cluster.isolate(1);
    cluster.ignore_leases(true);
    // 3 misses what 1 and 2 committed, and 2 must not lead before it is whole.
    cluster.tick_elections();
    cluster.group(2).campaign();
    cluster.settle();
    assert_eq!(cluster.group(2).role(), Role::Follower);
    assert_ne!(cluster.group(3).role(), Role::Leader);
    let timeout_now = {
        let mut message =
            raft::prelude::Message { from: 3, to: 2, term: cluster.group(2).term().0, ..Default::default() };
        message.set_msg_type(MessageType::MsgTimeoutNow);
        message
    };
    assert_eq!(cluster.group(2).step(timeout_now), Err(Refused::Faulty));

    assert!(cluster.repair(2), "3 leads nobody, and gives what it has");
    cluster.settle();
    cluster.tick_elections();
    assert_eq!(cluster.group(2).role(), Role::Leader);
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.applied(3), ["a", "b"]);
}

#[test]
fn it_grants_votes_after_a_leader_was_silent() {
    let mut cluster = Cluster::with_commands(&["a"]);
    cluster.restart(2, &[FIRST]);
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    cluster.isolate(1);
    cluster.tick_elections();
    assert_eq!(cluster.group(3).role(), Role::Leader, "with the vote of 2");
}

#[test]
fn a_leader_that_truncates_ends_it() {
    let mut cluster = Cluster::with_commands(&["a"]);
    cluster.isolate(1);
    let (_, index) = cluster.propose(1, "never committed");
    cluster.settle();
    cluster.restart(1, &[index]);
    assert!(cluster.group(1).is_faulty());
    cluster.elect(2);
    cluster.propose(2, "b");
    cluster.settle();
    cluster.heal();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert!(!cluster.group(1).is_faulty());
    assert_eq!(cluster.applied(1), ["a", "b"]);
}

#[test]
fn only_the_entry_that_is_missing_is_taken() {
    let mut cluster = Cluster::with_commands(&["a", "b"]);
    cluster.restart(2, &[FIRST]);
    let entry = cluster.group(2).faulty().next().unwrap();
    let whole = cluster.copy(3, entry.index, entry.term, entry.crc).unwrap();
    let (context, data) = command("x");
    let other = Payload { context, data };
    assert_eq!(cluster.group(2).repair(entry.index, entry.term, other), None, "another payload of the same length");
    assert_eq!(cluster.group(2).repair(entry.index, Term(entry.term.0 + 1), whole.clone()), None);
    assert_eq!(cluster.group(2).repair(LogIndex(FIRST.0 + 1), entry.term, whole.clone()), None, "that one is intact");
    assert_eq!(cluster.group(3).copy_of(entry.index, Term(entry.term.0 + 1), entry.crc), Copy::Absent);
    assert_eq!(cluster.group(3).copy_of(LogIndex(99), entry.term, entry.crc), Copy::Absent);
    assert_eq!(cluster.group(2).copy_of(entry.index, entry.term, entry.crc), Copy::Faulty);
    let record = cluster.group(2).repair(entry.index, entry.term, whole.clone());
    assert!(matches!(record, Some(WalRecord::Fill(fill)) if (fill.index, fill.term) == (entry.index, entry.term)));
    assert_eq!(cluster.group(2).repair(entry.index, entry.term, whole), None, "it is on its way");
}

#[test]
fn damage_that_a_read_finds_never_ends_the_replica() {
    let mut cluster = Cluster::with_commands(&["a", "b", "c"]);
    for id in 1..=3 {
        cluster.restart(id, &[]);
    }
    // Nothing is in memory, and nothing was applied again yet.
    cluster.member(2).disk.damage(LogIndex(FIRST.0 + 1));
    cluster.elect(1);
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.group(2).first_faulty(), Some(LogIndex(FIRST.0 + 1)));
    assert_eq!(cluster.applied(2), ["a"]);
    assert!(cluster.repair(2));
    cluster.settle();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.applied(2), ["a", "b", "c"]);
}

#[test]
fn an_applied_entry_that_turns_out_to_be_damaged_is_not_needed_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.isolate(3);
    cluster.propose(1, "a");
    cluster.propose(1, "b");
    cluster.settle();
    cluster.group(1).evict(usize::MAX);
    cluster.member(1).disk.damage(FIRST);
    cluster.heal();
    cluster.tick(4 * limits::HEARTBEAT_TICKS);
    assert_eq!((cluster.group(1).role(), cluster.group(1).is_faulty()), (Role::Leader, false));
    assert!(cluster.group(1).log().truncated_index() >= FIRST, "the log begins behind it");
    assert_eq!(cluster.state(3), cluster.state(1), "3 got the state instead");
}

#[test]
fn a_leader_that_has_to_apply_what_it_lost_steps_down() {
    let mut cluster = Cluster::with_commands(&["a", "b"]);
    for id in 1..=3 {
        cluster.restart(id, &[]);
    }
    cluster.member(1).holds_fetches = true;
    cluster.elect(1);
    cluster.member(1).disk.damage(FIRST);
    cluster.member(1).holds_fetches = false;
    cluster.member(1).answer_fetches();
    cluster.settle();
    assert_eq!(cluster.group(1).role(), Role::Follower);
    cluster.tick_elections();
    assert!(cluster.leader().is_some_and(|leader| leader != 1));
    assert!(cluster.repair(1));
    cluster.settle();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.applied(1), ["a", "b"]);
}

#[test]
fn what_is_in_the_state_already_only_shortens_the_log() {
    let mut cluster = Cluster::with_commands(&["a", "b", "c"]);
    cluster.member(2).checkpoint(3);
    cluster.member(2).sync_all();
    cluster.restart(2, &[LogIndex(FIRST.0 + 1)]);
    assert!(!cluster.group(2).is_faulty());
    assert_eq!(cluster.group(2).log().truncated_index(), LogIndex(FIRST.0 + 1));
    cluster.propose(1, "d");
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.state(2), cluster.state(1));
}

/// Others have applied the lost entry and forgotten it: the state comes instead. What lies behind it in the log was
/// acknowledged, and stays.
#[test]
fn a_state_takes_the_place_of_what_no_log_holds_any_more() {
    let mut cluster = Cluster::with_commands(&["a", "b"]);
    let position = cluster.group(1).applied();
    cluster.isolate(3);
    cluster.cut.remove(&(1, 2));
    cluster.cut.remove(&(2, 1));
    let (term, acknowledged) = cluster.propose(1, "c");
    cluster.settle();
    let state = cluster.members[&3].image(0);
    cluster.restart(2, &[FIRST]);
    assert_eq!(cluster.acknowledged(2), acknowledged.0);
    let offer = SnapshotOffer {
        from: ReplicaId(3),
        position: super::super::SnapshotPosition { index: position, term },
        membership: state.membership.clone(),
        data: state.to_bytes(),
    };
    assert!(cluster.member(2).install(&offer));
    for restart in [false, true] {
        if restart {
            cluster.restart(2, &[]);
        }
        let group = cluster.group(2);
        assert!(!group.is_faulty());
        assert_eq!((group.applied(), group.last_index()), (position, acknowledged), "restarted: {restart}");
    }
    cluster.heal();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.state(2), cluster.state(1));
    assert_eq!(cluster.applied(2), ["c"]);
}

#[test]
fn an_only_voter_stands_still_before_what_it_lost() {
    let mut cluster = Cluster::new(1);
    cluster.elect(1);
    cluster.propose(1, "a");
    cluster.settle();
    cluster.restart(1, &[FIRST]);
    cluster.tick_elections();
    assert_eq!(cluster.group(1).role(), Role::Follower);
    assert!(cluster.group(1).is_lost_alone());
}
