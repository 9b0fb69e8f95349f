//! The product's disk: files of the operating system, and sled for the checkpoint.

use std::fmt::Display;
use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::DiskError;
use super::database::SledDatabase;
use crate::environment::{Database, File, Storage};

const LOCK: &str = "lock";
pub(super) const DATABASE: &str = "checkpoint";
/// Zeros written at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

pub(crate) struct RealStorage {
    dir: PathBuf,
    lock: Mutex<Option<fs::File>>,
}

impl RealStorage {
    pub fn new(dir: &Path) -> RealStorage {
        RealStorage { dir: dir.to_path_buf(), lock: Mutex::new(None) }
    }
}

/// Creates a folder and those above it, each with a name that is durable.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_folder(parent)?;
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    folder.parent().map_or(Ok(()), sync_dir)
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    fs::File::open(dir)?.sync_all()
}

/// Lets the operating system forget what it has of a file, so that what is read next is what the disk has. It may have
/// taken for written what a failed sync never wrote.
pub(super) fn forget_cache(path: &Path) -> io::Result<()> {
    let file = fs::File::open(path)?;
    file.sync_all()?;
    // SAFETY: the descriptor is open; the call touches no memory. It is advice: what it answers changes nothing.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    Ok(())
}

/// Zeros that are really there: writing over them later changes nothing but data, so that a sync has less to do, and
/// needs no room.
fn fill(file: &fs::File, bytes: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open; the call touches no memory.
    let answer = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) };
    if answer != 0 && answer != libc::EOPNOTSUPP && answer != libc::EINVAL {
        return Err(io::Error::from_raw_os_error(answer));
    }
    let mut offset = 0;
    while offset < bytes {
        let part = ZEROS.len().min((bytes - offset) as usize);
        file.write_all_at(&ZEROS[..part], offset)?;
        offset += part as u64;
    }
    file.sync_all()
}

impl Storage for RealStorage {
    fn lock(&self) -> Result<(), DiskError> {
        make_folder(&self.dir)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(self.dir.join(LOCK))?;
        match file.try_lock() {
            Ok(()) => {
                *self.lock.lock() = Some(file);
                Ok(())
            }
            Err(TryLockError::WouldBlock) => Err(DiskError::InUse),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match self.dir.join(folder).read_dir() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn File>> {
        let path = self.dir.join(name);
        if let Some(folder) = path.parent() {
            make_folder(folder)?;
        }
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path)?;
        if let Err(error) = fill(&file, bytes) {
            // The error that matters is the first.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Box::new(RealFile { file }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).open(self.dir.join(name))?;
        Ok(Box::new(RealFile { file }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn sync_names(&self, folder: &str) -> io::Result<()> {
        sync_dir(&self.dir.join(folder))
    }

    fn database(&self) -> Result<Box<dyn Database>, DiskError> {
        Ok(Box::new(SledDatabase::open(&self.dir.join(DATABASE))?))
    }

    fn free_bytes(&self) -> Option<u64> {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::CString::new(self.dir.as_os_str().as_bytes()).ok()?;
        // SAFETY: `path` is a terminated string, `stats` a struct for the kernel to fill; both outlive the call.
        unsafe {
            let mut stats: libc::statvfs = std::mem::zeroed();
            if libc::statvfs(path.as_ptr(), &mut stats) != 0 {
                return None;
            }
            Some(stats.f_bavail as u64 * stats.f_frsize as u64)
        }
    }

    fn used_bytes(&self) -> u64 {
        fn below(dir: &Path) -> u64 {
            let Ok(entries) = dir.read_dir() else { return 0 };
            let sizes = entries.flatten().map(|entry| match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => below(&entry.path()),
                Ok(metadata) => metadata.blocks() * 512,
                Err(_) => 0,
            });
            sizes.sum()
        }
        below(&self.dir)
    }

    fn die(&self, what: &str, error: &dyn Display) {
        tracing::error!(
            "{what}: {error}; the process ends, since what it would acknowledge might not be durable"
        );
        eprintln!("kontiki store: {what}: {error}; ending the process");
        std::process::abort()
    }
}

struct RealFile {
    file: fs::File,
}

impl File for RealFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}
