//! When all faults are over, everything works again within a bound: every partition takes a record, and every consumer
//! reads to the end.

use crate::failure::Failure;

/// `waits` is what the clients that are not done wait for.
pub fn check(waits: &[String]) -> Result<(), Failure> {
    match waits {
        [] => Ok(()),
        [first, rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
            Err(Failure::new("progress_after_heal", format!("{first}{more}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_still_waits_is_named() {
        assert_eq!(check(&[]), Ok(()));
        let failure = check(&["p1 waits".to_owned(), "c1 waits".to_owned()]).unwrap_err();
        assert_eq!(failure.explanation, "p1 waits (and 1 more)");
    }
}
