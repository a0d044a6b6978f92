//! Commands to a mounted file system, over a Unix socket.
//!
//! A connection carries one line and its answer, which begins with `ok` or `error`:
//!
//! ```text
//! off KEEP SEED      drops what was not synced, but for what KEEP and SEED choose; every request fails from now on
//! on                 ends that
//! cut KEEP SEED      both
//! status             what is not synced
//! unmount            ends the file system
//! ```

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
};

use crate::{
    disk::Keep,
    filesystem::{Shared, State},
};

#[derive(Debug)]
enum Command {
    Off { keep: Keep, seed: u64 },
    On,
    Cut { keep: Keep, seed: u64 },
    Status,
    Unmount,
}

/// Whoever answers commands.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    shared: Arc<Shared>,
    mountpoint: PathBuf,
    /// Locked while the answer to `unmount` is on its way: the process must not end before.
    answering: Arc<Mutex<()>>,
}

/// Sends one command; what was answered behind `ok`.
pub(crate) fn send(socket: &Path, command: &str) -> Result<String, String> {
    let exchange = || -> io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        writeln!(stream, "{command}")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(|error| format!("{} does not answer: {error}", socket.display()))?;
    match answer.trim_end().split_once(' ').unwrap_or((answer.trim_end(), "")) {
        ("ok", answer) => Ok(answer.to_owned()),
        ("error", sentence) => Err(sentence.to_owned()),
        _ => Err(format!("{} answers nonsense: {answer:?}", socket.display())),
    }
}

impl Server {
    /// Takes the place of a socket that an earlier process left behind.
    pub(crate) fn bind(socket: &Path, shared: Arc<Shared>, mountpoint: PathBuf) -> io::Result<Self> {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        Ok(Self { listener, shared, mountpoint, answering: Arc::default() })
    }

    /// What whoever ends the process must lock before.
    pub(crate) fn answering(&self) -> Arc<Mutex<()>> {
        Arc::clone(&self.answering)
    }

    /// Answers until the file system is unmounted, which ends the process.
    pub(crate) fn run(&self) {
        for connection in self.listener.incoming() {
            match connection.and_then(|stream| self.serve(stream)) {
                Ok(false) => {}
                Ok(true) => process::exit(0),
                Err(error) => eprintln!("powerfs: a command was not answered: {error}"),
            }
        }
    }

    /// Whether the file system is gone.
    fn serve(&self, stream: UnixStream) -> io::Result<bool> {
        let mut line = String::new();
        let mut reader = BufReader::new(stream);
        if reader.read_line(&mut line)? == 0 {
            // Somebody wanted to know whether there is a file system.
            return Ok(false);
        }
        let mut stream = reader.into_inner();
        let command = match parse(&line) {
            Ok(command) => command,
            Err(sentence) => return writeln!(stream, "error {sentence}").map(|()| false),
        };
        match command {
            Command::Off { keep, seed } => {
                writeln!(stream, "{}", self.shared.lock().cut(keep, seed))?;
                Ok(false)
            }
            Command::On => {
                self.shared.lock().disk.switch_on();
                writeln!(stream, "ok")?;
                Ok(false)
            }
            Command::Cut { keep, seed } => {
                let mut state = self.shared.lock();
                let answer = state.cut(keep, seed);
                state.disk.switch_on();
                drop(state);
                writeln!(stream, "{answer}")?;
                Ok(false)
            }
            Command::Status => {
                let unsynced = self.shared.lock().disk.unsynced();
                writeln!(
                    stream,
                    "ok file_changes={} bytes={} entry_changes={}",
                    unsynced.file_changes, unsynced.bytes, unsynced.entry_changes
                )?;
                Ok(false)
            }
            Command::Unmount => {
                let _answering = self.answering.lock().unwrap_or_else(PoisonError::into_inner);
                let result = detach(&self.mountpoint);
                match &result {
                    Ok(()) => writeln!(stream, "ok")?,
                    Err(error) => writeln!(stream, "error {error}")?,
                }
                Ok(result.is_ok())
            }
        }
    }
}

impl State {
    /// What the disk answers to a cut; all handles are ones from before then.
    fn cut(&mut self, keep: Keep, seed: u64) -> String {
        let result = self.disk.cut(keep, seed);
        self.forget_handles();
        match result {
            Ok(report) => format!("ok {report}"),
            Err(error) => format!("error {error}"),
        }
    }
}

/// Unmounts even if files are open: whoever has them gets errors.
pub(crate) fn detach(mountpoint: &Path) -> io::Result<()> {
    match unmount(mountpoint, UnmountFlags::DETACH) {
        // Somebody was faster.
        Err(Errno::INVAL) => Ok(()),
        result => Ok(result?),
    }
}

fn parse(line: &str) -> Result<Command, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [command @ ("off" | "cut"), keep, seed] => {
            let seed = seed.parse().map_err(|_| format!("a seed is a number, not {seed}"))?;
            let keep = keep.parse()?;
            Ok(if command == "off" { Command::Off { keep, seed } } else { Command::Cut { keep, seed } })
        }
        ["on"] => Ok(Command::On),
        ["status"] => Ok(Command::Status),
        ["unmount"] => Ok(Command::Unmount),
        _ => Err(format!("there is no command {line:?}")),
    }
}
