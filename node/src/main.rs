//! The `kauri` command.

use std::process::ExitCode;

use kauri_core::shard::Shard;

fn main() -> ExitCode {
    kauri::command::run(Shard::new)
}
