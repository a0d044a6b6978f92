//! The `kauri` command.

#[cfg(feature = "mutants")]
mod planted;

use std::process::ExitCode;

use kauri_core::shard::Shard;

fn main() -> ExitCode {
    #[cfg(feature = "mutants")]
    if let Err(error) = planted::plant() {
        eprintln!("kauri: {error}");
        return ExitCode::from(2);
    }
    kauri::command::run(Shard::new)
}
