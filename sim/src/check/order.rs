//! The records of one producer stand in one partition in the order in which it sent them.

use std::collections::BTreeMap;

use super::Log;
use crate::{failure::Failure, history::History};

pub fn check(_history: &History, log: &Log) -> Result<(), Failure> {
    let mut last = BTreeMap::new();
    for (partition, offset, value) in log.records() {
        if let Some((earlier, number)) = last.insert((partition, value.producer), (offset, value.number))
            && number > value.number
        {
            let explanation = format!(
                "in {partition}, p{}-{number} at offset {earlier} stands before {value} at offset {offset}",
                value.producer
            );
            return Err(Failure::new("order", explanation));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::story::Story, *};

    #[test]
    fn a_record_that_overtook_another_of_its_producer_caught_by() {
        Story::default()
            .read(1, 0, &[(1, 1), (1, 3), (1, 2)], 3)
            .caught_by(check, "in partition 3, p1-3 at offset 1 stands before p1-2 at offset 2");
    }

    #[test]
    fn producers_mix_and_records_may_be_missing() {
        Story::default().unknown(1, 2).read(1, 0, &[(1, 1), (2, 1), (1, 3), (2, 5), (1, 4)], 5).passes(check);
    }
}
