//! What may be sent, committed and applied before which write is durable.

use raft::prelude::MessageType;

use super::super::{GroupStart, HardState, LogView, Membership, MembershipStep, Refused, Role, StartError};
use super::cluster::Cluster;
use super::member::{GROUP, Member, command};
use crate::{
    ids::{FileSequence, LogIndex, ReplicaId, Term},
    limits,
    log::record::{EntryFile, EntryKind, EntryLocation, WalRecord},
};

#[test]
fn p2b_a_single_voter_commits_only_what_is_durable() {
    let mut cluster = Cluster::new(1);
    cluster.tick(1);
    cluster.slow_disks.insert(1);
    let (_, index) = cluster.propose(1, "a");
    cluster.settle();
    assert!(cluster.group(1).commit_index() < index);
    cluster.member(1).sync_all();
    assert_eq!(cluster.group(1).commit_index(), index);
    assert_eq!(cluster.applied(1), ["a"]);
}

/// Found by experiment: with one voter, election and first entries fall into one step, and raft-rs says that a
/// leader's messages may be sent at once. After a crash the voter would lead the same term again, with other entries,
/// while the learner keeps the first ones.
#[test]
fn p2c_nothing_is_sent_in_a_term_that_is_not_durable() {
    let mut cluster = Cluster::with(Membership::new([ReplicaId(1)], [ReplicaId(2)]));
    cluster.slow_disks.insert(1);
    cluster.group(1).campaign();
    cluster.settle();
    assert_eq!(cluster.group(1).role(), Role::Leader);
    assert_eq!(cluster.delivered.len(), 0, "the election itself");
    // What is proposed and sent later falls into the same undurable term.
    cluster.propose(1, "lost");
    cluster.group(1).beat();
    cluster.settle();
    assert_eq!(cluster.delivered.len(), 0, "and everything after it");

    let first_term = cluster.group(1).term();
    cluster.member(1).crash(0);
    cluster.member(1).start();
    cluster.slow_disks.clear();
    cluster.elect(1);
    assert_eq!(cluster.group(1).term(), first_term, "the crash took the term with it");
    cluster.propose(1, "kept");
    cluster.tick(limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.applied(1), ["kept"]);
    assert_eq!(cluster.applied(2), ["kept"], "the learner never saw the lost one");
}

#[test]
fn a_durable_leader_sends_entries_before_they_are_durable() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.slow_disks.insert(1);
    let (_, index) = cluster.propose(1, "a");
    cluster.settle();
    assert_eq!(cluster.group(1).commit_index(), index, "the disks of the other two suffice");
    assert!(cluster.applied(1).is_empty(), "but nothing is applied that this disk could lose (rule 14)");
    cluster.member(1).sync_all();
    assert_eq!(cluster.applied(1), ["a"]);
}

/// The voters shrink to one follower whose last append is not durable. As the only voter it would win an election
/// within one call, and raft-rs asserts that a leader's log is durable.
#[test]
fn p3_the_last_voter_waits_for_its_disk_before_it_campaigns() {
    let mut cluster = Cluster::new(2);
    cluster.elect(1);
    // 1 proposes to remove 2, which has the entry but does not hear that it is committed; then 2 leads and commits it.
    cluster.lost.insert(MessageType::MsgAppendResponse);
    cluster.group(1).propose_membership(&[MembershipStep::Remove(ReplicaId(2))]).unwrap();
    cluster.settle();
    cluster.heal();
    cluster.member(1).crash(0);
    cluster.member(1).start();
    cluster.member(1).holds_apply = true;
    cluster.member(2).holds_apply = true;
    cluster.elect(2);
    // 1 has the change durably and committed; a later entry is only in memory.
    cluster.slow_disks.insert(1);
    cluster.propose(2, "later");
    cluster.settle();
    assert!(cluster.member(1).disk.unsynced() > 0);
    cluster.isolate(1);
    cluster.member(1).holds_apply = false;
    cluster.member(1).pump();
    assert_eq!(cluster.group(1).membership().voters, [ReplicaId(1)].into());

    for _ in 0..4 * limits::ELECTION_TICKS {
        cluster.group(1).tick();
        cluster.group(1).campaign();
        cluster.settle();
    }
    assert_eq!(cluster.group(1).role(), Role::Follower, "not before the disk is through");
    cluster.member(1).sync_all();
    cluster.tick(1);
    assert_eq!(cluster.group(1).role(), Role::Leader);
}

/// Found by experiment: a repeated append is acknowledged in a step without records. Sent at once, it would
/// acknowledge entries that are only in memory, and after a crash the commit index points behind the log.
#[test]
fn rule_11_a_repeated_append_is_acknowledged_only_when_it_is_durable() {
    let mut cluster = Cluster::new(2);
    cluster.elect(1);
    cluster.slow_disks.insert(2);
    let (_, index) = cluster.propose(1, "a");
    cluster.settle();
    let append = cluster.delivered.iter().rev().find(|message| !message.entries.is_empty()).unwrap().clone();
    assert_eq!(append.entries.last().unwrap().index, index.0);
    let answers = cluster.sent(MessageType::MsgAppendResponse);

    cluster.group(2).step(append).unwrap();
    cluster.settle();
    assert_eq!(cluster.sent(MessageType::MsgAppendResponse), answers, "neither the first nor the second is answered");
    assert!(cluster.group(1).commit_index() < index);

    cluster.member(2).sync_all();
    cluster.settle();
    assert_eq!(cluster.sent(MessageType::MsgAppendResponse), answers + 2);
    assert_eq!(cluster.group(1).commit_index(), index);
}

#[test]
fn a_vote_is_sent_only_when_it_is_durable() {
    let mut cluster = Cluster::new(2);
    cluster.slow_disks.insert(2);
    cluster.group(1).campaign();
    cluster.settle();
    assert_eq!(cluster.sent(MessageType::MsgRequestVoteResponse), 0);
    cluster.member(2).crash(0);
    cluster.member(2).start();
    assert_eq!(cluster.group(2).term(), Term(1), "2 forgot that it was asked");
    cluster.slow_disks.clear();
    cluster.elect(1);
}

/// raft-rs must be able to read entries back before they are durable.
#[test]
fn p4b_entries_in_flight_can_be_read_and_overwritten() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    // 1 appends alone, slowly; then it follows 2, whose entries replace its own while all are still in flight.
    cluster.slow_disks.insert(1);
    cluster.isolate(1);
    cluster.propose(1, "lost 1");
    cluster.propose(1, "lost 2");
    cluster.settle();
    cluster.elect(2);
    cluster.propose(2, "kept");
    cluster.heal();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.group(1).last_index(), cluster.group(2).last_index());
    cluster.member(1).sync(1);
    cluster.settle();
    cluster.member(1).sync_all();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    cluster.member(1).sync_all();
    assert_eq!(cluster.applied(1), ["kept"]);
    assert_eq!(cluster.applied(3), ["kept"]);
}

/// A replica whose durable log got lost must not be taken back under its id; raft-rs panics at the next heartbeat.
#[test]
fn p5_a_commit_index_behind_the_log_is_refused() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, "a");
    cluster.settle();
    *cluster.member(3) = Member::created(3, &Membership::new([1, 2, 3].map(ReplicaId), []), 1);
    cluster.group(1).beat();
    cluster.settle();
    assert!(
        cluster
            .refused
            .iter()
            .any(|refused| matches!(refused, Refused::Invalid(super::super::Invalid::CommitBehindLog { .. }))),
        "{:?}",
        cluster.refused
    );
    assert_eq!(cluster.applied(2), ["a"]);
}

fn location() -> EntryLocation {
    EntryLocation { file: EntryFile::Wal(FileSequence(1)), offset: 0, context_length: 3, data_length: 4, crc: 0 }
}

fn start(hard_state: HardState, applied: u64, entries: &[(u64, u64)]) -> Result<(), StartError> {
    let membership = Membership::new([ReplicaId(1)], []);
    let mut log = LogView::at_creation();
    for &(index, term) in entries {
        log.recover(LogIndex(index), Term(term), EntryKind::Normal, location())?;
    }
    let start = GroupStart {
        hard_state,
        log,
        applied: LogIndex(applied),
        ..GroupStart::created(GROUP, ReplicaId(1), membership)
    };
    let stream = crate::rng::Stream::new(1, crate::ids::NodeId(1), "election", 1);
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let group = super::super::Group::new(start, stream, &logger)?;
    assert!(group.commit_index() >= group.applied());
    Ok(())
}

#[test]
fn p11_a_checkpoint_may_have_applied_more_than_the_hard_state_says() {
    let hard_state = HardState { term: Term(2), vote: None, commit: LogIndex(2) };
    assert_eq!(start(hard_state, 4, &[(2, 2), (3, 2), (4, 2), (5, 2)]), Ok(()));
}

#[test]
fn p11b_a_start_that_raft_would_panic_on_is_an_error() {
    let hard_state = |term, commit| HardState { term: Term(term), vote: None, commit: LogIndex(commit) };
    let last = LogIndex(3);
    let entries = [(2, 2), (3, 2)];
    assert_eq!(start(hard_state(2, 4), 1, &entries), Err(StartError::CommitBehindLog { commit: LogIndex(4), last }));
    assert_eq!(
        start(hard_state(2, 2), 4, &entries),
        Err(StartError::AppliedOutsideLog { applied: LogIndex(4), truncated: LogIndex(1), last })
    );
    assert_eq!(
        start(hard_state(2, 1), 0, &entries),
        Err(StartError::AppliedOutsideLog { applied: LogIndex(0), truncated: LogIndex(1), last })
    );
    assert_eq!(start(hard_state(1, 1), 1, &entries), Err(StartError::TermBehindLog { term: Term(1), last: Term(2) }));
    assert_eq!(
        start(hard_state(2, 1), 1, &[(2, 2), (4, 2)]),
        Err(StartError::Gap { last: LogIndex(2), index: LogIndex(4) })
    );
    assert_eq!(
        start(hard_state(3, 1), 1, &[(2, 3), (3, 2)]),
        Err(StartError::TermDecreases { index: LogIndex(3), term: Term(2), before: Term(3) })
    );
}

/// An entry found again at an index replaces what stood there and behind, as when it was written.
#[test]
fn recovery_truncates_as_the_wal_did() {
    let mut log = LogView::at_creation();
    for (index, term) in [(2, 2), (3, 2), (4, 2), (3, 3)] {
        log.recover(LogIndex(index), Term(term), EntryKind::Normal, location()).unwrap();
    }
    assert_eq!(log.last_log_index(), LogIndex(3));
    assert_eq!(log.log_term(LogIndex(3)), Term(3));
    // Compacted by a checkpoint, but still in the WAL.
    log.recover(LogIndex(1), Term(1), EntryKind::Normal, location()).unwrap();
    assert_eq!(log.last_log_index(), LogIndex(3));
}

/// Records come as raft thinks of them: entries first, and never a commit index that leads them.
#[test]
fn rule_13_a_commit_index_is_written_along_with_entries_only() {
    let mut member = Member::created(1, &Membership::new([ReplicaId(1)], []), 1);
    member.group().campaign();
    let mut out = super::super::GroupOutput::default();
    member.group().poll(&mut out);
    let records = &out.writes[0].records;
    assert!(matches!(records[0], WalRecord::Entry(_)));
    assert!(matches!(records[1], WalRecord::HardState { commit: LogIndex(1), vote: ReplicaId(1), .. }));
    let write = out.writes.remove(0);
    let (number, _) = member.disk.append(write.records);
    member.group().wrote(write.number, number);
    assert_eq!(member.group().commit_record(), None);
    member.sync_all();
    assert_eq!(member.group().commit_index(), LogIndex(2));
    assert_eq!(member.disk.unsynced(), 0, "a commit index alone is not worth a write");

    member.group().propose(vec![command("a")]).unwrap();
    member.pump();
    member.sync_all();
    member.crash(0);
    member.start();
    assert_eq!(member.group().commit_index(), LogIndex(2), "what the last write knew");

    member.group().campaign();
    member.pump();
    member.sync_all();
    assert_eq!(member.group().commit_index(), LogIndex(4));
    let record = member.group().commit_record();
    assert!(matches!(record, Some(WalRecord::HardState { commit: LogIndex(4), .. })), "but may be had");
    assert_eq!(member.group().commit_record(), None, "once");
}
