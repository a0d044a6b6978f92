//! What is shown, one file per scenario.
//!
//! Each has a quick form for every change and a full form (`--full`), whose output is kept as evidence: it prints the
//! numbers it measured.

mod catch_up;
mod flip;
mod hostile;
mod kill;
mod memory;
mod nats;
mod power_cut;
mod recover;
mod replicas;
mod wipe;
mod with;
mod writer;

use std::process::ExitCode;

/// How much of a scenario to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    Quick,
    Full,
}

struct Scenario {
    name: &'static str,
    about: &'static str,
    run: fn(Extent),
}

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "kill-leader", about: "kill -9 of a leader under writers", run: kill::leader },
    Scenario { name: "kill-all", about: "kill -9 of all nodes under writers", run: kill::all },
    Scenario { name: "wipe", about: "data directories lost under writers", run: wipe::run },
    Scenario { name: "flip", about: "bad sectors on two of three nodes", run: flip::run },
    Scenario { name: "recover", about: "two of three data directories lost for good", run: recover::run },
    Scenario { name: "power-cut", about: "power cuts of one, two and all nodes under writers", run: power_cut::run },
    Scenario { name: "power-cut-planted", about: "what power cuts do to a planted bug", run: power_cut::planted },
    Scenario { name: "power-cut-nats", about: "the same power cuts for NATS JetStream", run: nats::run },
    Scenario { name: "memory", about: "much data in and out, with little memory", run: memory::run },
    Scenario {
        name: "replicas",
        about: "thousands of replicas on one node: starts, memory, idleness",
        run: replicas::run,
    },
    Scenario { name: "catch-up", about: "a node returns after more was written than logs hold", run: catch_up::run },
    Scenario { name: "hostile", about: "nonsense and misuse beside a client that behaves", run: hostile::run },
];

/// Runs the scenario that the command line names.
pub fn run(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (name, extent) = match words[..] {
        ["with", nodes, "--", ref command @ ..] if !command.is_empty() => return with::run(nodes, command),
        [name] => (name, Extent::Quick),
        [name, "--full"] => (name, Extent::Full),
        _ => return usage(),
    };
    let Some(scenario) = SCENARIOS.iter().find(|scenario| scenario.name == name) else { return usage() };
    (scenario.run)(extent);
    println!("{name}: passed");
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("kauri-tests NAME [--full]");
    for scenario in SCENARIOS {
        eprintln!("  {:17} {}", scenario.name, scenario.about);
    }
    eprintln!(
        "kauri-tests with N -- COMMAND...\n  runs a command beside a cluster of N processes; KAURI_BOOTSTRAP has its addresses"
    );
    ExitCode::from(2)
}
