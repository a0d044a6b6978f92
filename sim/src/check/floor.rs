//! A run counts only if it did enough: below this a clean result says nothing.

use crate::{failure::Failure, time::Span};

/// Simulated time of a run at least.
pub const SIMULATED: Span = Span::seconds(120);
/// Acknowledged records of a run at least.
pub const ACKNOWLEDGED: usize = 500;

pub fn check(simulated: Span, acknowledged: usize) -> Result<(), Failure> {
    if simulated < SIMULATED || acknowledged < ACKNOWLEDGED {
        let explanation = format!(
            "{acknowledged} records were acknowledged in {} simulated seconds; {ACKNOWLEDGED} in {SIMULATED} are the least",
            simulated.0 / 1_000_000_000
        );
        return Err(Failure::new("floor", explanation));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_of_either_is_a_failure() {
        assert_eq!(check(SIMULATED, ACKNOWLEDGED), Ok(()));
        assert!(check(SIMULATED - Span(1), ACKNOWLEDGED).is_err());
        assert!(check(SIMULATED, ACKNOWLEDGED - 1).is_err());
    }
}
