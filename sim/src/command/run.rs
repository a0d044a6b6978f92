//! `kauri-sim run`: many seeds on all cores.
//!
//! Invariant: which seed ran on which core changes nothing but the order in which lines are printed.

use std::{
    io::{IsTerminal, Write as _},
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use kauri_sim::{
    cluster,
    failure::Failure,
    mutant,
    run::Outcome,
    summary::{self, Summary},
    trace::Trace,
};
use slog::{Logger, o};

use super::{
    Failed,
    arguments::{self, Arguments, UsageError},
    print,
};

/// Without `--twice`, one of so many seeds runs twice here and once in another process.
const REPEATED: u64 = 64;
/// Failures that are printed; the rest is counted.
const PRINTED: u64 = 10;

struct Options {
    seeds: Range<u64>,
    jobs: usize,
    twice: bool,
    json: bool,
    mutant: Option<String>,
    media: Option<String>,
    /// Another build of this program, in which every seed runs as well.
    against: Option<PathBuf>,
}

/// One seed's outcome, and whether its runs agreed.
struct Verdict {
    outcome: Outcome,
    repeated: bool,
}

pub(super) fn run(mut arguments: Arguments) -> Result<(), Failed> {
    let options = Options {
        seeds: arguments::seeds(&arguments.option("--seeds")?.ok_or(UsageError::Missing("--seeds A..B"))?)?,
        jobs: arguments::jobs(&mut arguments)?,
        twice: arguments.flag("--twice"),
        json: arguments.flag("--json"),
        mutant: arguments.option("--mutant")?,
        media: arguments::swarm(&mut arguments)?,
        against: arguments.option("--against")?.map(PathBuf::from),
    };
    arguments.end()?;
    if let Some(name) = &options.mutant {
        mutant::plant(name).map_err(|error| UsageError::Refused(error.to_string()))?;
    }
    let summary = run_all(&options);
    if options.json {
        print::line(format_args!("{}", summary.json()));
    } else {
        print::line(format_args!("{}", summary.text()));
    }
    if summary.failures > 0 { Err(Failed::Verdict) } else { Ok(()) }
}

fn run_all(options: &Options) -> Summary {
    let next = AtomicU64::new(options.seeds.start);
    let (verdicts, results) = mpsc::channel();
    let mut summary = Summary::default();
    let mut progress = Progress::new(options.seeds.end - options.seeds.start);
    thread::scope(|scope| {
        for _ in 0..options.jobs {
            let verdicts = verdicts.clone();
            let next = &next;
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= options.seeds.end || verdicts.send(run_seed(seed, options)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(verdicts);
        for Verdict { outcome, repeated } in results {
            summary.add(&outcome);
            summary.repeated += u64::from(repeated);
            if let Some(failure) = &outcome.failure
                && summary.failures <= PRINTED
            {
                progress.clear();
                print_failure(&outcome, failure, options);
            }
            progress.show(&summary);
        }
    });
    progress.clear();
    summary
}

fn run_seed(seed: u64, options: &Options) -> Verdict {
    let plan = arguments::draw(seed, options.media.as_deref());
    let run = || cluster::run(&plan, Logger::root(slog::Discard, o!()), Trace::default());
    let mut outcome = run();
    let sampled = seed.is_multiple_of(REPEATED);
    let mut repeated = false;
    if outcome.failure.is_none() && (options.twice || sampled) {
        let again = run();
        repeated = again.digest == outcome.digest;
        if !repeated {
            let explanation = format!("two runs ended with {:016x} and {:016x}", outcome.digest, again.digest);
            outcome.failure = Some(Failure::new("determinism", explanation));
        } else if sampled && let Err(explanation) = run_in_another_process(&outcome, options) {
            outcome.failure = Some(Failure::new("determinism", explanation));
        }
    }
    if outcome.failure.is_none()
        && let Some(program) = &options.against
    {
        match run_in(program, &outcome, options) {
            Ok(()) => repeated = true,
            Err(explanation) => outcome.failure = Some(Failure::new("determinism", explanation)),
        }
    }
    Verdict { outcome, repeated }
}

/// Runs the seed in a fresh process: what differs from one to the next (addresses, hashers) must not matter.
fn run_in_another_process(outcome: &Outcome, options: &Options) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| format!("this program is not found again: {error}"))?;
    run_in(&program, outcome, options)
}

fn run_in(program: &Path, outcome: &Outcome, options: &Options) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(["replay", &outcome.seed.to_string(), "--json"]);
    if let Some(mutant) = &options.mutant {
        command.args(["--mutant", mutant]);
    }
    if let Some(media) = &options.media {
        command.args(["--media", media]);
    }
    let output = command.output().map_err(|error| format!("{} did not run: {error}", program.display()))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let expected = format!("\"hash\":\"{:016x}\"", outcome.digest);
    if printed.contains(&expected) {
        Ok(())
    } else {
        Err(format!("expected {expected}, and {} ended with {}", program.display(), printed.trim()))
    }
}

fn print_failure(outcome: &Outcome, failure: &Failure, options: &Options) {
    if options.json {
        print::line(format_args!("{}", summary::outcome_json(outcome)));
        return;
    }
    let mutant = options.mutant.as_ref().map(|name| format!(" --mutant {name}")).unwrap_or_default();
    let media = options.media.as_ref().map(|text| format!(" --media {text}")).unwrap_or_default();
    print::line(format_args!("seed {} failed: {failure}", outcome.seed));
    print::line(format_args!("  replay with: kauri-sim replay {}{mutant}{media}", outcome.seed));
}

/// A line that is written over, on a terminal; one line now and then elsewhere.
struct Progress {
    total: u64,
    began: Instant,
    shown: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    #[expect(clippy::disallowed_methods, reason = "how long seeds take is told in real time, outside of any world")]
    fn new(total: u64) -> Self {
        Self { total, began: Instant::now(), shown: None, is_terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, summary: &Summary) {
        let pause = if self.is_terminal { Duration::from_millis(200) } else { Duration::from_secs(20) };
        let elapsed = self.began.elapsed();
        if self.shown.is_some_and(|shown| shown.elapsed() < pause) && summary.seeds < self.total {
            return;
        }
        self.shown = Some(self.began + elapsed);
        let seconds = elapsed.as_secs_f64().max(0.001);
        let line = format!(
            "{} of {} seeds, {} failures, {:.0} seeds per minute, {:.0} simulated seconds per second",
            summary.seeds,
            self.total,
            summary.failures,
            summary.seeds as f64 * 60.0 / seconds,
            summary.simulated_seconds as f64 / seconds
        );
        if self.is_terminal {
            eprint!("\r{line}\x1b[K");
        } else {
            eprintln!("{line}");
        }
        // A progress line that cannot be shown is no reason to stop.
        drop(std::io::stderr().flush());
    }

    fn clear(&mut self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }
}
