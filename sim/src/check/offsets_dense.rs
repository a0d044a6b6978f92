//! A consumer that reads a partition from the beginning gets every offset from zero on, once and in order.

use std::collections::BTreeMap;

use kauri_core::ids::Offset;

use super::Log;
use crate::{failure::Failure, history::History};

pub fn check(history: &History, _log: &Log) -> Result<(), Failure> {
    let mut next = BTreeMap::new();
    for read in history.reads() {
        let expected = next.entry((read.consumer, read.partition)).or_insert(Offset(0));
        for (offset, _) in &read.records {
            if offset != expected {
                let explanation = format!(
                    "consumer {} of {} got offset {offset} where {expected} follows",
                    read.consumer, read.partition
                );
                return Err(Failure::new("offsets_dense", explanation).at(read.at));
            }
            *expected = expected.plus(1);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::story::Story, *};

    #[test]
    fn a_gap_caught_by() {
        Story::default()
            .read(1, 0, &[(1, 1)], 3)
            .read(1, 2, &[(1, 3)], 3)
            .caught_by(check, "consumer 1 of partition 3 got offset 2 where 1 follows");
    }

    #[test]
    fn a_step_back_caught_by() {
        Story::default()
            .read(1, 0, &[(1, 1), (1, 2)], 2)
            .read(1, 1, &[(1, 2)], 2)
            .caught_by(check, "consumer 1 of partition 3 got offset 1 where 2 follows");
    }

    #[test]
    fn each_consumer_reads_at_its_own_pace() {
        Story::default()
            .read(1, 0, &[(1, 1)], 2)
            .read(2, 0, &[(1, 1), (1, 2)], 2)
            .read(1, 1, &[], 2)
            .read(1, 1, &[(1, 2)], 2)
            .passes(check);
    }
}
