//! One `kauri server` process.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Setup, power::PowerDisk};
use crate::{kafka::Connection, patience::until};

const STOP_PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Node {
    pub id: i32,
    /// Where clients reach it.
    pub address: String,
    pub data_directory: PathBuf,
    /// Everything its processes wrote to standard error, one after the other.
    pub log: PathBuf,
    config: PathBuf,
    binary: PathBuf,
    environment: Vec<(&'static str, String)>,
    process: Option<Child>,
    /// What the data directory lies on, if its power can be cut. Unmounted after the process has ended.
    disk: Option<PowerDisk>,
}

impl Node {
    /// Writes the configuration of a node. `peers` are the ports for peers of all nodes, by id.
    pub(super) fn configure(directory: &Path, id: i32, client_port: u16, peers: &[(i32, u16)], setup: &Setup) -> Self {
        let data_directory = directory.join(format!("node-{id}"));
        let address = format!("127.0.0.1:{client_port}");
        let mut text =
            format!("node = {id}\ndata_dir = {data_directory:?}\nlisten = \"{address}\"\n{}\n", setup.configuration);
        for (peer, port) in peers {
            text += &format!("[[nodes]]\nid = {peer}\naddress = \"127.0.0.1:{port}\"\n");
        }
        let config = directory.join(format!("node-{id}.toml"));
        fs::write(&config, text).expect("a temporary directory takes files");
        Self {
            id,
            disk: setup.disks.map(|kind| PowerDisk::mount(&data_directory, kind)),
            address,
            data_directory,
            log: directory.join(format!("node-{id}.log")),
            config,
            binary: setup.binary.clone().unwrap_or_else(super::binary),
            environment: setup.environment.clone(),
            process: None,
        }
    }

    /// Starts the process, which must not be running.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "node {} runs already", self.id);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log can be opened");
        let clone = |file: &File| file.try_clone().expect("a descriptor can be cloned");
        let process = Command::new(&self.binary)
            .args(["server", "--config"])
            .arg(&self.config)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "RUST_BACKTRACE"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(clone(&log))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.binary.display()));
        self.process = Some(process);
    }

    /// Whether the process runs; a paused one does.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().expect("a child can be waited for").is_none())
    }

    /// How the process ended by itself, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut()?.try_wait().expect("a child can be waited for")
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("a node that is killed runs");
        process.kill().expect("a child can be killed");
        process.wait().expect("a child can be waited for");
    }

    /// The disk that its data directory lies on. Only one that was asked for is there.
    pub fn disk(&self) -> &PowerDisk {
        self.disk.as_ref().expect("this cluster was started with disks whose power can be cut")
    }

    /// SIGTERM, and the wait for the end that follows.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let mut process = self.process.take().expect("it was signalled");
        let what = format!("the end of node {} after SIGTERM", self.id);
        until(&what, STOP_PATIENCE, || process.try_wait().expect("a child can be waited for"))
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// The most memory the process ever had resident (VmHWM).
    pub fn peak_memory_bytes(&self) -> u64 {
        self.memory("VmHWM")
    }

    /// The memory the process has resident (VmRSS).
    pub fn memory_bytes(&self) -> u64 {
        self.memory("VmRSS")
    }

    /// How many threads the process has.
    pub fn thread_count(&self) -> u64 {
        self.status("Threads").parse().expect("a number of threads is a number")
    }

    /// The processor time that the process has used, of all its threads.
    pub fn processor_time(&self) -> Duration {
        let process = self.process.as_ref().expect("a node that is looked at runs");
        let text = fs::read_to_string(format!("/proc/{}/stat", process.id())).expect("a running process has counters");
        // The name of the program, which may contain anything, ends with the last parenthesis; see proc(5).
        let (_, fields) = text.rsplit_once(") ").expect("the kernel puts the name in parentheses");
        let ticks = |number: usize| -> u64 {
            let field = fields.split(' ').nth(number - 3).expect("the kernel tells it of every process");
            field.parse().expect("a counter is a number")
        };
        Duration::from_secs(ticks(14) + ticks(15)) / rustix::param::clock_ticks_per_second() as u32
    }

    /// A connection as a client opens it.
    pub fn connect(&self) -> Connection {
        Connection::open(&self.address).unwrap_or_else(|error| panic!("node {} takes no connection: {error}", self.id))
    }

    fn memory(&self, name: &str) -> u64 {
        let text = self.status(name);
        let kibibytes = text.strip_suffix("kB").expect("the kernel counts in kB").trim();
        kibibytes.parse::<u64>().expect("an amount of memory is a number") << 10
    }

    fn status(&self, name: &str) -> String {
        let process = self.process.as_ref().expect("a node that is looked at runs");
        let status =
            fs::read_to_string(format!("/proc/{}/status", process.id())).expect("a running process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.expect("the kernel tells it of every process").trim().to_owned()
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("a node that is signalled runs");
        kill_process(Pid::from_child(process), signal).expect("a child can be signalled");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Whoever ended by itself needs no kill.
            drop(process.kill());
            drop(process.wait());
        }
    }
}
