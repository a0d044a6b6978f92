//! Waiting for processes, which nobody tells us about.

use std::{
    thread,
    time::{Duration, Instant},
};

const PAUSE: Duration = Duration::from_millis(10);

/// Asks again and again until there is an answer. Panics if that takes longer than `patience`.
pub fn until<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < patience, "{what} did not happen within {patience:?}");
        thread::sleep(PAUSE);
    }
}
