//! Everything of note in a run, in order: what two runs of one seed must agree on to the byte.

use std::fmt::Write as _;
use std::time::Duration;

use parking_lot::Mutex;

use super::entropy::mix;

/// A rolling hash of all lines, and the lines themselves where they are wanted.
#[derive(Debug, Default)]
pub struct Trace {
    inner: Mutex<Inner>,
    keep: bool,
}

#[derive(Debug, Default)]
struct Inner {
    hash: u64,
    lines: u64,
    text: String,
}

impl Trace {
    pub fn new(keep: bool) -> Trace {
        Trace { inner: Mutex::default(), keep }
    }

    pub fn note(&self, at: Duration, line: std::fmt::Arguments<'_>) {
        let mut inner = self.inner.lock();
        let begin = if self.keep { inner.text.len() } else { 0 };
        if !self.keep {
            inner.text.clear();
        }
        // Writing to a string does not fail.
        let _ = writeln!(inner.text, "{:>10.3} {line}", at.as_secs_f64() * 1000.0);
        let mut hash = inner.hash;
        for chunk in inner.text.as_bytes()[begin..].chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = mix(hash.rotate_left(7) ^ u64::from_le_bytes(word));
        }
        inner.hash = hash;
        inner.lines += 1;
    }

    pub fn hash(&self) -> u64 {
        self.inner.lock().hash
    }

    pub fn lines(&self) -> u64 {
        self.inner.lock().lines
    }

    /// Empty where the lines were not wanted.
    pub fn text(&self) -> String {
        if self.keep { self.inner.lock().text.clone() } else { String::new() }
    }
}
