//! Randomness of the whole process, from one seed.
//!
//! Every source of randomness on Linux (hash maps, `rand`, tokio, consensus) ends in libc's `getrandom`. The simulator's
//! program answers that call itself. Until [`seed`] is called the answer comes from the kernel, so the seed has to be set
//! before anything else in the process asks: hash maps take their keys once.

use std::sync::atomic::{AtomicU64, Ordering};

/// 0: not seeded.
static STATE: AtomicU64 = AtomicU64::new(0);

/// 2^64 divided by the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// From here on the process's randomness follows from the seed.
pub fn seed(seed: u64) {
    STATE.store(mix(seed.wrapping_add(STEP)) | 1, Ordering::SeqCst);
}

/// A well-spread function of its input; not invertible in practice, not secret.
pub fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Fills the buffer from the seed; false where none was set.
pub fn fill(buffer: &mut [u8]) -> bool {
    for chunk in buffer.chunks_mut(8) {
        if STATE.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let word = mix(STATE.fetch_add(STEP, Ordering::Relaxed)).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_seeds_share_nothing() {
        let words: std::collections::BTreeSet<u64> = (0..1000).map(mix).collect();
        assert_eq!(words.len(), 1000);
    }
}
