//! One line per event, for whoever replays a seed.
//!
//! Invariant: tracing changes nothing. Nothing is formatted unless someone listens.

use std::fmt;

use crate::time::Instant;

type Sink = Box<dyn FnMut(Instant, fmt::Arguments<'_>)>;

/// Where lines go, if anywhere.
#[derive(Default)]
pub struct Trace(Option<Sink>);

impl Trace {
    pub fn to(sink: impl FnMut(Instant, fmt::Arguments<'_>) + 'static) -> Self {
        Self(Some(Box::new(sink)))
    }

    pub(crate) fn line(&mut self, at: Instant, line: fmt::Arguments<'_>) {
        if let Some(sink) = &mut self.0 {
            sink(at, line);
        }
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Trace(on)" } else { "Trace(off)" })
    }
}
