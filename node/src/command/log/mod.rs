//! `kauri log`: reads the files of a node that is not running, to show or to check them.
//!
//! Changes nothing. What the files mean is known to [`kauri_core::log::offline`]; here they are found, read and printed.

mod directory;
mod dump;
mod verify;

use clap::{Args, Subcommand};

pub(super) use self::directory::node_paths;
use super::failure::Failure;

/// Reads the files of a node that is not running
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        kauri log verify --data-dir /var/lib/kauri\n  \
                        kauri log dump --data-dir /var/lib/kauri --group 7")]
pub(super) struct Log {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Verify(verify::Verify),
    Dump(dump::Dump),
}

impl Log {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::Verify(verify) => verify.run(),
            Action::Dump(dump) => dump.run(),
        }
    }
}
