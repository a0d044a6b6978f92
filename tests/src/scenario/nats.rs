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
const RECORDS: usize = 500;
/// A stream that is not well again after so long is not waited for any more.
const PATIENCE_SECONDS: u64 = 120;

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

pub(super) fn run(extent: Extent) {
    let cuts = match extent {
        Extent::Quick => 6,
        Extent::Full => 50,
    };
    for (interval, disks) in [
        (SyncInterval::Default, DiskKind::Kind),
        (SyncInterval::Always, DiskKind::Kind),
        (SyncInterval::Always, DiskKind::Strict),
    ] {
        println!("NATS with {}, disks: {}", interval.describe(), disks.describe());
        let directory = TempDir::with_prefix("kauri-tests-nats-").expect("a temporary directory can be made");
        println!(
            "result: {}, disks {}: {}",
            interval.describe(),
            disks.describe(),
            one(directory.path(), interval, disks, cuts)
        );
    }
}

/// Cuts as long as the stream is well again after each; what is lost in the end.
fn one(directory: &Path, interval: SyncInterval, disks: DiskKind, cuts: usize) -> String {
    let ports = free_ports(2 * NODES);
    let (clients, peers) = ports.split_at(NODES);
    let mut servers: Vec<Server> =
        clients.iter().map(|port| Server::configure(directory, *port, clients, peers, interval, disks)).collect();
    servers.iter_mut().for_each(Server::start);
    let mut client = match Client::start(clients) {
        Ok(client) => client,
        Err(stuck) => panic!("NATS does not start: {stuck}"),
    };
    for cut in (0..cuts).map(Cut::nth) {
        let settled = client.ask(&format!("wait {RECORDS} {PATIENCE_SECONDS}"));
        let settled =
            settled.and_then(|_| client.ask(&format!("wait {} {PATIENCE_SECONDS}", RECORDS * (cut.number % 4))));
        if let Err(stuck) = settled {
            return format!(
                "not well {PATIENCE_SECONDS} s after cut {}: {stuck}; {}",
                cut.number - 1,
                client.verdict()
            );
        }
        // Stopped first: nobody can say of an acknowledgement that it came from a server without power.
        cut.victims.iter().for_each(|victim| servers[*victim].signal(Signal::STOP));
        let victims = cut.victims.iter().map(|victim| (&servers[*victim], cut.seed(*victim)));
        let disks: Vec<(&PowerDisk, u64)> = victims.clone().map(|(server, seed)| (&server.disk, seed)).collect();
        let reports = PowerDisk::switch_off(&disks, cut.keep);
        let reports: Vec<String> =
            victims.zip(reports).map(|((server, _), report)| format!("{} ({report})", server.name)).collect();
        cut.victims.iter().for_each(|victim| servers[*victim].kill());
        cut.victims.iter().for_each(|victim| servers[*victim].disk.switch_on());
        let started = Instant::now();
        cut.victims.iter().for_each(|victim| servers[*victim].start());
        let well = client.ask(&format!("wait {RECORDS} {PATIENCE_SECONDS}"));
        println!(
            "cut {}: {} lost power, keeping {}; {} after {} ms",
            cut.number,
            reports.join(", "),
            cut.keep.name(),
            if well.is_ok() { "well" } else { "not well" },
            started.elapsed().as_millis()
        );
        if let Err(stuck) = well {
            return format!("not well {PATIENCE_SECONDS} s after cut {}: {stuck}; {}", cut.number, client.verdict());
        }
    }
    format!("{cuts} cuts; {}", client.verdict())
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
        port: u16,
        clients: &[u16],
        peers: &[u16],
        interval: SyncInterval,
        disks: DiskKind,
    ) -> Self {
        let place = clients.iter().position(|client| *client == port).expect("it is one of them");
        let name = format!("nats-{}", place + 1);
        let store = directory.join(&name);
        let routes: Vec<String> = peers.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let sync = match interval {
            SyncInterval::Default => "",
            SyncInterval::Always => "sync_interval: always",
        };
        let text = format!(
            "server_name: {name}\nlisten: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?}\n{sync}\n}}\n\
             cluster {{ name: cut, listen: \"127.0.0.1:{}\", routes: [{}] }}\n",
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
    fn start(ports: &[u16]) -> Result<Self, String> {
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
        client.answer().map(|_| client)
    }

    fn ask(&mut self, command: &str) -> Result<String, String> {
        writeln!(self.commands, "{command}").expect("the client runs");
        self.answer()
    }

    fn answer(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the client answers");
        let line = line.trim_end();
        match line.split_once(' ').unwrap_or((line, "")) {
            ("ok", answer) => Ok(answer.to_owned()),
            ("stuck", why) => Err(why.to_owned()),
            _ => panic!("the client of NATS ended: {line}"),
        }
    }

    /// What it finds of what it was told.
    fn verdict(&mut self) -> String {
        match self.ask(&format!("verify {PATIENCE_SECONDS}")) {
            Ok(found) => found,
            Err(stuck) => format!("not readable: {stuck}"),
        }
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
