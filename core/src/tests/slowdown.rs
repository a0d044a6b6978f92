//! A WAL that fills up faster than checkpoints can empty it.

use kauri_protocol::{error::ErrorCode, messages::ProduceRequest};

use super::{client::*, world::World};
use crate::{config::NodeConfig, io::FileName};

const FILE_BYTES: u64 = 256 << 10;
const FILES: u64 = 8;

fn small(config: &mut NodeConfig) {
    config.wal_file_bytes = FILE_BYTES;
    config.wal_budget_bytes = FILES * FILE_BYTES;
}

#[test]
fn a_burst_larger_than_the_wal_is_slowed_down_and_written() {
    let mut world = World::formed_with(3, small);
    let leader = world.create_topic(3);
    // Three times what the WAL may take, from many clients in the same moment.
    let connections: Vec<_> = (0..120).map(|_| world.connect(leader)).collect();
    for (round, connection) in connections.iter().enumerate() {
        world.send(*connection, &produce_request(-1, batch_of_bytes(48_000, round as u8)), 9);
    }
    world.run_until("everybody is answered", |world| {
        for (id, node) in &world.nodes {
            let wal = node.disk.sizes().filter(|(file, _)| matches!(file, FileName::Wal(_)));
            let bytes = wal.map(|(_, bytes)| bytes).sum::<u64>();
            assert!(bytes <= FILES * FILE_BYTES, "the WAL of node {id} takes {bytes} bytes");
        }
        connections.iter().all(|connection| world.has_answer(*connection))
    });
    let mut offsets: Vec<i64> = connections
        .iter()
        .map(|connection| {
            let response = world.answer::<ProduceRequest>(*connection).expect("it is there");
            let partition = only_part(response);
            assert_eq!(partition.error_code, ErrorCode::None);
            partition.base_offset
        })
        .collect();
    offsets.sort_unstable();
    assert!(offsets.into_iter().eq(0..120));
    assert_eq!(world.run_until_led(GROUP), leader, "nobody took it for dead");
    world.run_until_equal(GROUP);
}
