//! sled behind the [`Database`] seam, made to keep what it promises.
//!
//! A flush is a true `fsync` (see [`sync`](super::sync)). What sled never syncs by itself, its configuration and the names
//! of its files, is synced once it is open; a young database would not open again after a power cut otherwise. Large
//! values leave for files that sled never syncs: whoever writes here keeps them below a sixteenth of a quarter segment.

use std::io;
use std::path::Path;

use super::{DiskError, real, sync};
use crate::environment::{Changes, Database, Visitor};

/// What is worth the least memory: 4 MB of pages, and small segments, since some are always held.
const CACHE: u64 = 4 << 20;
const SEGMENT: usize = 512 << 10;

pub(super) struct SledDatabase {
    db: sled::Db,
}

impl From<sled::Error> for DiskError {
    fn from(error: sled::Error) -> DiskError {
        match &error {
            sled::Error::Io(io) if io.kind() == std::io::ErrorKind::WouldBlock => DiskError::InUse,
            // How sled words a lock that is held.
            sled::Error::Io(io) if io.to_string().contains("could not acquire lock") => DiskError::InUse,
            sled::Error::Io(io) if io.kind() != std::io::ErrorKind::InvalidData => {
                DiskError::Io(io.to_string())
            }
            other => DiskError::Corrupt(format!("checkpoint: {other}")),
        }
    }
}

impl SledDatabase {
    pub fn open(path: &Path) -> Result<SledDatabase, DiskError> {
        if !sync::installed() {
            return Err(DiskError::Io(
                "this program was linked without its own sync_file_range, so that sled would not sync: refusing to run"
                    .to_string(),
            ));
        }
        if path.is_dir() {
            visit_files(path, &real::forget_cache)?;
        }
        let config = sled::Config::new()
            .path(path)
            .flush_every_ms(None)
            .cache_capacity(CACHE)
            .segment_size(SEGMENT)
            .mode(sled::Mode::HighThroughput);
        // sled answers some damage with a panic of its own.
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open()));
        let db = match opened {
            Ok(result) => result?,
            Err(panic) => {
                let said = panic.downcast_ref::<String>().cloned();
                let said = said.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
                let said = said.unwrap_or_else(|| "the database cannot be read".to_string());
                return Err(DiskError::Corrupt(format!("checkpoint: {said}")));
            }
        };
        db.flush()?;
        make_durable(path)?;
        Ok(SledDatabase { db })
    }
}

/// Does something to every file below a directory.
fn visit_files(path: &Path, act: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in path.read_dir()? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            visit_files(&entry.path(), act)?;
        } else {
            act(&entry.path())?;
        }
    }
    Ok(())
}

/// Syncs every file of the database and the names that lead to it.
fn make_durable(path: &Path) -> io::Result<()> {
    visit_files(path, &|file| std::fs::File::open(file)?.sync_all())?;
    for entry in path.read_dir()? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            real::sync_dir(&entry.path())?;
        }
    }
    real::sync_dir(path)?;
    path.parent().map_or(Ok(()), real::sync_dir)
}

impl Database for SledDatabase {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(self.db.get(key)?.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), DiskError> {
        for item in self.db.range(from..) {
            let (key, value) = item?;
            if !visit(&key, &value)? {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, changes: Changes) -> Result<(), DiskError> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes.0 {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.db.apply_batch(batch)?;
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.db.flush()?;
        Ok(())
    }
}
