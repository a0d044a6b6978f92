//! The high watermark that one consumer is told of a partition never falls, and nothing is read beyond it.

use std::collections::BTreeMap;

use super::Log;
use crate::{failure::Failure, history::History};

pub fn check(history: &History, _log: &Log) -> Result<(), Failure> {
    let mut highest = BTreeMap::new();
    for read in history.reads() {
        let Some(told) = read.high_watermark else { continue };
        let before = highest.insert((read.consumer, read.partition), told);
        let who = format!("consumer {} of {}", read.consumer, read.partition);
        if let Some(before) = before
            && told < before
        {
            let explanation = format!("{who} was told the high watermark {before} and then {told}");
            return Err(Failure::new("high_watermark_monotonic", explanation).at(read.at));
        }
        if let Some((offset, value)) = read.records.last()
            && *offset >= told
        {
            let explanation = format!("{who} got {value} at offset {offset} with a high watermark of {told}");
            return Err(Failure::new("high_watermark_monotonic", explanation).at(read.at));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::story::Story, *};

    #[test]
    fn a_high_watermark_that_falls_caught_by() {
        Story::default()
            .read(1, 0, &[], 5)
            .read(1, 0, &[], 4)
            .caught_by(check, "consumer 1 of partition 3 was told the high watermark 5 and then 4");
    }

    #[test]
    fn a_record_beyond_it_caught_by() {
        Story::default()
            .read(1, 0, &[(1, 1), (1, 2)], 1)
            .caught_by(check, "consumer 1 of partition 3 got p1-2 at offset 1 with a high watermark of 1");
    }

    #[test]
    fn another_consumer_may_be_behind() {
        Story::default().read(1, 0, &[], 5).read(2, 0, &[], 4).read(1, 0, &[(1, 1)], 5).passes(check);
    }
}
