//! Frames as they come, in pieces of any size, checked.

use std::io::Read;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use imbl::OrdMap;
use sha2::{Digest, Sha256};

use super::write::checksum;
use super::{BackupError, BackupSummary, FRAME_HEADER, FRAME_LIMIT, LAYOUT, MARK, PREAMBLE, Part, State};
use crate::codec;
use crate::lease::Lease;
use crate::mvcc::{Counters, Entries};
use crate::types::{Entry, LeaseId};

/// Bytes read from a file at a time.
const PIECE: usize = 256 << 10;

/// Checks a backup while it streams by. Holds one frame at most.
#[derive(Default)]
pub struct BackupCheck {
    buffer: BytesMut,
    /// Bytes taken out of the buffer so far.
    passed: u64,
    begun: bool,
    number: u32,
    digest: Sha256,
    head: Option<(String, Counters)>,
    last_key: Option<Bytes>,
    last_lease: Option<LeaseId>,
    entries: u64,
    leases: u64,
    complete: bool,
}

/// What a frame brought that a reader may want to keep.
enum Found {
    Nothing,
    Entries(Vec<Arc<Entry>>),
    Leases(Vec<(LeaseId, Lease)>),
}

impl BackupCheck {
    pub fn new() -> BackupCheck {
        BackupCheck::default()
    }

    /// The next bytes of the stream.
    ///
    /// # Errors
    /// The first fault that is seen; what comes after it means nothing.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.push_into(bytes, |_| {})
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// It ended before its trailer.
    pub fn finish(self) -> Result<BackupSummary, BackupError> {
        self.finish_with_counters().map(|(summary, _)| summary)
    }

    fn push_into(&mut self, bytes: &[u8], mut keep: impl FnMut(Found)) -> Result<(), BackupError> {
        self.buffer.extend_from_slice(bytes);
        if !self.begun {
            let length = self.buffer.len().min(MARK.len());
            if self.buffer[..length] != MARK[..length] {
                return Err(BackupError::Foreign);
            }
            if self.buffer.len() < PREAMBLE {
                return Ok(());
            }
            let preamble = self.take(PREAMBLE);
            self.digest.update(&preamble);
            self.begun = true;
            match (&preamble[MARK.len()..]).get_u32_le() {
                LAYOUT => {}
                other => return Err(BackupError::Layout(other)),
            }
        }
        loop {
            if self.complete && !self.buffer.is_empty() {
                return Err(self.damage("something follows the trailer"));
            }
            if self.buffer.len() < FRAME_HEADER {
                return Ok(());
            }
            let mut header = &self.buffer[..FRAME_HEADER];
            let (length, crc) = (header.get_u32_le() as usize, header.get_u32_le());
            if length > FRAME_LIMIT {
                return Err(self.damage("a frame longer than any"));
            }
            if self.buffer.len() < FRAME_HEADER + length {
                return Ok(());
            }
            let body = &self.buffer[FRAME_HEADER..FRAME_HEADER + length];
            if checksum(self.number, body) != crc {
                return Err(self.damage("a frame does not match its checksum"));
            }
            let part: Part = codec::decode(body).map_err(|error| self.damage(&error.to_string()))?;
            let found = self.look(part)?;
            let frame = self.take(FRAME_HEADER + length);
            self.digest.update(&frame);
            self.number += 1;
            keep(found);
        }
    }

    fn take(&mut self, length: usize) -> BytesMut {
        self.passed += length as u64;
        self.buffer.split_to(length)
    }

    fn damage(&self, problem: &str) -> BackupError {
        BackupError::Damaged { at: self.passed, problem: problem.to_string() }
    }

    /// Whether the part may stand here, and says what it says it does.
    fn look(&mut self, part: Part) -> Result<Found, BackupError> {
        let Some((_, counters)) = &self.head else {
            return match part {
                Part::Head { cluster_id, counters } => {
                    self.head = Some((cluster_id, counters));
                    Ok(Found::Nothing)
                }
                _ => Err(self.damage("the head is missing")),
            };
        };
        let newest = counters.revision;
        match part {
            Part::Entries(entries) if self.last_lease.is_none() => {
                for entry in &entries {
                    if self.last_key.as_ref().is_some_and(|last| *last >= entry.key) {
                        return Err(self.damage("the keys are out of order"));
                    }
                    if entry.mod_revision > newest || entry.create_revision > entry.mod_revision {
                        return Err(self.damage("an entry is newer than the backup"));
                    }
                    self.last_key = Some(entry.key.clone());
                }
                self.entries += entries.len() as u64;
                Ok(Found::Entries(entries))
            }
            Part::Leases(leases) => {
                for (id, _) in &leases {
                    if self.last_lease.is_some_and(|last| last >= *id) {
                        return Err(self.damage("the leases are out of order"));
                    }
                    self.last_lease = Some(*id);
                }
                self.leases += leases.len() as u64;
                Ok(Found::Leases(leases))
            }
            Part::Trailer { revision, entries, leases, digest } => {
                if (revision, entries, leases) != (newest, self.entries, self.leases) {
                    return Err(self.damage("the trailer counts something else than what is there"));
                }
                if digest != <[u8; 32]>::from(self.digest.clone().finalize()) {
                    return Err(self.damage("the whole does not match its SHA-256"));
                }
                self.complete = true;
                Ok(Found::Nothing)
            }
            Part::Head { .. } | Part::Entries(_) => Err(self.damage("a frame stands where it may not")),
        }
    }

    fn finish_with_counters(self) -> Result<(BackupSummary, Counters), BackupError> {
        match self.head {
            Some((cluster_id, counters)) if self.complete => {
                let summary = BackupSummary {
                    cluster_id,
                    revision: counters.revision,
                    entries: self.entries,
                    leases: self.leases,
                    bytes: self.passed,
                };
                Ok((summary, counters))
            }
            _ => Err(BackupError::Cut(self.passed + self.buffer.len() as u64)),
        }
    }
}

fn read(mut from: impl Read, mut keep: impl FnMut(Found)) -> Result<(BackupSummary, Counters), BackupError> {
    let mut check = BackupCheck::new();
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return check.finish_with_counters(),
            Ok(length) => check.push_into(&piece[..length], &mut keep)?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads a backup to its end and says what it holds. Blocks; needs no cluster.
///
/// # Errors
/// The first fault: where it is, and the way out.
pub fn verify_backup(from: impl Read) -> Result<BackupSummary, BackupError> {
    read(from, |_| {}).map(|(summary, _)| summary)
}

/// The state of a whole backup.
pub(crate) fn read_state(from: impl Read) -> Result<(BackupSummary, State), BackupError> {
    let (mut entries, mut leases) = (Entries::new(), OrdMap::new());
    let (summary, counters) = read(from, |found| match found {
        Found::Nothing => {}
        Found::Entries(part) => entries.extend(part),
        Found::Leases(part) => leases.extend(part),
    })?;
    Ok((summary, State { counters, entries, leases }))
}
