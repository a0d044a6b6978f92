//! A correct client is never told that it did something wrong, and never gets an answer that it cannot read.
//!
//! Covers OFFSET_OUT_OF_RANGE for a position that exists, damaged batches, and errors that no retry can cure.

use super::Log;
use crate::{failure::Failure, history::History};

pub fn check(history: &History, _log: &Log) -> Result<(), Failure> {
    match history.refusals().first() {
        None => Ok(()),
        Some(refusal) => Err(Failure::new("never_refused", refusal.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::story::Story, *};

    #[test]
    fn the_first_refusal_is_told() {
        let mut story = Story::default().acknowledged(1, 1, 0);
        story.clone().passes(check);
        story.history.refuse("first".to_owned());
        story.history.refuse("second".to_owned());
        story.caught_by(check, "first");
    }
}
