//! A disk that can lose power: a file system of our own, mounted through FUSE, that knows what was synced.
//!
//! ```text
//!   server ── pwrite, fsync, rename ──► kernel ── /dev/fuse ──► serve ──► model: now │ unsynced │ kept
//!                                     (caches nothing)            ▲                        │
//!   scenario ── faults, power cut ────────────────────────────────┘                        ▼
//!                                                               after a cut: kept, and of the unsynced what fate leaves
//! ```
//!
//! It promises what POSIX does and no more. A sync of a file keeps its bytes and length, a sync of a folder its names; all
//! else may be lost, kept in part, sector by sector, or kept in another order ([`Fate`]). After a sync that failed the bytes
//! can still be read, and no later sync keeps them.
//!
//! **Invariant:** the program that hosts a disk never opens a file on it from a thread that a request could wait for.
//! **Invariant:** what a process did before the cut and was told is done, and nothing after it, decides what is kept: from the
//! cut on every request fails until power is restored.

mod model;
mod protocol;
mod serve;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

pub use model::{Fate, Loss, SECTOR};
pub use serve::{Counts, Faults};
use serve::{Shared, serve};

/// A mounted disk; unmounted and forgotten when dropped.
pub struct Disk {
    shared: Arc<Shared>,
    path: PathBuf,
}

impl Disk {
    /// Mounts an empty disk at a folder that exists. The mount is seen in this thread's mount namespace.
    ///
    /// # Errors
    /// Without root, or where the kernel has no FUSE.
    pub fn mount(path: &Path) -> Result<Disk> {
        let device =
            File::options()
                .read(true)
                .write(true)
                .custom_flags(libc::O_CLOEXEC)
                .open("/dev/fuse")
                .context("cannot open /dev/fuse; the power-cut disk needs root and a kernel with FUSE")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
        let (device, shared) = (Arc::new(device), Arc::new(Shared::default()));
        mount(Some("kontiki-disk"), path, Some("fuse"), flags, Some(options.as_str()))
            .with_context(|| format!("cannot mount a disk at {}", path.display()))?;
        let disk = Disk { shared: Arc::clone(&shared), path: path.to_owned() };
        std::thread::Builder::new().name("disk".into()).spawn(move || serve(&shared, &device))?;
        Ok(disk)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the faults there are; [`Faults::default`] heals the disk.
    pub fn set(&self, faults: Faults) {
        self.shared.state.lock().faults = faults;
        self.shared.changed.notify_all();
    }

    /// Cuts the power: what is unsynced meets the fate that the seed decides, and every request fails from here on. Whoever
    /// used the disk must be killed before [`Disk::restore_power`].
    pub fn cut_power(&self, seed: u64) -> Loss {
        let loss = self.shared.state.lock().cut(seed);
        self.shared.changed.notify_all();
        loss
    }

    /// Cuts the power at the `requests`th request from now that changes something, instead of performing it.
    pub fn cut_power_at(&self, requests: u64, seed: u64) {
        let mut state = self.shared.state.lock();
        state.fuse = Some((requests.max(1), seed));
        state.loss = None;
    }

    /// Waits for the cut that [`Disk::cut_power_at`] announced; `None` when it has not come within `patience`.
    pub fn await_cut(&self, patience: Duration) -> Option<Loss> {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.state.lock();
        while !state.off {
            if self.shared.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        if state.off { state.loss } else { None }
    }

    /// The power is back, with what was kept and without faults.
    pub fn restore_power(&self) {
        let mut state = self.shared.state.lock();
        state.off = false;
        state.fuse = None;
        state.faults = Faults::default();
    }

    /// Fails whatever waits for a slow or stalled disk, so that a process that was killed in the middle of it can end.
    pub fn give_up(&self) {
        self.shared.state.lock().given_up += 1;
        self.shared.changed.notify_all();
    }

    pub fn counts(&self) -> Counts {
        self.shared.state.lock().counts
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.shared.state.lock().off = true;
        self.shared.changed.notify_all();
        if let Err(error) = umount2(&self.path, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH) {
            tracing::warn!(%error, "a disk stays mounted until this process ends");
        }
    }
}
