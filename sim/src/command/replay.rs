//! `kauri-sim replay`: one seed, looked at closely.

use kauri_sim::{
    cluster, mutant,
    plan::Plan,
    summary,
    trace::{self, Trace},
};
use slog::{Logger, o};

use super::{
    Failed,
    arguments::{Arguments, UsageError, draw, read, swarm},
    print,
};

/// How closely.
pub(super) struct Options {
    trace: bool,
    log: bool,
    json: bool,
}

impl Options {
    pub(super) fn take(arguments: &mut Arguments) -> Result<Self, UsageError> {
        if let Some(name) = arguments.option("--mutant")? {
            mutant::plant(&name).map_err(|error| UsageError::Refused(error.to_string()))?;
        }
        Ok(Self { trace: arguments.flag("--trace"), log: arguments.flag("--log"), json: arguments.flag("--json") })
    }
}

pub(super) fn run(mut arguments: Arguments) -> Result<(), Failed> {
    let options = Options::take(&mut arguments)?;
    let media = swarm(&mut arguments)?;
    let seed: u64 = read("SEED", arguments.positional("SEED")?)?;
    arguments.end()?;
    let given = media.as_ref().map(|text| format!(" --media {text}")).unwrap_or_default();
    replay(&draw(seed, media.as_deref()), &options, &format!("kauri-sim replay {seed}{given}"))
}

pub(super) fn replay(plan: &Plan, options: &Options, command: &str) -> Result<(), Failed> {
    let trace =
        if options.trace { Trace::to(|at, line| print::line(format_args!("{at} {line}"))) } else { Trace::default() };
    let logger = if options.log { trace::printing_logger() } else { Logger::root(slog::Discard, o!()) };
    let outcome = cluster::run(plan, logger, trace);
    if options.json {
        print::line(format_args!("{}", summary::outcome_json(&outcome)));
    } else {
        let mut totals = summary::Summary::default();
        totals.add(&outcome);
        print::line(format_args!("{}", totals.text()));
        print::line(format_args!("hash {:016x}", outcome.digest));
        if let Some(failure) = &outcome.failure {
            print::line(format_args!("seed {}: {failure}\nreplay: {command}", outcome.seed));
        }
    }
    if outcome.failure.is_some() { Err(Failed::Verdict) } else { Ok(()) }
}
