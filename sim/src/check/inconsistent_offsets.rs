//! One offset of a partition holds one record, whoever reads it or was told of it, and for ever.

use super::Log;
use crate::{failure::Failure, history::History};

pub fn check(history: &History, log: &Log) -> Result<(), Failure> {
    let differ = |partition, offset, first, second| {
        let explanation = format!("offset {offset} of {partition} is {first} and {second}");
        Err(Failure::new("inconsistent_offsets", explanation))
    };
    for read in history.reads() {
        for (offset, value) in &read.records {
            let first = log.at(read.partition, *offset).expect("the log holds everything that was read");
            if first != *value {
                return differ(read.partition, offset, first, *value);
            }
        }
    }
    for (send, offset) in history.acknowledged() {
        if let Some(read) = log.at(send.partition, offset)
            && read != send.value
        {
            return differ(send.partition, &offset, send.value, read);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::story::Story, *};

    #[test]
    fn two_readers_that_see_different_records_are_caught() {
        Story::default()
            .read(1, 0, &[(1, 1), (1, 2)], 2)
            .read(2, 0, &[(1, 1), (2, 1)], 2)
            .caught_by(check, "offset 1 of partition 3 is p1-2 and p2-1");
    }

    #[test]
    fn an_acknowledgement_of_another_offset_caught_by() {
        Story::default()
            .acknowledged(1, 1, 0)
            .read(1, 0, &[(2, 1), (1, 1)], 2)
            .caught_by(check, "offset 0 of partition 3 is p1-1 and p2-1");
    }

    #[test]
    fn readers_that_agree_pass() {
        Story::default().acknowledged(1, 1, 0).read(1, 0, &[(1, 1)], 1).read(2, 0, &[(1, 1)], 1).passes(check);
    }
}
