//! `kauri-tests NAME`: one black-box test by name.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    kauri_tests::scenario::run(&arguments)
}
