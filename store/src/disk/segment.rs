//! One file of the log: a head that says whose it is, then frames, then the zeros it was made with.
//!
//! ```text
//!   head (512) │ Begin  Put…  Append  Append  Truncate  …  Seal │ 0 0 0 …
//! ```
//!
//! A file that is sealed is whole up to its seal, and has a successor. Of the one that is not, the end is where the power
//! may have cut writing short; what stands behind the last sync is dropped there, and anything else is damage.

use std::io;
use std::sync::Arc;

use super::DiskError;
use super::frame::{self, Head, Kind, Look};
use crate::environment::{File, Storage};

/// The folder of the log.
pub(super) const FOLDER: &str = "log";
/// Where frames begin.
pub(super) const FRAMES: u64 = 512;
const MAGIC: &[u8; 8] = b"kontklog";
const VERSION: u32 = 1;
const MARK: u8 = 0x5a;

/// Names a log for ever: files of another one are told apart.
pub(super) type LogId = [u8; 16];

#[derive(Clone)]
pub(super) struct Segment {
    pub number: u32,
    pub length: u64,
    pub salt: u32,
    pub file: Arc<dyn File>,
}

pub(super) fn name_of(number: u32) -> String {
    format!("{FOLDER}/{number:010}")
}

/// The numbers of the files there are, in order.
pub(super) fn numbers(storage: &dyn Storage) -> Result<Vec<u32>, DiskError> {
    let names = storage.list(FOLDER)?;
    // What the log's database was made of.
    if names.iter().any(|name| name == "db" || name == "conf") {
        return Err(DiskError::OldFormat);
    }
    let number = |name: &String| match name.parse::<u32>() {
        Ok(number) if name_of(number).strip_prefix("log/") == Some(name) => Ok(number),
        _ => Err(DiskError::Corrupt(format!("{FOLDER}/{name} is no file of the log"))),
    };
    let mut numbers = names.iter().map(number).collect::<Result<Vec<u32>, DiskError>>()?;
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn salt(log: &LogId, number: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(log);
    hasher.update(&number.to_le_bytes());
    hasher.finalize()
}

fn head_of(log: &LogId, number: u32, length: u64) -> [u8; FRAMES as usize] {
    let mut head = [0; FRAMES as usize];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..16].copy_from_slice(&number.to_le_bytes());
    head[16..24].copy_from_slice(&length.to_le_bytes());
    head[24..40].copy_from_slice(log);
    let crc = crc32fast::hash(&head[..40]);
    head[40..44].copy_from_slice(&crc.to_le_bytes());
    head[FRAMES as usize - 1] = MARK;
    head
}

/// Makes a file that frames can be written to; it and its name are durable when this returns.
pub(super) fn create(storage: &dyn Storage, log: &LogId, number: u32, length: u64) -> io::Result<Segment> {
    let name = name_of(number);
    let made = storage.create(&name, length).and_then(|file| {
        file.write_at(0, &head_of(log, number, length))?;
        file.sync()?;
        storage.sync_names(FOLDER)?;
        Ok(Segment { number, length, salt: salt(log, number), file: Arc::from(file) })
    });
    if let Err(error) = &made
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        // It may be half made. Should this fail too, the next start finds a file that was never begun.
        let _ = storage.remove(&name);
    }
    made
}

/// Why a file is not what it should be; the caller knows whether that is damage.
pub(super) enum NotOurs {
    /// Its making was cut short, so that nothing was written to it.
    Unfinished,
    Damaged(String),
}

/// Checks the head against what the file should be. `bytes` is all of it.
pub(super) fn check_head(bytes: &[u8], log: &LogId, number: u32) -> Result<(), NotOurs> {
    let (name, length) = (name_of(number), bytes.len() as u64);
    let damaged = |problem: &str| Err(NotOurs::Damaged(format!("{name} {problem}")));
    let Some(head) = bytes.get(..FRAMES as usize) else {
        let blank = bytes.iter().all(|byte| *byte == 0);
        return if blank { Err(NotOurs::Unfinished) } else { damaged("is cut short") };
    };
    if head == head_of(log, number, length) {
        return Ok(());
    }
    if head[FRAMES as usize - 1] == 0 && written_end(bytes) <= FRAMES {
        return Err(NotOurs::Unfinished);
    }
    if &head[..8] != MAGIC {
        return damaged("is no file of the log");
    }
    if crc32fast::hash(&head[..40]).to_le_bytes() != head[40..44] {
        return damaged("has a damaged head");
    }
    if head[8..12] != VERSION.to_le_bytes() {
        return damaged("was written by another version of this program");
    }
    if &head[24..40] != log {
        return damaged("belongs to another log");
    }
    if head[12..16] != number.to_le_bytes() {
        return damaged("stands under the name of another file of the log");
    }
    if head[16..24] != length.to_le_bytes() {
        return damaged("does not have the length it was made with");
    }
    damaged("has a damaged head")
}

/// How the frames of a file end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Another file, of this number, goes on.
    Sealed(u32),
    /// Frames were written up to here. What stands behind was never durable as a whole.
    Open(u64),
}

/// Shows every frame, its place and its body as it stands on disk to the visitor. `bytes` is the whole file.
pub(super) fn scan(
    bytes: &[u8],
    segment: (u32, u32),
    mut visit: impl FnMut(Head, u64, &[u8]) -> Result<(), DiskError>,
) -> Result<End, DiskError> {
    let (number, salt) = segment;
    let mut offset = FRAMES;
    loop {
        let rest = &bytes[offset as usize..];
        let look = frame::look(rest, salt, offset);
        let Look::Whole(head) = look else {
            if let Some(witness) = later_witness(bytes, salt, offset) {
                return Err(damage(number, offset, &format!("the frame at {witness} knew it to be durable")));
            }
            if look == Look::Damaged {
                return Err(damage(number, offset, "it does not match its checksum"));
            }
            return Ok(End::Open(offset));
        };
        if head.kind == Kind::Seal {
            return u32::try_from(head.index)
                .map(End::Sealed)
                .map_err(|_| damage(number, offset, "the seal names no file that could follow"));
        }
        visit(head, offset, &rest[frame::HEAD..frame::HEAD + head.length as usize])?;
        offset += frame::size(head.length as usize);
    }
}

fn damage(number: u32, offset: u64, problem: &str) -> DiskError {
    DiskError::Corrupt(format!("{} is damaged at byte {offset}: {problem}", name_of(number)))
}

/// The place of a frame behind the offset that was written when the offset was known to be durable.
fn later_witness(bytes: &[u8], salt: u32, offset: u64) -> Option<u64> {
    (offset + 8..written_end(bytes)).step_by(8).find(|place| {
        frame::head(&bytes[*place as usize..], salt, *place)
            .is_some_and(|head| u64::from(head.durable) > offset)
    })
}

/// Behind this there are only zeros.
pub(super) fn written_end(bytes: &[u8]) -> u64 {
    const BLOCK: usize = 4096;
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let mut end = bytes.len();
    while end > 0 {
        let start = (end - 1) / BLOCK * BLOCK;
        if bytes[start..end] != ZEROS[..end - start] {
            let last = bytes[start..end].iter().rposition(|byte| *byte != 0);
            return (start + last.map_or(0, |last| last + 1)) as u64;
        }
        end = start;
    }
    0
}
