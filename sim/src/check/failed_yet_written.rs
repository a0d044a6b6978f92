//! A record of which the producer was told that it was not written is not in the log.

use std::collections::BTreeSet;

use super::Log;
use crate::{
    failure::Failure,
    history::{History, Outcome},
};

pub fn check(history: &History, log: &Log) -> Result<(), Failure> {
    let failed: BTreeSet<_> = history
        .sends()
        .iter()
        .filter(|send| matches!(send.outcome, Outcome::Failed { .. }))
        .map(|send| send.value)
        .collect();
    match log.records().find(|(_, _, value)| failed.contains(value)) {
        None => Ok(()),
        Some((partition, offset, value)) => {
            let explanation = format!("{value} failed, and is at offset {offset} of {partition}");
            Err(Failure::new("failed_yet_written", explanation))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::story::Story, *};

    #[test]
    fn a_failed_record_in_the_log_caught_by() {
        Story::default()
            .failed(1, 1)
            .read(1, 0, &[(1, 1)], 1)
            .caught_by(check, "p1-1 failed, and is at offset 0 of partition 3");
    }

    #[test]
    fn a_record_whose_fate_is_unknown_may_be_there() {
        Story::default().failed(1, 1).unknown(1, 2).read(1, 0, &[(1, 2)], 1).passes(check);
    }
}
