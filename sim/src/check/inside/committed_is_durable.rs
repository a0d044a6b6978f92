//! A committed entry lies on the platters of a majority of its group's voters.
//!
//! Looked at now and then, on disks that nobody damaged: it shows what a commit counted that was not synced, long before a
//! crash makes it a loss.

use kauri_core::ids::{GroupId, LogIndex};

use crate::failure::Failure;

/// One entry and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub group: GroupId,
    pub index: LogIndex,
    /// Nodes that hold the same entry.
    pub copies: usize,
    pub voters: usize,
}

pub fn check(found: impl IntoIterator<Item = Found>) -> Result<(), Failure> {
    for Found { group, index, copies, voters } in found {
        if copies * 2 <= voters {
            let explanation =
                format!("entry {index} of group {group} is committed, and {copies} of {voters} voters have it on disk");
            return Err(Failure::new("committed_is_durable", explanation));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_is_no_majority() {
        let found = |copies, voters| Found { group: GroupId(4), index: LogIndex(9), copies, voters };
        assert_eq!(check([found(2, 3), found(3, 5), found(1, 1)]), Ok(()));
        for (copies, voters) in [(1, 3), (2, 4), (2, 5), (0, 1)] {
            assert!(check([found(3, 3), found(copies, voters)]).is_err());
        }
        let failure = check([found(1, 3)]).unwrap_err();
        assert_eq!(failure.explanation, "entry 9 of group 4 is committed, and 1 of 3 voters have it on disk");
    }
}
