//! The identity file survives every crash as a whole, counts starts, and refuses what is not its own.

use bytes::Bytes;

use super::disk::{Disk, MODES, Mode};
use crate::{
    ids::{BootNumber, ClusterId, DirectoryId, FileSequence, NodeId, Uuid},
    io::{Effects, Exit, FileName, OperationIds},
    log::{
        identity::{Identity, IdentityKeeper},
        wal::WalKey,
    },
    rng::Stream,
};

const NODE: NodeId = NodeId(3);

struct Crashed;

struct Start {
    keeper: IdentityKeeper,
    ids: OperationIds,
    operations_left: u64,
}

impl Start {
    fn new(node: NodeId, number: u64, operations_left: u64) -> Self {
        let keeper = IdentityKeeper::start(node, &mut Stream::new(1, node, "identity", number));
        Self { keeper, ids: OperationIds::default(), operations_left }
    }

    fn settle(&mut self, disk: &mut Disk) -> Result<Result<(), Crashed>, Exit> {
        loop {
            let mut effects = Effects::default();
            self.keeper.poll(&mut effects, &mut self.ids);
            let Some(operation) = effects.disk.pop() else { return Ok(Ok(())) };
            assert!(effects.is_empty(), "one operation after the other");
            if self.operations_left == 0 {
                return Ok(Err(Crashed));
            }
            self.operations_left -= 1;
            let result = disk.run(operation.action);
            assert!(self.keeper.handle(operation.id, &result)?);
        }
    }
}

fn started(disk: &mut Disk, number: u64) -> IdentityKeeper {
    let mut start = Start::new(NODE, number, u64::MAX);
    assert!(start.settle(disk).unwrap().is_ok());
    assert!(start.keeper.is_durable());
    start.keeper
}

#[test]
fn every_start_is_counted_and_the_directory_keeps_its_id() {
    let mut disk = Disk::default();
    let first = started(&mut disk, 1).identity().cloned().unwrap();
    assert_eq!((first.node, first.boot, first.cluster), (NODE, BootNumber(1), None));
    for boot in 2..5 {
        disk.cut_power(Mode::None, &mut Stream::new(1, NODE, "power", 0));
        let again = started(&mut disk, boot).identity().cloned().unwrap();
        assert_eq!(again, Identity { boot: BootNumber(boot), ..first.clone() });
    }
}

#[test]
fn a_crash_at_every_operation_leaves_the_old_identity_or_the_new_one() {
    let cluster = ClusterId(Uuid([9; 16]));
    for mode in MODES {
        for seed in 0..20 {
            for operations in 0..18 {
                let mut random = Stream::new(seed, NODE, "power", operations);
                let mut disk = Disk::default();
                let before = started(&mut disk, 1).identity().cloned().unwrap();
                let mut start = Start::new(NODE, 2, operations);
                let counted = start.settle(&mut disk).unwrap().is_ok();
                let formed = counted && {
                    start.keeper.set_cluster(cluster, Bytes::from_static(b"three nodes"));
                    assert!(!start.keeper.is_durable());
                    start.settle(&mut disk).unwrap().is_ok()
                };
                disk.cut_power(mode, &mut random);
                let after = started(&mut disk, 3).identity().cloned().unwrap();
                assert_eq!((after.directory, after.wal_key), (before.directory, before.wal_key));
                assert!(after.boot > before.boot);
                assert!(!counted || after.boot == BootNumber(3), "a start that was counted stays counted");
                assert!(!formed || after.cluster == Some(cluster));
                assert_eq!(after.cluster.is_some(), !after.formation.is_empty());
            }
        }
    }
}

#[test]
fn nothing_is_known_before_the_start_is_durable() {
    let mut disk = Disk::default();
    started(&mut disk, 1);
    for operations in 0.. {
        let mut disk = disk.clone();
        let mut start = Start::new(NODE, 2, operations);
        let is_over = start.settle(&mut disk).unwrap().is_ok();
        let is_known = start.keeper.identity().is_some();
        disk.cut_power(Mode::None, &mut Stream::new(1, NODE, "power", 0));
        let next = started(&mut disk, 3).identity().cloned().unwrap();
        assert!(!is_known || next.boot == BootNumber(3), "after {operations} operations");
        if is_over {
            assert!(is_known);
            break;
        }
    }
}

#[test]
fn a_full_disk_has_room_to_count_starts() {
    let mut disk = Disk::default();
    started(&mut disk, 1);
    disk.capacity = Some(disk.used());
    for boot in 2..5 {
        assert_eq!(started(&mut disk, boot).identity().unwrap().boot, BootNumber(boot));
    }
}

#[test]
fn a_flipped_bit_is_damage() {
    let mut disk = Disk::default();
    started(&mut disk, 1);
    for byte in 0..disk.file(FileName::Identity).len() {
        for bit in 0..8 {
            let mut disk = disk.clone();
            disk.flip(FileName::Identity, byte, bit);
            let mut start = Start::new(NODE, 2, u64::MAX);
            match start.settle(&mut disk) {
                Err(Exit::Damaged { file, .. }) => assert_eq!(file, "identity"),
                _ => panic!("bit {bit} of byte {byte} is not noticed"),
            }
        }
    }
}

#[test]
fn a_cut_file_is_damage() {
    let mut disk = Disk::default();
    started(&mut disk, 1);
    let bytes = Bytes::copy_from_slice(disk.file(FileName::Identity));
    for length in 0..bytes.len() {
        assert!(matches!(Identity::decode(&bytes.slice(..length)), Err(Exit::Damaged { .. })), "{length} bytes");
    }
    assert!(Identity::decode(&[&bytes[..], b"x"].concat().into()).is_err());
}

#[test]
fn the_directory_of_another_node_is_refused_by_name() {
    let mut disk = Disk::default();
    started(&mut disk, 1);
    let Err(Exit::Refused(sentence)) = Start::new(NodeId(4), 2, u64::MAX).settle(&mut disk) else {
        panic!("node 4 took node 3's directory")
    };
    assert!(sentence.contains("belongs to node 3") && sentence.contains("says node 4"), "{sentence}");
}

#[test]
fn data_without_identity_is_refused() {
    let mut disk = Disk::default();
    disk.put(FileName::Wal(FileSequence(7)), vec![0; 4096]);
    let Err(Exit::Refused(sentence)) = Start::new(NODE, 1, u64::MAX).settle(&mut disk) else {
        panic!("someone's WAL got a new identity")
    };
    assert!(sentence.contains("wal/0000000000000007.wal"), "{sentence}");
}

#[test]
fn the_format_is_what_it_was() {
    let identity = Identity {
        node: NodeId(3),
        directory: DirectoryId(Uuid(*b"directory id 16B")),
        boot: BootNumber(5),
        wal_key: WalKey(0x0102_0304_0506_0708),
        has_wal: true,
        cluster: Some(ClusterId(Uuid(*b"cluster id, 16 B"))),
        formation: Bytes::from_static(b"formation"),
    };
    let golden: Vec<u8> =
        include_str!("identity-v1.hex").split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let encoded = identity.encode();
    assert_eq!(encoded, golden, "the format of version 1 never changes");
    assert_eq!(Identity::decode(&golden.into()).unwrap(), identity);
}
