//! The latest offset is a linearizable read: it covers whatever was acknowledged, answered or read before the question
//! was asked, and nothing that was not sent before the answer came.

use std::collections::BTreeMap;

use kauri_core::ids::Offset;

use super::Log;
use crate::{
    failure::Failure,
    history::{History, Outcome, Partition},
    time::Instant,
};

/// What a later question must cover: from when on, and why.
struct Bound {
    known: Instant,
    end: Offset,
    reason: String,
}

pub fn check(history: &History, _log: &Log) -> Result<(), Failure> {
    let mut bounds: BTreeMap<Partition, Vec<Bound>> = BTreeMap::new();
    let mut sent: BTreeMap<Partition, Vec<Instant>> = BTreeMap::new();
    for send in history.sends() {
        sent.entry(send.partition).or_default().push(send.invoked);
        if let Outcome::Acknowledged { offset, at } = send.outcome {
            let reason = format!("{} was acknowledged at offset {offset}", send.value);
            bounds.entry(send.partition).or_default().push(Bound { known: at, end: offset.plus(1), reason });
        }
    }
    for read in history.reads() {
        if let Some((offset, value)) = read.records.last() {
            let reason = format!("{value} was read at offset {offset}");
            bounds.entry(read.partition).or_default().push(Bound { known: read.at, end: offset.plus(1), reason });
        }
    }
    for probe in history.probes() {
        if let Some((at, end)) = probe.answer {
            let reason = format!("an earlier answer was {end}");
            bounds.entry(probe.partition).or_default().push(Bound { known: at, end, reason });
        }
    }
    for bounds in bounds.values_mut() {
        rise(bounds);
    }
    sent.values_mut().for_each(|times| times.sort_unstable());
    for probe in history.probes() {
        let Some((at, answer)) = probe.answer else { continue };
        let known = bounds.get(&probe.partition).map_or(&[][..], Vec::as_slice);
        let before = known.partition_point(|bound| bound.known < probe.invoked);
        if let Some(bound) = before.checked_sub(1).map(|last| &known[last])
            && answer < bound.end
        {
            let explanation =
                format!("the latest offset of {} was {answer} although before {}", probe.partition, bound.reason);
            return Err(Failure::new("list_offsets_linearizable", explanation).at(at));
        }
        let sent = sent.get(&probe.partition).map_or(0, |times| times.partition_point(|invoked| *invoked <= at));
        if usize::try_from(answer.0).map_or(true, |answer| answer > sent) {
            let explanation =
                format!("the latest offset of {} was {answer} when {sent} records had been sent", probe.partition);
            return Err(Failure::new("list_offsets_linearizable", explanation).at(at));
        }
    }
    Ok(())
}

/// Sorts bounds by time and keeps those that are higher than all before.
fn rise(bounds: &mut Vec<Bound>) {
    bounds.sort_by_key(|bound| (bound.known, bound.end));
    let mut highest = Offset(i64::MIN);
    bounds.retain(|bound| {
        let rises = bound.end > highest;
        highest = highest.max(bound.end);
        rises
    });
}

#[cfg(test)]
mod tests {
    use super::{
        super::story::{P, Story},
        *,
    };

    #[test]
    fn an_answer_that_misses_an_acknowledged_record_caught_by() {
        Story::default().acknowledged(1, 1, 0).acknowledged(1, 2, 1).probed(1).caught_by(
            check,
            "the latest offset of partition 3 was 1 although before p1-2 was acknowledged at offset 1",
        );
    }

    #[test]
    fn an_answer_below_an_earlier_one_caught_by() {
        Story::default()
            .unknown(1, 1)
            .probed(1)
            .probed(0)
            .caught_by(check, "the latest offset of partition 3 was 0 although before an earlier answer was 1");
    }

    #[test]
    fn an_answer_beyond_what_was_sent_caught_by() {
        Story::default()
            .unknown(1, 1)
            .probed(2)
            .caught_by(check, "the latest offset of partition 3 was 2 when 1 records had been sent");
    }

    #[test]
    fn an_answer_may_miss_what_was_acknowledged_while_it_was_under_way() {
        let mut story = Story::default();
        let invoked = story.now();
        let probe = story.history.probe(P, invoked);
        let mut story = story.acknowledged(1, 1, 0);
        let at = story.now();
        story.history.answer(probe, Offset(0), at);
        story.probed(1).passes(check);
    }

    #[test]
    fn a_record_of_unknown_fate_may_count_or_not() {
        Story::default().unknown(1, 1).probed(0).probed(1).passes(check);
        Story::default().unknown(1, 1).probed(0).probed(0).passes(check);
    }
}
