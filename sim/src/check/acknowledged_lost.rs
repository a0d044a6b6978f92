//! Every acknowledged record is read at the offset that its producer was told.

use super::Log;
use crate::{failure::Failure, history::History};

pub fn check(history: &History, log: &Log) -> Result<(), Failure> {
    for (send, offset) in history.acknowledged() {
        if log.at(send.partition, offset).is_none() {
            let (partition, value) = (send.partition, send.value);
            let explanation = format!("{value} was acknowledged at offset {offset} of {partition} and is not there");
            return Err(Failure::new("acknowledged_lost", explanation));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::story::Story, *};

    #[test]
    fn an_acknowledged_record_that_nobody_reads_is_lost() {
        Story::default()
            .acknowledged(1, 1, 0)
            .acknowledged(1, 2, 1)
            .read(1, 0, &[(1, 1)], 1)
            .caught_by(check, "p1-2 was acknowledged at offset 1 of partition 3 and is not there");
    }

    #[test]
    fn what_was_never_acknowledged_may_be_there_or_not() {
        Story::default()
            .acknowledged(1, 1, 0)
            .unknown(1, 2)
            .unknown(1, 3)
            .failed(1, 4)
            .read(1, 0, &[(1, 1), (1, 3)], 2)
            .passes(check);
    }
}
