//! A leader whose disk does not answer gives way.
//!
//! ```text
//!   ANSWERS ── a sync takes longer than the bound ──▶ STALLED: no candidate; a leader hands over, again and again
//!      ▲                                                  │
//!      └───────────────── the sync has returned ──────────┘
//! ```
//!
//! The others' disks are quorum enough to go on with, but a leader that cannot write its own log serves everybody at the
//! pace of the slowest, and cannot write down a vote either. So it hands over to the voter that is furthest, and is no
//! candidate until its disk has answered. Where no other voter has written what this one has not, as when they share the
//! disk, there is nobody to give way to.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::core::Core;
use super::membership;
use crate::config::Timings;

/// A sync that takes longer is a stall: never less than disks take that are merely busy.
const SHORTEST: Duration = Duration::from_secs(1);
/// Looks at the disk in the time of one bound.
const LOOKS: u32 = 10;

pub(super) fn bound(timings: &Timings) -> Duration {
    SHORTEST.max(timings.election_max * 3)
}

pub(crate) async fn watch(core: Arc<Core>) {
    let bound = bound(&core.timings);
    let mut stalled_since: Option<Instant> = None;
    let mut offered = false;
    // The last entry when the sync under way was first seen.
    let mut mark = 0;
    loop {
        tokio::time::sleep(bound / LOOKS).await;
        let taking = core.log.syncing_for().unwrap_or_default();
        if taking < bound / LOOKS * 2 {
            mark = core.metrics().last_log_index.unwrap_or(0);
        }
        let stalls = taking > bound;
        match (stalls, stalled_since) {
            (true, None) => {
                tracing::error!("a sync of the log has taken more than {bound:?}: the disk has stalled");
                core.raft.runtime_config().elect(false);
                stalled_since = Some(Instant::now());
            }
            (false, Some(since)) => {
                tracing::warn!(after = ?since.elapsed(), "the disk answers again");
                core.raft.runtime_config().elect(true);
                stalled_since = None;
            }
            _ => {}
        }
        // Who has offered its leadership takes no more proposals: the offer is repeated until somebody has taken it.
        if stalls || offered {
            offered |= membership::give_way(&core, mark).await;
        }
        offered &= core.metrics().current_leader == Some(core.speaker.me);
    }
}
