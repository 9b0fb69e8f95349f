//! What a server knows, for the simulation to look at from outside, without asking the server.

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::vote::RaftLeaderId;

use super::Node;
use super::types::{LogEntry, LogId};
use crate::codec;
use crate::simulation::{Logged, Look};

fn place(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index)
}

/// Spreads the bytes of an entry over a word; the same on every server.
fn digest(bytes: &[u8]) -> u64 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(bytes);
    u64::from(hash.finalize()) << 32 | bytes.len() as u64
}

impl Node {
    /// One look; entries of the log from this index on, at most so many.
    pub(crate) fn look(&self, log_from: u64, at_most: u64) -> Look {
        let core = &self.core;
        let metrics = core.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let (revision, state_hash, leases) = core.replica.inspect(|machine| {
            let leases = machine.leases().table().iter().map(|(id, lease)| (*id, lease.ttl)).collect();
            (machine.counters().revision, machine.counters().hash, leases)
        });
        let vote = core.log.vote();
        let applied = core.machine.applied();
        let to = place(core.log.last()).saturating_add(1).min(log_from.saturating_add(at_most));
        let entry = |entry: LogEntry| Logged {
            term: entry.log_id.leader_id.term,
            index: entry.log_id.index,
            hash: digest(&codec::encode(&entry)),
        };
        // A log that cannot be read any more belongs to a server that is dying.
        let log =
            core.log.read(log_from, to, usize::MAX).unwrap_or_default().into_iter().map(entry).collect();
        Look {
            member: core.speaker.me,
            runs: metrics.running_state.is_ok(),
            term: metrics.current_term,
            leads: metrics.state == ServerState::Leader,
            voted_for: vote.map_or(0, |vote| *vote.leader_id.node_id()),
            vote_term: vote.map_or(0, |vote| vote.leader_id.term()),
            vote_committed: vote.is_some_and(|vote| vote.is_committed()),
            voters: membership.voter_ids().collect(),
            settled: membership.get_joint_config().len() == 1
                && *metrics.membership_config.log_id() <= metrics.last_applied,
            learners: membership.learner_ids().collect(),
            applied: applied.map_or((0, 0), |id| (id.leader_id.term, id.index)),
            last: place(core.log.last()),
            purged: place(core.log.purged()),
            revision,
            state_hash,
            leases,
            log,
        }
    }
}
