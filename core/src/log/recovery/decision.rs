//! The table behind recovery: what to do with one write of the WAL, given what is known about it.
//!
//! Pure: four facts in, one decision out, no disk and no state. Invariant: a write that something behind it proves to
//! have been synced is either kept whole or reported as damage. Only a write that nothing proves may be dropped, and
//! only if it is not whole.

/// Whether the write is known to have been synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// A later write exists (or names this one as its predecessor): writes are issued one after the other, each after
    /// the sync of the one before.
    Proven,
    /// Nothing valid lies behind it. It may or may not have been synced, and was acknowledged only if it was.
    Last,
}

/// What stands where a header is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// A header of this life of the file, in its place.
    Valid,
    /// Zeros, a record of an earlier life, or bytes that make no sense.
    Absent,
}

/// Whether bytes have the checksum they should have. What cannot be located because the part that says where it lies
/// is not intact counts as damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    Holds,
    Fails,
}

/// The part of a write that is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Header,
    Directory,
    Payload,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Replay it from where it is.
    Keep,
    /// Nothing was written here: the log ends before it.
    Seal,
    /// Whole, but perhaps only in the page cache: it counts once it is written and synced again in the next file.
    CopyForward,
    /// The crash interrupted it, so nobody was told that it is durable: the log ends before it.
    DiscardTorn,
    /// Something that was durable is not readable any more: stop and say where.
    Damage(Part),
}

/// The decision for one write. `directory` stands for the write's own directory and its copy of the previous one.
pub(super) fn decide(proof: Proof, header: Header, directory: Checksum, payload: Checksum) -> Decision {
    match (proof, header, directory, payload) {
        (Proof::Proven, Header::Absent, _, _) => Decision::Damage(Part::Header),
        (Proof::Proven, Header::Valid, Checksum::Fails, _) => Decision::Damage(Part::Directory),
        (Proof::Proven, Header::Valid, Checksum::Holds, Checksum::Fails) => Decision::Damage(Part::Payload),
        (Proof::Proven, Header::Valid, Checksum::Holds, Checksum::Holds) => Decision::Keep,
        (Proof::Last, Header::Absent, _, _) => Decision::Seal,
        (Proof::Last, Header::Valid, Checksum::Holds, Checksum::Holds) => Decision::CopyForward,
        (Proof::Last, Header::Valid, Checksum::Fails, _) | (Proof::Last, Header::Valid, _, Checksum::Fails) => {
            Decision::DiscardTorn
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Checksum::*, Decision::*, Header::*, Part::*, Proof::*, decide};

    /// One test per cell, named after it.
    macro_rules! cells {
        ($($name:ident: $proof:ident, $header:ident, $directory:ident, $payload:ident => $decision:expr;)*) => {
            $(
                #[test]
                fn $name() {
                    assert_eq!(decide($proof, $header, $directory, $payload), $decision);
                }
            )*
        };
    }

    cells! {
        proven_and_intact_is_kept: Proven, Valid, Holds, Holds => Keep;
        proven_with_a_bad_payload_is_damage: Proven, Valid, Holds, Fails => Damage(Payload);
        proven_with_a_bad_directory_is_damage: Proven, Valid, Fails, Holds => Damage(Directory);
        proven_with_directory_and_payload_bad_is_damage: Proven, Valid, Fails, Fails => Damage(Directory);
        proven_without_header_is_damage: Proven, Absent, Holds, Holds => Damage(Header);
        proven_without_header_and_payload_is_damage: Proven, Absent, Holds, Fails => Damage(Header);
        proven_without_header_and_directory_is_damage: Proven, Absent, Fails, Holds => Damage(Header);
        proven_with_nothing_readable_is_damage: Proven, Absent, Fails, Fails => Damage(Header);
        last_and_intact_is_copied_forward: Last, Valid, Holds, Holds => CopyForward;
        last_with_a_bad_payload_is_torn: Last, Valid, Holds, Fails => DiscardTorn;
        last_with_a_bad_directory_is_torn: Last, Valid, Fails, Holds => DiscardTorn;
        last_with_directory_and_payload_bad_is_torn: Last, Valid, Fails, Fails => DiscardTorn;
        last_without_header_ends_the_log: Last, Absent, Holds, Holds => Seal;
        last_without_header_and_payload_ends_the_log: Last, Absent, Holds, Fails => Seal;
        last_without_header_and_directory_ends_the_log: Last, Absent, Fails, Holds => Seal;
        last_with_nothing_readable_ends_the_log: Last, Absent, Fails, Fails => Seal;
    }
}
