//! How full the WAL is, measured by what its budget leaves for live data.

/// A share in thousandths; more than 1000 if live data took what was reserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fill(pub u32);

impl Fill {
    pub(super) fn new(used: u64, capacity: u64) -> Self {
        assert!(capacity > 0, "a budget leaves room for data");
        let thousandths = u128::from(used) * 1000 / u128::from(capacity);
        Self(u32::try_from(thousandths).unwrap_or(u32::MAX))
    }
}
