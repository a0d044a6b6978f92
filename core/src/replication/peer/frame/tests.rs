//! Frames survive the way, hostile ones change nothing, and the bytes of the format never change by accident.

use proptest::{collection::vec, option, prelude::*};
use prost::Message as _;
use raft::prelude::{Entry, EntryType, Message, MessageType, Snapshot};

use super::*;
use crate::{
    config::Endpoint,
    ids::{DirectoryId, GroupId, LogIndex, ReplicaId},
    replication::peer::section::{self, ControlKind, Envelope, Hello, RaftSection, Seen},
};

fn header() -> Header {
    Header {
        lane: Lane::Raft,
        cluster: Some(ClusterId(Uuid([0xc1; 16]))),
        from: NodeId(1),
        to: NodeId(2),
        boot: BootNumber(3),
        number: 6,
        wall: Wall(1_700_000_000_000),
        durable: WriteNumber(77),
        ping: Ping(5_000_000_000),
        echo: Some(Echo { boot: BootNumber(9), ping: Ping(123), hold: Duration::from_micros(250) }),
        received: [Received { link: LinkId(4), frame: 10 }, Received { link: LinkId(5), frame: 20 }],
    }
}

fn hello() -> Hello {
    Hello {
        directory: DirectoryId(Uuid([0xd1; 16])),
        link: LinkId(1 << 63 | 1),
        configuration: 0xfeed,
        advertised: Endpoint { host: "broker-1".to_owned(), port: 9092 },
        rack: Some("r1".to_owned()),
        empty: false,
        seen: Some(Seen { directory: DirectoryId(Uuid([0xd2; 16])), durable: WriteNumber(41) }),
    }
}

fn envelope() -> Envelope {
    Envelope { group: GroupId(7), from: ReplicaId(11), to: ReplicaId(12), epoch: 2 }
}

fn append(payloads: &[Bytes]) -> Message {
    let entry = |(index, data): (usize, &Bytes)| Entry {
        entry_type: EntryType::EntryNormal as i32,
        term: 3,
        index: 101 + index as u64,
        data: data.clone(),
        context: Bytes::from_static(b"header"),
        ..Entry::default()
    };
    Message {
        msg_type: MessageType::MsgAppend as i32,
        from: 11,
        to: 12,
        term: 3,
        log_term: 2,
        index: 100,
        commit: 99,
        entries: payloads.iter().enumerate().map(entry).collect(),
        ..Message::default()
    }
}

fn raft(frame: &mut FrameBuilder, message: Message) {
    RaftSection::new(envelope(), message).expect("it is small enough").encode(frame);
}

fn joined(slices: &[Bytes]) -> Bytes {
    slices.concat().into()
}

/// The frame as a driver delivers it: in one piece, without its prefix.
fn delivered(slices: &[Bytes]) -> Bytes {
    let mut all = joined(slices);
    let prefix = all.split_to(PREFIX_BYTES);
    assert_eq!(u32::from_be_bytes(prefix[..].try_into().unwrap()) as usize, all.len());
    all
}

fn sections(frame: &Frame) -> Result<Vec<Section>, FrameError> {
    frame.sections().collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_a_replica_says_to_hold_can_be_read_off_a_frame() {
    let response = |index, reject| Message {
        msg_type: MessageType::MsgAppendResponse as i32,
        from: 11,
        to: 12,
        index,
        reject,
        ..Message::default()
    };
    let mut frame = FrameBuilder::new();
    raft(&mut frame, append(&[]));
    raft(&mut frame, response(104, true));
    raft(&mut frame, response(103, false));
    let frame = Frame::decode(delivered(&frame.finish(&header()))).unwrap();
    let acknowledged: Vec<_> = sections(&frame).unwrap().iter().filter_map(Section::acknowledges).collect();
    assert_eq!(acknowledged, [(envelope(), LogIndex(103))]);
}

#[test]
fn the_bytes_of_version_1_are_these() {
    let mut frame = FrameBuilder::new();
    hello().encode(&mut frame);
    raft(&mut frame, append(&[Bytes::from_static(b"abc")]));
    section::encode_control(ControlKind(0x0102), [Bytes::from_static(b"xyz")], &mut frame);
    let golden = concat!(
        "0000012e",                                                 // length of what follows
        "4b415552",                                                 // magic
        "0001",                                                     // version
        "00",                                                       // lane
        "03",                                                       // flags
        "ee578afb",                                                 // checksum
        "c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1",                         // cluster
        "00000001",                                                 // from
        "00000002",                                                 // to
        "0000000000000003",                                         // boot
        "0000000000000006",                                         // number
        "0000018bcfe56800",                                         // wall clock
        "000000000000004d",                                         // durable
        "000000012a05f200",                                         // ping
        "0000000000000009",                                         // echo: boot
        "000000000000007b",                                         // echo: ping
        "000000000003d090",                                         // echo: hold
        "0000000000000004",                                         // received, Raft lane: link
        "000000000000000a",                                         // frame
        "0000000000000005",                                         // received, bulk lane: link
        "0000000000000014",                                         // frame
        "01",                                                       // hello
        "0000004f",                                                 // its length
        "d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1",                         // directory
        "8000000000000001",                                         // link
        "000000000000feed",                                         // configuration
        "00000008",                                                 // length of the host
        "62726f6b65722d31",                                         // host
        "2384",                                                     // port
        "01",                                                       // there is a rack
        "00000002",                                                 // its length
        "7231",                                                     // rack
        "00",                                                       // not empty
        "01",                                                       // there is a position
        "d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2",                         // its directory
        "0000000000000029",                                         // position
        "02",                                                       // Raft
        "00000047",                                                 // its length
        "0000000000000007",                                         // group
        "000000000000000b",                                         // from
        "000000000000000c",                                         // to
        "00000002",                                                 // epoch
        "0000001c",                                                 // length of the message
        "00000001",                                                 // entries
        "00000003",                                                 // length of the payload
        "0803100c180b2003280230643a0c1003186532066865616465724063", // message, contexts included
        "616263",                                                   // payload
        "03",                                                       // control
        "00000005",                                                 // its length
        "0102",                                                     // kind
        "78797a",                                                   // bytes
    );
    assert_eq!(hex(&joined(&frame.finish(&header()))), golden);
}

#[test]
fn a_frame_without_sections_is_a_ping() {
    let frame = FrameBuilder::new().finish(&header());
    let decoded = Frame::decode(delivered(&frame)).unwrap();
    assert_eq!(decoded.header, header());
    assert_eq!(sections(&decoded), Ok(vec![]));
}

#[test]
fn large_payloads_are_never_copied() {
    let large = Bytes::from(vec![7; limits::BATCH_SHARED_BYTES_MIN]);
    let huge = Bytes::from(vec![8; 3 << 20]);
    let small = Bytes::from(vec![9; 100]);
    let mut frame = FrameBuilder::new();
    raft(&mut frame, append(&[large.clone(), small, huge.clone(), large.clone()]));
    section::encode_control(ControlKind(1), [huge.clone()], &mut frame);
    let slices = frame.finish(&header());
    for payload in [&large, &huge] {
        let copies = slices.iter().filter(|slice| slice.as_ptr() == payload.as_ptr() && slice.len() == payload.len());
        assert_eq!(copies.count(), 2, "the slices that leave are the slices that came");
    }

    let bytes = delivered(&slices);
    let within = bytes.as_ptr_range();
    for section in sections(&Frame::decode(bytes.clone()).unwrap()).unwrap() {
        let payloads = match section {
            Section::Raft(_, message) => {
                message.entries.into_iter().flat_map(|entry| [entry.data, entry.context]).collect()
            }
            Section::Control(_, bytes) => vec![bytes],
            Section::Hello(_) => panic!("there is none"),
        };
        for payload in payloads {
            assert!(within.contains(&payload.as_ptr()), "a decoded payload lies in the frame that arrived");
        }
    }
}

#[test]
fn every_changed_byte_is_noticed() {
    let mut frame = FrameBuilder::new();
    raft(&mut frame, append(&[Bytes::from_static(b"abc")]));
    let good = delivered(&frame.finish(&header()));
    for at in 0..good.len() {
        let mut bad = good.to_vec();
        bad[at] ^= 0x40;
        assert!(Frame::decode(bad.into()).is_err(), "byte {at}");
    }
    for length in 0..good.len() {
        assert!(Frame::decode(good.slice(..length)).is_err(), "length {length}");
    }
}

#[test]
fn another_version_is_refused_by_name() {
    let mut frame = FrameBuilder::new().finish(&header()).concat()[PREFIX_BYTES..].to_vec();
    frame[5] = 9;
    assert_eq!(Frame::decode(frame.into()).unwrap_err(), FrameError::Version(9));
}

/// A frame around a body that no builder would make, with a good checksum.
fn forged(body: &[u8]) -> Frame {
    let mut frame = FrameBuilder::new();
    frame.payload(Bytes::copy_from_slice(body));
    Frame::decode(delivered(&frame.finish(&header()))).expect("the header is good")
}

fn forged_section(kind: u8, body: &[u8]) -> Result<Vec<Section>, FrameError> {
    sections(&forged(&[&[kind], &(body.len() as u32).to_be_bytes()[..], body].concat()))
}

fn forged_raft(lengths: &[u32], announced: u32, message: &Message, payload: &[u8]) -> SectionError {
    let message = message.encode_to_vec();
    let mut body = Vec::new();
    body.put_u64(7);
    body.put_u64(11);
    body.put_u64(12);
    body.put_u32(0);
    body.put_u32(message.len() as u32);
    body.put_u32(announced);
    lengths.iter().for_each(|&length| body.put_u32(length));
    body.put_slice(&message);
    body.put_slice(payload);
    match forged_section(2, &body) {
        Err(FrameError::Section { kind: SectionKind::Raft, error }) => error,
        other => panic!("it was taken: {other:?}"),
    }
}

#[test]
fn each_kind_of_malformed_section_has_its_error() {
    assert_eq!(forged_section(9, &[]), Err(FrameError::Kind(9)));
    assert_eq!(sections(&forged(&[3, 0, 0, 1, 0, 1])), Err(FrameError::Cut));
    assert_eq!(sections(&forged(&[3, 0xff])), Err(FrameError::Cut));
    let control = |error| Err(FrameError::Section { kind: SectionKind::Control, error });
    assert_eq!(forged_section(3, &[1]), control(SectionError::Cut));

    let one = append(&[Bytes::new()]);
    let two = append(&[Bytes::new(), Bytes::new()]);
    let with_payload = append(&[Bytes::from_static(b"inside")]);
    let for_others = Message { to: 13, ..one.clone() };
    assert_eq!(forged_raft(&[0, 0], 2, &one, b""), SectionError::EntryCount { announced: 2, present: 1 });
    assert_eq!(forged_raft(&[0], 1, &two, b""), SectionError::EntryCount { announced: 1, present: 2 });
    assert_eq!(forged_raft(&[0], 1, &with_payload, b""), SectionError::PayloadInMessage);
    assert_eq!(forged_raft(&[0], 1, &for_others, b""), SectionError::Envelope);
    assert_eq!(forged_raft(&[4], 1, &one, b"abc"), SectionError::Cut);
    assert_eq!(forged_raft(&[2], 1, &one, b"abc"), SectionError::Trailing(1));
    assert_eq!(forged_raft(&[], u32::MAX, &one, b""), SectionError::Entries(u32::MAX));
    assert_eq!(forged_raft(&[], 1 << 10, &one, b""), SectionError::Cut);
}

#[test]
fn entries_that_nobody_paid_for_are_not_allocated() {
    // A mebibyte of two-byte entries is 50 MiB decoded; it is refused by counting.
    let body: Vec<u8> = [0x3a, 0x00].repeat(512 << 10);
    let mut section = Vec::new();
    section.put_slice(&[0; 28]);
    section.put_u32(body.len() as u32);
    section.put_u32(0);
    section.put_slice(&body);
    let error = SectionError::EntryCount { announced: 0, present: 512 << 10 };
    assert_eq!(forged_section(2, &section), Err(FrameError::Section { kind: SectionKind::Raft, error }));
}

#[test]
fn what_fits_into_no_frame_is_not_built() {
    let many = vec![Bytes::new(); limits::RAFT_MESSAGE_ENTRIES_MAX + 1];
    assert!(RaftSection::new(envelope(), append(&many)).is_none());
    let large = Bytes::from(vec![0; 1 << 20]);
    assert!(RaftSection::new(envelope(), append(&vec![large; 128])).is_none());
    let snapshot = Snapshot { data: vec![0; limits::RAFT_MESSAGE_STRIPPED_BYTES_MAX].into(), metadata: None };
    let message = Message { snapshot: Some(snapshot), ..append(&[]) };
    assert!(RaftSection::new(envelope(), message).is_none());
}

fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..64).prop_map(Bytes::from),
        1 => (any::<u8>(), (limits::BATCH_SHARED_BYTES_MIN - 2)..(limits::BATCH_SHARED_BYTES_MIN + 2))
            .prop_map(|(byte, length)| Bytes::from(vec![byte; length])),
    ]
}

fn any_header() -> impl Strategy<Value = Header> {
    (
        (any::<bool>(), option::of(any::<[u8; 16]>()), 0..i32::MAX, 0..i32::MAX, any::<u64>()),
        (any::<i64>(), any::<u64>(), any::<u64>(), option::of(any::<[u64; 3]>()), any::<[u64; 5]>()),
    )
        .prop_map(|((bulk, cluster, from, to, boot), (wall, durable, ping, echo, received))| Header {
            lane: if bulk { Lane::Bulk } else { Lane::Raft },
            cluster: cluster.map(|cluster| ClusterId(Uuid(cluster))),
            from: NodeId(from),
            to: NodeId(to),
            boot: BootNumber(boot),
            number: received[4],
            wall: Wall(wall),
            durable: WriteNumber(durable),
            ping: Ping(ping),
            echo: echo.map(|[boot, ping, hold]| Echo {
                boot: BootNumber(boot),
                ping: Ping(ping),
                hold: Duration::from_nanos(hold),
            }),
            received: [
                Received { link: LinkId(received[0]), frame: received[1] },
                Received { link: LinkId(received[2]), frame: received[3] },
            ],
        })
}

fn any_section() -> impl Strategy<Value = Section> {
    let hello = (
        (any::<[u8; 16]>(), any::<u64>(), any::<u64>(), ".{0,40}", any::<u16>()),
        (option::of(".{0,20}"), any::<bool>(), option::of((any::<[u8; 16]>(), any::<u64>()))),
    )
        .prop_map(|((directory, link, configuration, host, port), (rack, empty, seen))| Hello {
            directory: DirectoryId(Uuid(directory)),
            link: LinkId(link),
            configuration,
            advertised: Endpoint { host, port },
            rack,
            empty,
            seen: seen.map(|(directory, durable)| Seen {
                directory: DirectoryId(Uuid(directory)),
                durable: WriteNumber(durable),
            }),
        });
    let raft = (any::<[u64; 7]>(), any::<u32>(), vec((payload(), payload(), 0..3i32), 0..5), 0..19i32, any::<bool>());
    let raft = raft.prop_map(|([group, from, to, term, index, commit, hint], epoch, entries, msg_type, reject)| {
        let entry = |(data, context, entry_type)| Entry { entry_type, term, index, data, context, ..Entry::default() };
        let message = Message {
            msg_type,
            from,
            to,
            term,
            index,
            commit,
            reject,
            reject_hint: hint,
            entries: entries.into_iter().map(entry).collect(),
            ..Message::default()
        };
        Section::Raft(Envelope { group: GroupId(group), from: ReplicaId(from), to: ReplicaId(to), epoch }, message)
    });
    let control = (any::<u16>(), payload()).prop_map(|(kind, bytes)| Section::Control(ControlKind(kind), bytes));
    prop_oneof![hello.prop_map(Section::Hello), raft, control]
}

fn build(sections: Vec<Section>, header: &Header) -> Bytes {
    let mut frame = FrameBuilder::new();
    for section in sections {
        let before = frame.bytes();
        match section {
            Section::Hello(hello) => hello.encode(&mut frame),
            Section::Raft(envelope, message) => {
                let section = RaftSection::new(envelope, message).unwrap();
                let bytes = section.bytes();
                section.encode(&mut frame);
                assert_eq!(frame.bytes() - before, bytes, "a section is as long as it said");
            }
            Section::Control(kind, bytes) => section::encode_control(kind, [bytes], &mut frame),
        }
    }
    delivered(&frame.finish(header))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_was_built_is_what_is_decoded(all in vec(any_section(), 0..6), header in any_header()) {
        let frame = Frame::decode(build(all.clone(), &header)).unwrap();
        prop_assert_eq!(frame.header, header);
        prop_assert_eq!(sections(&frame).unwrap(), all);
    }

    #[test]
    fn any_bytes_are_a_frame_or_an_error(bytes in vec(any::<u8>(), 0..400)) {
        let _ = Frame::decode(bytes.clone().into()).map(|frame| sections(&frame));
        // Behind a good header and checksum as well.
        let _ = sections(&forged(&bytes));
        for kind in 1..=3 {
            let _ = forged_section(kind, &bytes);
        }
    }

    #[test]
    fn a_body_that_was_tampered_with_is_sections_or_an_error(
        all in vec(any_section(), 1..4),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut body = build(all, &header()).slice(HEADER_BYTES..).to_vec();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let _ = sections(&forged(&body));
    }
}
