//! Whom a replica asks for what it lost, and what the answers mean together.
//!
//! Owns rounds: every other member is asked once, then there is a pause that grows from round to round. Invariant: one
//! question is open at a time, and only its answer is taken; a new entry begins with a new round and the shortest pause.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::message::{Answer, Question, Refusal, Reply};
use crate::{
    ids::{GroupId, ReplicaId},
    limits::{REPAIR_ANSWER_TIMEOUT, REPAIR_PAUSE_MAX, REPAIR_PAUSE_MIN},
    replication::group::{FaultyEntry, Payload},
    time::Monotonic,
};

/// The search of one replica; see the module head.
#[derive(Debug)]
pub struct Asking {
    entry: Option<FaultyEntry>,
    open: Option<Open>,
    /// Who was asked in this round, and what came of it.
    round: BTreeMap<ReplicaId, Heard>,
    /// The member that was asked last: the next one is the turn of who comes behind.
    last: ReplicaId,
    pause: Duration,
    pause_until: Option<Monotonic>,
}

/// The question without an answer.
#[derive(Debug)]
struct Open {
    number: u64,
    to: ReplicaId,
    until: Monotonic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Nothing, or that it has no time.
    Nothing,
    Compacted,
    HasNot,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// There is a question open, or a pause.
    Wait,
    Ask(Question),
    /// A round ended without the payload, and some member's state holds what the entry did.
    Compacted,
    /// Every member was heard, and none has the payload or a state that holds what it did.
    Nowhere,
    /// A round ended without the payload, and not everybody was heard.
    Unknown,
}

impl Default for Asking {
    fn default() -> Self {
        Self {
            entry: None,
            open: None,
            round: BTreeMap::new(),
            last: ReplicaId(0),
            pause: REPAIR_PAUSE_MIN,
            pause_until: None,
        }
    }
}

impl Asking {
    /// What to do about `entry`, the first that is lost and not being repaired. `others` are the other members.
    /// `number` is counted over all questions of this process.
    pub fn poll(
        &mut self,
        now: Monotonic,
        (group, replica): (GroupId, ReplicaId),
        entry: FaultyEntry,
        others: &BTreeSet<ReplicaId>,
        number: &mut u64,
    ) -> Next {
        if self.entry != Some(entry) {
            *self = Self { entry: Some(entry), last: self.last, ..Self::default() };
        }
        if let Some(open) = self.open.take_if(|open| open.until <= now) {
            self.round.insert(open.to, Heard::Nothing);
        }
        if self.open.is_some() || self.pause_until.is_some_and(|until| until > now) {
            return Next::Wait;
        }
        self.pause_until = None;
        let behind = others.range((std::ops::Bound::Excluded(self.last), std::ops::Bound::Unbounded));
        let Some(to) = behind.chain(others).find(|other| !self.round.contains_key(other)).copied() else {
            return self.end_round(now);
        };
        *number += 1;
        self.last = to;
        self.open = Some(Open { number: *number, to, until: now + REPAIR_ANSWER_TIMEOUT });
        Next::Ask(Question { group, from: replica, to, number: *number, entry })
    }

    fn end_round(&mut self, now: Monotonic) -> Next {
        let round = std::mem::take(&mut self.round);
        self.pause_until = Some(now + self.pause);
        self.pause = (self.pause * 2).min(REPAIR_PAUSE_MAX);
        if round.values().any(|heard| *heard == Heard::Compacted) {
            Next::Compacted
        } else if round.values().all(|heard| *heard == Heard::HasNot) {
            Next::Nowhere
        } else {
            Next::Unknown
        }
    }

    /// The last question did not leave this node.
    pub fn not_sent(&mut self) {
        if let Some(open) = self.open.take() {
            self.round.insert(open.to, Heard::Nothing);
        }
    }

    /// Takes an answer: the payload, if there is one, and what it is said to be that of. Nothing if it is not the answer
    /// to the open question.
    pub fn answer(&mut self, answer: Answer) -> Option<(FaultyEntry, Payload)> {
        let entry = self.entry?;
        let open = self.open.take_if(|open| (open.to, open.number) == (answer.from, answer.number))?;
        let heard = match answer.reply {
            Reply::Payload(payload) => {
                // Should it not be what is missing, this member has not got it.
                self.round.insert(open.to, Heard::HasNot);
                return Some((entry, payload));
            }
            Reply::Refused(Refusal::Compacted) => Heard::Compacted,
            Reply::Refused(Refusal::Lost | Refusal::Absent) => Heard::HasNot,
            Reply::Refused(Refusal::Busy) => Heard::Nothing,
        };
        self.round.insert(open.to, heard);
        None
    }

    pub fn is_waiting(&self) -> bool {
        self.open.is_some()
    }

    /// When to poll if nothing else happens.
    pub fn next_deadline(&self) -> Option<Monotonic> {
        self.open.as_ref().map(|open| open.until).or(self.pause_until)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ids::{LogIndex, Term};

    const AT: Monotonic = Monotonic(1_000_000_000);
    const ENTRY: FaultyEntry = FaultyEntry { index: LogIndex(5), term: Term(2), crc: 9 };
    const OWN: (GroupId, ReplicaId) = (GroupId(7), ReplicaId(1));

    struct Story {
        asking: Asking,
        number: u64,
        now: Monotonic,
    }

    impl Story {
        fn new() -> Self {
            Self { asking: Asking::default(), number: 0, now: AT }
        }

        fn poll(&mut self) -> Next {
            let others = [2, 3].map(ReplicaId).into();
            self.asking.poll(self.now, OWN, ENTRY, &others, &mut self.number)
        }

        fn asked(&mut self) -> u64 {
            match self.poll() {
                Next::Ask(question) => question.to.0,
                other => panic!("{other:?}"),
            }
        }

        fn hear(&mut self, from: u64, reply: Reply) -> Option<(FaultyEntry, Payload)> {
            let number = self.number;
            self.asking.answer(Answer { group: OWN.0, from: ReplicaId(from), to: OWN.1, number, reply })
        }
    }

    #[test]
    fn members_are_asked_in_turn_and_silence_is_no_answer() {
        let mut story = Story::new();
        assert_eq!((story.asked(), story.poll()), (2, Next::Wait));
        story.now = story.now + REPAIR_ANSWER_TIMEOUT;
        assert_eq!(story.asked(), 3);
        assert_eq!(story.hear(2, Reply::Refused(Refusal::Absent)), None, "it was not asked");
        assert_eq!(story.hear(3, Reply::Refused(Refusal::Lost)), None);
        assert_eq!(story.poll(), Next::Unknown, "member 2 may have it");
        assert_eq!(story.poll(), Next::Wait);
        story.now = story.asking.next_deadline().unwrap();
        assert_eq!(story.asked(), 2);
        let payload = Payload { context: Bytes::new(), data: Bytes::from_static(b"five") };
        assert_eq!(story.hear(2, Reply::Payload(payload.clone())), Some((ENTRY, payload)));
    }

    #[test]
    fn a_round_tells_what_is_lost_and_what_is_compacted() {
        let mut story = Story::new();
        for (replies, next) in [
            ([Refusal::Absent, Refusal::Lost], Next::Nowhere),
            ([Refusal::Compacted, Refusal::Lost], Next::Compacted),
            ([Refusal::Busy, Refusal::Compacted], Next::Compacted),
            ([Refusal::Busy, Refusal::Absent], Next::Unknown),
        ] {
            for reply in replies {
                let member = story.asked();
                story.hear(member, Reply::Refused(reply));
            }
            assert_eq!(story.poll(), next);
            let pause = story.asking.next_deadline().unwrap();
            assert!(pause > story.now);
            story.now = pause;
        }
    }

    #[test]
    fn pauses_grow_to_a_bound_and_a_new_entry_begins_anew() {
        let mut story = Story::new();
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            for _ in 0..2 {
                story.asked();
                story.asking.not_sent();
            }
            assert_eq!(story.poll(), Next::Unknown);
            let pause = story.asking.next_deadline().unwrap().since(story.now);
            assert!(pause >= last && pause <= REPAIR_PAUSE_MAX);
            (last, story.now) = (pause, story.asking.next_deadline().unwrap());
        }
        assert_eq!(last, REPAIR_PAUSE_MAX);
        let next = FaultyEntry { index: LogIndex(6), ..ENTRY };
        let others = [2, 3].map(ReplicaId).into();
        for _ in 0..2 {
            assert!(matches!(story.asking.poll(story.now, OWN, next, &others, &mut story.number), Next::Ask(_)));
            story.asking.not_sent();
        }
        assert_eq!(story.asking.poll(story.now, OWN, next, &others, &mut story.number), Next::Unknown);
        assert_eq!(story.asking.next_deadline(), Some(story.now + REPAIR_PAUSE_MIN));
    }

    #[test]
    fn without_other_members_it_is_nowhere() {
        let mut asking = Asking::default();
        assert_eq!(asking.poll(AT, OWN, ENTRY, &BTreeSet::new(), &mut 0), Next::Nowhere);
    }
}
