//! The same power cuts for NATS JetStream, to compare with.
//!
//! Three servers with file storage on disks that drop what was not synced, one stream with three replicas, and a client
//! that counts acknowledgements. What is lost is counted and said: whatever happens to NATS fails no test of Kauri.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Extent, power_cut::Cut, writer::python};
use crate::cluster::{DiskKind, PowerDisk, free_ports};

const NODES: usize = 3;
const RECORDS: u64 = 500;
/// A stream that is not well again after so long is not waited for any more.
const PATIENCE_SECONDS: u64 = 60;

/// When a server syncs what it stored.
#[derive(Clone, Copy, Debug)]
enum SyncInterval {
    /// Every two minutes.
    Default,
    /// Before each acknowledgement.
    Always,
}

#[derive(Debug)]
struct Server {
    name: String,
    config: PathBuf,
    log: PathBuf,
    process: Option<Child>,
    disk: PowerDisk,
}

#[derive(Debug)]
struct Client {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What a client finds of what it was told.
#[derive(Debug)]
struct Found {
    acknowledged: u64,
    /// Or why nothing can be read.
    lost: Result<u64, String>,
}

/// What became of one configuration.
#[derive(Debug, Default)]
struct Tally {
    cuts: usize,
    /// Cuts after which some server ended by itself instead of serving.
    refused: usize,
    /// Cuts after which the stream had not all its replicas again within the patience, for whatever reason.
    not_well: usize,
    acknowledged: u64,
    lost: u64,
    /// Acknowledged in streams that nothing could be read from any more.
    unreadable: u64,
}

/// Servers, disks and a client, as long as they are well.
#[derive(Debug)]
struct Trial {
    // Dropped in this order: a directory can be removed when nothing is mounted below it.
    client: Client,
    servers: Vec<Server>,
    directory: TempDir,
}

pub(super) fn run(extent: Extent) {
    let cuts = match extent {
        Extent::Quick => 6,
        Extent::Full => 50,
    };
    for (interval, disks) in [
        (SyncInterval::Default, DiskKind::Ext4),
        (SyncInterval::Always, DiskKind::Ext4),
        (SyncInterval::Always, DiskKind::Posix),
    ] {
        let what = format!("{}, disks like {}", interval.describe(), disks.name());
        println!("NATS JetStream with {what}");
        let tally = tally(interval, disks, cuts);
        println!(
            "{what}: {} cuts; a server did not start again after {}; not well {PATIENCE_SECONDS} s after {}; \
             {} acknowledged messages, {} lost, {} in streams that could not be read",
            tally.cuts, tally.refused, tally.not_well, tally.acknowledged, tally.lost, tally.unreadable
        );
    }
}

/// A cluster serves as long as it is well again after each cut; then what it kept is counted, and another one takes its
/// place.
fn tally(interval: SyncInterval, disks: DiskKind, cuts: usize) -> Tally {
    let mut tally = Tally::default();
    let mut current = None;
    for cut in (0..cuts).map(Cut::nth) {
        let mut trial = current.take().unwrap_or_else(|| Trial::start(interval, disks));
        trial.client.wait(RECORDS * (1 + cut.number as u64 % 4)).expect("what is well goes on");
        let what = trial.cut(&cut);
        let started = Instant::now();
        let waited = trial.client.wait(RECORDS);
        // The others may not have noticed yet that a server is not there.
        let refused: Vec<String> = trial.servers.iter_mut().filter_map(Server::last_words).collect();
        let outcome = match &waited {
            Ok(()) if refused.is_empty() => "well".to_owned(),
            Ok(()) => "a server is missing".to_owned(),
            Err(why) => format!("not well: {why}"),
        };
        println!("cut {}: {what}; {outcome} after {} ms", cut.number, started.elapsed().as_millis());
        refused.iter().for_each(|words| println!("  {words}"));
        tally.cuts += 1;
        tally.refused += usize::from(!refused.is_empty());
        tally.not_well += usize::from(waited.is_err());
        if waited.is_ok() && refused.is_empty() {
            current = Some(trial);
        } else {
            trial.count(&mut tally);
        }
    }
    if let Some(trial) = current {
        trial.count(&mut tally);
    }
    tally
}

impl Trial {
    fn start(interval: SyncInterval, disks: DiskKind) -> Self {
        let directory = TempDir::with_prefix("kauri-tests-nats-").expect("a temporary directory can be made");
        let ports = free_ports(2 * NODES);
        let (clients, peers) = ports.split_at(NODES);
        let mut servers: Vec<Server> = (0..NODES)
            .map(|place| Server::configure(directory.path(), place, clients, peers, interval, disks))
            .collect();
        servers.iter_mut().for_each(Server::start);
        let mut client = Client::start(clients);
        client.wait(RECORDS).unwrap_or_else(|why| panic!("NATS does not start: {why}"));
        Self { client, servers, directory }
    }

    /// Cuts the power and starts the servers again; says what was cut.
    fn cut(&mut self, cut: &Cut) -> String {
        // Stopped first: nobody can say of an acknowledgement that it came from a server without power.
        cut.victims.iter().for_each(|victim| self.servers[*victim].signal(Signal::STOP));
        let victims = cut.victims.iter().map(|victim| (&self.servers[*victim], cut.seed(*victim)));
        let disks: Vec<(&PowerDisk, u64)> = victims.clone().map(|(server, seed)| (&server.disk, seed)).collect();
        let reports = PowerDisk::switch_off(&disks, cut.keep);
        let reports: Vec<String> =
            victims.zip(reports).map(|((server, _), report)| format!("{} ({report})", server.name)).collect();
        for victim in &cut.victims {
            self.servers[*victim].kill();
            self.servers[*victim].disk.switch_on();
            self.servers[*victim].start();
        }
        format!("{} lost power, keeping {}", reports.join(", "), cut.keep.name())
    }

    fn count(mut self, tally: &mut Tally) {
        let found = self.client.verify();
        println!(
            "  {} acknowledged messages, {}",
            found.acknowledged,
            match &found.lost {
                Ok(lost) => format!("{lost} lost"),
                Err(why) => format!("not readable ({why})"),
            }
        );
        tally.acknowledged += found.acknowledged;
        match found.lost {
            Ok(lost) => tally.lost += lost,
            Err(_) => tally.unreadable += found.acknowledged,
        }
        drop(self.client);
        drop(self.servers);
        self.directory.close().expect("what nobody uses can be removed");
    }
}

impl SyncInterval {
    fn describe(self) -> &'static str {
        match self {
            Self::Default => "the default sync_interval",
            Self::Always => "sync_interval: always",
        }
    }
}

impl Server {
    fn configure(
        directory: &Path,
        place: usize,
        clients: &[u16],
        peers: &[u16],
        interval: SyncInterval,
        disks: DiskKind,
    ) -> Self {
        let name = format!("nats-{}", place + 1);
        let store = directory.join(&name);
        let routes: Vec<String> = peers.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let sync = match interval {
            SyncInterval::Default => "",
            SyncInterval::Always => "sync_interval: always",
        };
        let text = format!(
            "server_name: {name}\nlisten: \"127.0.0.1:{}\"\njetstream {{ store_dir: {store:?}\n{sync}\n}}\n\
             cluster {{ name: cut, listen: \"127.0.0.1:{}\", routes: [{}] }}\n",
            clients[place],
            peers[place],
            routes.join(", ")
        );
        let config = directory.join(format!("{name}.conf"));
        fs::write(&config, text).expect("a temporary directory takes files");
        let log = directory.join(format!("{name}.log"));
        Self { name, config, log, process: None, disk: PowerDisk::mount(&store, disks) }
    }

    fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log can be opened");
        let clone = |file: &File| file.try_clone().expect("a descriptor can be cloned");
        let process = Command::new(binary())
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(clone(&log))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", binary().display()));
        self.process = Some(process);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("a server that is signalled runs");
        kill_process(Pid::from_child(process), signal).expect("a child can be signalled");
    }

    /// The last line of its log, if it has ended by itself.
    fn last_words(&mut self) -> Option<String> {
        let status = self.process.as_mut()?.try_wait().expect("a child can be waited for")?;
        let log = fs::read_to_string(&self.log).expect("a server that was started has a log");
        Some(format!("{} ended with {status}: {}", self.name, log.lines().next_back().unwrap_or_default()))
    }

    fn kill(&mut self) {
        let mut process = self.process.take().expect("a server that is killed runs");
        process.kill().expect("a child can be killed");
        process.wait().expect("a child can be waited for");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

impl Client {
    /// Returns when the stream exists.
    fn start(ports: &[u16]) -> Self {
        let addresses: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let mut process = Command::new(python())
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/nats_writer.py"))
            .arg(addresses.join(","))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be run: {error}", python().display()));
        let commands = process.stdin.take().expect("it is piped");
        let answers = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut client = Self { process, commands, answers };
        assert_eq!(client.answer(), ["ok"], "the client of NATS starts");
        client
    }

    /// Waits until the stream has all its replicas and so many more messages are acknowledged, or says what is wrong.
    fn wait(&mut self, messages: u64) -> Result<(), String> {
        writeln!(self.commands, "wait {messages} {PATIENCE_SECONDS}").expect("the client runs");
        let answer = self.answer();
        match answer[0].as_str() {
            "ok" => Ok(()),
            _ => Err(answer[1..].join(" ")),
        }
    }

    fn verify(&mut self) -> Found {
        writeln!(self.commands, "verify {PATIENCE_SECONDS}").expect("the client runs");
        let answer = self.answer();
        let acknowledged = answer[1].parse().expect("a number");
        let lost = match answer[0].as_str() {
            "ok" => Ok(answer[2].parse().expect("a number")),
            _ => Err(answer[2..].join(" ")),
        };
        Found { acknowledged, lost }
    }

    fn answer(&mut self) -> Vec<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the client answers");
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        assert!(matches!(words.first().map(String::as_str), Some("ok" | "stuck")), "the client of NATS ended: {line}");
        words
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The server's binary: named by KAURI_NATS_SERVER, or the one in the path.
fn binary() -> PathBuf {
    std::env::var_os("KAURI_NATS_SERVER").map_or_else(|| PathBuf::from("nats-server"), PathBuf::from)
}
