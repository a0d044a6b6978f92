//! `kauri-sim`: runs seeds, replays one, prints and runs plans.

use std::process::ExitCode;

mod command;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    command::run(&arguments)
}
