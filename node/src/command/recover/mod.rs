//! `kauri recover`: goes on with what is left when a majority of the disks of a partition is gone for good.
//!
//! Says what is kept and what is lost, and does it only when told so. What is to be done is decided by
//! [`kauri_core::recover`]; here directories are found, locked and read, and sentences made.

mod report;

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use clap::Args;
use kauri_core::{
    io::{DiskAction, DiskError, DiskOutput, FileName},
    log::identity::Identity,
    recover::{Directory, Plan, carry_out},
};
use slog::{Discard, Logger, o};

use super::{failure::Failure, log::node_paths, say};
use crate::driver::{Clock, DataDirectory, DataDirectoryError, Disk, NodeEnd};

/// Goes on with what is left after a majority of disks was lost for good
#[derive(Debug, Args)]
#[command(after_help = "Give every data directory that is left, of all nodes; none of them may run.\n\
                        Without --yes nothing is changed.\n\n\
                        Examples:\n  \
                        kauri recover --data-dir /var/lib/kauri --dry-run\n  \
                        kauri recover --data-dir /mnt/node1 --data-dir /mnt/node4 --json --dry-run\n  \
                        kauri recover --data-dir /mnt/node1 --data-dir /mnt/node4 --yes\n\n\
                        Ends with 0 if there was nothing to do, if it was done, or after --dry-run;\n\
                        with 1 if it failed; with 3 if there is something to do and --yes was not\n\
                        given, or if a node runs on a directory.")]
pub(super) struct Recover {
    /// A data directory that is left; once for each
    #[arg(long, value_name = "DIR", required = true)]
    data_dir: Vec<PathBuf>,
    /// Do it: what the plan calls lost is lost from then on
    #[arg(long)]
    yes: bool,
    /// Only say what would be done
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A directory that nobody else has, and its files.
struct Opened {
    path: PathBuf,
    disk: Disk,
    identity: Identity,
}

impl Recover {
    pub(super) fn run(self) -> Result<(), Failure> {
        let logger = Logger::root(Discard, o!());
        let mut opened: Vec<Opened> = Vec::new();
        for path in &self.data_dir {
            for path in node_paths(path)? {
                // Its lock would say that it is in use, which is true and no help.
                let is_same = |other: &&Opened| fs::canonicalize(&other.path).ok() == fs::canonicalize(&path).ok();
                if let Some(other) = opened.iter().find(is_same) {
                    return Err(Failure::SameDirectory { first: other.path.clone(), second: path });
                }
                opened.push(Opened::new(&path)?);
            }
        }
        let mut disks = |number: usize, action: DiskAction| opened[number].carry_out(action);
        let mut directories = Vec::new();
        for (number, node) in opened.iter().enumerate() {
            directories.push(Directory::read(node.identity.clone(), number, &mut disks, &logger));
        }
        let paths: Vec<&Path> = opened.iter().map(|node| node.path.as_path()).collect();
        let plan = Plan::new(&directories).map_err(|unfit| report::unfit(&unfit, &paths))?;
        let is_needed = plan.alone().next().is_some();
        let outcomes = if self.yes && is_needed {
            if !self.json {
                say(&report::text(&plan, &paths))?;
            }
            let done = carry_out(&plan, &directories, &mut disks, Clock::new().now().wall, &logger);
            Some(done.map_err(|(number, exit)| Failure::RecoverStopped { path: opened[number].path.clone(), exit })?)
        } else {
            None
        };
        match (&outcomes, self.json) {
            (outcomes, true) => say(&report::json(&plan, &paths, outcomes.as_ref()))?,
            (Some(outcomes), false) => say(&(report::outcomes(&plan, outcomes) + &report::next(&plan, &paths)))?,
            (None, false) if is_needed => say(&(report::text(&plan, &paths) + &report::next(&plan, &paths)))?,
            (None, false) => say(&report::text(&plan, &paths))?,
        }
        let failed = outcomes.iter().flatten().filter(|(_, outcome)| outcome.is_err()).count();
        if failed > 0 {
            return Err(Failure::NotRecovered(failed));
        }
        if plan.directories.iter().all(|directory| directory.unreadable.is_some()) {
            return Err(Failure::NothingReadable);
        }
        if is_needed && !self.yes && !self.dry_run { Err(Failure::NoConsent) } else { Ok(()) }
    }
}

impl Opened {
    fn new(path: &Path) -> Result<Self, Failure> {
        let locked = DataDirectory::open(path).map_err(|error| match error {
            DataDirectoryError::Locked { path } => Failure::NodeRuns { path },
            DataDirectoryError::NotADirectory { .. }
            | DataDirectoryError::Foreign { .. }
            | DataDirectoryError::Unusable { .. } => Failure::DataDirectory(error),
        })?;
        let file = path.join(FileName::Identity.path());
        let bytes = fs::read(&file).map_err(|error| Failure::File { path: file, error })?;
        let identity = Identity::decode(&Bytes::from(bytes))
            .map_err(|exit| Failure::NodeEnded { node: None, end: NodeEnd::Exit(exit) })?;
        let disk = Disk::new(locked).map_err(|error| Failure::File { path: path.to_owned(), error })?;
        Ok(Self { path: path.to_owned(), disk, identity })
    }

    fn carry_out(&self, action: DiskAction) -> Result<DiskOutput, DiskError> {
        self.disk.carry_out(action)
    }
}
