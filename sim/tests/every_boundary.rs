//! A crash at every operation of the disk, one after the other, of a node that does next to nothing: it starts for the
//! first time, creates a topic and takes a few records. Most bugs of file systems and of what relies on them need no
//! more than three operations and show right behind one that should have made something durable.
//!
//! One node alone, so that no other copy hides a loss. Each crash is a run of its own, in every way in which a machine
//! can go down; afterwards every acknowledged record must be there and the node must serve.

use std::collections::BTreeMap;

use kauri_core::shard::Shard;
use kauri_sim::{
    bites::{Bite, Bites},
    check,
    plan::Plan,
    time::{Instant, Span},
    trace::Trace,
    workload,
    world::World,
};
use slog::{Logger, o};

/// A way to go down: the disk's mode, and whether the power goes or only the process.
const WAYS: [(char, &str); 9] = [
    ('A', "process"),
    ('A', "power"),
    ('B', "power"),
    ('C', "power"),
    ('D', "power"),
    ('E', "power"),
    ('F', "power"),
    ('G', "power"),
    ('H', "power"),
];
/// The records are written between one second and this: about four.
const CHAOS: Span = Span::milliseconds(2_200);

fn plan(seed: u64, sector: u64, mode: char, faults: &str) -> Plan {
    let text = format!(
        "seed {seed}\nchaos {CHAOS}\nheal 20s\n\
         configuration wal_file_bytes=65536 wal_budget_bytes=524288 checkpoint_interval=500ms segment_bytes=1048576\n\
         network delay=constant:50us loss=0 fragment=0 bytes_per_microsecond=125\n\
         sockets buffer_bytes=65536 give_up=2s..5s dial_timeout=1s\n\
         node voter=true operation=50us sync=500us bytes_per_microsecond=500 depth=4 sector={sector} \
         power={mode} wall=0 drift=0 rate=0 turn=10us input=3us inputs_max=1000\n\
         topic name=topic partitions=1 replicas=1\n\
         producer client=plain pause=300ms value_bytes=2000\n\
         consumer client=plain fetch_bytes_max=65536\n{faults}"
    );
    text.parse().unwrap_or_else(|error| panic!("{error} in:\n{text}"))
}

/// Runs a plan and judges it; what its faults did.
fn run(plan: &Plan) -> Bites {
    let fail = |failure: &dyn std::fmt::Display| -> ! { panic!("{failure}; the plan:\n{plan}") };
    let logger = Logger::root(slog::Discard, o!());
    let mut world = World::<Shard>::new(plan.clone(), workload::clients(plan), logger, Trace::default());
    let mut until = Instant::default() + plan.chaos;
    world.run_until(until).unwrap_or_else(|failure| fail(&failure));
    let end = until + plan.heal;
    while until < end && !world.have_clients_healed() {
        until = until + Span::milliseconds(100);
        world.run_until(until).unwrap_or_else(|failure| fail(&failure));
    }
    let healed = world.have_clients_healed();
    check::history(world.history(), healed).unwrap_or_else(|failure| fail(&failure));
    check::progress_after_heal::check(&world.clients_wait_for()).unwrap_or_else(|failure| fail(&failure));
    assert!(world.history().acknowledged().count() > 0, "something was written:\n{plan}");
    world.bites().clone()
}

/// Aims at the first operation, at the second, and so on until there are no more; returns how many there were.
fn aim_at_each(
    moment: &str,
    (from, within): (&str, &str),
    (mode, kind): (char, &str),
    before: &str,
    bites: &mut Bites,
) -> u32 {
    for count in 1.. {
        let sector = if count % 2 == 0 { 512 } else { 4_096 };
        let faults = format!(
            "{before}at {from} aimed node=0 moment={moment} count={count} kind={kind} down=10ms within={within}\n"
        );
        let bitten = run(&plan(u64::from(count), sector, mode, &faults));
        bites.merge(&bitten);
        if bitten.of(Bite::AimedCrash) == 0 {
            return count - 1;
        }
    }
    unreachable!("a run ends")
}

#[test]
fn a_crash_behind_every_operation_of_a_first_life_loses_nothing() {
    let mut bites = Bites::default();
    let mut boundaries = BTreeMap::new();
    for way in WAYS {
        boundaries.insert(way, aim_at_each("any-done", ("0s", "2200ms"), way, "", &mut bites));
    }
    assert!(boundaries.values().all(|count| *count > 40), "{boundaries:?}");
    let idle: Vec<&str> = [Bite::UnsyncedLost, Bite::DirectoryEntryLost, Bite::DataWithoutSize, Bite::SizeWithoutData]
        .into_iter()
        .filter(|bite| bites.of(*bite) == 0)
        .map(Bite::name)
        .collect();
    assert!(idle.is_empty(), "{idle:?}");
}

#[test]
fn a_crash_in_the_middle_of_every_operation_of_a_first_life_loses_nothing() {
    let mut bites = Bites::default();
    for way in WAYS {
        aim_at_each("any-begun", ("0s", "2200ms"), way, "", &mut bites);
    }
    assert!(bites.of(Bite::OperationCut) > 0 && bites.of(Bite::SectorGarbage) > 0 && bites.of(Bite::TornWrite) > 0);
}

#[test]
fn a_crash_at_every_operation_of_a_recovery_loses_nothing() {
    let mut bites = Bites::default();
    for way in WAYS {
        // While records are written the machine goes down; then once more while it comes up again.
        let before = format!("at 1600ms crash nodes=0 kind={} down=5ms\n", way.1);
        for moment in ["any-done", "any-begun"] {
            let boundaries = aim_at_each(moment, ("1601ms", "600ms"), way, &before, &mut bites);
            assert!(boundaries > 10, "{way:?}: {boundaries}");
        }
    }
}
