//! What a benchmark measured: a line per second while it runs, and the result.
//!
//! Rates are per second of the benchmark's own time; MB are 10^6 bytes of keys and values, without any framing.

use std::time::Duration;

use serde_json::json;

use super::histogram::Histogram;

/// Counts what has been done, in total and since the last line of progress.
pub(crate) struct Meter {
    total: Count,
    interval: Count,
    interval_start: Duration,
}

struct Count {
    records: u64,
    bytes: u64,
    failures: u64,
    latencies: Histogram,
}

impl Count {
    fn new() -> Self {
        Self { records: 0, bytes: 0, failures: 0, latencies: Histogram::new() }
    }
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self { total: Count::new(), interval: Count::new(), interval_start: Duration::ZERO }
    }

    /// `records` of `bytes` altogether were done; the latency counts once for each of them.
    pub(crate) fn done(&mut self, records: u64, bytes: u64, latency: Duration) {
        for count in [&mut self.total, &mut self.interval] {
            count.records += records;
            count.bytes += bytes;
            count.latencies.record(latency, records);
        }
    }

    pub(crate) fn failed(&mut self) {
        self.total.failures += 1;
        self.interval.failures += 1;
    }

    pub(crate) fn records(&self) -> u64 {
        self.total.records
    }

    pub(crate) fn failures(&self) -> u64 {
        self.total.failures
    }

    /// What happened since the last call. `elapsed` counts from the start of the benchmark.
    pub(crate) fn progress(&mut self, elapsed: Duration) -> String {
        let interval = std::mem::replace(&mut self.interval, Count::new());
        let seconds = elapsed.saturating_sub(self.interval_start);
        self.interval_start = elapsed;
        let failures = match interval.failures {
            0 => String::new(),
            failures => format!(", {failures} failed"),
        };
        format!(
            "{:>4} s  {:>9.0} records/s  {:>8.1} MB/s  p50 {}  p99 {}{failures}\n",
            elapsed.as_secs(),
            per_second(interval.records, seconds),
            per_second(interval.bytes, seconds) / 1e6,
            milliseconds(interval.latencies.percentile(500)),
            milliseconds(interval.latencies.percentile(990)),
        )
    }

    /// The result, for people.
    pub(crate) fn summary(&self, elapsed: Duration) -> String {
        let Count { records, bytes, failures, latencies } = &self.total;
        let failures = match failures {
            0 => String::new(),
            failures => format!("{failures} records failed\n"),
        };
        format!(
            "{records} records, {:.1} MB in {:.2} s\n{:.0} records/s, {:.1} MB/s\n\
             latency p50 {}, p95 {}, p99 {}, p99.9 {}, max {}\n{failures}",
            *bytes as f64 / 1e6,
            elapsed.as_secs_f64(),
            per_second(*records, elapsed),
            per_second(*bytes, elapsed) / 1e6,
            milliseconds(latencies.percentile(500)),
            milliseconds(latencies.percentile(950)),
            milliseconds(latencies.percentile(990)),
            milliseconds(latencies.percentile(999)),
            milliseconds(latencies.max()),
        )
    }

    /// The result, for machines. Times are in milliseconds.
    pub(crate) fn json(&self, elapsed: Duration) -> String {
        let Count { records, bytes, failures, latencies } = &self.total;
        let millis = |latency: Duration| latency.as_secs_f64() * 1e3;
        let object = json!({
            "records": records,
            "bytes": bytes,
            "failures": failures,
            "seconds": elapsed.as_secs_f64(),
            "records_per_second": per_second(*records, elapsed),
            "megabytes_per_second": per_second(*bytes, elapsed) / 1e6,
            "latency_ms": {
                "p50": millis(latencies.percentile(500)),
                "p95": millis(latencies.percentile(950)),
                "p99": millis(latencies.percentile(990)),
                "p99.9": millis(latencies.percentile(999)),
                "max": millis(latencies.max()),
            },
        });
        format!("{object}\n")
    }
}

fn per_second(count: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { count as f64 / elapsed.as_secs_f64() }
}

fn milliseconds(latency: Duration) -> String {
    format!("{:.2} ms", latency.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_what_came_since_the_one_before() {
        let mut meter = Meter::new();
        meter.done(1000, 1_000_000, Duration::from_millis(2));
        let line = meter.progress(Duration::from_secs(1));
        assert_eq!(line, "   1 s       1000 records/s       1.0 MB/s  p50 2.00 ms  p99 2.00 ms\n");
        meter.done(3000, 3_000_000, Duration::from_millis(4));
        meter.failed();
        let line = meter.progress(Duration::from_secs(3));
        assert_eq!(line, "   3 s       1500 records/s       1.5 MB/s  p50 4.00 ms  p99 4.00 ms, 1 failed\n");
    }

    #[test]
    fn the_result_for_people_and_for_machines() {
        let mut meter = Meter::new();
        meter.done(99, 99_000, Duration::from_millis(1));
        meter.done(1, 1_000, Duration::from_millis(100));
        let elapsed = Duration::from_millis(500);
        assert_eq!(
            meter.summary(elapsed),
            "100 records, 0.1 MB in 0.50 s\n200 records/s, 0.2 MB/s\n\
             latency p50 1.01 ms, p95 1.01 ms, p99 1.01 ms, p99.9 100.00 ms, max 100.00 ms\n"
        );
        let object: serde_json::Value = serde_json::from_str(&meter.json(elapsed)).unwrap();
        assert_eq!(object["records_per_second"], 200.0);
        assert_eq!(object["latency_ms"]["max"], 100.0);
    }
}
