//! What is read was sent: by that producer, to that partition, before it was read.

use std::collections::BTreeMap;

use super::Log;
use crate::{failure::Failure, history::History};

pub fn check(history: &History, _log: &Log) -> Result<(), Failure> {
    let sent: BTreeMap<_, _> = history.sends().iter().map(|send| (send.value, send)).collect();
    for read in history.reads() {
        for (offset, value) in &read.records {
            let was_sent =
                sent.get(value).is_some_and(|send| send.partition == read.partition && send.invoked <= read.at);
            if !was_sent {
                let explanation = format!("{value} at offset {offset} of {} was never sent there", read.partition);
                return Err(Failure::new("never_sent", explanation));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::story::Story, *};

    #[test]
    fn an_invented_record_caught_by() {
        Story::default()
            .acknowledged(1, 1, 0)
            .read(1, 0, &[(1, 1), (1, 2)], 2)
            .caught_by(check, "p1-2 at offset 1 of partition 3 was never sent there");
    }

    #[test]
    fn a_record_may_be_read_before_its_producer_knows() {
        Story::default().unknown(1, 1).read(1, 0, &[(1, 1)], 1).passes(check);
    }
}
