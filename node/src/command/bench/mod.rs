//! `kauri bench`: measures what a cluster can do, with the same client that applications use.

mod consume;
mod histogram;
mod produce;
mod report;

use std::{
    io::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use clap::{Args, Subcommand};
use tokio::{
    task::JoinHandle,
    time::{Instant, interval_at},
};

use self::report::Meter;
use super::{cluster::block_on, failure::Failure, say};

/// Measures how fast records are written and read
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        kauri bench produce --size 100 --seconds 30\n  \
                        kauri bench consume --json")]
pub(super) struct Bench {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Produce(produce::Produce),
    Consume(consume::Consume),
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        block_on(async {
            match self.action {
                Action::Produce(produce) => produce.run().await,
                Action::Consume(consume) => consume.run().await,
            }
        })
    }
}

/// A benchmark in progress: counts, and a line on standard error each second.
struct Run {
    start: Instant,
    meter: Arc<Mutex<Meter>>,
    lines: JoinHandle<()>,
}

impl Run {
    fn start() -> Self {
        const LINE_INTERVAL: Duration = Duration::from_secs(1);
        let start = Instant::now();
        let meter = Arc::new(Mutex::new(Meter::new()));
        let lines = tokio::spawn({
            let meter = Arc::clone(&meter);
            async move {
                let mut interval = interval_at(start + LINE_INTERVAL, LINE_INTERVAL);
                loop {
                    interval.tick().await;
                    let line = lock(&meter).progress(start.elapsed());
                    // A benchmark goes on though nobody watches.
                    drop(std::io::stderr().write_all(line.as_bytes()));
                }
            }
        });
        Self { start, meter, lines }
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        lock(&self.meter)
    }

    /// Prints the result.
    fn finish(self, json: bool) -> Result<(), Failure> {
        let elapsed = self.start.elapsed();
        self.lines.abort();
        let meter = self.meter();
        say(&if json { meter.json(elapsed) } else { meter.summary(elapsed) })?;
        match meter.failures() {
            0 => Ok(()),
            failures => Err(Failure::BenchFailures(failures)),
        }
    }
}

fn lock(meter: &Mutex<Meter>) -> MutexGuard<'_, Meter> {
    // Counts are plain numbers: none is half changed by a panic.
    meter.lock().unwrap_or_else(PoisonError::into_inner)
}
