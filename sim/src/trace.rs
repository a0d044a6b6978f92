//! What a replay prints: one line per event, and what the nodes log.
//!
//! Invariant: looking changes nothing. Nothing is formatted unless someone listens.

use std::{
    cell::Cell,
    fmt::{self, Write as _},
};

use slog::{Drain, KV, Key, Logger, OwnedKVList, Record, Serializer, o};

use crate::time::Instant;

type Sink = Box<dyn FnMut(Instant, fmt::Arguments<'_>)>;

thread_local! {
    /// The time of the world that this thread drives, for lines that nodes log.
    static NOW: Cell<Instant> = const { Cell::new(Instant(0)) };
}

/// Where lines go, if anywhere.
#[derive(Default)]
pub struct Trace(Option<Sink>);

impl Trace {
    pub fn to(sink: impl FnMut(Instant, fmt::Arguments<'_>) + 'static) -> Self {
        Self(Some(Box::new(sink)))
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn line(&mut self, at: Instant, line: fmt::Arguments<'_>) {
        if let Some(sink) = &mut self.0 {
            sink(at, line);
        }
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "Trace(on)" } else { "Trace(off)" })
    }
}

pub(crate) fn set_now(now: Instant) {
    NOW.set(now);
}

/// A logger that prints every line with the world's time.
pub fn printing_logger() -> Logger {
    Logger::root(Printing.fuse(), o!())
}

struct Printing;

struct Pairs<'a>(&'a mut String);

impl Serializer for Pairs<'_> {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        Ok(write!(self.0, " {key}={value}")?)
    }
}

impl Drain for Printing {
    type Ok = ();
    type Err = slog::Error;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), slog::Error> {
        let mut line = format!("{} {} {}", NOW.get(), record.level().as_short_str(), record.msg());
        values.serialize(record, &mut Pairs(&mut line))?;
        record.kv().serialize(record, &mut Pairs(&mut line))?;
        println!("{line}");
        Ok(())
    }
}
