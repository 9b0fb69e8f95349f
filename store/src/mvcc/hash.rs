//! A rolling hash that is the same on every machine and in every version of this program.

use crate::types::Change;

/// 2^64 divided by the golden ratio: spreads neighbouring inputs.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

fn fold_word(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(23) ^ word).wrapping_mul(SPREAD)
}

fn fold_bytes(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        hash = fold_word(
            hash,
            u64::from_le_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]),
        );
    }
    let mut last = [0u8; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    fold_word(fold_word(hash, u64::from_le_bytes(last)), bytes.len() as u64)
}

/// Continues the hash with everything of a change that a reader could see.
pub(super) fn fold_change(hash: u64, change: &Change) -> u64 {
    let entry = &change.entry;
    let mut hash = fold_bytes(fold_word(hash, change.revision), &entry.key);
    if change.deleted {
        return fold_word(hash, u64::MAX);
    }
    hash = fold_bytes(hash, &entry.value);
    for (name, value) in entry.attributes.iter() {
        hash = fold_bytes(fold_bytes(hash, name.as_bytes()), value.as_bytes());
    }
    for word in [entry.create_revision, entry.version, entry.lease.unwrap_or(0)] {
        hash = fold_word(hash, word);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_the_length_count() {
        let base = fold_bytes(1, b"twelve bytes");
        assert_eq!(base, fold_bytes(1, b"twelve bytes"));
        for other in [&b"twelve byteS"[..], b"Twelve bytes", b"twelve bytes\0", b"twelve byte", b""] {
            assert_ne!(base, fold_bytes(1, other));
        }
    }
}
