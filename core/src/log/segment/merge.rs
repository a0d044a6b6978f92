//! A chunk that is damaged in every copy, but not everywhere in the same places.
//!
//! Copies are compared block by block; where they differ, at least one is wrong. Invariant: what comes out has the
//! checksum that was recorded, and is the only choice that has it. The number of choices is bounded, and with it the
//! chance that a wrong one has the checksum: 1,024 of 2^32.

use std::collections::BTreeMap;

/// What a disk reads and writes at least.
const BLOCK_BYTES: usize = 512;
const CHOICES_MAX: usize = 1024;

/// A block of one copy instead of the first copy's: what that changes in the checksum.
#[derive(Clone, Copy, Debug)]
struct Choice {
    /// `None`: the first copy that is whole.
    copy: Option<usize>,
    change: u32,
}

/// So many bytes with this CRC-32C that consist of blocks of the copies; `None` if there are none, or more than one, or
/// too many to try. Copies begin at the same byte and may be shorter, but for one.
pub(super) fn merge(copies: &[&[u8]], length: usize, crc: u32) -> Option<Vec<u8>> {
    assert!(copies.iter().all(|copy| copy.len() <= length), "copies are of the same bytes");
    let first = *copies.iter().find(|copy| copy.len() == length)?;
    let whole = crc32c::crc32c(first);
    let blocks = choices(first, whole, copies);
    let number = blocks.values().try_fold(1usize, |number, choices| number.checked_mul(choices.len()));
    number.filter(|number| *number <= CHOICES_MAX)?;
    let mut found = None;
    let mut chosen = vec![0; blocks.len()];
    loop {
        let changes = blocks.values().zip(&chosen).map(|(choices, choice)| choices[*choice].change);
        if changes.fold(whole, |sum, change| sum ^ change) == crc && found.replace(chosen.clone()).is_some() {
            return None;
        }
        if !advance(&mut chosen, &blocks) {
            break;
        }
    }
    let mut merged = first.to_vec();
    for ((start, choices), choice) in blocks.iter().zip(found?) {
        let block = *start..(start + BLOCK_BYTES).min(first.len());
        if let Some(copy) = choices[choice].copy {
            merged[block.clone()].copy_from_slice(&copies[copy][block]);
        }
    }
    assert_eq!(crc32c::crc32c(&merged), crc, "a checksum changes with each block by itself");
    Some(merged)
}

/// Where each block begins in which copies differ, with one choice for each content. `whole` is the CRC of the first copy.
fn choices(first: &[u8], whole: u32, copies: &[&[u8]]) -> BTreeMap<usize, Vec<Choice>> {
    let mut blocks = BTreeMap::new();
    for start in (0..first.len()).step_by(BLOCK_BYTES) {
        let block = start..(start + BLOCK_BYTES).min(first.len());
        let mut choices = vec![Choice { copy: None, change: 0 }];
        for (copy, bytes) in copies.iter().enumerate() {
            let Some(found) = bytes.get(block.clone()) else { continue };
            let content = |choice: &Choice| choice.copy.map_or(first, |copy| copies[copy]);
            if choices.iter().any(|known| content(known)[block.clone()] == *found) {
                continue;
            }
            let replaced = crc32c::crc32c_append(crc32c::crc32c(&first[..start]), found);
            let change = crc32c::crc32c_append(replaced, &first[block.end..]) ^ whole;
            choices.push(Choice { copy: Some(copy), change });
        }
        if choices.len() > 1 {
            blocks.insert(start, choices);
        }
    }
    blocks
}

/// The next combination; false after the last one.
fn advance(chosen: &mut [usize], blocks: &BTreeMap<usize, Vec<Choice>>) -> bool {
    for (place, choices) in chosen.iter_mut().zip(blocks.values()) {
        *place += 1;
        if *place < choices.len() {
            return true;
        }
        *place = 0;
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sound(bytes: usize) -> Vec<u8> {
        (0..bytes as u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
    }

    fn damaged(sound: &[u8], places: &[usize]) -> Vec<u8> {
        let mut bytes = sound.to_vec();
        places.iter().for_each(|place| bytes[*place] ^= 0x40);
        bytes
    }

    fn merged(copies: &[Vec<u8>], crc: u32) -> Option<Vec<u8>> {
        let length = copies.iter().map(Vec::len).max().unwrap_or_default();
        merge(&copies.iter().map(Vec::as_slice).collect::<Vec<_>>(), length, crc)
    }

    #[test]
    fn each_block_that_is_sound_somewhere_is_found() {
        let sound = sound(65_536);
        let crc = crc32c::crc32c(&sound);
        let copies = [
            damaged(&sound, &[173, 3_133]),
            damaged(&sound, &[1_876, 65_535]),
            damaged(&sound, &[173, 30_000, 30_001, 40_000]),
        ];
        assert_eq!(merged(&copies, crc).as_ref(), Some(&sound));
        assert_eq!(merged(&copies[..2], crc).as_ref(), Some(&sound));
        assert_eq!(merged(&[copies[0].clone(), copies[2].clone()], crc), None, "one block is sound nowhere");
        assert_eq!(merged(&copies[..1], crc), None);
        assert_eq!(merged(std::slice::from_ref(&sound), crc).as_ref(), Some(&sound));
        assert_eq!(merged(&[], crc), None);
    }

    #[test]
    fn a_copy_may_end_early() {
        let sound = sound(20_000);
        let crc = crc32c::crc32c(&sound);
        let short = damaged(&sound, &[1_000])[..5_000].to_vec();
        let early = damaged(&sound, &[600, 3_000]);
        assert_eq!(merged(&[short.clone(), damaged(&sound, &[3_000, 4_500])], crc).as_ref(), Some(&sound));
        assert_eq!(merged(&[short.clone(), early], crc), None, "that block is damaged in both");
        assert_eq!(merged(&[short.clone(), damaged(&sound, &[5_000])], crc), None, "it does not reach so far");
        assert_eq!(merge(&[&short], 20_000, crc), None);
    }

    #[test]
    fn copies_that_differ_almost_everywhere_are_not_tried() {
        let sound = sound(65_536);
        let odd: Vec<usize> = (0..11).map(|block| block * 1024).collect();
        let copies = [damaged(&sound, &odd), damaged(&sound, &[512])];
        assert_eq!(merged(&copies, crc32c::crc32c(&sound)), None);
        let copies = [damaged(&sound, &odd[..9]), damaged(&sound, &[512])];
        assert_eq!(merged(&copies, crc32c::crc32c(&sound)).as_ref(), Some(&sound));
    }

    proptest! {
        #[test]
        fn whatever_is_lost_in_one_copy_only_comes_back(
            length in 1..9_000usize,
            hits in proptest::collection::vec((0..3usize, any::<prop::sample::Index>()), 0..9),
        ) {
            let sound = sound(length);
            let mut copies = vec![sound.clone(), sound.clone(), sound.clone()];
            let mut hit: BTreeMap<usize, usize> = BTreeMap::new();
            for (copy, place) in hits {
                let place = place.index(length);
                if *hit.entry(place / BLOCK_BYTES).or_insert(copy) == copy {
                    copies[copy][place] ^= 1;
                }
            }
            prop_assert_eq!(merged(&copies, crc32c::crc32c(&sound)), Some(sound));
        }
    }
}
