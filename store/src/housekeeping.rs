//! What a leader proposes of its own accord: the end of leases that are due, and of history that is old or large.

use std::time::Duration;

use crate::command::{Command, Millis};
use crate::mutant::mutated;
use crate::mvcc::Machine;

/// Leases that one command ends at most, so that no revision is huge.
const LEASES_AT_ONCE: usize = 500;

#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub history: Duration,
    pub history_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { history: Duration::from_secs(300), history_bytes: 64 << 20 }
    }
}

/// Commands to propose at `now`; empty where there is nothing to do. Harmless when proposed twice or too late: what they
/// name is judged again when they are applied.
pub(crate) fn due(machine: &Machine, now: Millis, limits: &Limits) -> Vec<Command> {
    let mut commands = Vec::new();
    let leases = machine.leases().due(now, LEASES_AT_ONCE);
    if !leases.is_empty() && !mutated!(LeaseNeverExpires) {
        commands.push(Command::ExpireLeases { leases });
    }
    let keep = limits.history.as_millis() as Millis;
    // Over its bytes, history shrinks by a quarter, so that compaction is not a command for each write.
    let bytes = if machine.history_bytes() > limits.history_bytes {
        limits.history_bytes / 4 * 3
    } else {
        usize::MAX
    };
    if let Some(revision) = machine.compaction_due(now, keep, bytes)
        && (bytes != usize::MAX || machine.oldest_age(now) > keep + keep / 10)
    {
        commands.push(Command::Compact { revision });
    }
    commands
}
