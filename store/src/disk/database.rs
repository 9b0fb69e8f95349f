//! sled behind the [`Database`] seam, made to keep what it promises.
//!
//! A flush is a true `fsync` (see [`sync`](super::sync)). What sled never syncs by itself, its configuration and the names
//! of its files, is synced once it is open; a young database would not open again after a power cut otherwise. Large
//! values leave for files that sled never syncs: whoever writes here keeps them below a sixteenth of a quarter segment.
//! What a power cut left of a snapshot that sled was writing is removed before it is opened.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{DiskError, real, sync};
use crate::environment::{Changes, Database, Visitor};

/// What is worth the least memory: 4 MB of pages, and small segments, since some are always held.
const CACHE: u64 = 4 << 20;
const SEGMENT: usize = 512 << 10;
/// Longest wait for sled to let go of a database.
const RELEASE: Duration = Duration::from_secs(10);

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
        if !path.is_dir() {
            return make(path);
        }
        visit_files(path, &real::forget_cache)?;
        remove_unfinished_snapshots(path)?;
        SledDatabase::open_at(path)
    }

    fn open_at(path: &Path) -> Result<SledDatabase, DiskError> {
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

/// A new database gets its name when it is whole and durable: sled does not open what a power cut left of its first
/// opening, and nobody could tell that from damage.
fn make(path: &Path) -> Result<SledDatabase, DiskError> {
    let unfinished = path.with_extension("unfinished");
    match std::fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    drop(SledDatabase::open_at(&unfinished)?);
    std::fs::rename(&unfinished, path)?;
    path.parent().map_or(Ok(()), real::sync_dir)?;
    // sled lets go of what was dropped in threads of its own, when these find the time.
    let deadline = Instant::now() + RELEASE;
    loop {
        match SledDatabase::open_at(path) {
            Err(DiskError::InUse) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2))
            }
            opened => return opened,
        }
    }
}

/// sled notes where its pages are in a file that gets its name when it is whole, and takes one that is not for the newest
/// (sled #1527). Nothing is lost with it: it repeats what the database itself says.
fn remove_unfinished_snapshots(path: &Path) -> io::Result<()> {
    for entry in path.read_dir()? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "generating") {
            std::fs::remove_file(&file)?;
        }
    }
    real::sync_dir(path)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// sled lets go of a database in threads of its own, some time after it was dropped; where a sync takes no time, too late.
    #[test]
    fn new_databases_open_however_busy_the_machine_is() {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let dir = tempfile::tempdir_in(parent).unwrap();
        let open_some = |worker: usize| {
            for number in 0..25 {
                SledDatabase::open(&dir.path().join(format!("checkpoint-{worker}-{number}"))).unwrap();
            }
        };
        std::thread::scope(|scope| {
            for worker in 0..8 {
                scope.spawn(move || open_some(worker));
            }
        });
    }

    /// The power goes while the database is opened for the first time, so that sled's own files are torn.
    #[test]
    fn what_a_first_opening_left_unfinished_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let unfinished = dir.path().join("checkpoint.unfinished");
        std::fs::create_dir(&unfinished).unwrap();
        std::fs::write(unfinished.join("conf"), [0; 64]).unwrap();
        std::fs::write(unfinished.join("db"), [0; 512]).unwrap();
        let database = SledDatabase::open(&dir.path().join("checkpoint")).unwrap();
        database.apply(Changes(vec![(b"a".to_vec(), Some(b"1".to_vec()))])).unwrap();
        database.sync().unwrap();
        drop(database);
        let database = SledDatabase::open(&dir.path().join("checkpoint")).unwrap();
        assert_eq!(database.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
        assert!(!unfinished.exists());
    }

    /// The power goes while sled writes down where its pages are: `snap.….generating` is torn, and sled would take it for
    /// the newest of its snapshots.
    #[test]
    fn sled_1527_a_snapshot_that_was_cut_short_is_no_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        let database = SledDatabase::open(&path).unwrap();
        database.apply(Changes(vec![(b"a".to_vec(), Some(b"1".to_vec()))])).unwrap();
        database.sync().unwrap();
        drop(database);
        let torn = path.join("snap.7FFFFFFFFFFFFFFF.generating");
        std::fs::write(&torn, [0; 64]).unwrap();
        let database = SledDatabase::open(&path).unwrap();
        assert_eq!(database.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
        assert!(!torn.exists());
    }
}
