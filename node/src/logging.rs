//! The log of a process: lines for people or JSON, on standard error.
//!
//! Invariant: whoever logs never waits for the terminal or the pipe behind it. A thread writes the lines; when it
//! cannot keep up, lines are dropped, and their number is logged instead.
//!
//! The core's logger values (group, peer, connection) become `key=value` behind the message, or members of the
//! object.

use std::{
    fmt::{self, Write as _},
    io::{self, Write},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{self, SyncSender, TrySendError},
    },
    thread::Builder,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use slog::{Drain, Fuse, KV, Key, Level, LevelFilter, Logger, Never, OwnedKVList, Record, Serializer, o};

use crate::settings::LogFormat;

/// Lines that wait to be written.
const LINES_MAX: usize = 8192;
/// How long the end of the process waits for them.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// The process's log. [`Log::flush`] before the end of the process, or its last lines are lost.
pub struct Log {
    lines: SyncSender<Line>,
    pub logger: Logger,
}

enum Line {
    Text(String),
    Flush(mpsc::Sender<()>),
}

struct Lines {
    format: LogFormat,
    queue: SyncSender<Line>,
    dropped: AtomicU64,
}

impl Log {
    /// Logs to standard error whatever is at least as severe as `level`.
    pub fn to_standard_error(format: LogFormat, level: Level) -> io::Result<Self> {
        Self::to(io::stderr(), format, level)
    }

    pub(crate) fn to(mut out: impl Write + Send + 'static, format: LogFormat, level: Level) -> io::Result<Self> {
        let (queue, lines) = mpsc::sync_channel(LINES_MAX);
        Builder::new().name("log".to_owned()).spawn(move || {
            for line in lines {
                match line {
                    // A log that cannot be written cannot be complained about.
                    Line::Text(text) => drop(out.write_all(text.as_bytes())),
                    Line::Flush(done) => {
                        drop(out.flush());
                        let _ = done.send(());
                    }
                }
            }
        })?;
        let drain = Lines { format, queue: queue.clone(), dropped: AtomicU64::new(0) };
        let logger = Logger::root(Fuse(LevelFilter::new(drain, level)), o!());
        Ok(Self { lines: queue, logger })
    }

    /// Waits, for a bounded time, until everything logged so far was written.
    pub fn flush(&self) {
        let (done, is_done) = mpsc::channel();
        if self.lines.try_send(Line::Flush(done)).is_ok() {
            let _ = is_done.recv_timeout(FLUSH_PATIENCE);
        }
    }
}

impl Drain for Lines {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 && self.queue.try_send(Line::Text(format!("{dropped} lines of the log were dropped\n"))).is_err()
        {
            self.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
        let line = format_line(self.format, wall_clock(), record, values);
        match self.queue.try_send(Line::Text(line)) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

fn format_line(format: LogFormat, time: Duration, record: &Record<'_>, values: &OwnedKVList) -> String {
    let mut pairs = Pairs { format, pairs: Vec::new() };
    // slog's serialisation cannot fail here, as `Pairs` never does. It lists the innermost values first.
    drop(record.kv().serialize(record, &mut pairs));
    pairs.pairs.reverse();
    let own = pairs.pairs.len();
    drop(values.serialize(record, &mut pairs));
    pairs.pairs[own..].reverse();
    pairs.pairs.rotate_left(own);

    let mut line = String::with_capacity(128);
    let result = match format {
        LogFormat::Human => pairs.human(&mut line, time, record),
        LogFormat::Json => pairs.json(&mut line, time, record),
    };
    result.expect("a string takes everything");
    line
}

/// Keys and their values, the latter as they will be written.
struct Pairs {
    format: LogFormat,
    pairs: Vec<(Key, String)>,
}

impl Pairs {
    fn human(&self, line: &mut String, time: Duration, record: &Record<'_>) -> fmt::Result {
        let level = match record.level() {
            Level::Critical | Level::Error => "ERROR",
            Level::Warning => "WARN ",
            Level::Info => "INFO ",
            Level::Debug | Level::Trace => "DEBUG",
        };
        write!(line, "{} {level} {}", Timestamp(time), record.msg())?;
        for (key, value) in &self.pairs {
            write!(line, " {key}={value}")?;
        }
        // One record is one line, whatever is in it.
        if line.contains('\n') {
            *line = line.replace('\n', "\\n");
        }
        line.write_char('\n')
    }

    fn json(&self, line: &mut String, time: Duration, record: &Record<'_>) -> fmt::Result {
        let level = match record.level() {
            Level::Critical | Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "info",
            Level::Debug | Level::Trace => "debug",
        };
        write!(line, "{{\"time\":\"{}\",\"level\":\"{level}\",\"message\":", Timestamp(time))?;
        write_json_text(line, &record.msg().to_string())?;
        for (position, (key, value)) in self.pairs.iter().enumerate() {
            // The innermost value of a key stands for it: an object has each member once.
            if self.pairs[position + 1..].iter().any(|(later, _)| later == key) {
                continue;
            }
            line.write_char(',')?;
            write_json_text(line, key)?;
            write!(line, ":{value}")?;
        }
        line.write_str("}\n")
    }

    fn number(&mut self, key: Key, value: impl fmt::Display) -> slog::Result {
        self.pairs.push((key, value.to_string()));
        Ok(())
    }
}

impl Serializer for Pairs {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        let text = value.to_string();
        let written = match self.format {
            LogFormat::Human if text.is_empty() || text.contains([' ', '=', '"', '\n']) => format!("{text:?}"),
            LogFormat::Human => text,
            LogFormat::Json => {
                let mut json = String::with_capacity(text.len() + 2);
                write_json_text(&mut json, &text)?;
                json
            }
        };
        self.pairs.push((key, written));
        Ok(())
    }

    fn emit_bool(&mut self, key: Key, value: bool) -> slog::Result {
        self.number(key, value)
    }

    fn emit_i32(&mut self, key: Key, value: i32) -> slog::Result {
        self.number(key, value)
    }

    fn emit_u32(&mut self, key: Key, value: u32) -> slog::Result {
        self.number(key, value)
    }

    fn emit_i64(&mut self, key: Key, value: i64) -> slog::Result {
        self.number(key, value)
    }

    fn emit_u64(&mut self, key: Key, value: u64) -> slog::Result {
        self.number(key, value)
    }

    fn emit_usize(&mut self, key: Key, value: usize) -> slog::Result {
        self.number(key, value)
    }
}

fn write_json_text(out: &mut String, text: &str) -> fmt::Result {
    out.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            control if control < ' ' => write!(out, "\\u{:04x}", u32::from(control))?,
            other => out.write_char(other)?,
        }
    }
    out.write_char('"')
}

/// Time since 1970 as RFC 3339, in UTC and milliseconds.
struct Timestamp(Duration);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (year, month, day) = date(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let millis = self.0.subsec_millis();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// The date so many days after 1970-01-01. Years begin in March here, so that the leap day is a year's last.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    // From 0000-03-01.
    let days = days + 719_468;
    let (cycle, day_of_cycle) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year_of_cycle = (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (400 * cycle + year_of_cycle, month + 3),
        _ => (400 * cycle + year_of_cycle + 1, month - 9),
    };
    (year, month, day)
}

#[expect(clippy::disallowed_methods, reason = "lines of a log carry the time at which they were logged")]
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use slog::{info, warn};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What `log` logs, without the times.
    fn logged(format: LogFormat, log: impl FnOnce(&Logger)) -> String {
        let out = Shared::default();
        let target = Log::to(out.clone(), format, Level::Info).unwrap();
        log(&target.logger);
        target.flush();
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let time = Timestamp(Duration::ZERO).to_string();
        let start = text.find("20").expect("a line starts with the time");
        format!("{}{}", &text[..start], &text[start + time.len()..])
    }

    #[test]
    fn lines_for_people() {
        let line = logged(LogFormat::Human, |logger| {
            let logger = logger.new(o!("node" => 1)).new(o!("group" => "topic a"));
            warn!(logger, "it is\n{}", "late"; "term" => 7, "why" => %"x=1");
            slog::debug!(logger, "nobody asked for this");
        });
        assert_eq!(line, " WARN  it is\\nlate node=1 group=\"topic a\" term=7 why=\"x=1\"\n");
    }

    #[test]
    fn objects_for_machines() {
        let line = logged(LogFormat::Json, |logger| {
            let logger = logger.new(o!("node" => 1, "term" => 6));
            info!(logger, "a \"quoted\"\n{}", "\u{1}"; "term" => 7, "ok" => true);
        });
        let expected = r#"{"time":"","level":"info","message":"a \"quoted\"\n\u0001","node":1,"term":7,"ok":true}"#;
        assert_eq!(line, format!("{expected}\n"));
    }

    #[test]
    fn dates() {
        let check = |seconds: u64, text: &str| {
            assert_eq!(Timestamp(Duration::from_millis(seconds * 1000 + 7)).to_string(), text);
        };
        check(0, "1970-01-01T00:00:00.007Z");
        check(951_782_399, "2000-02-28T23:59:59.007Z");
        check(951_782_400, "2000-02-29T00:00:00.007Z");
        check(1_709_251_199, "2024-02-29T23:59:59.007Z");
        check(1_798_761_599, "2026-12-31T23:59:59.007Z");
        check(4_107_542_400, "2100-03-01T00:00:00.007Z");
    }
}
