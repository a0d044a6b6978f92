//! The high watermark that one consumer is told of a partition never falls, and nothing is read beyond it.
//!
//! A leader that was deposed and has not heard of it serves what it knows to be committed, with its older high
//! watermark. Clients that follow leader epochs never go back to one (KIP-320). Of a client whose version of the
//! protocol knows none, or which does not say which epoch it means, each node's own answers are compared.

use std::collections::BTreeMap;

use super::Log;
use crate::{
    failure::Failure,
    history::{History, Source},
};

pub fn check(history: &History, _log: &Log) -> Result<(), Failure> {
    let mut highest: BTreeMap<_, i64> = BTreeMap::new();
    for read in history.reads() {
        let Some(told) = read.high_watermark else { continue };
        // Answers that may not be above this one: of the same node, or of this leader and those before it.
        let (node, epoch) = match read.source {
            Source::Followed => (None, 0),
            Source::Leader { epoch } => (None, epoch),
            Source::Node(node) => (Some(node), 0),
        };
        let place = (read.consumer, read.partition, node);
        let before = highest.range((place, i32::MIN)..=(place, epoch)).map(|(_, told)| *told).max();
        let who = format!("consumer {} of {}", read.consumer, read.partition);
        if let Some(before) = before
            && told.0 < before
        {
            let explanation = format!("{who} was told the high watermark {before} and then {told}");
            return Err(Failure::new("high_watermark_monotonic", explanation).at(read.at));
        }
        highest.insert((place, epoch), told.0);
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

    #[test]
    fn a_leader_that_was_deposed_may_be_behind() {
        Story::default()
            .read_of(Source::Leader { epoch: 3 }, 1, 0, &[], 5)
            .read_of(Source::Leader { epoch: 2 }, 1, 0, &[], 4)
            .read_of(Source::Leader { epoch: 3 }, 1, 0, &[], 5)
            .passes(check);
    }

    #[test]
    fn a_later_leader_that_is_behind_caught_by() {
        Story::default()
            .read_of(Source::Leader { epoch: 2 }, 1, 0, &[], 5)
            .read_of(Source::Leader { epoch: 3 }, 1, 0, &[], 4)
            .caught_by(check, "consumer 1 of partition 3 was told the high watermark 5 and then 4");
    }

    #[test]
    fn without_epochs_a_node_that_falls_behind_itself_caught_by() {
        Story::default()
            .read_of(Source::Node(0), 1, 0, &[], 5)
            .read_of(Source::Node(1), 1, 0, &[], 3)
            .read_of(Source::Node(1), 1, 0, &[], 2)
            .caught_by(check, "consumer 1 of partition 3 was told the high watermark 3 and then 2");
    }
}
