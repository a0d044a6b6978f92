//! What many runs add up to.

use std::fmt::Write as _;

use crate::{
    bites::{Bite, Bites},
    run::Outcome,
};

/// Totals over seeds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub seeds: u64,
    pub failures: u64,
    pub simulated_seconds: u64,
    pub acknowledged: u64,
    pub failed: u64,
    pub unknown: u64,
    pub healed: u64,
    /// Seeds that ran more than once and ended with the same hash.
    pub repeated: u64,
    pub events: u64,
    pub turns: u64,
    pub bites: Bites,
}

impl Summary {
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.failures += u64::from(outcome.failure.is_some());
        self.simulated_seconds += outcome.simulated.0 / 1_000_000_000;
        self.acknowledged += outcome.acknowledged;
        self.failed += outcome.failed;
        self.unknown += outcome.unknown;
        self.healed += u64::from(outcome.healed);
        self.events += outcome.events;
        self.turns += outcome.turns;
        self.bites.merge(&outcome.bites);
    }

    /// For people, several lines.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let Self { seeds, failures, simulated_seconds, acknowledged, failed, unknown, healed, repeated, .. } = self;
        let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("a string takes everything");
        line(format_args!(
            "{seeds} seeds, {failures} failures, {healed} healed, {repeated} repeated with the same hash"
        ));
        line(format_args!("{simulated_seconds} simulated seconds, {} events, {} turns", self.events, self.turns));
        line(format_args!("records: {acknowledged} acknowledged, {failed} failed, {unknown} unknown"));
        let bites: Vec<String> =
            Bite::ALL.iter().map(|bite| format!("{} {}", bite.name(), self.bites.of(*bite))).collect();
        line(format_args!("bites: {}", bites.join(", ")));
        text
    }

    /// For programs, one object.
    pub fn json(&self) -> String {
        let Self { seeds, failures, simulated_seconds, acknowledged, failed, unknown, healed, repeated, .. } = self;
        let bites: Vec<String> =
            Bite::ALL.iter().map(|bite| format!("\"{}\":{}", bite.name(), self.bites.of(*bite))).collect();
        format!(
            "{{\"seeds\":{seeds},\"failures\":{failures},\"simulated_seconds\":{simulated_seconds},\
             \"acknowledged\":{acknowledged},\"failed\":{failed},\"unknown\":{unknown},\"healed\":{healed},\
             \"repeated\":{repeated},\"bites\":{{{}}}}}",
            bites.join(",")
        )
    }
}

/// One outcome as an object, for programs.
pub fn outcome_json(outcome: &Outcome) -> String {
    let failure = match &outcome.failure {
        None => "null".to_owned(),
        Some(failure) => format!(
            "{{\"checker\":{},\"explanation\":{}}}",
            json_string(failure.checker),
            json_string(&failure.explanation)
        ),
    };
    format!(
        "{{\"seed\":{},\"hash\":\"{:016x}\",\"simulated_seconds\":{},\"acknowledged\":{},\"failed\":{},\"unknown\":{},\
         \"healed\":{},\"failure\":{failure}}}",
        outcome.seed,
        outcome.digest,
        outcome.simulated.0 / 1_000_000_000,
        outcome.acknowledged,
        outcome.failed,
        outcome.unknown,
        outcome.healed
    )
}

fn json_string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if u32::from(c) < 0x20 => {
                write!(quoted, "\\u{:04x}", u32::from(c)).expect("a string takes everything");
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{failure::Failure, time::Span};

    fn outcome(failure: Option<Failure>) -> Outcome {
        Outcome {
            seed: 7,
            digest: 0xab,
            failure,
            simulated: Span::seconds(120),
            acknowledged: 600,
            failed: 1,
            unknown: 2,
            bites: Bites::default(),
            healed: true,
            events: 10,
            turns: 5,
        }
    }

    #[test]
    fn a_summary_adds_up() {
        let mut summary = Summary::default();
        summary.add(&outcome(None));
        summary.add(&outcome(Some(Failure::new("order", "x"))));
        assert!(summary.json().starts_with(
            "{\"seeds\":2,\"failures\":1,\"simulated_seconds\":240,\"acknowledged\":1200,\"failed\":2,\"unknown\":4,\
             \"healed\":2,\"repeated\":0,\"bites\":{\"partition\":0,"
        ));
        assert!(summary.text().starts_with("2 seeds, 1 failures, 2 healed"));
    }

    #[test]
    fn an_explanation_is_quoted() {
        let object = outcome_json(&outcome(Some(Failure::new("panic", "said \"no\"\n\\"))));
        assert!(object.contains(r#""explanation":"said \"no\"\u000a\\""#), "{object}");
    }
}
