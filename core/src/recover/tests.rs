//! Decisions, each from a few copies of one group.

use std::collections::BTreeSet;

use super::plan::{Alone, Copy, CopyFinding, GroupPlan, TERMS_SKIPPED, Verdict, decide};
use crate::{
    ids::{FileSequence, GroupId, LogIndex, ReplicaId, Term},
    log::record::{EntryFile, EntryKind, EntryLocation},
    replication::group::{GroupStart, HardState, LogView, Membership, TERM_AT_CREATION},
};

const GROUP: GroupId = GroupId(7);

fn ids(ids: &[u64]) -> BTreeSet<ReplicaId> {
    ids.iter().map(|id| ReplicaId(*id)).collect()
}

fn voters(numbers: &[u64]) -> Membership {
    Membership::new(ids(numbers), [])
}

/// Equal for equal entries, wherever they lie.
fn location(index: u64, term: u64, file: u64) -> EntryLocation {
    EntryLocation {
        file: EntryFile::Wal(FileSequence(file)),
        offset: index * 100,
        context_length: 28,
        data_length: 50,
        crc: u32::try_from(index * 1_000 + term).unwrap(),
    }
}

/// A replica with entries of these terms behind the creation, of which some are damaged.
fn start(replica: u64, terms: &[u64], damaged: &[u64], commit: u64) -> GroupStart {
    let mut log = LogView::at_creation();
    for (index, term) in (2..).zip(terms) {
        let place = location(index, *term, replica);
        if damaged.contains(&index) {
            log.recover_damaged(LogIndex(index), Term(*term), EntryKind::Normal, place).unwrap();
        } else {
            log.recover(LogIndex(index), Term(*term), EntryKind::Normal, place).unwrap();
        }
    }
    let term = terms.last().copied().map_or(TERM_AT_CREATION, Term);
    let created = GroupStart::created(GROUP, ReplicaId(replica), voters(&[1, 2, 3]));
    GroupStart { hard_state: HardState { term, vote: None, commit: LogIndex(commit) }, log, ..created }
}

fn copy(directory: usize, start: &GroupStart) -> Copy<'_> {
    Copy {
        directory,
        belongs: true,
        start,
        membership: start.membership.clone(),
        named: BTreeSet::new(),
        unfinished: false,
    }
}

fn alone(plan: &GroupPlan) -> &Alone {
    let Verdict::Alone(alone) = &plan.verdict else { panic!("{plan:?}") };
    alone
}

fn found(plan: &GroupPlan, replica: u64) -> Option<&CopyFinding> {
    plan.members.iter().find(|member| member.replica == ReplicaId(replica)).unwrap().copy.as_ref()
}

#[test]
fn a_majority_needs_nothing_and_what_it_lacks_it_repairs_itself() {
    let (a, b) = (start(1, &[1, 1, 1], &[2], 3), start(2, &[1, 1, 1], &[3], 3));
    let plan = decide(GROUP, &[copy(0, &a), copy(1, &b)]);
    assert_eq!(plan.verdict, Verdict::Sound);
    assert_eq!(found(&plan, 1).unwrap().damaged, [LogIndex(2)]);
    assert_eq!(found(&plan, 1).unwrap().lost, []);
    assert_eq!(found(&plan, 3), None);
}

#[test]
fn one_of_three_goes_on_in_a_term_above_all() {
    let a = start(2, &[1, 3, 3], &[], 3);
    let plan = decide(GROUP, &[copy(4, &a)]);
    let alone = alone(&plan);
    assert_eq!((alone.directory, alone.replica, alone.end), (4, ReplicaId(2), (LogIndex(4), Term(3))));
    assert_eq!((alone.term, &alone.removed), (Term(3 + TERMS_SKIPPED), &ids(&[1, 3])));
    assert_eq!((alone.dropped, alone.all_here, plan.commit), (None, false, LogIndex(3)));
}

#[test]
fn the_later_term_wins_over_the_longer_log() {
    // No majority: of five, two are left.
    let five = voters(&[1, 2, 3, 4, 5]);
    let with_five = |start: GroupStart| GroupStart { membership: five.clone(), ..start };
    let (long, late) = (with_five(start(1, &[1, 1, 1, 1, 1], &[], 3)), with_five(start(2, &[1, 1, 2], &[], 3)));
    let plan = decide(GROUP, &[copy(0, &long), copy(1, &late)]);
    assert_eq!((alone(&plan).replica, &alone(&plan).given_up), (ReplicaId(2), &vec![0]));
    let longer = with_five(start(1, &[1, 1, 2, 2], &[], 3));
    let plan = decide(GROUP, &[copy(0, &longer), copy(1, &late)]);
    assert_eq!(alone(&plan).replica, ReplicaId(1));
}

#[test]
fn what_is_damaged_is_filled_from_others_or_ends_the_log() {
    let five = voters(&[1, 2, 3, 4, 5]);
    let with_five = |start: GroupStart| GroupStart { membership: five.clone(), ..start };
    let best = with_five(start(1, &[1, 1, 2, 2, 2], &[3, 5], 6));
    let other = with_five(start(2, &[1, 1], &[], 3));
    let plan = decide(GROUP, &[copy(0, &best), copy(1, &other)]);
    let kept = alone(&plan);
    assert_eq!((kept.replica, kept.end), (ReplicaId(1), (LogIndex(4), Term(2))));
    assert_eq!(kept.fills.keys().copied().collect::<Vec<_>>(), [LogIndex(3)]);
    assert_eq!(kept.fills[&LogIndex(3)], (1, location(3, 1, 2)));
    assert_eq!((kept.dropped, plan.commit), (Some((LogIndex(5), LogIndex(6))), LogIndex(6)));
    assert_eq!(found(&plan, 1).unwrap().lost, [LogIndex(5)]);

    // Another entry at that index is no filling, and neither is a damaged one.
    let stranger = with_five(start(2, &[1, 2], &[], 2));
    let plan = decide(GROUP, &[copy(0, &best), copy(1, &stranger)]);
    assert_eq!(alone(&plan).end, (LogIndex(3), Term(2)), "the other one, whole, ends later than this one at 2");
    assert_eq!(alone(&plan).replica, ReplicaId(2));
    let damaged_too = with_five(start(2, &[1, 1], &[3], 2));
    let plan = decide(GROUP, &[copy(0, &best), copy(1, &damaged_too)]);
    assert_eq!((alone(&plan).replica, alone(&plan).end.0), (ReplicaId(1), LogIndex(2)));
}

#[test]
fn all_members_are_here_and_none_is_whole() {
    let copies = [1, 2, 3].map(|replica| start(replica, &[1, 1, 1], &[3], 4));
    let copies: Vec<Copy<'_>> = copies.iter().enumerate().map(|(number, start)| copy(number, start)).collect();
    let plan = decide(GROUP, &copies);
    let kept = alone(&plan);
    assert_eq!((kept.end.0, kept.dropped, kept.all_here), (LogIndex(2), Some((LogIndex(3), LogIndex(4))), true));
    assert_eq!(kept.given_up, [1, 2]);
}

#[test]
fn the_newest_membership_counts() {
    // The group moved from 1, 2, 3 to 1, 8, 9; the copy of 2 does not know that.
    let mut moved = start(9, &[1, 1, 1, 1], &[], 5);
    moved.membership = voters(&[1, 8, 9]);
    moved.removed = ids(&[2, 3]);
    let (old, third) = (start(2, &[1, 1], &[], 3), start(3, &[1, 1], &[], 3));
    let plan = decide(GROUP, &[copy(0, &old), copy(1, &third), copy(2, &moved)]);
    assert_eq!(alone(&plan).replica, ReplicaId(9), "two of the old voters are no majority any more");
    assert_eq!(alone(&plan).removed, ids(&[1, 2, 3, 8]));
    // A joint membership needs a majority of both halves.
    moved.membership = Membership { voters_outgoing: ids(&[1, 2, 3]), ..voters(&[3, 8, 9]) };
    moved.removed.clear();
    let plan = decide(GROUP, &[copy(0, &old), copy(1, &third), copy(2, &moved)]);
    assert_eq!(plan.verdict, Verdict::Sound);
    let plan = decide(GROUP, &[copy(0, &old), copy(2, &moved)]);
    assert_eq!(alone(&plan).replica, ReplicaId(9));
}

#[test]
fn who_cannot_go_on_lends_payloads_at_most() {
    let (best, replaced) = (start(1, &[1, 1, 1], &[3], 4), start(2, &[1, 1, 1], &[], 4));
    let of_replaced = Copy { belongs: false, ..copy(1, &replaced) };
    let plan = decide(GROUP, &[copy(0, &best), of_replaced]);
    assert_eq!((alone(&plan).replica, alone(&plan).end.0), (ReplicaId(1), LogIndex(4)));
    assert_eq!(alone(&plan).fills.len(), 1);

    let unfinished = Copy { unfinished: true, ..copy(0, &best) };
    assert_eq!(decide(GROUP, &[unfinished]).verdict, Verdict::NoCopy);
    let newcomer = GroupStart::newcomer(GROUP, ReplicaId(9), ids(&[1, 2, 3]));
    assert_eq!(decide(GROUP, &[copy(0, &newcomer)]).verdict, Verdict::NoCopy);
}

#[test]
fn a_group_that_was_rebuilt_needs_nothing_more() {
    let old = start(2, &[1, 1, 1], &[], 4);
    let mut rebuilt = start(1, &[1, 1], &[], 3);
    let term = Term(1 + TERMS_SKIPPED);
    rebuilt.log.recover(LogIndex(4), term, EntryKind::Normal, location(4, term.0, 1)).unwrap();
    rebuilt.hard_state = HardState { term, vote: None, commit: LogIndex(4) };
    rebuilt.membership = voters(&[1]);
    rebuilt.removed = ids(&[2, 3]);
    assert_eq!(decide(GROUP, &[copy(0, &rebuilt)]).verdict, Verdict::Sound);
    assert_eq!(decide(GROUP, &[copy(0, &old), copy(1, &rebuilt)]).verdict, Verdict::Sound, "its term is above all");
}
