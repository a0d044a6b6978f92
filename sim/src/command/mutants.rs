//! `kauri-sim mutants`: is every planted bug found?
//!
//! Invariant: the seed that is reported is the first of all that find a bug, however many cores look for it.

use std::{
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use kauri_sim::{cluster, failure::Failure, mutant, trace::Trace};
use slog::{Logger, o};

use super::{
    Failed,
    arguments::{self, Arguments, UsageError},
    print,
};

/// Seeds that are tried, unless others are asked for.
const SEEDS: Range<u64> = 0..200;

pub(super) fn run(mut arguments: Arguments) -> Result<(), Failed> {
    let seeds = match arguments.option("--seeds")? {
        Some(text) => arguments::seeds(&text)?,
        None => SEEDS,
    };
    let jobs = arguments::jobs(&mut arguments)?;
    let json = arguments.flag("--json");
    let only = arguments.option("--only")?;
    let media = arguments::swarm(&mut arguments)?;
    arguments.end()?;
    let names: Vec<&str> = match &only {
        Some(names) => names.split(',').collect(),
        None => mutant::names(),
    };
    if names.is_empty() {
        return Err(UsageError::Refused(mutant::MutantError::NotBuilt.to_string()).into());
    }
    let mut missed = 0;
    for name in &names {
        mutant::plant(name).map_err(|error| UsageError::Refused(error.to_string()))?;
        let found = first_to_fail(&seeds, jobs, media.as_deref());
        missed += u32::from(found.is_none());
        tell(name, &seeds, found, json);
    }
    if json {
        print::line(format_args!("{{\"mutants\":{},\"missed\":{missed}}}", names.len()));
    } else {
        print::line(format_args!("{} planted bugs, {missed} not found", names.len()));
    }
    if missed > 0 { Err(Failed::Verdict) } else { Ok(()) }
}

/// The lowest seed that fails, and why.
fn first_to_fail(seeds: &Range<u64>, jobs: usize, media: Option<&str>) -> Option<(u64, Failure)> {
    let next = AtomicU64::new(seeds.start);
    let found: Mutex<Option<(u64, Failure)>> = Mutex::new(None);
    let lock = || found.lock().expect("no job panics while it holds this");
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    // Seeds below one that failed were all begun: whoever runs them may still find a lower one.
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || lock().is_some() {
                        return;
                    }
                    let plan = arguments::draw(seed, media);
                    let outcome = cluster::run(&plan, Logger::root(slog::Discard, o!()), Trace::default());
                    let mut first = lock();
                    if let Some(failure) = outcome.failure
                        && first.as_ref().is_none_or(|(known, _)| seed < *known)
                    {
                        *first = Some((seed, failure));
                    }
                }
            });
        }
    });
    found.into_inner().expect("no job panics while it holds this")
}

fn tell(name: &str, seeds: &Range<u64>, found: Option<(u64, Failure)>, json: bool) {
    match (found, json) {
        (Some((seed, failure)), false) => {
            print::line(format_args!("{name}: found by seed {seed}: {failure}"));
        }
        (None, false) => {
            print::line(format_args!("{name}: not found by the seeds {} to {}", seeds.start, seeds.end));
        }
        (Some((seed, failure)), true) => {
            print::line(format_args!("{{\"mutant\":\"{name}\",\"seed\":{seed},\"property\":\"{}\"}}", failure.checker));
        }
        (None, true) => print::line(format_args!("{{\"mutant\":\"{name}\",\"seed\":null}}")),
    }
}
