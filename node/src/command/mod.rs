//! The command line: one file per command.
//!
//! Invariant: a command ends with an exit code and, unless it is zero, with one sentence on standard error that says
//! what to change. Results go to standard output, everything else to standard error.
//!
//! Exit codes: 0 success, 1 it failed, 2 the command line or the configuration is wrong, 3 refused, because going on
//! would endanger data.

mod base64;
mod bench;
mod cluster;
mod consume;
mod dev;
mod failure;
mod lines;
mod log;
mod produce;
mod recover;
mod running;
mod server;
mod topic;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use kauri_core::config::NodeConfig;
use slog::Logger;

use crate::driver::Core;

use self::failure::Failure;

#[derive(Debug, Parser)]
#[command(
    name = "kauri",
    version = version(),
    about = "A strongly consistent, Kafka-compatible event log",
    after_help = "Examples:\n  kauri dev                            three nodes on this machine, ready for any Kafka client\n  \
                  kauri server --config kauri.toml     one node of a cluster\n  \
                  echo hello | kauri produce greetings\n  \
                  kauri consume greetings --exit",
    max_term_width = 100
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::Dev),
    Server(Box<server::Server>),
    Topic(topic::Topic),
    Produce(produce::Produce),
    Consume(consume::Consume),
    Bench(bench::Bench),
    Log(log::Log),
    Recover(recover::Recover),
}

/// Runs the command that the process was started with, and says how it ended.
pub fn run<C: Core>(new_core: impl Fn(NodeConfig, Logger) -> C + Clone + Send + 'static) -> ExitCode {
    let line = CommandLine::parse();
    let result = match line.command {
        Command::Dev(dev) => dev.run(new_core),
        Command::Server(server) => server.run(new_core),
        Command::Topic(topic) => topic.run(),
        Command::Produce(produce) => produce.run(),
        Command::Consume(consume) => consume.run(),
        Command::Bench(bench) => bench.run(),
        Command::Log(log) => log.run(),
        Command::Recover(recover) => recover.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            // Without standard error there is nobody to tell.
            drop(writeln!(io::stderr(), "kauri: {failure}"));
            failure.exit_code()
        }
    }
}

fn version() -> String {
    let commit = option_env!("KAURI_COMMIT").unwrap_or("unknown");
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let (system, processor) = (std::env::consts::OS, std::env::consts::ARCH);
    format!("{} (commit {commit}, {profile}, {system} {processor})", env!("CARGO_PKG_VERSION"))
}

/// Writes to standard output.
fn say(text: &str) -> Result<(), Failure> {
    say_bytes(text.as_bytes())
}

fn say_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::Output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_every_command_has_examples() {
        fn check(command: &clap::Command) {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Examples:"), "{} has none", command.get_name());
            command.get_subcommands().filter(|command| command.get_name() != "help").for_each(check);
        }
        let mut line = CommandLine::command();
        line.clone().debug_assert();
        line.build();
        check(&line);
    }
}
