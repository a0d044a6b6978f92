//! What is to be done about a group, decided from all copies of it that are left.
//!
//! A pure function. Invariants: a group of which a majority of voters is left and can be brought to run is left alone,
//! because Raft loses nothing then; otherwise the copy whose intact log ends latest, in Raft's order of terms and then
//! indexes, goes on alone, and nothing of it is given up but what no copy can fill.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ids::{GroupId, LogIndex, ReplicaId, Term},
    log::record::EntryLocation,
    replication::group::{GroupStart, Membership},
};

/// How far a rebuilt group's term lies above every term that is known: replicas that are not here may have gone on
/// electing leaders, and clients take the epoch of a leader that they saw for newer than a lower one.
pub const TERMS_SKIPPED: u64 = 1000;
/// Kafka's leader epochs have 31 bits.
const TERM_MAX: u64 = i32::MAX as u64;

/// A replica of a group as one data directory has it.
#[derive(Debug)]
pub struct Copy<'a> {
    /// Number of the directory among those given.
    pub directory: usize,
    /// A node with this directory would be let into the cluster: no other directory took its place.
    pub belongs: bool,
    pub start: &'a GroupStart,
    /// The membership as of the commit index that this copy knows.
    pub membership: Membership,
    /// Replicas that its log or its creation names.
    pub named: BTreeSet<ReplicaId>,
    /// It was being filled by a state transfer: its batches and its state do not belong together.
    pub unfinished: bool,
}

/// What is known of one member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub replica: ReplicaId,
    pub votes: bool,
    /// `None`: it is in none of the directories.
    pub copy: Option<CopyFinding>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyFinding {
    pub directory: usize,
    pub term: Term,
    pub last: LogIndex,
    pub commit: LogIndex,
    pub applied: LogIndex,
    /// Entries that are not applied and whose payload is damaged here.
    pub damaged: Vec<LogIndex>,
    /// Those of them that no other directory has.
    pub lost: Vec<LogIndex>,
}

/// What is to be done about one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPlan {
    pub group: GroupId,
    /// Of the newest membership that any copy knows, in the order of their ids.
    pub members: Vec<Member>,
    /// Up to here entries are known to be committed.
    pub commit: LogIndex,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A majority is here: nodes that start with these directories go on.
    Sound,
    /// There is nothing to go on from.
    NoCopy,
    Alone(Alone),
}

/// One replica goes on without the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alone {
    pub directory: usize,
    pub replica: ReplicaId,
    /// The last entry that is kept, and its term.
    pub end: (LogIndex, Term),
    /// Entries behind that which this copy has and which go.
    pub dropped: Option<(LogIndex, LogIndex)>,
    /// Every member's copy is here: no other entries were ever acknowledged than those that these hold.
    pub all_here: bool,
    /// Payloads that come from other directories.
    pub fills: BTreeMap<LogIndex, (usize, EntryLocation)>,
    /// The term it goes on in.
    pub term: Term,
    /// Replicas that never speak again.
    pub removed: BTreeSet<ReplicaId>,
    /// Directories whose copies of the group are given up.
    pub given_up: Vec<usize>,
}

impl Copy<'_> {
    fn last(&self) -> LogIndex {
        self.start.log.last_log_index()
    }

    /// Of an index that lies in the log.
    fn term_of(&self, index: LogIndex) -> Term {
        self.start.log.log_term(index)
    }

    fn commit(&self) -> LogIndex {
        self.start.hard_state.commit.max(self.start.applied).min(self.last())
    }

    /// A newcomer that nothing was ever told does not know of any member, and nobody counts on it.
    fn knows_anything(&self) -> bool {
        !self.membership.voters.is_empty()
    }

    fn damaged(&self) -> impl Iterator<Item = LogIndex> + '_ {
        self.start.log.faulty().filter(|index| *index > self.start.applied)
    }

    /// Where an intact payload of the entry lies that `other` has at `index`.
    fn filling(&self, other: &Self, index: LogIndex) -> Option<EntryLocation> {
        let (log, wanted) = (&self.start.log, other.start.log.location(index)?);
        let is_here = log.truncated_index() < index
            && index <= log.last_log_index()
            && log.log_term(index) == other.term_of(index)
            && !log.is_faulty(index);
        let location = is_here.then(|| log.location(index)).flatten()?;
        let key = |location: EntryLocation| (location.context_length, location.data_length, location.crc);
        (key(location) == key(wanted)).then_some(location)
    }
}

/// The place in the log up to which a copy can be kept.
#[derive(Clone, Debug)]
struct Usable {
    end: LogIndex,
    term: Term,
    fills: BTreeMap<LogIndex, (usize, EntryLocation)>,
}

fn usable(copy: &Copy<'_>, copies: &[Copy<'_>]) -> Usable {
    let mut fills = BTreeMap::new();
    let mut end = copy.last();
    for index in copy.damaged() {
        let filling = copies.iter().find_map(|other| Some((other.directory, other.filling(copy, index)?)));
        match filling {
            Some(filling) => drop(fills.insert(index, filling)),
            None => {
                end = LogIndex(index.0 - 1);
                break;
            }
        }
    }
    Usable { end, term: copy.term_of(end), fills }
}

fn finding(copy: &Copy<'_>, copies: &[Copy<'_>]) -> CopyFinding {
    let damaged: Vec<LogIndex> = copy.damaged().collect();
    let is_lost = |index: &LogIndex| copies.iter().all(|other| other.filling(copy, *index).is_none());
    CopyFinding {
        directory: copy.directory,
        term: copy.start.hard_state.term,
        last: copy.last(),
        commit: copy.commit(),
        applied: copy.start.applied,
        lost: damaged.iter().copied().filter(is_lost).collect(),
        damaged,
    }
}

/// `copies`: all of this group in directories that can be read. At least one.
pub fn decide(group: GroupId, copies: &[Copy<'_>]) -> GroupPlan {
    let newest = copies
        .iter()
        .filter(|copy| copy.knows_anything())
        .max_by_key(|copy| (copy.term_of(copy.commit()), copy.commit(), std::cmp::Reverse(copy.directory)));
    let membership = newest.map(|copy| copy.membership.clone()).unwrap_or_default();
    let commit = copies.iter().map(Copy::commit).max().unwrap_or_default();
    // Of two directories with the same replica, one is older: a node's disk that was put aside, or a copy of it.
    let copy_of = |replica: ReplicaId| {
        let same = copies.iter().filter(|copy| copy.start.replica == replica && copy.knows_anything());
        same.max_by_key(|copy| (copy.belongs, copy.start.hard_state.term, copy.last()))
    };
    let members: Vec<Member> = membership
        .members()
        .into_iter()
        .map(|replica| Member {
            replica,
            votes: membership.is_voter(replica),
            copy: copy_of(replica).map(|copy| finding(copy, copies)),
        })
        .collect();
    // What only a directory has that no longer belongs to the cluster cannot be asked for by those that run.
    let others: Vec<&Copy<'_>> =
        membership.members().into_iter().filter_map(copy_of).filter(|copy| copy.belongs).collect();
    let is_sound = |replica: &ReplicaId| {
        let is_whole = |copy: &Copy<'_>| {
            copy.damaged().all(|index| others.iter().any(|other| other.filling(copy, index).is_some()))
        };
        copy_of(*replica).is_some_and(|copy| copy.belongs && is_whole(copy))
    };
    let has_majority =
        |voters: &BTreeSet<ReplicaId>| voters.iter().filter(|replica| is_sound(replica)).count() > voters.len() / 2;
    let has_quorum = has_majority(&membership.voters)
        && (membership.voters_outgoing.is_empty() || has_majority(&membership.voters_outgoing));
    let verdict = if has_quorum {
        Verdict::Sound
    } else {
        let candidates = membership.members().into_iter().filter_map(copy_of);
        let candidates = candidates.filter(|copy| copy.belongs && !copy.unfinished);
        let best = candidates.map(|copy| (copy, usable(copy, copies))).max_by_key(|(copy, usable)| {
            let votes = membership.is_voter(copy.start.replica);
            let fewest_fills = std::cmp::Reverse(usable.fills.len());
            (usable.term, usable.end, fewest_fills, votes, std::cmp::Reverse(copy.directory))
        });
        match best {
            Some((copy, usable)) => Verdict::Alone(alone(copy, usable, copies, &members)),
            None => Verdict::NoCopy,
        }
    };
    GroupPlan { group, members, commit, verdict }
}

fn alone(copy: &Copy<'_>, usable: Usable, copies: &[Copy<'_>], members: &[Member]) -> Alone {
    let own = copy.start.replica;
    let term = copies.iter().map(|copy| copy.start.hard_state.term.0).max().unwrap_or(0) + TERMS_SKIPPED;
    let mut removed: BTreeSet<ReplicaId> = members.iter().map(|member| member.replica).collect();
    for other in copies {
        removed.extend(&other.start.removed);
        removed.extend(&other.named);
        removed.extend(other.membership.members());
    }
    removed.remove(&own);
    let given_up = copies.iter().filter(|other| other.directory != copy.directory && other.knows_anything());
    Alone {
        directory: copy.directory,
        replica: own,
        end: (usable.end, usable.term),
        dropped: (usable.end < copy.last()).then(|| (usable.end.next(), copy.last())),
        all_here: members.iter().all(|member| member.copy.is_some()),
        fills: usable.fills,
        term: Term(term.min(TERM_MAX)),
        removed,
        given_up: given_up.map(|other| other.directory).collect(),
    }
}
