//! Transfers between one receiver and scripted leaders.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    ids::Term,
    limits::TRANSFER_RATE_MIN,
    replication::{
        group::Membership,
        transfer::{
            message::SnapshotNumber,
            sender::{Ended, Sender},
        },
    },
};

const GROUP: GroupId = GroupId(7);
const OWN: ReplicaId = ReplicaId(3);
/// Where the state stands that was announced first.
const TARGET: LogIndex = LogIndex(100);
const MIB: u64 = 1 << 20;

/// Leaders with a log of batches of one MiB (one offset each), and a receiver that appends what it is given.
struct Pair {
    now: Monotonic,
    receiver: Receiver,
    local: Local,
    numbers: u64,
    /// Where the leaders' logs end, in batches.
    end: u64,
    image: Bytes,
    sender: Sender,
    snapshots: u64,
    /// Questions that were asked, in order.
    asked: Vec<Question>,
}

impl Pair {
    fn new(end: u64, image: &'static [u8]) -> Self {
        let now = Monotonic(1_000_000_000);
        let log = Some(LogEnd { next_offset: Offset(0), bytes: 0 });
        Self {
            now,
            receiver: Receiver::new(now, GROUP, OWN, TARGET),
            local: Local { source: Some(ReplicaId(1)), commit: LogIndex(1), log, room: true },
            numbers: 0,
            end,
            image: Bytes::from_static(image),
            sender: Sender::default(),
            snapshots: 0,
            asked: Vec::new(),
        }
    }

    fn without_segments(image: &'static [u8]) -> Self {
        let mut pair = Self::new(0, image);
        pair.local.log = None;
        pair
    }

    fn ask(&mut self) -> Option<Question> {
        let question = self.receiver.poll(self.now, &self.local, &mut self.numbers)?;
        self.asked.push(question.clone());
        Some(question)
    }

    fn reply(&mut self, ask: Ask) -> Reply {
        let end = LogEnd { next_offset: Offset(self.end as i64), bytes: self.end * MIB };
        match ask {
            Ask::Batches { from, upper, .. } => {
                let is_there = from < end.next_offset.min(upper);
                let batches = is_there.then(|| Bytes::from(vec![0; MIB as usize])).into_iter().collect();
                Reply::Batches { from, end, batches }
            }
            Ask::Snapshot => {
                self.snapshots += 1;
                let head = self.head(LogIndex(100 + self.snapshots));
                self.sender.keep(self.now, OWN, &head, self.image.clone());
                Reply::Snapshot(Box::new(head))
            }
            Ask::Image { snapshot, offset, .. } => match self.sender.image(OWN, snapshot, offset, 4) {
                Some(bytes) => Reply::Image { snapshot, offset, bytes },
                None => Reply::Refused(Refusal::Gone),
            },
            Ask::Installed { position } => {
                self.sender.ended(OWN, Ended::Installed(position));
                Reply::Noted
            }
            Ask::GaveUp => Reply::Noted,
        }
    }

    fn head(&self, index: LogIndex) -> SnapshotHead {
        SnapshotHead {
            snapshot: SnapshotNumber(self.snapshots),
            position: SnapshotPosition { index, term: Term(1) },
            membership: Membership::new([ReplicaId(1), ReplicaId(2), OWN], []),
            removed: BTreeSet::new(),
            log_start: Offset(0),
            end: LogEnd { next_offset: Offset(self.end as i64), bytes: self.end * MIB },
            image_bytes: self.image.len() as u64,
            image_crc: crc32c::crc32c(&self.image),
        }
    }

    fn deliver(&mut self, question: &Question, reply: Reply) -> Option<Taken> {
        let Question { group, from, to, number, .. } = *question;
        let answer = Answer { group, from: to, to: from, number, reply };
        let taken = self.receiver.answer(self.now, &self.local, answer)?;
        if let Taken::Append { from, batches } = &taken {
            let log = self.local.log.as_mut().unwrap();
            assert_eq!(*from, log.next_offset);
            log.next_offset = log.next_offset.plus(1);
            log.bytes += batches.len() as u64;
        }
        Some(taken)
    }

    /// One question with its answer, or the time until one is due.
    fn step(&mut self) {
        match self.ask() {
            Some(question) => {
                let reply = self.reply(question.ask);
                assert!(self.deliver(&question, reply).is_some(), "the answer fits");
            }
            None => {
                let wait = self.receiver.next_deadline().expect("it waits for time");
                assert!(wait > self.now, "it does not wait for the past");
                self.now = wait;
            }
        }
    }

    fn standing(&self) -> Standing {
        self.receiver.standing(self.now, &self.local)
    }

    fn run_until_complete(&mut self) {
        for _ in 0..10_000 {
            if self.standing() == Standing::Complete {
                return;
            }
            self.step();
        }
        panic!("it never ends: {:?}", self.receiver);
    }

    /// Names of the questions, repetitions left out.
    fn order(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self
            .asked
            .iter()
            .map(|question| match question.ask {
                Ask::Batches { .. } => "batches",
                Ask::Snapshot => "snapshot",
                Ask::Image { .. } => "image",
                Ask::Installed { .. } => "installed",
                Ask::GaveUp => "gave up",
            })
            .collect();
        names.dedup();
        names
    }
}

#[test]
fn batches_come_first_then_a_snapshot_then_what_it_names() {
    let mut pair = Pair::new(20, b"the image");
    while pair.order().last() != Some(&"snapshot") {
        pair.step();
    }
    assert_eq!(pair.local.log.unwrap().next_offset, Offset(12), "eight MiB are left for the delta");
    pair.run_until_complete();
    assert_eq!(pair.order(), ["batches", "snapshot", "image", "batches"]);
    assert_eq!(pair.local.log.unwrap().next_offset, Offset(20));
    assert_eq!(pair.asked.iter().filter(|asked| matches!(asked.ask, Ask::Batches { .. })).count(), 20, "none twice");

    let complete = pair.receiver.complete();
    assert_eq!((&complete.image[..], complete.head.position.index), (&b"the image"[..], LogIndex(101)));
    pair.receiver.installed(pair.now, complete.head.position);
    assert_eq!(pair.standing(), Standing::UnderWay);
    pair.step();
    assert_eq!(pair.order().last(), Some(&"installed"));
    assert_eq!(pair.standing(), Standing::Reported);
    assert!(pair.sender.is_empty(), "nothing is kept for it");
}

#[test]
fn a_group_without_segments_fetches_an_image() {
    let mut pair = Pair::without_segments(b"0123456789");
    pair.run_until_complete();
    assert_eq!(pair.order(), ["snapshot", "image"]);
    assert_eq!(&pair.receiver.complete().image[..], b"0123456789");

    let mut empty = Pair::without_segments(b"");
    empty.run_until_complete();
    assert_eq!(empty.order(), ["snapshot"]);
}

#[test]
fn a_lost_answer_is_asked_for_again_and_a_late_one_is_not_taken() {
    let mut pair = Pair::new(20, b"");
    let lost = pair.ask().unwrap();
    assert_eq!(pair.ask(), None, "one question at a time");
    pair.now = pair.now + TRANSFER_ANSWER_TIMEOUT;
    let again = pair.ask().unwrap();
    let (Ask::Batches { from, .. }, Ask::Batches { from: first, .. }) = (&again.ask, &lost.ask) else {
        panic!("{again:?} after {lost:?}")
    };
    assert_eq!(from, first);
    let reply = pair.reply(lost.ask);
    assert_eq!(pair.deliver(&lost, reply.clone()), None, "too late");
    assert!(pair.deliver(&again, reply.clone()).is_some());
    assert_eq!(pair.deliver(&again, reply), None, "a duplicate");
}

/// Otherwise several transfers on a slow path would fill it with answers that come too late, and none would get on.
#[test]
fn answers_that_come_late_are_asked_for_in_smaller_parts() {
    let mut pair = Pair::new(2000, b"");
    let size = |question: &Question| match question.ask {
        Ask::Batches { bytes_max, .. } | Ask::Image { bytes_max, .. } => bytes_max as usize,
        Ask::Snapshot | Ask::Installed { .. } | Ask::GaveUp => panic!("{question:?} has no size"),
    };
    let mut sizes = Vec::new();
    for _ in 0..8 {
        sizes.push(size(&pair.ask().unwrap()));
        pair.now = pair.now + TRANSFER_ANSWER_TIMEOUT;
    }
    assert_eq!(sizes[..3], [1 << 20, 1 << 19, 1 << 18]);
    assert_eq!(sizes[7], TRANSFER_ANSWER_BYTES_MIN);
    for _ in 0..500 {
        pair.step();
    }
    assert_eq!(size(pair.asked.last().unwrap()), TRANSFER_ANSWER_BYTES_MAX, "when they come in time, bit by bit again");
}

#[test]
fn a_new_leader_goes_on_where_the_old_one_ended() {
    let mut pair = Pair::new(30, b"0123456789");
    for _ in 0..20 {
        pair.step();
    }
    let reached = pair.local.log.unwrap().next_offset;
    let open = loop {
        match pair.ask() {
            Some(open) => break open,
            None => pair.now = pair.receiver.next_deadline().unwrap(),
        }
    };
    pair.local.source = None;
    pair.now = pair.now + TRANSFER_ANSWER_TIMEOUT;
    assert_eq!((pair.ask(), pair.receiver.next_deadline()), (None, None), "there is nobody to ask");
    pair.local.source = Some(ReplicaId(2));
    let next = pair.ask().unwrap();
    let onwards = Ask::Batches { from: reached, upper: Offset(i64::MAX), bytes_max: MIB as u32 };
    assert_eq!((next.to, next.ask), (ReplicaId(2), onwards));
    let reply = pair.reply(open.ask);
    assert_eq!(pair.deliver(&open, reply), None, "it was asked of another");
    let reply = pair.reply(next.ask);
    pair.deliver(&next, reply);

    // In the middle of the image the first one is back: the snapshot of the other is worth nothing.
    while pair.order().last() != Some(&"image") {
        pair.step();
    }
    pair.local.source = Some(ReplicaId(1));
    pair.run_until_complete();
    assert_eq!(pair.snapshots, 2);
}

#[test]
fn refusals_are_followed_by_a_pause_and_a_lost_snapshot_by_another() {
    let mut pair = Pair::new(1, b"0123456789");
    for refusal in [Refusal::NotLeader, Refusal::Busy, Refusal::NotMember, Refusal::Unreadable] {
        let question = pair.ask().unwrap();
        pair.deliver(&question, Reply::Refused(refusal));
        assert_eq!(pair.ask(), None);
        assert_eq!(pair.receiver.next_deadline(), Some(pair.now + TRANSFER_PAUSE));
        pair.now = pair.now + TRANSFER_PAUSE;
    }
    while pair.order().last() != Some(&"image") {
        pair.step();
    }
    pair.sender = Sender::default();
    pair.run_until_complete();
    assert_eq!(pair.snapshots, 2);
}

#[test]
fn an_image_that_came_wrong_is_fetched_again() {
    let mut pair = Pair::new(1, b"0123456789");
    while pair.order().last() != Some(&"image") {
        pair.step();
    }
    let question = loop {
        match pair.ask() {
            Some(question) => break question,
            None => pair.now = pair.receiver.next_deadline().unwrap(),
        }
    };
    let Ask::Image { snapshot, offset, .. } = question.ask else { panic!("an image") };
    pair.deliver(&question, Reply::Image { snapshot, offset, bytes: Bytes::from_static(b"oooo") });
    pair.run_until_complete();
    assert_eq!(pair.snapshots, 2);
    assert_eq!(&pair.receiver.complete().image[..], b"0123456789");
}

#[test]
fn nothing_is_fetched_while_there_is_no_room_or_faster_than_allowed() {
    let mut pair = Pair::new(100, b"");
    pair.local.room = false;
    assert_eq!((pair.ask(), pair.receiver.next_deadline()), (None, None), "it waits for room, not for a time");
    pair.local.room = true;
    let start = pair.now;
    for _ in 0..40 {
        pair.step();
    }
    let fetched = pair.local.log.unwrap().bytes;
    let allowed = TRANSFER_RATE_MIN * pair.now.since(start).as_millis() as u64 / 1000 + MIB;
    assert!(fetched >= 19 * MIB && fetched <= allowed, "{fetched} of {allowed}");
}

/// The batches came from a leader that had applied more; without this replica the new one cannot apply them.
#[test]
fn a_snapshot_may_be_behind_the_batches_that_are_here() {
    let mut pair = Pair::new(20, b"");
    pair.local.log = Some(LogEnd { next_offset: Offset(21), bytes: 21 * MIB });
    pair.run_until_complete();
    assert_eq!(pair.receiver.complete().head.end.next_offset, Offset(20));
}

#[test]
fn a_snapshot_that_is_of_no_use_is_not_taken() {
    let mut pair = Pair::new(1, b"");
    pair.local.commit = LogIndex(101);
    pair.receiver.announced(LogIndex(500));
    while pair.snapshots < 1 {
        pair.step();
    }
    assert_eq!(pair.standing(), Standing::UnderWay, "older than what is here");
    pair.run_until_complete();
    assert_eq!(pair.receiver.complete().head.position.index, LogIndex(102));

    let mut stranger = Pair::new(1, b"");
    while stranger.order().last() != Some(&"snapshot") {
        stranger.step();
        if let Some(question) = stranger.ask()
            && question.ask == Ask::Snapshot
        {
            let mut head = stranger.head(LogIndex(200));
            head.membership = Membership::new([ReplicaId(1)], []);
            stranger.deliver(&question, Reply::Snapshot(Box::new(head)));
        }
    }
    assert_ne!(stranger.standing(), Standing::Complete);
}

/// A new leader has not applied everything that the former one sent us.
#[test]
fn the_log_ends_where_the_snapshot_does() {
    let mut pair = Pair::new(20, b"");
    while pair.receiver.head().is_none() {
        pair.step();
    }
    pair.end = 25;
    pair.run_until_complete();
    assert_eq!(pair.local.log.unwrap().next_offset, pair.receiver.head().unwrap().end.next_offset);
}

#[test]
fn what_raft_brought_after_all_needs_no_transfer() {
    let mut pair = Pair::new(20, b"");
    pair.step();
    pair.local.commit = LogIndex(99);
    assert_eq!(pair.standing(), Standing::UnderWay);
    pair.local.commit = TARGET;
    assert_eq!(pair.standing(), Standing::Needless);
    pair.receiver.announced(LogIndex(120));
    assert_eq!(pair.standing(), Standing::UnderWay);
}

#[test]
fn a_transfer_that_does_not_get_on_ends_and_a_report_is_not_repeated_for_ever() {
    let mut pair = Pair::new(20, b"");
    pair.step();
    pair.local.source = None;
    pair.ask();
    pair.now = pair.now + TRANSFER_STUCK;
    assert_eq!(pair.standing(), Standing::Stuck);
    assert_eq!(pair.receiver.give_up(ReplicaId(1), &mut pair.numbers).ask, Ask::GaveUp);

    let mut pair = Pair::new(1, b"");
    pair.run_until_complete();
    let position = pair.receiver.complete().head.position;
    pair.receiver.installed(pair.now, position);
    let start = pair.now;
    while pair.standing() == Standing::UnderWay {
        if pair.ask().is_none() {
            pair.now = pair.receiver.next_deadline().unwrap();
        }
    }
    assert_eq!(pair.now.since(start), TRANSFER_REPORT);

    // Whoever sends what follows knows.
    let mut pair = Pair::new(1, b"");
    pair.run_until_complete();
    let position = pair.receiver.complete().head.position;
    pair.receiver.installed(pair.now, position);
    pair.local.commit = LogIndex(position.index.0 + 1);
    assert_eq!(pair.standing(), Standing::Reported);
}

#[derive(Clone, Debug)]
enum Event {
    Answer,
    Lose,
    Twice,
    Refuse(Refusal),
    Leader(Option<u64>),
    Forget,
    Grow,
    Wait,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => Just(Event::Answer),
        2 => Just(Event::Lose),
        1 => Just(Event::Twice),
        1 => prop_oneof![Just(Refusal::Busy), Just(Refusal::NotLeader), Just(Refusal::Gone)].prop_map(Event::Refuse),
        1 => prop_oneof![Just(None), Just(Some(1)), Just(Some(2))].prop_map(Event::Leader),
        1 => Just(Event::Forget),
        1 => Just(Event::Grow),
        2 => Just(Event::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is lost, doubled, refused or forgotten: once that ends, the transfer is complete, and every batch was
    /// appended once and in order (the helper asserts that).
    #[test]
    fn faults_delay_a_transfer_and_nothing_else(events in proptest::collection::vec(event(), 0..120)) {
        let mut pair = Pair::new(15, b"0123456789");
        for event in events {
            let Some(question) = pair.ask() else {
                pair.now = pair.receiver.next_deadline().unwrap_or(pair.now + Duration::from_millis(100));
                continue;
            };
            match event {
                Event::Answer => {
                    let reply = pair.reply(question.ask);
                    pair.deliver(&question, reply);
                }
                Event::Lose | Event::Wait => pair.now = pair.now + TRANSFER_ANSWER_TIMEOUT,
                Event::Twice => {
                    let reply = pair.reply(question.ask);
                    pair.deliver(&question, reply.clone());
                    prop_assert_eq!(pair.deliver(&question, reply), None);
                }
                Event::Refuse(refusal) => { pair.deliver(&question, Reply::Refused(refusal)); }
                Event::Leader(leader) => pair.local.source = leader.map(ReplicaId),
                Event::Forget => pair.sender = Sender::default(),
                Event::Grow => pair.end += 1,
            }
            if pair.standing() == Standing::Stuck {
                pair.receiver = Receiver::new(pair.now, GROUP, OWN, TARGET);
            }
        }
        pair.local.source = Some(ReplicaId(1));
        if pair.standing() == Standing::Stuck {
            pair.receiver = Receiver::new(pair.now, GROUP, OWN, TARGET);
        }
        pair.run_until_complete();
        let complete = pair.receiver.complete();
        prop_assert_eq!(&complete.image[..], &b"0123456789"[..]);
        prop_assert_eq!(pair.local.log.unwrap().next_offset, complete.head.end.next_offset);
    }
}
