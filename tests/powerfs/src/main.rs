//! `powerfs`: a file system whose power can be cut.
//!
//! Passes a directory through, but holds everything that was not synced in memory and drops it on command. Invariant:
//! the backing directory holds what was synced, and nothing else. Syncs are fsync, fdatasync, and writes to files opened
//! with O_SYNC or O_DSYNC; sync, syncfs and RWF_DSYNC do not reach a FUSE file system and make nothing durable. Not
//! modelled: hard and symbolic links, modes and times after a cut, and drives that lie about their syncs.
#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "a file system lives in real time, on threads of its own")]

mod control;
mod disk;
mod filesystem;
mod random;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    sync::Arc,
    thread,
    time::Duration,
};

use fuser::{Config, MountOption, Session};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use self::{
    control::Server,
    disk::{Disk, DiskError, Likeness},
    filesystem::{PowerFs, Shared},
};

const USAGE: &str = "\
powerfs mount BACKING MOUNTPOINT --control SOCKET [--like posix|ext4] [--commit SECONDS] [--write-back SECONDS]
              [--sync-delay MILLISECONDS] [--while-input]
  shows BACKING at MOUNTPOINT until it is unmounted, or until the process is asked to end
  --like posix (default): names last after a sync of their directory, data after a sync of its file
  --like ext4: names last after any sync; data also in a file that is renamed over another, or was emptied and closed
  --commit: names last after so long anyway; --write-back: data lasts after so long anyway
  --sync-delay: how long a sync takes
  --while-input: unmounts when standard input ends
powerfs cut --control SOCKET [--keep nothing|prefix|torn] [--seed NUMBER]
  drops what was not synced: everything; or all after some moment; or any sectors of any writes, and any names
powerfs off --control SOCKET [--keep nothing|prefix|torn] [--seed NUMBER]
powerfs on --control SOCKET
  the same in two steps; every request in between fails
powerfs status --control SOCKET
  says what is not synced
powerfs unmount --control SOCKET";

/// Syncs wait without keeping others from their work.
const THREADS: usize = 8;

#[derive(Debug, Default)]
struct Arguments {
    words: Vec<String>,
    control: Option<PathBuf>,
    like: Option<Likeness>,
    sync_delay: Duration,
    commit: Option<Duration>,
    write_back: Option<Duration>,
    while_input: bool,
    keep: Option<String>,
    seed: u64,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(sentence) => return usage(&sentence),
    };
    let words: Vec<&str> = arguments.words.iter().map(String::as_str).collect();
    let Some(socket) = &arguments.control else { return usage("--control SOCKET is missing") };
    let result = match words[..] {
        ["mount", backing, mountpoint] => {
            mount(Path::new(backing), Path::new(mountpoint), socket, &arguments).map_err(|error| error.to_string())
        }
        [command @ ("cut" | "off")] => {
            let keep = arguments.keep.as_deref().unwrap_or("nothing");
            control::send(socket, &format!("{command} {keep} {}", arguments.seed)).map(|answer| println!("{answer}"))
        }
        ["on"] => control::send(socket, "on").map(|_| ()),
        ["status"] => control::send(socket, "status").map(|answer| println!("{answer}")),
        ["unmount"] => control::send(socket, "unmount").map(|_| ()),
        _ => return usage("there is no such command"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("powerfs: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn usage(sentence: &str) -> ExitCode {
    eprintln!("powerfs: {sentence}\n{USAGE}");
    ExitCode::from(2)
}

fn parse(words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    let mut words = words;
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--control" => arguments.control = Some(value()?.into()),
            "--like" => {
                arguments.like = match value()?.as_str() {
                    "posix" => Some(Likeness::Posix),
                    "ext4" => Some(Likeness::Ext4),
                    other => return Err(format!("--like is posix or ext4, not {other}")),
                }
            }
            "--commit" => arguments.commit = Some(Duration::from_secs(number(&value()?)?)),
            "--sync-delay" => arguments.sync_delay = Duration::from_millis(number(&value()?)?),
            "--write-back" => arguments.write_back = Some(Duration::from_secs(number(&value()?)?)),
            "--while-input" => arguments.while_input = true,
            "--keep" => arguments.keep = Some(value()?),
            "--seed" => arguments.seed = number(&value()?)?,
            other if other.starts_with("--") => return Err(format!("there is no {other}")),
            _ => arguments.words.push(word),
        }
    }
    Ok(arguments)
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

/// Serves until the file system is unmounted.
fn mount(backing: &Path, mountpoint: &Path, socket: &Path, arguments: &Arguments) -> io::Result<()> {
    let backing = fs::canonicalize(backing)?;
    let mountpoint = fs::canonicalize(mountpoint)?;
    if !Path::new("/dev/fuse").exists() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "this machine has no /dev/fuse"));
    }
    let like = arguments.like.unwrap_or(Likeness::Posix);
    let shared = Shared::new(Disk::open(backing.clone(), like)?);
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let filesystem = PowerFs::new(Arc::clone(&shared), backing, arguments.sync_delay);
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("powerfs".to_owned()), MountOption::NoDev, MountOption::NoSuid];
    config.n_threads = Some(THREADS);
    let session = Session::new(filesystem, &mountpoint, &config)?;
    // Whoever reaches the socket may rely on the mount.
    let server = Server::bind(socket, Arc::clone(&shared), mountpoint.clone())?;
    let answering = server.answering();
    start("control", move || server.run())?;
    if arguments.while_input {
        let mountpoint = mountpoint.clone();
        start("input", move || {
            // An input that cannot be read has ended too.
            drop(io::copy(&mut io::stdin(), &mut io::sink()));
            end(&mountpoint);
        })?;
    }
    start("signals", move || {
        if signals.forever().next().is_some() {
            end(&mountpoint);
        }
    })?;
    if let Some(period) = arguments.commit {
        let shared = Arc::clone(&shared);
        start("commit", move || repeat(period, &shared, Disk::sync_all_entries))?;
    }
    if let Some(period) = arguments.write_back {
        // What was changed is written back after half of the period to all of it.
        start("write-back", move || repeat(period / 2, &shared, Disk::write_back))?;
    }
    session.run()?;
    drop(answering.lock());
    Ok(())
}

fn start(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

fn end(mountpoint: &Path) {
    if let Err(error) = control::detach(mountpoint) {
        eprintln!("powerfs: {} cannot be unmounted: {error}", mountpoint.display());
    }
    process::exit(0);
}

fn repeat(period: Duration, shared: &Shared, what: impl Fn(&mut Disk) -> Result<(), DiskError>) {
    loop {
        thread::sleep(period);
        match what(&mut shared.lock().disk) {
            // Without power there is nothing to do.
            Ok(()) | Err(DiskError::Gone) => {}
            Err(error) => eprintln!("powerfs: what is old does not become durable: {error}"),
        }
    }
}
