//! What a server does of its own accord: as the leader, end leases, compact history and promote learners; on every
//! server, write checkpoints and watch the disk.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::core::{self, Core};
use super::{membership, mesh, stall};
use crate::disk::short_of_space;
use crate::housekeeping::{self, Limits};
use crate::types::StoreError;

const EVERY: Duration = Duration::from_millis(200);
/// What large values can write meanwhile stays on disk until the next look.
const DISK_EVERY: Duration = Duration::from_millis(250);
/// A checkpoint at the latest after this much log, or this long after something was applied.
const CHECKPOINT_BYTES: u64 = 48 << 20;
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);

pub(crate) fn run(core: Arc<Core>, history: Duration, history_bytes: usize) {
    let limits = Limits { history, history_bytes };
    let stop = core.stop.clone();
    crate::life::spawn(stop.clone().run_until_cancelled_owned(core::observe(core.clone())));
    crate::life::spawn(stop.clone().run_until_cancelled_owned(mesh::keep(core.clone())));
    crate::life::spawn(stop.clone().run_until_cancelled_owned(keep_house(core.clone(), limits)));
    crate::life::spawn(stop.clone().run_until_cancelled_owned(membership::promote(core.clone())));
    crate::life::spawn(stop.clone().run_until_cancelled_owned(stall::watch(core.clone())));
    crate::life::spawn(stop.run_until_cancelled_owned(keep_disk(core)));
}

/// Only a leader that a quorum has confirmed of late proposes; what it proposes is judged again when it is applied.
async fn keep_house(core: Arc<Core>, limits: Limits) {
    loop {
        tokio::time::sleep(EVERY).await;
        if !core.leads() {
            continue;
        }
        let now = core.now();
        for command in core.replica.inspect(|machine| housekeeping::due(machine, now, &limits)) {
            if let Err(error) = core.proposals.submit(&core, command).await {
                tracing::debug!(%error, "housekeeping is tried again");
            }
        }
    }
}

async fn keep_disk(core: Arc<Core>) {
    let mut written_bytes = core.log.appended();
    let mut written_at = Instant::now();
    let mut written_index = core.machine.applied();
    loop {
        tokio::time::sleep(DISK_EVERY).await;
        let disk = core.disk.clone();
        // A file system that does not answer stalls one blocking thread, not consensus.
        let short = core.labour.run(move || short_of_space(disk.storage.as_ref())).await.ok().flatten();
        if core.disk_full.swap(short.is_some(), Ordering::AcqRel) != short.is_some() {
            match short {
                Some(free) => {
                    tracing::error!(free, "the disk is nearly full: writes that need space are refused")
                }
                None => tracing::info!("the disk has space again"),
            }
        }
        let applied = core.machine.applied();
        let bytes = core.log.appended();
        purge(&core, core.log.keep_from()).await;
        let due = bytes - written_bytes >= CHECKPOINT_BYTES
            || (applied != written_index && written_at.elapsed() >= CHECKPOINT_EVERY);
        if due && core.raft.trigger().snapshot().await.is_ok() {
            (written_bytes, written_at, written_index) = (bytes, Instant::now(), applied);
        }
    }
}

/// Lets go of the log below the checkpoint, but for what is in memory anyway: a follower that is a little behind is
/// served from there.
async fn purge(core: &Core, keep_from: u64) {
    let metrics = core.metrics();
    // Not what consensus takes for its last snapshot: after a start that is whatever was applied.
    let durable = core.machine.durable().map_or(0, |id| id.index + 1);
    let purged = metrics.purged.map_or(0, |id| id.index + 1);
    let below = durable.min(keep_from);
    if below > purged
        && let Err(error) = core.raft.trigger().purge_log(below - 1).await
    {
        tracing::debug!(%error, "the log is not purged");
    }
}

/// Writes a checkpoint now and purges all of the log below it.
pub(crate) async fn checkpoint(core: &Core) -> Result<(), StoreError> {
    let applied = core.machine.applied();
    let deadline = Instant::now() + core.timings.request;
    while core.machine.durable() < applied {
        if Instant::now() > deadline {
            return Err(StoreError::Unknown(core.timings.request));
        }
        core.raft.trigger().snapshot().await.map_err(|_| StoreError::Stopped)?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    purge(core, u64::MAX).await;
    Ok(())
}
