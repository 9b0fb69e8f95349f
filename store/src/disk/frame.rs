//! What a log file is made of: frames that say by themselves whether they are whole, and where they belong.
//!
//! ```text
//! ┌───────┬──────────┬────────┬─────────┬───────┬──────┬─────────┬──────┬─────────────┬─────────┬──────┐
//! │ crc   │ body crc │ length │ durable │ index │ kind │ 6 zeros │ mark │ body        │ 0–7     │ mark │
//! │ 4     │ 4        │ 4      │ 4       │ 8     │ 1    │         │ 1    │ length      │ zeros   │ 1    │
//! └───────┴──────────┴────────┴─────────┴───────┴──────┴─────────┴──────┴─────────────┴─────────┴──────┘
//! ```
//!
//! The head's checksum is salted with the log's id, the file's number and the frame's place, so that no frame is valid
//! elsewhere. `durable` is how far the writer knew the file to be synced when it wrote the frame.
//!
//! **Torn or damaged.** Frames are written over zeros, once, and a disk writes sectors whole. So a frame that the power
//! cut short has a sector of which its part is still zeros, or ends in a zero; and no whole frame has: the body is mixed
//! with a fixed pattern, and both ends are marked. A frame that was written everywhere and does not match its checksum was
//! damaged afterwards.

/// Bytes before the body.
pub(super) const HEAD: usize = 32;
const MARK: u8 = 0xa5;
const SECTOR: u64 = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first frame of a file. Index: what the next entry gets. Body: the purge mark.
    Begin = 1,
    /// An entry.
    Append = 2,
    /// The index and all behind it are gone.
    Truncate = 3,
    /// Everything below the index is gone.
    Purge = 4,
    /// A named record: length of the name, name, value.
    Put = 5,
    /// Nothing but the news that what stands before is durable.
    Mark = 6,
    /// The last frame of a file. Index: the number of the next file.
    Seal = 7,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        use Kind::*;
        [Begin, Append, Truncate, Purge, Put, Mark, Seal].into_iter().find(|kind| *kind as u8 == byte)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub kind: Kind,
    pub index: u64,
    /// Bytes of the body.
    pub length: u32,
    /// Everything in the file before this offset was durable when the frame was written.
    pub durable: u32,
    body_crc: u32,
}

/// What stands at a place in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    Whole(Head),
    /// Nothing was ever written here.
    Blank,
    /// A write began here and did not get to its end.
    Torn,
    Damaged,
}

/// Bytes a frame takes with a body of this length.
pub(super) const fn size(length: usize) -> u64 {
    (HEAD + length + 1).next_multiple_of(8) as u64
}

/// The pattern bodies are mixed with: any will do that has no long run of what values are full of.
const PATTERN: [u8; 512] = {
    let mut pattern = [0; 512];
    let mut state: u64 = 0x6b6f_6e74_696b_6921;
    let mut place = 0;
    while place < 512 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        pattern[place] = (state >> 56) as u8;
        place += 1;
    }
    pattern
};

/// Mixes a body with the pattern, or takes the pattern out again.
pub(super) fn mix(body: &mut [u8]) {
    for block in body.chunks_mut(PATTERN.len()) {
        for (byte, with) in block.iter_mut().zip(&PATTERN) {
            *byte ^= with;
        }
    }
}

fn head_crc(salt: u32, offset: u64, head: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&offset.to_le_bytes());
    hasher.update(head);
    // Zeros mean that nothing was written.
    hasher.finalize().max(1)
}

/// Adds a frame to the buffer, whose body is the parts one after the other.
pub(super) fn encode(
    buffer: &mut Vec<u8>,
    salt: u32,
    offset: u64,
    (kind, index, durable): (Kind, u64, u64),
    parts: &[&[u8]],
) {
    let start = buffer.len();
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let total = size(length) as usize;
    buffer.reserve(total);
    buffer.extend_from_slice(&[0; HEAD]);
    parts.iter().for_each(|part| buffer.extend_from_slice(part));
    mix(&mut buffer[start + HEAD..]);
    let body_crc = crc32fast::hash(&buffer[start + HEAD..]);
    buffer.resize(start + total, 0);
    buffer[start + total - 1] = MARK;
    let head = &mut buffer[start..start + HEAD];
    head[4..8].copy_from_slice(&body_crc.to_le_bytes());
    head[8..12].copy_from_slice(&(length as u32).to_le_bytes());
    head[12..16].copy_from_slice(&(durable as u32).to_le_bytes());
    head[16..24].copy_from_slice(&index.to_le_bytes());
    head[24] = kind as u8;
    head[31] = MARK;
    let crc = head_crc(salt, offset, &head[4..]);
    head[..4].copy_from_slice(&crc.to_le_bytes());
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// The head of a frame that begins where `bytes` does, if it is one.
pub(super) fn head(bytes: &[u8], salt: u32, offset: u64) -> Option<Head> {
    let bytes = bytes.get(..HEAD)?;
    let kind = Kind::of(bytes[24])?;
    if bytes[31] != MARK || word(bytes, 0) != head_crc(salt, offset, &bytes[4..]) {
        return None;
    }
    let index = u64::from(word(bytes, 16)) | u64::from(word(bytes, 20)) << 32;
    Some(Head { kind, index, length: word(bytes, 8), durable: word(bytes, 12), body_crc: word(bytes, 4) })
}

/// Whether a part of the frame is still as it was before anything was written.
fn unwritten(frame: &[u8], offset: u64) -> bool {
    let mut rest = frame;
    let mut place = offset;
    while !rest.is_empty() {
        let part = ((SECTOR - place % SECTOR) as usize).min(rest.len());
        let (sector, behind) = rest.split_at(part);
        if sector.iter().all(|byte| *byte == 0) {
            return true;
        }
        place += part as u64;
        rest = behind;
    }
    frame.last() == Some(&0)
}

/// Judges what stands at `offset`, where `bytes` begins; it reaches to the file's end.
pub(super) fn look(bytes: &[u8], salt: u32, offset: u64) -> Look {
    let begin = &bytes[..bytes.len().min(HEAD)];
    if begin.iter().all(|byte| *byte == 0) {
        return Look::Blank;
    }
    let Some(head) = head(bytes, salt, offset) else {
        return if begin.len() < HEAD || unwritten(begin, offset) { Look::Torn } else { Look::Damaged };
    };
    let Some(frame) = bytes.get(..size(head.length as usize) as usize) else { return Look::Damaged };
    let (body, end) = frame[HEAD..].split_at(head.length as usize);
    let (mark, padding) = end.split_last().unwrap_or((&0, &[]));
    if crc32fast::hash(body) == head.body_crc && *mark == MARK && padding.iter().all(|byte| *byte == 0) {
        return Look::Whole(head);
    }
    if unwritten(frame, offset) { Look::Torn } else { Look::Damaged }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODIES: [usize; 8] = [0, 1, 6, 7, 8, 500, 512, 3000];

    fn frame(offset: u64, body: &[u8]) -> Vec<u8> {
        let mut buffer = Vec::new();
        encode(&mut buffer, 9, offset, (Kind::Append, 77, 512), &[body]);
        buffer
    }

    #[test]
    fn a_frame_is_whole_at_its_own_place_alone() {
        for length in BODIES {
            let body: Vec<u8> = (0..length).map(|place| place as u8).collect();
            let mut bytes = frame(1000, &body);
            assert_eq!(bytes.len() as u64, size(length));
            let Look::Whole(head) = look(&bytes, 9, 1000) else { panic!("not whole") };
            assert_eq!((head.kind, head.index, head.durable), (Kind::Append, 77, 512));
            assert_ne!(look(&bytes, 9, 1008), Look::Whole(head));
            assert_ne!(look(&bytes, 8, 1000), Look::Whole(head));
            let found = &mut bytes[HEAD..HEAD + length];
            mix(found);
            assert_eq!(found, body);
        }
    }

    /// Values full of zeros must not look as if they had never been written.
    #[test]
    fn what_is_cut_short_is_torn_and_what_is_changed_is_damaged() {
        for offset in [512, 1000, 1016] {
            for length in BODIES {
                let whole = frame(offset, &vec![0; length]);
                for cut in 1..whole.len() {
                    let mut torn = whole.clone();
                    torn[cut..].fill(0);
                    assert_eq!(look(&torn, 9, offset), Look::Torn, "cut at {cut} of {length}");
                }
                for place in 0..whole.len() {
                    let mut changed = whole.clone();
                    changed[place] ^= 0x10;
                    assert_eq!(look(&changed, 9, offset), Look::Damaged, "byte {place} of {length}");
                }
            }
        }
    }

    /// Sectors of one write may reach the disk in any order.
    #[test]
    fn a_frame_that_lacks_any_of_its_sectors_is_torn() {
        let whole = frame(1000, &[7; 3000]);
        let edges: Vec<usize> = std::iter::once(0).chain((24..whole.len()).step_by(512)).collect();
        for pair in edges.windows(2) {
            let mut torn = whole.clone();
            torn[pair[0]..pair[1]].fill(0);
            assert_eq!(look(&torn, 9, 1000), Look::Torn, "{pair:?}");
        }
    }
}
