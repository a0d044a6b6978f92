//! The commands of the binary, one file each.
//!
//! Invariant: exit code 0 means that everything held, 1 that some property did not, 2 that the command line was wrong.

mod arguments;
mod mutants;
mod plan;
mod print;
mod replay;
mod run;
mod scenario;

use std::process::ExitCode;

use arguments::{Arguments, UsageError};

const HELP: &str = "\
kauri-sim: deterministic simulation of complete Kauri clusters

  kauri-sim run --seeds A..B [--jobs N] [--twice] [--against PROGRAM] [--json] [--mutant NAME] [--media KINDS]
      Runs the seeds A to B-1 on all cores and judges each. --twice runs every seed twice and compares the hashes;
      without it every 64th seed runs twice in this process and once in another. --against runs every seed in another
      build of kauri-sim too, and compares the hashes. The first failures are printed with the command that replays them.
  kauri-sim replay SEED [--trace] [--log] [--json] [--mutant NAME] [--media KINDS]
      Runs one seed. --trace prints one line per event, --log what the nodes log.
  kauri-sim plan SEED [--media KINDS]
      Prints the plan of a seed: topology, configuration, workload and every fault.
  kauri-sim scenario FILE [--trace] [--log] [--json] [--mutant NAME]
      Runs a plan from a file, in the form that `plan` prints.
  kauri-sim mutants [--seeds A..B] [--only NAME[,...]] [--jobs N] [--json] [--media KINDS]
      Plants each known bug in turn and says which seed is the first to find it; 200 seeds unless others are named. A
      build without --features mutants has none to plant. Fails if one is not found.

KINDS says which damage to disks seeds may draw: all, none, default, or names with commas between them (for example
bit-rot,wipe). With +over behind it all of them break more than the budget of the plan allows, with +within none does.

Exit code: 0 if everything held, 1 if something did not, 2 if the command line was wrong.
";

enum Failed {
    Usage(UsageError),
    /// Something did not hold; it has been printed.
    Verdict,
}

impl From<UsageError> for Failed {
    fn from(error: UsageError) -> Self {
        Self::Usage(error)
    }
}

pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let result = match arguments.split_first().map(|(command, rest)| (command.as_str(), rest)) {
        Some(("run", rest)) => run::run(Arguments::new(rest)),
        Some(("replay", rest)) => replay::run(Arguments::new(rest)),
        Some(("mutants", rest)) => mutants::run(Arguments::new(rest)),
        Some(("plan", rest)) => plan::run(Arguments::new(rest)),
        Some(("scenario", rest)) => scenario::run(Arguments::new(rest)),
        Some(("--help" | "-h" | "help", _)) => {
            print::line(format_args!("{HELP}"));
            Ok(())
        }
        Some((other, _)) => Err(UsageError::Unknown(other.to_owned()).into()),
        None => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed::Verdict) => ExitCode::from(1),
        Err(Failed::Usage(error)) => {
            eprintln!("kauri-sim: {error}; see kauri-sim --help");
            ExitCode::from(2)
        }
    }
}
