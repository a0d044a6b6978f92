//! The messages as bytes.

use proptest::prelude::*;

use super::*;

const PLACE: SnapshotPosition = SnapshotPosition { index: LogIndex(0x0102), term: Term(3) };
const END: LogEnd = LogEnd { next_offset: Offset(0x0304), bytes: 0x0506 };

fn question(ask: Ask) -> Question {
    Question { group: GroupId(0xa1), from: ReplicaId(0xb2), to: ReplicaId(0xc3), number: 0xd4, ask }
}

fn answer(reply: Reply) -> Answer {
    Answer { group: GroupId(0xa1), from: ReplicaId(0xb2), to: ReplicaId(0xc3), number: 0xd4, reply }
}

fn head() -> SnapshotHead {
    SnapshotHead {
        snapshot: SnapshotNumber(7),
        position: PLACE,
        membership: Membership::new([ReplicaId(2), ReplicaId(3)], [ReplicaId(9)]),
        removed: [ReplicaId(1)].into(),
        log_start: Offset(5),
        end: END,
        image_bytes: 0x0708,
        image_crc: 0x090a_0b0c,
    }
}

fn questions() -> Vec<Question> {
    let asks = [
        Ask::Batches { from: Offset(0x0304), upper: Offset(0x0708), bytes_max: 0x0010_0000 },
        Ask::Snapshot,
        Ask::Image { snapshot: SnapshotNumber(7), offset: 0x0506, bytes_max: 9 },
        Ask::Installed { position: PLACE },
        Ask::GaveUp,
    ];
    asks.into_iter().map(question).collect()
}

fn answers() -> Vec<Answer> {
    let replies = [
        Reply::Batches { from: Offset(2), end: END, batches: vec![Bytes::from_static(b"batches")] },
        Reply::Snapshot(Box::new(head())),
        Reply::Image { snapshot: SnapshotNumber(7), offset: 0x0506, bytes: Bytes::from_static(b"image") },
        Reply::Noted,
    ];
    replies.into_iter().chain(Refusal::ALL.map(Reply::Refused)).map(answer).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(answer: Answer) -> Bytes {
    Bytes::from(answer.encode().concat())
}

/// Nodes of other builds speak these bytes: a change of the format is a new version.
#[test]
fn the_encoding_of_version_1_is_this_for_ever() {
    let head_of_all = "0100000000000000a100000000000000b200000000000000c300000000000000d4";
    let bodies = [
        "010000000000000304000000000000070800100000",
        "02",
        "030000000000000007000000000000050600000009",
        "0400000000000001020000000000000003",
        "05",
    ];
    let encoded: Vec<String> = questions().iter().map(|question| hex(&question.encode())).collect();
    assert_eq!(encoded, bodies.map(|body| format!("{head_of_all}{body}")));

    let snapshot = "02\
        000000000000000700000000000001020000000000000003\
        00000008010a020203120109\
        000000010000000000000001\
        000000000000000500000000000003040000000000000506\
        0000000000000708090a0b0c";
    let bodies = [
        "0100000000000000020000000000000304000000000000050662617463686573",
        snapshot,
        "0300000000000000070000000000000506696d616765",
        "04",
        "0501",
        "0502",
        "0503",
        "0504",
        "0505",
        "0506",
        "0507",
    ];
    let encoded: Vec<String> = answers().into_iter().map(|answer| hex(&bytes_of(answer))).collect();
    assert_eq!(encoded, bodies.map(|body| format!("{head_of_all}{body}")));

    let announcement = Announcement { log_start: Offset(5), end: END };
    assert_eq!(hex(&announcement.encode()), "01000000000000000500000000000003040000000000000506");
}

#[test]
fn what_was_encoded_is_read_again() {
    for question in questions() {
        assert_eq!(Question::decode(&question.encode()), Ok(question));
    }
    for answer in answers() {
        assert_eq!(Answer::decode(&bytes_of(answer.clone())), Ok(answer));
    }
    let announcement = Announcement { log_start: Offset(5), end: END };
    assert_eq!(Announcement::decode(&announcement.encode()), Ok(announcement));
}

#[test]
fn the_payload_of_an_answer_is_not_copied() {
    let payload = Bytes::from(vec![7; 100]);
    let parts = answer(Reply::Batches { from: Offset(2), end: END, batches: vec![payload.clone()] }).encode();
    assert_eq!(parts.last().map(|part| part.as_ptr()), Some(payload.as_ptr()));
    let whole = Bytes::from(parts.concat());
    let Ok(Answer { reply: Reply::Batches { batches, .. }, .. }) = Answer::decode(&whole) else { panic!("batches") };
    assert_eq!(batches[0].as_ptr(), whole[whole.len() - 100..].as_ptr());
}

#[test]
fn what_nobody_could_mean_is_refused() {
    let with = |change: fn(&mut SnapshotHead)| {
        let mut head = head();
        change(&mut head);
        Answer::decode(&bytes_of(answer(Reply::Snapshot(Box::new(head)))))
    };
    assert!(with(|_| ()).is_ok());
    assert!(with(|head| head.position.index = LogIndex(0)).is_err());
    assert!(with(|head| head.position.term = Term(u64::from(u32::MAX))).is_err());
    assert!(with(|head| head.removed = [ReplicaId(2)].into()).is_err(), "a member was not removed");
    assert!(with(|head| head.log_start = Offset(0x0305)).is_err(), "a log starts before it ends");
    assert!(with(|head| head.image_bytes = u64::MAX).is_err(), "nobody has the memory");
    let installed = Ask::Installed { position: SnapshotPosition { index: LogIndex(1 << 60), term: Term(1) } };
    assert!(Question::decode(&question(installed).encode()).is_err());
    let before_all = Ask::Batches { from: Offset(-1), upper: Offset(1), bytes_max: 1 };
    assert!(Question::decode(&question(before_all).encode()).is_err());
    let mut later = question(Ask::Snapshot).encode().to_vec();
    later[0] = 2;
    assert!(Question::decode(&later).is_err(), "another version");
}

proptest! {
    /// Whatever comes is a message or an error; and a message has one encoding.
    #[test]
    fn arbitrary_bytes_are_no_danger(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..7u8) {
        if let Some(version) = bytes.first_mut() {
            *version = 1;
        }
        if let Some(at) = bytes.get_mut(33) {
            *at = kind;
        }
        if let Ok(question) = Question::decode(&bytes) {
            prop_assert_eq!(question.encode(), bytes.clone());
        }
        let bytes = Bytes::from(bytes);
        if let Ok(answer) = Answer::decode(&bytes) && !matches!(answer.reply, Reply::Snapshot(_)) {
            prop_assert_eq!(bytes_of(answer), bytes.clone());
        }
        let _ = Announcement::decode(&bytes);
    }

    #[test]
    fn a_cut_message_is_an_error(which in 0..15usize, keep in 0.0..1.0f64) {
        let answers: Vec<Bytes> = answers().into_iter().map(bytes_of).collect();
        if let Some(question) = questions().get(which) {
            let bytes = question.encode();
            let cut = (bytes.len() as f64 * keep) as usize;
            prop_assert!(Question::decode(&bytes[..cut]).is_err());
        }
        if let Some(bytes) = answers.get(which).filter(|bytes| bytes[33] != 1 && bytes[33] != 3) {
            let cut = (bytes.len() as f64 * keep) as usize;
            prop_assert!(Answer::decode(&bytes.slice(..cut)).is_err());
        }
    }
}
