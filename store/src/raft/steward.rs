//! What a server does of its own accord: as the leader, end leases, compact history and promote learners; on every
//! server, write checkpoints and watch the disk.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::core::Core;
use super::membership;
use crate::disk;
use crate::housekeeping::{self, Limits};

const EVERY: Duration = Duration::from_millis(200);
const DISK_EVERY: Duration = Duration::from_secs(1);
/// A checkpoint at the latest after this much log, or this long after something was applied.
const CHECKPOINT_BYTES: u64 = 16 << 20;
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);

pub(crate) fn run(core: Arc<Core>, history: Duration, history_bytes: usize) {
    let limits = Limits { history, history_bytes };
    let stop = core.stop.clone();
    tokio::spawn(stop.clone().run_until_cancelled_owned(keep_house(core.clone(), limits)));
    tokio::spawn(stop.clone().run_until_cancelled_owned(membership::promote(core.clone())));
    tokio::spawn(stop.run_until_cancelled_owned(keep_disk(core)));
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
        let dir = core.disk.dir.clone();
        // A file system that does not answer stalls one blocking thread, not consensus.
        let short = tokio::task::spawn_blocking(move || disk::short_of_space(&dir)).await.ok().flatten();
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
        let due = bytes - written_bytes >= CHECKPOINT_BYTES
            || (applied != written_index && written_at.elapsed() >= CHECKPOINT_EVERY);
        if due && core.raft.trigger().snapshot().await.is_ok() {
            (written_bytes, written_at, written_index) = (bytes, Instant::now(), applied);
        }
    }
}
