//! The encodings: golden bytes of every command, and hostile bytes.

use proptest::prelude::*;

use super::*;
use crate::{
    config::Endpoint,
    ids::{BootNumber, ClusterId, DirectoryId, NodeId, ReplicaId, Uuid},
    metadata::{creation::GroupMember, node::Registration},
};

fn check(command: MetadataCommand, kind: u8, golden: &[&[u8]]) {
    let golden = golden.concat();
    assert_eq!(command.kind(), kind);
    assert_eq!(command.level(), 1);
    assert_eq!(&command.encode()[..], &golden[..]);
    assert_eq!(MetadataCommand::decode(kind, &golden).as_ref(), Ok(&command));
    for end in 0..golden.len() {
        assert!(MetadataCommand::decode(kind, &golden[..end]).is_err(), "no prefix is a command");
    }
    let longer = [&golden[..], &[0]].concat();
    assert_eq!(MetadataCommand::decode(kind, &longer), Err(CodecError::Trailing(1)));
}

/// Logs on disk hold these bytes: a change of the format needs a new version.
#[test]
fn golden_bytes() {
    let member =
        GroupMember { replica: ReplicaId(2), node: NodeId(1), directory: DirectoryId(Uuid([7; 16])), voter: true };
    check(
        MetadataCommand::FormCluster(FormCluster { cluster: ClusterId(Uuid([9; 16])), members: vec![member] }),
        1,
        &[&[1], &[9; 16], &[0, 0, 0, 1], &[0, 0, 0, 0, 0, 0, 0, 2], &[0, 0, 0, 1], &[7; 16], &[1]],
    );
    let registration = Registration {
        boot: BootNumber(3),
        advertised: Endpoint { host: "kauri".to_owned(), port: 9092 },
        rack: Some("r1".to_owned()),
    };
    check(
        MetadataCommand::RegisterNode(RegisterNode {
            node: NodeId(1),
            directory: DirectoryId(Uuid([7; 16])),
            registration: registration.clone(),
        }),
        2,
        &[&[1], &[0, 0, 0, 1], &[7; 16], &[0, 0, 0, 0, 0, 0, 0, 3], &[0, 5], b"kauri", &[0x23, 0x84], &[0, 2], b"r1"],
    );
    check(
        MetadataCommand::ReplaceNode(ReplaceNode(RegisterNode {
            node: NodeId(1),
            directory: DirectoryId(Uuid([8; 16])),
            registration,
        })),
        7,
        &[&[1], &[0, 0, 0, 1], &[8; 16], &[0, 0, 0, 0, 0, 0, 0, 3], &[0, 5], b"kauri", &[0x23, 0x84], &[0, 2], b"r1"],
    );
    check(
        MetadataCommand::CreateTopic(CreateTopic {
            name: "t".to_owned(),
            topic: TopicId(Uuid([5; 16])),
            partitions: vec![vec![NodeId(2), NodeId(1)]],
            configs: vec![("retention.ms".to_owned(), "-1".to_owned())],
        }),
        3,
        &[
            &[1],
            &[0, 1],
            b"t",
            &[5; 16],
            &[0, 0, 0, 1],
            &[0, 0, 0, 2],
            &[0, 0, 0, 2],
            &[0, 0, 0, 1],
            &[0, 0, 0, 1],
            &[0, 12],
            b"retention.ms",
            &[0, 2],
            b"-1",
        ],
    );
    check(MetadataCommand::DeleteTopic(DeleteTopic { topic: TopicId(Uuid([5; 16])) }), 4, &[&[1], &[5; 16]]);
    check(
        MetadataCommand::AllocateProducerIds(AllocateProducerIds { node: NodeId(1), count: 1000 }),
        5,
        &[&[1], &[0, 0, 0, 1], &[0, 0, 3, 0xe8]],
    );
    check(
        MetadataCommand::SetNodeLiveness(SetNodeLiveness { node: NodeId(1), boot: BootNumber(3), up: false }),
        6,
        &[&[1], &[0, 0, 0, 1], &[0, 0, 0, 0, 0, 0, 0, 3], &[0]],
    );
}

#[test]
fn every_answer_survives_the_way_between_nodes() {
    let topic = TopicId(Uuid([5; 16]));
    let member =
        GroupMember { replica: ReplicaId(7), node: NodeId(1), directory: DirectoryId(Uuid([7; 16])), voter: true };
    let results = [
        Ok(MetadataOutcome::ClusterFormed),
        Ok(MetadataOutcome::NodeRegistered { replica: ReplicaId(7), members: vec![member, member] }),
        Ok(MetadataOutcome::TopicCreated(topic)),
        Ok(MetadataOutcome::TopicDeleted(topic)),
        Ok(MetadataOutcome::ProducerIds { first: ProducerId(4000), count: 1000 }),
        Ok(MetadataOutcome::LivenessSet),
        Err(Refusal::UnknownTopic(topic)),
    ];
    for result in results {
        let response = MetadataResponse { version: ImageVersion(17), result };
        assert_eq!(MetadataResponse::decode(&response.encode()).as_ref(), Ok(&response));
    }
}

proptest! {
    #[test]
    fn hostile_bytes_are_errors(kind: u8, mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Some(version) = bytes.first_mut() {
            *version = 1;
        }
        if let Ok(command) = MetadataCommand::decode(kind, &bytes) {
            prop_assert_eq!(&command.encode()[..], &bytes[..], "what decodes has one encoding");
        }
        let _ = MetadataResponse::decode(&bytes);
    }
}
