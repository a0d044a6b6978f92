//! A node that was away while more was written than its peers' write-ahead logs hold: it catches up by state transfer,
//! while writing goes on.
//!
//! What is shown: no group that is written elects a leader meanwhile, no node's log is ever larger than its budget, the
//! segments of all nodes are equal byte for byte as far as they go, and `kauri log verify` finds nothing.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kauri_protocol::records::{BatchBuilder, Compression, NO_PRODUCER};

use super::Extent;
use crate::{
    cluster::{Cluster, binary},
    kafka::{Client, metadata},
    patience::until,
    rate::Rate,
};

const PATIENCE: Duration = Duration::from_secs(300);
/// The node that is away.
const AWAY: i32 = 3;
/// Topics of one partition each, of which those are written that other nodes lead.
const TOPICS: i32 = 6;
/// The smallest files of the log, and the smallest budget.
const WAL_FILE_BYTES: u64 = 40 << 20;
const BUDGET_BYTES: u64 = 8 * WAL_FILE_BYTES;
const RECORD_BYTES: usize = 1000 << 10;
const SAMPLE_PAUSE: Duration = Duration::from_millis(20);

pub(super) fn run(extent: Extent) {
    // Beyond 70 % of what the budget leaves for data a member that is behind gets the state instead of the log.
    let bytes = match extent {
        Extent::Quick => BUDGET_BYTES,
        Extent::Full => 3 * BUDGET_BYTES,
    };
    let configuration = format!("wal_file_bytes = {WAL_FILE_BYTES}\nwal_budget_bytes = {BUDGET_BYTES}");
    let mut cluster = Cluster::start_with(3, &configuration);
    let bootstrap = cluster.bootstrap();
    let mut client = Client::new(&bootstrap, PATIENCE);
    let mut topics: Vec<String> = (0..TOPICS).map(|number| format!("catch-up-{number}")).collect();
    for topic in &topics {
        client.create_topic(topic, 1, 3);
    }
    // The one that shall lead does after a moment; what the node that goes leads has an election, and is not written.
    until("leaders as they should be", PATIENCE, || leaders_settled(&cluster, &topics));
    topics.retain(|topic| client.leader_id(topic, 0) != AWAY);
    assert!(topics.len() >= 2, "leaders are spread over the nodes");
    let terms = until("terms", PATIENCE, || terms(&cluster, &topics));

    let directories: Vec<PathBuf> = cluster.nodes.iter().map(|node| node.data_directory.clone()).collect();
    let largest: Vec<AtomicU64> = directories.iter().map(|_| AtomicU64::new(0)).collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for (directory, largest) in directories.iter().zip(&largest) {
                    largest.fetch_max(bytes_in(&directory.join("wal")), Ordering::Relaxed);
                }
                thread::sleep(SAMPLE_PAUSE);
            }
        });
        // Ends the sampling also if an assertion below does not hold.
        let _ending = Ending(&done);
        catch_up(&mut cluster, &topics, bytes);
        let terms_after = until("terms", PATIENCE, || self::terms(&cluster, &topics));
        assert_eq!(terms_after, terms, "leader epochs of the groups that were written");
        println!("no election in the groups that were written: terms {:?}", terms.values().collect::<Vec<_>>());
    });
    for (node, largest) in cluster.nodes.iter().zip(&largest) {
        let largest = largest.load(Ordering::Relaxed);
        println!("node {}: at most {} MiB of write-ahead log, of {} MiB", node.id, largest >> 20, BUDGET_BYTES >> 20);
        assert!(largest <= BUDGET_BYTES, "the log of node {} is beyond its budget", node.id);
    }
    let log = fs::read_to_string(&cluster.node(AWAY).log).expect("a node that ran has a log");
    let switched = log.matches("switched to a transferred state").count();
    println!("{switched} replicas of node {AWAY} took the state over");
    assert!(switched > 0, "the node caught up without a state transfer");

    for node in &mut cluster.nodes {
        assert!(node.terminate().success(), "a node that is asked to stop does");
    }
    let compared = compare_segments(&directories);
    println!("{} MiB of segments are equal on all nodes", compared >> 20);
    // What the log of a node still holds may not be in its segments yet.
    assert!(compared > 0 && compared >= bytes.saturating_sub(BUDGET_BYTES), "what no log holds is in segments");
    for directory in &directories {
        let verified = Command::new(binary()).args(["log", "verify", "--data-dir"]).arg(directory).output();
        let verified = verified.expect("the binary runs");
        let text = String::from_utf8_lossy(&verified.stdout);
        assert!(verified.status.success(), "kauri log verify: {text}");
    }
    println!("kauri log verify: nothing is damaged on any node");
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The node goes, everything is written, the node comes back while writing goes on.
fn catch_up(cluster: &mut Cluster, topics: &[String], bytes: u64) {
    cluster.node(AWAY).kill();
    let alive = cluster.nodes.iter().filter(|node| node.id != AWAY).map(|node| node.address.clone());
    let alive = alive.collect::<Vec<_>>().join(",");
    let writing = Rate::start();
    let records = bytes / topics.len() as u64 / RECORD_BYTES as u64 + 1;
    thread::scope(|scope| {
        for topic in topics {
            let alive = &alive;
            scope.spawn(move || {
                let mut client = Client::new(alive, PATIENCE);
                let batch = batch(topic);
                for _ in 0..records {
                    client.produce(topic, 0, &batch);
                }
            });
        }
    });
    println!(
        "written while node {AWAY} is away: {}",
        writing.stop(records * topics.len() as u64 * RECORD_BYTES as u64)
    );

    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ending = Ending(&stop);
        let (alive, stop) = (&alive, &stop);
        scope.spawn(move || {
            let mut client = Client::new(alive, PATIENCE);
            let batches: Vec<(&String, Bytes)> = topics.iter().map(|topic| (topic, batch(topic))).collect();
            while !stop.load(Ordering::Relaxed) {
                for (topic, batch) in &batches {
                    client.produce(topic, 0, batch);
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        let started = Instant::now();
        cluster.node(AWAY).start();
        until("replicas in sync", PATIENCE, || all_in_sync(cluster, topics));
        println!("node {AWAY} is in sync {:.1} s after its start", started.elapsed().as_secs_f64());
    });
    until("replicas in sync", PATIENCE, || all_in_sync(cluster, topics));
}

/// One record that nothing compresses, different for each topic.
fn batch(topic: &str) -> Bytes {
    let seed = topic.bytes().fold(1u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let value: Vec<u8> =
        (0..RECORD_BYTES as u32).map(|n| (n.wrapping_mul(0x9e37_79b9).wrapping_add(seed) >> 24) as u8).collect();
    let mut builder = BatchBuilder::new(Compression::None);
    builder.append(0, None, Some(&value), &[]).expect("a record of less than a MiB fits");
    builder.build(NO_PRODUCER).expect("a batch of a MiB fits")
}

/// Each partition is led by the first of its replicas.
fn leaders_settled(cluster: &Cluster, topics: &[String]) -> Option<()> {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let answer = metadata(&mut cluster.nodes[0].connect(), &names).ok()?;
    let mut partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.all(|found| found.replica_nodes.first() == Some(&found.leader_id)).then_some(())
}

/// The leader epochs of these topics' partitions.
fn terms(cluster: &Cluster, topics: &[String]) -> Option<BTreeMap<String, i32>> {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let answer = metadata(&mut cluster.nodes[0].connect(), &names).ok()?;
    let of_topic = |topic: &String| {
        let found = answer.topics.iter().find(|found| found.name.as_deref() == Some(topic))?.partitions.first()?;
        (found.leader_epoch >= 0).then(|| (topic.clone(), found.leader_epoch))
    };
    topics.iter().map(of_topic).collect()
}

fn all_in_sync(cluster: &Cluster, topics: &[String]) -> Option<()> {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let answer = metadata(&mut cluster.nodes[0].connect(), &names).ok()?;
    let mut partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.all(|found| found.isr_nodes.len() == 3).then_some(())
}

/// What the files of a directory take, which come and go meanwhile.
fn bytes_in(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Compares each log file of a segment with those of the other nodes, as far as all of them go; the bytes that are equal.
fn compare_segments(directories: &[PathBuf]) -> u64 {
    let mut compared = 0;
    for group in fs::read_dir(directories[0].join("groups")).expect("a node that wrote has groups") {
        let group = group.expect("a directory can be read").file_name();
        let files = fs::read_dir(directories[0].join("groups").join(&group)).expect("a group has a directory");
        for file in files {
            let file = file.expect("a directory can be read").path();
            if file.extension().is_none_or(|extension| extension != "log") {
                continue;
            }
            let name = file.file_name().expect("it was found by its name");
            let paths: Vec<PathBuf> =
                directories.iter().map(|directory| directory.join("groups").join(&group).join(name)).collect();
            compared += equal_bytes(&paths);
        }
    }
    compared
}

/// Bytes up to the end of the shortest file, all of which must be equal. A file that is not there yet is empty.
fn equal_bytes(paths: &[PathBuf]) -> u64 {
    let open = |path: &PathBuf| match fs::File::open(path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("{}: {error}", path.display()),
    };
    let Some(mut files) = paths.iter().map(open).collect::<Option<Vec<_>>>() else { return 0 };
    let mut compared = 0;
    loop {
        let parts: Vec<Vec<u8>> = files.iter_mut().map(|file| read_part(file).expect("a file can be read")).collect();
        let shortest = parts.iter().map(Vec::len).min().expect("there are files");
        let first = &parts[0][..shortest];
        for (part, path) in parts.iter().zip(paths) {
            assert!(part[..shortest] == *first, "{} differs behind byte {compared}", path.display());
        }
        compared += shortest as u64;
        if shortest < PART_BYTES {
            return compared;
        }
    }
}

const PART_BYTES: usize = 1 << 20;

fn read_part(file: &mut fs::File) -> io::Result<Vec<u8>> {
    let mut part = Vec::with_capacity(PART_BYTES);
    file.take(PART_BYTES as u64).read_to_end(&mut part)?;
    Ok(part)
}
