//! Reads the log when it is opened: what it holds, where it goes on, and whether all of it is there.
//!
//! ```text
//!   sealed, sealed, …, open, (made ready but not begun)
//! ```
//!
//! Each file begins with the index that comes next and the purge mark, and repeats every named record. So a file that is
//! missing, in another's place, or from another log is noticed, and older files can go without a search for what they
//! still hold.
//!
//! Everything that is read back is synced before anyone builds on it: a process that was killed may have written it and
//! never synced it. What no frame says was durable is written once more before that, since the operating system may take
//! what a failed sync left in its cache for what is on disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::DiskError;
use super::frame::{Head, Kind, mix};
use super::index::{Index, Place};
use super::segment::{self, End, LogId, NotOurs, Segment, check_head, name_of};
use crate::environment::{File, Storage};

/// The log as it was found.
pub(super) struct Replayed {
    pub index: Index,
    pub named: BTreeMap<Vec<u8>, Vec<u8>>,
    /// By number.
    pub files: BTreeMap<u32, Arc<dyn File>>,
    /// The file that is written to, and where.
    pub active: Segment,
    pub end: u64,
    /// The next file, if it is there already.
    pub ready: Option<Segment>,
}

fn corrupt(problem: String) -> DiskError {
    DiskError::Corrupt(problem)
}

fn read(file: &dyn File) -> Result<Vec<u8>, DiskError> {
    let mut bytes = vec![0; file.len()? as usize];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Blocks. Changes nothing that was durable.
pub(super) fn replay(storage: &dyn Storage, log: &LogId) -> Result<Replayed, DiskError> {
    let numbers = segment::numbers(storage)?;
    let Some(first) = numbers.first().copied() else {
        return Err(corrupt("the log's files are gone".to_string()));
    };
    for (number, expected) in numbers.iter().zip(first..) {
        if *number != expected {
            return Err(corrupt(format!("{} is missing", name_of(expected))));
        }
    }
    let mut state = State::default();
    let mut files: BTreeMap<u32, Arc<dyn File>> = BTreeMap::new();
    for number in &numbers {
        let file: Arc<dyn File> = Arc::from(storage.open(&name_of(*number))?);
        let bytes = read(file.as_ref())?;
        match check_head(&bytes, log, *number) {
            Ok(()) => {}
            Err(NotOurs::Unfinished) => return Err(corrupt(format!("{} is blank", name_of(*number)))),
            Err(NotOurs::Damaged(problem)) => return Err(corrupt(problem)),
        }
        let salt = segment::salt(log, *number);
        let mut fresh = true;
        let mut durable = segment::FRAMES;
        let end = segment::scan(&bytes, (*number, salt), |head, offset, body| {
            durable = durable.max(u64::from(head.durable));
            let result = state.take(*number, fresh, head, offset, body);
            fresh = false;
            result.map_err(|problem| corrupt(format!("{} {problem}", name_of(*number))))
        })?;
        let written = match end {
            End::Sealed(_) => segment::written_end(&bytes),
            End::Open(end) => end,
        };
        if durable < written {
            file.write_at(durable, &bytes[durable as usize..written as usize])?;
        }
        file.sync()?;
        files.insert(*number, file.clone());
        match end {
            End::Sealed(next) if next == number + 1 => {}
            End::Sealed(_) => {
                return Err(corrupt(format!("{} names another successor than it has", name_of(*number))));
            }
            End::Open(end) => {
                clear(file.as_ref(), &bytes, end)?;
                let length = bytes.len() as u64;
                let active = Segment { number: *number, length, salt, file };
                let ready = successor(storage, log, &numbers, *number)?;
                storage.sync_names(segment::FOLDER)?;
                let index = state.finish()?;
                return Ok(Replayed { index, named: state.named, files, active, end, ready });
            }
        }
    }
    let next = numbers.last().map_or(1, |last| last + 1);
    Err(corrupt(format!("{} is missing", name_of(next))))
}

/// Puts zeros where a torn end was: what is written next has to find them.
fn clear(file: &dyn File, bytes: &[u8], end: u64) -> Result<(), DiskError> {
    let written = segment::written_end(bytes);
    if written > end {
        tracing::warn!(bytes = written - end, "the log's end was torn; nobody was told of what it held");
        file.write_at(end, &vec![0; (written - end) as usize])?;
        file.sync()?;
    }
    Ok(())
}

/// What is behind the file that is written to: at most one more, in which nothing may stand.
fn successor(
    storage: &dyn Storage,
    log: &LogId,
    numbers: &[u32],
    active: u32,
) -> Result<Option<Segment>, DiskError> {
    let mut ready = None;
    for number in numbers.iter().copied().filter(|number| *number > active) {
        let file: Arc<dyn File> = Arc::from(storage.open(&name_of(number))?);
        let bytes = read(file.as_ref())?;
        let lost =
            || corrupt(format!("{} is in use, but the end of the one before it is lost", name_of(number)));
        match check_head(&bytes, log, number) {
            Ok(()) if number != active + 1 || segment::written_end(&bytes) > segment::FRAMES => {
                return Err(lost());
            }
            Ok(()) => {
                file.sync()?;
                let salt = segment::salt(log, number);
                ready = Some(Segment { number, length: bytes.len() as u64, salt, file });
            }
            Err(NotOurs::Unfinished) => storage.remove(&name_of(number))?,
            Err(NotOurs::Damaged(problem)) => return Err(corrupt(problem)),
        }
    }
    Ok(ready)
}

#[derive(Default)]
struct State {
    index: Option<Index>,
    named: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl State {
    /// Takes in one frame; says what is wrong with it.
    fn take(&mut self, file: u32, fresh: bool, head: Head, offset: u64, body: &[u8]) -> Result<(), String> {
        if fresh != (head.kind == Kind::Begin) {
            return Err("does not begin as a file of the log does".to_string());
        }
        if head.kind == Kind::Begin {
            let mut below = body.to_vec();
            mix(&mut below);
            let below = below.try_into().map(u64::from_le_bytes).map_err(|_| "has no purge mark")?;
            let index = self.index.get_or_insert_with(|| Index::starting_at(head.index, below));
            if (index.next(), index.below()) != (head.index, below) {
                return Err(format!(
                    "goes on with entry {}, but the file before it ends before entry {}",
                    head.index,
                    index.next()
                ));
            }
            return Ok(());
        }
        let Some(index) = &mut self.index else { return Err("has no beginning".to_string()) };
        match head.kind {
            Kind::Append => {
                let place = Place { file, offset: offset as u32, length: head.length };
                if !index.append(head.index, place) {
                    return Err(format!("holds entry {} where {} belongs", head.index, index.next()));
                }
            }
            Kind::Truncate => index.truncate(head.index),
            Kind::Purge => index.purge(head.index),
            Kind::Put => {
                let mut record = body.to_vec();
                mix(&mut record);
                let (length, rest) = record.split_first().ok_or("has a record without a name")?;
                let (name, value) =
                    rest.split_at_checked(*length as usize).ok_or("has a record with half a name")?;
                self.named.insert(name.to_vec(), value.to_vec());
            }
            Kind::Mark | Kind::Begin | Kind::Seal => {}
        }
        Ok(())
    }

    /// The oldest file begins where purging has come to, or the ones before it are missing.
    fn finish(&mut self) -> Result<Index, DiskError> {
        let index = self.index.take().unwrap_or_default();
        if index.first() > index.below() {
            return Err(corrupt(format!(
                "the log begins at entry {}, but only what is below {} was purged",
                index.first(),
                index.below()
            )));
        }
        Ok(index)
    }
}
