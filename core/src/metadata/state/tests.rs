//! Stories of a metadata group, and two replicas that apply the same log.

use proptest::prelude::*;

use super::{super::image::MetadataDelta, *};
use crate::{
    command::{CommandHeader, Response, WaiterToken},
    config::Endpoint,
    ids::{DirectoryId, LogIndex, PartitionIndex, ProducerId, ReplicaId, Term, Uuid},
    metadata::{
        commands::{
            AllocateProducerIds, CreateTopic, DeleteTopic, MetadataOutcome, RegisterNode, ReplaceNode, SetNodeLiveness,
        },
        creation::GroupMember,
        node::Registration,
    },
    time::Wall,
};

const CLUSTER: ClusterId = ClusterId(Uuid([0xc1; 16]));

fn directory(node: i32) -> DirectoryId {
    DirectoryId(Uuid([node as u8; 16]))
}

fn topic_id(number: u8) -> TopicId {
    TopicId(Uuid([number; 16]))
}

fn form(nodes: i32) -> MetadataCommand {
    let member = |node: i32| GroupMember {
        replica: ReplicaId(node as u64),
        node: NodeId(node),
        directory: directory(node),
        voter: node <= 3,
    };
    MetadataCommand::FormCluster(FormCluster { cluster: CLUSTER, members: (1..=nodes).map(member).collect() })
}

fn register(node: i32, boot: u64) -> MetadataCommand {
    let advertised = Endpoint { host: format!("node{node}"), port: 9092 };
    let registration = Registration { boot: BootNumber(boot), advertised, rack: None };
    MetadataCommand::RegisterNode(RegisterNode { node: NodeId(node), directory: directory(node), registration })
}

fn replace(node: i32, directory_of: i32) -> MetadataCommand {
    let MetadataCommand::RegisterNode(command) = register(node, 1) else { unreachable!() };
    MetadataCommand::ReplaceNode(ReplaceNode(RegisterNode { directory: directory(directory_of), ..command }))
}

fn down(node: i32, boot: u64) -> MetadataCommand {
    let boot = BootNumber(boot);
    MetadataCommand::SetNodeLiveness(SetNodeLiveness { node: NodeId(node), boot, up: false })
}

fn create(name: &str, id: u8, partitions: &[&[i32]]) -> MetadataCommand {
    MetadataCommand::CreateTopic(CreateTopic {
        name: name.to_owned(),
        topic: topic_id(id),
        partitions: partitions.iter().map(|nodes| nodes.iter().map(|node| NodeId(*node)).collect()).collect(),
        configs: Vec::new(),
    })
}

fn delete(id: u8) -> MetadataCommand {
    MetadataCommand::DeleteTopic(DeleteTopic { topic: topic_id(id) })
}

struct Replica {
    state: MetadataState,
    index: u64,
}

impl Replica {
    fn new() -> Self {
        Self { state: MetadataState::new(), index: 1 }
    }

    fn formed(nodes: i32) -> Self {
        let mut replica = Self::new();
        replica.apply(form(nodes)).unwrap();
        replica
    }

    fn apply(&mut self, command: MetadataCommand) -> Result<MetadataOutcome, Refusal> {
        self.index += 1;
        let entry = Entry {
            index: LogIndex(self.index),
            term: Term(1),
            header: CommandHeader {
                kind: command.kind(),
                level: command.level(),
                origin: ReplicaId(1),
                token: WaiterToken(self.index),
                stamp: Wall(0),
            },
            data: command.encode(),
        };
        let mut out = ApplyOutput::default();
        self.state.apply(&entry, &mut out);
        let [Response { token, response, .. }] = &out.responses[..] else { panic!("every command has one answer") };
        assert_eq!(*token, WaiterToken(self.index));
        assert_eq!(response.version, self.state.image.version);
        response.result.clone()
    }

    fn image(&self) -> MetadataImage {
        self.state.image().clone()
    }
}

#[test]
fn nothing_but_forming_comes_before_the_cluster() {
    let mut replica = Replica::new();
    assert_eq!(replica.apply(register(1, 1)), Err(Refusal::NotFormed));
    assert_eq!(replica.apply(create("t", 1, &[&[1]])), Err(Refusal::NotFormed));
    assert_eq!(replica.image().version(), ImageVersion(0));
    assert_eq!(replica.apply(form(3)), Ok(MetadataOutcome::ClusterFormed));
    assert_eq!(replica.apply(form(3)), Ok(MetadataOutcome::ClusterFormed), "a new leader that did not know");
    let other = FormCluster { cluster: ClusterId(Uuid([1; 16])), members: Vec::new() };
    assert_eq!(replica.apply(MetadataCommand::FormCluster(other)), Err(Refusal::AlreadyFormed(CLUSTER)));
    assert_eq!(replica.image().cluster(), Some(CLUSTER));
}

#[test]
fn members_that_contradict_each_other_form_nothing() {
    let member = |replica, node, directory_of| GroupMember {
        replica: ReplicaId(replica),
        node: NodeId(node),
        directory: directory(directory_of),
        voter: true,
    };
    for members in [
        vec![],
        vec![member(1, 1, 1), member(1, 2, 2)],
        vec![member(1, 1, 1), member(2, 1, 2)],
        vec![member(1, 1, 1), member(2, 2, 1)],
        vec![member(0, 1, 1)],
        vec![member(1, -1, 1)],
        vec![GroupMember { voter: false, ..member(1, 1, 1) }],
        (1..=6).map(|node| member(node as u64, node, node)).collect(),
    ] {
        let mut replica = Replica::new();
        let command = FormCluster { cluster: CLUSTER, members };
        assert_eq!(replica.apply(MetadataCommand::FormCluster(command)), Err(Refusal::InvalidMembers));
    }
}

#[test]
fn a_replaced_directory_does_not_register() {
    let mut replica = Replica::formed(3);
    let outcome = replica.apply(register(1, 5)).unwrap();
    let members = replica.image().metadata_members();
    assert_eq!(outcome, MetadataOutcome::NodeRegistered { replica: ReplicaId(1), members });
    assert!(replica.image().is_live(NodeId(1)));
    let MetadataCommand::RegisterNode(mut command) = register(1, 1) else { unreachable!() };
    command.directory = directory(9);
    assert_eq!(
        replica.apply(MetadataCommand::RegisterNode(command)),
        Err(Refusal::UnknownDirectory { node: NodeId(1), registered: directory(1), offered: directory(9) })
    );
    assert_eq!(replica.apply(register(4, 1)), Err(Refusal::UnknownNode(NodeId(4))));
    assert_eq!(
        replica.apply(register(1, 4)),
        Err(Refusal::StaleBoot { node: NodeId(1), registered: BootNumber(5), offered: BootNumber(4) }),
        "a request of an earlier start that was long on its way"
    );
}

#[test]
fn a_wiped_node_gets_new_replicas_and_its_old_directory_never_comes_back() {
    let mut replica = Replica::formed(3);
    replica.apply(register(2, 5)).unwrap();
    replica.apply(create("a", 1, &[&[1, 2], &[2, 3], &[3, 1]])).unwrap();
    let before = replica.image();
    let in_use = |offered| Refusal::DirectoryInUse { node: NodeId(2), registered: directory(2), offered };
    assert_eq!(replica.apply(replace(2, 12)), Err(in_use(directory(12))), "two processes with one node id");
    replica.apply(down(2, 5)).unwrap();
    let outcome = replica.apply(replace(2, 12)).unwrap();
    let image = replica.image();
    assert_eq!(
        outcome,
        MetadataOutcome::NodeRegistered { replica: ReplicaId(10), members: image.metadata_members() },
        "three replicas of group 0 and six of the topic came before"
    );
    assert!(image.is_live(NodeId(2)), "although its boot numbers begin again");
    assert_eq!(image.node(NodeId(2)).unwrap().directory, directory(12));

    let delta = image.changes_since(&before);
    let ids = |replicas: &[super::super::topic::Replica]| replicas.iter().map(|r| r.id.0).collect::<Vec<_>>();
    let partitions = &delta.changed[0].partitions;
    assert_eq!(partitions.iter().map(|p| ids(&p.replicas)).collect::<Vec<_>>(), [[4, 11], [12, 7], [8, 9]]);
    assert_eq!(partitions.iter().map(|p| ids(p.created_with())).collect::<Vec<_>>(), [[4, 5], [6, 7], [8, 9]]);
    let hosted = |directory| {
        delta.creations(NodeId(2), directory).map(|(creation, id)| (creation.group.0, id.0)).collect::<Vec<_>>()
    };
    assert_eq!(hosted(directory(12)), [(1, 11), (2, 12)]);
    assert!(hosted(directory(2)).is_empty());
    let (creation, own) = delta.creations(NodeId(2), directory(12)).next().unwrap();
    assert_eq!(creation.member(own), None, "whoever joins later does not start with the first membership");
    let members: Vec<u64> = creation.members.iter().map(|member| member.replica.0).collect();
    assert_eq!(members, [4, 5], "a replica that missed the topic's creation starts as the others did");

    let gone = Refusal::ReplacedDirectory { node: NodeId(2), registered: directory(12), offered: directory(2) };
    assert_eq!(replica.apply(register(2, 6)), Err(gone.clone()));
    assert_eq!(replica.apply(replace(2, 2)), Err(gone.clone()));
    replica.apply(down(2, 1)).unwrap();
    assert_eq!(replica.apply(replace(2, 2)), Err(gone));
    assert_eq!(replica.apply(replace(2, 12)), Ok(outcome), "the same again is a registration");
    assert_eq!(ids(&replica.image().topic(topic_id(1)).unwrap().partitions[0].replicas), [4, 11]);

    // Wiped once more: the group was created with the same replicas as ever.
    replica.apply(down(2, 1)).unwrap();
    replica.apply(replace(2, 22)).unwrap();
    let partition = replica.image().topic(topic_id(1)).unwrap().partitions[0].clone();
    assert_eq!((ids(&partition.replicas), ids(&partition.created)), (vec![4, 14], vec![4, 5]));
    let mut image = Vec::new();
    replica.state.encode_image(&mut image);
    assert_eq!(MetadataState::restore_image(&image), Ok(replica.state));
}

#[test]
fn a_node_is_not_replaced_without_end() {
    let mut replica = Replica::formed(1);
    let nodes = Arc::make_mut(&mut replica.state.image.nodes);
    let node = Arc::make_mut(nodes.get_mut(&NodeId(1)).unwrap());
    node.replaced = vec![directory(50); crate::limits::NODE_REPLACEMENTS_MAX];
    assert_eq!(replica.apply(replace(1, 9)), Err(Refusal::TooManyReplacements(NodeId(1))));
}

#[test]
fn liveness_belongs_to_one_start_of_a_node() {
    let mut replica = Replica::formed(3);
    let set =
        |boot, up| MetadataCommand::SetNodeLiveness(SetNodeLiveness { node: NodeId(2), boot: BootNumber(boot), up });
    replica.apply(set(0, true)).unwrap();
    assert!(!replica.image().is_live(NodeId(2)), "a node that never registered cannot be up");
    replica.apply(register(2, 1)).unwrap();
    replica.apply(set(1, false)).unwrap();
    assert!(!replica.image().is_live(NodeId(2)));
    replica.apply(register(2, 2)).unwrap();
    assert!(replica.apply(set(1, false)).is_err(), "this was said about the start before");
    assert!(replica.image().is_live(NodeId(2)));
    let before = replica.image().version();
    replica.apply(set(2, true)).unwrap();
    assert_eq!(replica.image().version(), before, "nothing changed");
}

#[test]
fn a_topic_gets_groups_and_replicas_that_nobody_had() {
    let mut replica = Replica::formed(3);
    replica.apply(create("a", 1, &[&[1, 2], &[2, 3]])).unwrap();
    replica.apply(delete(1)).unwrap();
    replica.apply(create("a", 2, &[&[3, 1]])).unwrap();
    let image = replica.image();
    let topic = image.topic_by_name("a").unwrap();
    assert_eq!(topic.id, topic_id(2), "another topic than the deleted one");
    assert_eq!(topic.partitions[0].group, GroupId(3));
    let ids: Vec<u64> = topic.partitions[0].replicas.iter().map(|replica| replica.id.0).collect();
    assert_eq!(ids, [8, 9], "three replicas of group 0 and four of the deleted topic came before");
    assert_eq!(image.topic_of_group(GroupId(3)).unwrap().1, PartitionIndex(0));
    assert!(image.topic_of_group(GroupId(1)).is_none());
    assert!(image.is_deleted(GroupId(1)) && image.is_deleted(GroupId(2)));
    assert!(!image.is_deleted(GroupId(3)) && !image.is_deleted(GroupId(4)), "unknown is not deleted");
    assert!(!image.is_deleted(GroupId::METADATA));
    assert_eq!(image.partition_count(), 1);
}

#[test]
fn what_is_wrong_with_a_topic_is_named() {
    let mut replica = Replica::formed(3);
    replica.apply(create("a.b", 1, &[&[1]])).unwrap();
    assert_eq!(replica.apply(create("a.b", 2, &[&[1]])), Err(Refusal::TopicExists));
    assert_eq!(replica.apply(create("a_b", 2, &[&[1]])), Err(Refusal::TopicNameCollision("a.b".to_owned())));
    assert_eq!(replica.apply(create("..", 2, &[&[1]])), Err(Refusal::InvalidTopicName));
    assert_eq!(replica.apply(create("b", 1, &[&[1]])), Err(Refusal::TopicIdInUse(topic_id(1))));
    assert_eq!(replica.apply(create("b", 0, &[&[1]])), Err(Refusal::TopicIdInUse(topic_id(0))));
    assert_eq!(replica.apply(create("b", 2, &[])), Err(Refusal::InvalidPartitions));
    for assignment in [&[&[][..]][..], &[&[1, 1]], &[&[1, 2], &[1]], &[&[4]], &[&[1, 2, 3, 4, 5, 6]]] {
        assert_eq!(replica.apply(create("b", 2, assignment)), Err(Refusal::InvalidReplicaAssignment));
    }
    let MetadataCommand::CreateTopic(mut command) = create("b", 2, &[&[1]]) else { unreachable!() };
    command.configs = vec![("retention.ms".to_owned(), "long".to_owned())];
    assert_eq!(
        replica.apply(MetadataCommand::CreateTopic(command)),
        Err(Refusal::InvalidConfigValue("retention.ms".to_owned()))
    );
    assert_eq!(replica.apply(delete(2)), Err(Refusal::UnknownTopic(topic_id(2))));
    replica.apply(delete(1)).unwrap();
    replica.apply(create("a_b", 2, &[&[1]])).expect("the name that collided is gone");
}

#[test]
fn producer_ids_are_handed_out_once() {
    let mut replica = Replica::formed(1);
    let ask = |count| MetadataCommand::AllocateProducerIds(AllocateProducerIds { node: NodeId(1), count });
    let block = |first, count| Ok(MetadataOutcome::ProducerIds { first: ProducerId(first), count });
    assert_eq!(replica.apply(ask(1000)), block(0, 1000));
    assert_eq!(replica.apply(ask(1)), block(1000, 1));
    assert_eq!(replica.apply(ask(1000)), block(1001, 1000));
    assert_eq!(replica.apply(ask(0)), Err(Refusal::InvalidProducerIdBlock));
    assert_eq!(replica.apply(ask(u32::MAX)), Err(Refusal::InvalidProducerIdBlock));
    replica.state.next_producer_id = i64::MAX - 5;
    assert_eq!(replica.apply(ask(6)), Err(Refusal::ProducerIdsExhausted));
}

#[test]
fn a_node_learns_what_to_host_and_what_is_gone() {
    let mut replica = Replica::formed(3);
    let empty = replica.image();
    replica.apply(create("a", 1, &[&[1, 2], &[2, 3], &[3, 1]])).unwrap();
    replica.apply(create("b", 2, &[&[3]])).unwrap();
    let both = replica.image();
    let hosted = |delta: &MetadataDelta, node| {
        let creations = delta.creations(NodeId(node), directory(node));
        creations.map(|(creation, _)| creation.group.0).collect::<Vec<_>>()
    };
    let delta = both.changes_since(&empty);
    assert_eq!(hosted(&delta, 1), [1, 3]);
    assert_eq!(hosted(&delta, 3), [2, 3, 4]);
    assert_eq!(delta.creations(NodeId(1), directory(9)).count(), 0, "replicas belong to a directory");
    let (creation, replica_here) = delta.creations(NodeId(1), directory(1)).nth(1).unwrap();
    assert_eq!(creation.replica_on(NodeId(1), directory(1)), Some(replica_here));
    assert_eq!(creation.topic, Some((topic_id(1), PartitionIndex(2))));
    assert_eq!(creation.members.iter().map(|member| member.node.0).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(both.creation(creation.group), Some(creation));

    replica.apply(delete(1)).unwrap();
    let delta = replica.image().changes_since(&both);
    assert_eq!(delta.deletions().map(|group| group.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(hosted(&delta, 3), Vec::<u64>::new());
    assert!(replica.image().changes_since(&replica.image()).is_empty());
    assert_eq!(both.topic_by_name("a").unwrap().partitions.len(), 3, "an image never changes");
}

#[test]
fn a_new_leader_forms_the_cluster_unless_it_is_formed() {
    let member = GroupMember { replica: ReplicaId(1), node: NodeId(1), directory: directory(1), voter: true };
    let creation =
        GroupCreation { group: GroupId::METADATA, topic: None, members: vec![member], configs: Default::default() };
    let mut replica = Replica::new();
    let command = replica.state.on_leader(CLUSTER, &creation).expect("nothing is formed yet");
    replica.apply(command).unwrap();
    assert_eq!(replica.state.on_leader(CLUSTER, &creation), None);
}

/// The image is in checkpoints: a change of the format needs a new version.
#[test]
fn golden_image() {
    let mut replica = Replica::formed(1);
    replica.apply(create("t", 5, &[&[1]])).unwrap();
    replica.apply(delete(5)).unwrap();
    replica.apply(create("u", 6, &[&[1]])).unwrap();
    replica.apply(replace(1, 9)).unwrap();
    let mut image = Vec::new();
    replica.state.encode_image(&mut image);
    #[rustfmt::skip]
    let golden = [
        &[2][..], &[0, 0, 0, 0, 0, 0, 0, 6], &[1], &[0xc1; 16],
        &[0, 0, 0, 1], &[0, 0, 0, 1], &[1], &[9; 16], &[0, 0, 0, 1], &[1; 16], &[0, 0, 0, 0, 0, 0, 0, 4], &[1],
        &[1], &[0, 0, 0, 0, 0, 0, 0, 1], &[0, 5], b"node1", &[0x23, 0x84], &[0, 0],
        &[0, 0, 0, 1], &[6; 16], &[0, 1], b"u", &[0, 0, 0, 0, 0, 0, 0, 5], &[0, 0, 0, 0],
        &[0, 0, 0, 1], &[0, 0, 0, 0, 0, 0, 0, 2],
        &[0, 0, 0, 1], &[0, 0, 0, 0, 0, 0, 0, 5], &[0, 0, 0, 1], &[9; 16],
        &[0, 0, 0, 1], &[0, 0, 0, 0, 0, 0, 0, 3], &[0, 0, 0, 1], &[1; 16],
        &[0, 0, 0, 1], &[0, 0, 0, 0, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 0, 0, 1],
        &[0, 0, 0, 0, 0, 0, 0, 3], &[0, 0, 0, 0, 0, 0, 0, 6], &[0, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    assert_eq!(image, golden);
    assert_eq!(MetadataState::restore_image(&golden).as_ref(), Ok(&replica.state));
}

fn any_command() -> impl Strategy<Value = MetadataCommand> {
    let assignment = proptest::collection::vec(proptest::collection::vec(1..5, 1..4), 1..4);
    let names = prop::sample::select(vec!["a", "a.b", "a_b", "c", "..", "d"]);
    prop_oneof![
        Just(form(4)),
        (1..6, 1u64..4).prop_map(|(node, boot)| register(node, boot)),
        (1..6, 1..20).prop_map(|(node, directory)| replace(node, directory)),
        (names, 0u8..8, assignment).prop_map(|(name, id, nodes): (_, _, Vec<Vec<i32>>)| {
            create(name, id, &nodes.iter().map(Vec::as_slice).collect::<Vec<_>>())
        }),
        (0u8..8).prop_map(delete),
        (1..5, 0u32..10).prop_map(|(node, count)| {
            MetadataCommand::AllocateProducerIds(AllocateProducerIds { node: NodeId(node), count })
        }),
        (1..5, 1u64..4, any::<bool>()).prop_map(|(node, boot, up)| {
            MetadataCommand::SetNodeLiveness(SetNodeLiveness { node: NodeId(node), boot: BootNumber(boot), up })
        }),
    ]
}

proptest! {
    #[test]
    fn replicas_agree_and_restore(commands in proptest::collection::vec(any_command(), 0..60), restart: prop::sample::Index) {
        let mut steady = Replica::new();
        let mut restarted = Replica::new();
        let restart = restart.index(commands.len() + 1);
        let mut at_restart = MetadataImage::empty();
        for (i, command) in commands.iter().enumerate() {
            if i == restart {
                let mut image = Vec::new();
                restarted.state.encode_image(&mut image);
                restarted.state = MetadataState::restore_image(&image).unwrap();
                at_restart = restarted.image();
            }
            let before = steady.state.clone();
            let answer = steady.apply(command.clone());
            prop_assert_eq!(&answer, &restarted.apply(command.clone()));
            prop_assert!(steady.state.is_consistent());
            if answer.is_err() {
                prop_assert_eq!(&before, &steady.state, "a refusal changes nothing");
            }
        }
        prop_assert_eq!(&steady.state, &restarted.state);
        prop_assert_eq!(steady.state.state_hash(), restarted.state.state_hash());

        // Every group ever given out is live or provably deleted, and what was deleted since is in the delta.
        let image = steady.image();
        for group in (1..steady.state.next_group).map(GroupId) {
            prop_assert!(image.topic_of_group(group).is_some() != image.is_deleted(group));
        }
        let delta = image.changes_since(&at_restart);
        for group in delta.deletions() {
            prop_assert!(image.is_deleted(group) && !at_restart.is_deleted(group));
        }
    }

    #[test]
    fn damaged_images_are_errors(flip: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index) {
        let mut replica = Replica::formed(3);
        replica.apply(create("a", 1, &[&[1, 2], &[2, 3]])).unwrap();
        replica.apply(create("b", 2, &[&[1]])).unwrap();
        replica.apply(delete(1)).unwrap();
        let mut image = Vec::new();
        replica.state.encode_image(&mut image);
        prop_assert!(MetadataState::restore_image(&image[..cut.index(image.len())]).is_err());
        let at = flip.index(image.len());
        image[at] ^= 1 << bit;
        // A checksum is the business of whoever keeps the image; here it is enough that nothing panics.
        let _ = MetadataState::restore_image(&image);
    }
}
