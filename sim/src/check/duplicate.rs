//! No record stands in the log twice: producers are idempotent, however often they retry.

use std::collections::BTreeMap;

use super::Log;
use crate::{failure::Failure, history::History};

pub fn check(_history: &History, log: &Log) -> Result<(), Failure> {
    let mut seen = BTreeMap::new();
    for (partition, offset, value) in log.records() {
        if let Some((other, first)) = seen.insert(value, (partition, offset)) {
            let explanation =
                format!("{value} is at offset {first} of {other} and again at offset {offset} of {partition}");
            return Err(Failure::new("duplicate", explanation));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::story::Story, *};

    #[test]
    fn a_record_at_two_offsets_caught_by() {
        Story::default()
            .acknowledged(1, 1, 0)
            .read(1, 0, &[(1, 1), (2, 1), (1, 1)], 3)
            .caught_by(check, "p1-1 is at offset 0 of partition 3 and again at offset 2 of partition 3");
    }

    #[test]
    fn two_consumers_may_read_the_same_record_and_one_may_read_it_again() {
        Story::default()
            .acknowledged(1, 1, 0)
            .read(1, 0, &[(1, 1)], 1)
            .read(2, 0, &[(1, 1)], 1)
            .read(2, 0, &[(1, 1)], 1)
            .passes(check);
    }
}
