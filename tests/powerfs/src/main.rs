//! `powerfs`: a file system whose power can be cut.
//!
//! Passes a directory through, but holds everything that was not synced in memory and drops it on command. Invariant:
//! the backing directory holds what was synced, and nothing else. Not modelled: hard and symbolic links, modes and times
//! after a cut, and drives that lie about their syncs.
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

use self::{
    control::Server,
    disk::{Disk, EntryPolicy},
    filesystem::{PowerFs, Shared},
};

const USAGE: &str = "\
powerfs mount BACKING MOUNTPOINT --control SOCKET [--entries strict|journal] [--sync-delay MILLISECONDS]
              [--write-back SECONDS] [--while-input]
  shows BACKING at MOUNTPOINT until it is unmounted. --entries strict (default): names last after a sync of their
  directory; journal: after any sync. --sync-delay: how long a sync takes. --write-back: what was not synced for so
  long lasts nevertheless. --while-input: unmounts when standard input ends
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
    journal: bool,
    sync_delay: Duration,
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
            "--entries" => {
                arguments.journal = match value()?.as_str() {
                    "strict" => false,
                    "journal" => true,
                    other => return Err(format!("--entries is strict or journal, not {other}")),
                }
            }
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
    let policy = if arguments.journal { EntryPolicy::Journal } else { EntryPolicy::Strict };
    let shared = Shared::new(Disk::open(backing.clone(), policy)?);
    let filesystem = PowerFs::new(Arc::clone(&shared), backing, arguments.sync_delay);
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("powerfs".to_owned()), MountOption::NoDev, MountOption::NoSuid];
    config.n_threads = Some(THREADS);
    let session = Session::new(filesystem, &mountpoint, &config)?;
    // Whoever reaches the socket may rely on the mount.
    let server = Server::bind(socket, Arc::clone(&shared), mountpoint.clone())?;
    let answering = server.answering();
    thread::Builder::new().name("control".to_owned()).spawn(move || server.run())?;
    if arguments.while_input {
        thread::Builder::new().name("input".to_owned()).spawn(move || end_with_input(&mountpoint))?;
    }
    if let Some(period) = arguments.write_back {
        thread::Builder::new().name("write-back".to_owned()).spawn(move || write_back(&shared, period))?;
    }
    session.run()?;
    drop(answering.lock());
    Ok(())
}

fn end_with_input(mountpoint: &Path) {
    // An input that cannot be read has ended too.
    drop(io::copy(&mut io::stdin(), &mut io::sink()));
    if let Err(error) = control::detach(mountpoint) {
        eprintln!("powerfs: {} cannot be unmounted: {error}", mountpoint.display());
    }
    process::exit(0);
}

/// What was changed is written back after half of the period to all of it.
fn write_back(shared: &Shared, period: Duration) {
    loop {
        thread::sleep(period / 2);
        if let Err(error) = shared.lock().disk.write_back() {
            eprintln!("powerfs: nothing is written back: {error}");
        }
    }
}
