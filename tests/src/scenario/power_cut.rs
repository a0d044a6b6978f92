//! Power cuts of one, two and all nodes while an idempotent producer writes with acks=all.
//!
//! The data directories lie on disks that drop what was not synced. Afterwards every acknowledged record is in the log
//! once and in order. That this can fail is shown with a planted bug: a Kauri that acknowledges before its sync loses
//! records to the same cuts.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    Extent,
    kill::{settle, summary},
    writer::{Kept, Writer},
};
use crate::{
    cluster::{Cluster, DiskKind, Keep, Node, PowerDisk, Setup},
    kafka::Client,
};

const TOPIC: &str = "cut";
const PARTITIONS: i32 = 6;
const NODES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);
const RECORDS: u64 = 500;
/// Small files, so that cuts meet the making of files too.
const CONFIGURATION: &str = "wal_file_bytes = 41943040\nsegment_bytes = 4194304";

/// One cut.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    pub(super) number: usize,
    /// Whose power is cut, as places in the cluster.
    pub(super) victims: Vec<usize>,
    pub(super) keep: Keep,
}

impl Cut {
    /// One, two and all of the nodes, other ones each time, with each way to keep something.
    pub(super) fn nth(number: usize) -> Self {
        let count = number % NODES + 1;
        let victims = (0..count).map(|victim| (number / NODES + victim) % NODES).collect();
        Self { number, victims, keep: Keep::ALL[(number + number / NODES) % Keep::ALL.len()] }
    }

    pub(super) fn seed(&self, victim: usize) -> u64 {
        (self.number * NODES + victim) as u64
    }
}

pub(super) fn run(extent: Extent) {
    let cuts = match extent {
        Extent::Quick => 6,
        Extent::Full => 50,
    };
    let setup = Setup { configuration: CONFIGURATION.to_owned(), disks: Some(DiskKind::Posix), ..Setup::default() };
    let mut cluster = Cluster::start_as(NODES, &setup);
    Client::new(&cluster.bootstrap(), PATIENCE).create_topic(TOPIC, PARTITIONS, 3);
    let mut writer = Writer::start(&cluster, TOPIC, PARTITIONS);
    let mut until_ready = Vec::new();
    let mut until_acknowledgement = Vec::new();
    for cut in (0..cuts).map(Cut::nth) {
        settle(&cluster, &mut writer, TOPIC, PARTITIONS);
        // Not always so soon after everything was well.
        writer.wait_for(RECORDS * (cut.number as u64 % 4), PATIENCE);
        let what = cut_power(&mut cluster, &cut);
        let started = Instant::now();
        cut.victims.iter().for_each(|victim| cluster.nodes[*victim].start());
        cluster.wait_until_ready();
        let ready = started.elapsed();
        writer.wait_for(RECORDS, PATIENCE);
        let acknowledged = started.elapsed();
        println!(
            "cut {}: {what}; all ready after {} ms, records acknowledged after {} ms",
            cut.number,
            ready.as_millis(),
            acknowledged.as_millis()
        );
        until_ready.push(ready);
        until_acknowledgement.push(acknowledged);
    }
    let verified = writer.verify(&cluster, TOPIC, PARTITIONS);
    cluster.assert_all_running();
    summary("start after the cut until all nodes are ready", &until_ready);
    summary("start after the cut until records are acknowledged", &until_acknowledgement);
    println!("{} records, {} acknowledged: each once and in order", verified.records, verified.acknowledged);
}

/// A build with planted bugs, with and without the bug: all nodes lose their power at once, and what was acknowledged
/// by then is looked for. With the bug something must be missing, or else none of these tests shows anything.
pub(super) fn planted(extent: Extent) {
    let (sound, broken) = match extent {
        Extent::Quick => (2, 20),
        Extent::Full => (20, 20),
    };
    let without = count_losses(None, sound, |_| false);
    println!("without the bug: {} acknowledged records, {} lost", without.acknowledged, without.lost);
    assert_eq!(without.lost, 0, "acknowledged records are lost without a bug");
    // The quick form has seen enough with the first loss.
    let with = count_losses(Some("acknowledge-before-sync"), broken, |kept| extent == Extent::Quick && kept.lost > 0);
    println!("with acknowledgements before syncs: {} acknowledged records, {} lost", with.acknowledged, with.lost);
    assert!(with.lost > 0, "a Kauri that acknowledges before its sync lost nothing: power cuts are not noticed");
}

fn count_losses(bug: Option<&str>, cuts: usize, enough: impl Fn(&Kept) -> bool) -> Kept {
    let binary = std::env::var_os("KAURI_MUTANTS").map(PathBuf::from);
    let binary = binary.expect("KAURI_MUTANTS names a kauri built with --features mutants");
    let setup = Setup {
        configuration: CONFIGURATION.to_owned(),
        disks: Some(DiskKind::Posix),
        binary: Some(binary),
        environment: bug.iter().map(|bug| ("PLANTED_BUG", (*bug).to_owned())).collect(),
    };
    let mut all = Kept::default();
    for number in 0..cuts {
        // A cluster for each cut: what a node with the bug makes of its losses is not the question.
        let mut cluster = Cluster::start_as(NODES, &setup);
        Client::new(&cluster.bootstrap(), PATIENCE).create_topic(TOPIC, PARTITIONS, 3);
        let mut writer = Writer::start(&cluster, TOPIC, PARTITIONS);
        settle(&cluster, &mut writer, TOPIC, PARTITIONS);
        let cut = Cut { number, victims: (0..NODES).collect(), keep: Keep::Nothing };
        let what = cut_power(&mut cluster, &cut);
        let acknowledged = writer.end();
        cluster.nodes.iter_mut().for_each(Node::start);
        cluster.wait_until_ready();
        let kept = acknowledged.compare(&cluster, TOPIC, PARTITIONS);
        println!("cut {number}: {what}; {} acknowledged records, {} lost", kept.acknowledged, kept.lost);
        all.acknowledged += kept.acknowledged;
        all.lost += kept.lost;
        if enough(&all) {
            break;
        }
    }
    all
}

/// Everywhere in the same moment; says what was cut. The power is on again then, and the processes have ended.
fn cut_power(cluster: &mut Cluster, cut: &Cut) -> String {
    // The processes run on, so that the cut meets syncs on their way. Nothing they ask of their disks succeeds any more:
    // what they acknowledge nevertheless was durable before, or is a bug that is found.
    let victims = cut.victims.iter().map(|victim| &cluster.nodes[*victim]);
    let disks: Vec<(&PowerDisk, u64)> =
        victims.clone().zip(&cut.victims).map(|(node, victim)| (node.disk(), cut.seed(*victim))).collect();
    let reports = PowerDisk::switch_off(&disks, cut.keep);
    let reports: Vec<String> =
        victims.zip(reports).map(|(node, report)| format!("node {} ({report})", node.id)).collect();
    cut.victims.iter().for_each(|victim| cluster.nodes[*victim].kill());
    cut.victims.iter().for_each(|victim| cluster.nodes[*victim].disk().switch_on());
    format!("{} lost power, keeping {}", reports.join(", "), cut.keep.name())
}
