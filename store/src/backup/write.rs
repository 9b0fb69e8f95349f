//! A state as frames, one at a time.

use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};

use super::{BackupSummary, FRAME, FRAME_HEADER, LAYOUT, MARK, PREAMBLE, Part, State};
use crate::codec;
use crate::lease::Lease;
use crate::types::LeaseId;

/// What an entry or lease takes in a frame beside its key and value. Approximate.
const OVERHEAD: usize = 64;

/// The bytes of a backup, to be written in order: one frame at a time, encoded when it is asked for. Holds on to the
/// state it began with, so that writes going on meanwhile change nothing in it.
pub struct Backup {
    cluster_id: String,
    state: State,
    next: Next,
    number: u32,
    digest: Sha256,
    written: u64,
}

enum Next {
    Preamble,
    Head,
    Entries(Option<Bytes>),
    Leases(Option<LeaseId>),
    Trailer,
    Nothing,
}

impl Backup {
    pub(crate) fn new(cluster_id: String, state: State) -> Backup {
        Backup { cluster_id, state, next: Next::Preamble, number: 0, digest: Sha256::new(), written: 0 }
    }

    /// What it will hold; its size is what has been handed out so far.
    pub fn summary(&self) -> BackupSummary {
        BackupSummary {
            cluster_id: self.cluster_id.clone(),
            revision: self.state.counters.revision,
            entries: self.state.entries.len() as u64,
            leases: self.state.leases.len() as u64,
            bytes: self.written,
        }
    }

    fn entries(&self, after: Option<&Bytes>) -> (Part, Option<Bytes>) {
        let from = after.cloned().map_or(Bound::Unbounded, Bound::Excluded);
        let (mut part, mut size, mut last) = (Vec::new(), 0, None);
        for entry in self.state.entries.range((from, Bound::Unbounded)) {
            size += entry.key.len() + entry.value.len() + OVERHEAD;
            if size > FRAME && !part.is_empty() {
                break;
            }
            part.push(entry.clone());
            last = Some(entry.key.clone());
        }
        (Part::Entries(part), last)
    }

    fn leases(&self, after: Option<LeaseId>) -> (Part, Option<LeaseId>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.state.leases.range((from, Bound::Unbounded));
        let part: Vec<(LeaseId, Lease)> =
            rest.take(FRAME / OVERHEAD).map(|(id, lease)| (*id, lease.clone())).collect();
        let last = part.last().map(|(id, _)| *id);
        (Part::Leases(part), last)
    }

    fn trailer(&self) -> Part {
        let summary = self.summary();
        Part::Trailer {
            revision: summary.revision,
            entries: summary.entries,
            leases: summary.leases,
            digest: self.digest.clone().finalize().into(),
        }
    }

    fn frame(&mut self, part: &Part) -> Bytes {
        let body = codec::encode(part);
        let mut frame = BytesMut::with_capacity(FRAME_HEADER + body.len());
        frame.put_u32_le(body.len() as u32);
        frame.put_u32_le(checksum(self.number, &body));
        frame.put_slice(&body);
        self.number += 1;
        frame.freeze()
    }
}

/// Covers a frame's place and length as well as its body.
pub(super) fn checksum(number: u32, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&number.to_le_bytes());
    crc.update(&(body.len() as u32).to_le_bytes());
    crc.update(body);
    crc.finalize()
}

impl Iterator for Backup {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let bytes = loop {
            let (part, next) = match &self.next {
                Next::Preamble => {
                    let mut preamble = BytesMut::with_capacity(PREAMBLE);
                    preamble.put_slice(MARK);
                    preamble.put_u32_le(LAYOUT);
                    self.next = Next::Head;
                    break preamble.freeze();
                }
                Next::Head => {
                    let counters = self.state.counters.clone();
                    (Part::Head { cluster_id: self.cluster_id.clone(), counters }, Next::Entries(None))
                }
                Next::Entries(after) => match self.entries(after.as_ref()) {
                    (_, None) => {
                        self.next = Next::Leases(None);
                        continue;
                    }
                    (part, last) => (part, Next::Entries(last)),
                },
                Next::Leases(after) => match self.leases(*after) {
                    (_, None) => {
                        self.next = Next::Trailer;
                        continue;
                    }
                    (part, last) => (part, Next::Leases(last)),
                },
                Next::Trailer => (self.trailer(), Next::Nothing),
                Next::Nothing => return None,
            };
            self.next = next;
            break self.frame(&part);
        };
        self.digest.update(&bytes);
        self.written += bytes.len() as u64;
        Some(bytes)
    }
}
