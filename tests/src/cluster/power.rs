//! Disks whose power can be cut: directories mounted by `powerfs`.
//!
//! Invariant: a disk is unmounted when its value is dropped, and also when this process ends without a drop.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::patience::until;

const MOUNT_PATIENCE: Duration = Duration::from_secs(20);

/// How long a sync takes: about what a good drive needs.
const SYNC_MILLISECONDS: &str = "2";

/// What a cut leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    Nothing,
    /// Everything before some moment.
    Prefix,
    /// Any sectors of any writes, and any names.
    Torn,
}

impl Keep {
    pub const ALL: [Self; 3] = [Self::Nothing, Self::Prefix, Self::Torn];

    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Prefix => "prefix",
            Self::Torn => "torn",
        }
    }
}

/// What lasts on a disk beyond what was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    /// Names last after a sync of their directory, data after one of the file, and nothing else lasts.
    Posix,
    /// What ext4 does beyond its duty, with Linux's usual times: names last after any sync and after 5 seconds, data after
    /// 30 seconds, and what replaces a file by a rename at once.
    Ext4,
}

impl DiskKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Posix => "posix",
            Self::Ext4 => "ext4",
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Posix => &["--like", "posix"],
            Self::Ext4 => &["--like", "ext4", "--commit", "5", "--write-back", "30"],
        }
    }
}

#[derive(Debug)]
pub struct PowerDisk {
    socket: PathBuf,
    process: Child,
}

impl PowerDisk {
    /// Mounts an empty disk at `mountpoint`, which is made. What is durable lies in a directory beside it.
    pub fn mount(mountpoint: &Path, kind: DiskKind) -> Self {
        let backing = mountpoint.with_extension("durable");
        let socket = mountpoint.with_extension("power");
        fs::create_dir(&backing).expect("a temporary directory takes directories");
        fs::create_dir(mountpoint).expect("a temporary directory takes directories");
        let mut process = Command::new(binary())
            .arg("mount")
            .arg(&backing)
            .arg(mountpoint)
            .arg("--control")
            .arg(&socket)
            .args(["--sync-delay", SYNC_MILLISECONDS, "--while-input"])
            .args(kind.options())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", binary().display()));
        until("a mounted disk", MOUNT_PATIENCE, || {
            if let Some(status) = process.try_wait().expect("a child can be waited for") {
                panic!("powerfs cannot mount at {}, which needs root and /dev/fuse: {status}", mountpoint.display());
            }
            UnixStream::connect(&socket).ok()
        });
        Self { socket, process }
    }

    /// Cuts the power of several disks in the same moment, each with its seed; for each, how many changes were not synced
    /// and how many of them survived. Every request fails from now on.
    pub fn switch_off(disks: &[(&Self, u64)], keep: Keep) -> Vec<String> {
        let asked: Vec<(&Self, UnixStream)> =
            disks.iter().map(|(disk, seed)| (*disk, disk.ask(&format!("off {} {seed}", keep.name())))).collect();
        asked.into_iter().map(|(disk, stream)| disk.answer(stream)).collect()
    }

    pub fn switch_on(&self) {
        self.answer(self.ask("on"));
    }

    fn ask(&self, command: &str) -> UnixStream {
        let ask = || {
            let mut stream = UnixStream::connect(&self.socket)?;
            writeln!(stream, "{command}")?;
            io::Result::Ok(stream)
        };
        ask().unwrap_or_else(|error| panic!("{} takes no command: {error}", self.socket.display()))
    }

    /// What is answered behind `ok`.
    fn answer(&self, stream: UnixStream) -> String {
        let mut answer = String::new();
        let read = BufReader::new(stream).read_line(&mut answer);
        read.unwrap_or_else(|error| panic!("{} does not answer: {error}", self.socket.display()));
        answer.trim_end().strip_prefix("ok").unwrap_or_else(|| panic!("{answer}")).trim_start().to_owned()
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        // It ends with its input, unless it has ended already.
        drop(self.process.stdin.take());
        drop(self.process.wait());
    }
}

/// The `powerfs` binary: the one named by KAURI_POWERFS, or else one that lies beside this program.
fn binary() -> PathBuf {
    match std::env::var_os("KAURI_POWERFS") {
        Some(path) => PathBuf::from(path),
        None => super::beside_this_program(
            "powerfs",
            "build it with `cargo build --release --manifest-path tests/powerfs/Cargo.toml` and name it in KAURI_POWERFS",
        ),
    }
}
