//! What the metadata say of nodes being up.

use std::time::Duration;

use super::world::World;
use crate::{
    ids::{GroupId, NodeId},
    shard::Shard,
};

fn is_live(world: &World, at: NodeId, node: NodeId) -> bool {
    world.nodes[&at].shard.as_ref().and_then(Shard::broker).is_some_and(|broker| broker.is_live(node))
}

/// What the leader proposes while it hands leadership over is refused. If the handover comes to nothing, it goes on to
/// lead in the same term, and says what it could not say.
#[test]
fn a_node_that_comes_up_during_a_handover_in_vain_is_called_up() {
    let mut world = World::formed(5);
    let preferred = NodeId(1);
    world.kill(preferred);
    world.run_until("another leads", |world| world.leader(GroupId::METADATA).is_some());
    let leader = world.leader(GroupId::METADATA).unwrap();
    let other = *world.nodes.keys().find(|node| **node != preferred && **node != leader).unwrap();
    world.isolate(other);
    world.run_until("it is called down", |world| !is_live(world, leader, other));
    world.start(preferred);
    world.run_until("the preferred leader has caught up", |world| {
        let applied = |node| world.groups(node).get(&GroupId::METADATA).map(|group| group.applied);
        applied(preferred).is_some() && applied(preferred) == applied(leader) && is_live(world, leader, preferred)
    });
    // From here on the preferred leader hears that it shall lead, and cannot write its vote for itself.
    world.nodes.get_mut(&preferred).unwrap().disk_held = true;
    let term = world.groups(leader)[&GroupId::METADATA].term;
    world.run_until("leadership is handed over", |world| world.groups(preferred)[&GroupId::METADATA].term > term);
    world.cuts.clear();
    world.run_until("it is called up", |world| is_live(world, leader, other));
    assert_eq!(world.groups(leader)[&GroupId::METADATA].term, term, "the handover came to nothing");
    world.nodes.get_mut(&preferred).unwrap().disk_held = false;
    world.run_for(Duration::from_secs(5));
    world.run_until_equal(GroupId::METADATA);
}
