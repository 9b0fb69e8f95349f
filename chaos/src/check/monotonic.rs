//! No read goes back: an operation that begins after another on the same register has ended sees no older revision.

use std::collections::HashMap;

use super::Verdict;
use crate::history::{Action, Operation, Outcome};

/// Looks at the revisions of acknowledged reads and writes, over all clients and servers.
///
/// # Errors
/// The two operations that contradict each other.
pub fn monotonic(operations: &[Operation]) -> Verdict {
    let mut registers: HashMap<u32, Vec<(&Operation, u64)>> = HashMap::new();
    for operation in operations {
        let (Action::Read { register } | Action::Write { register, .. }) = &operation.action else { continue };
        if let Outcome::Done { revision, .. } = operation.outcome {
            registers.entry(*register).or_default().push((operation, revision));
        }
    }
    let mut looked_at = 0;
    for operations in registers.values_mut() {
        looked_at += operations.len();
        let mut ended = operations.clone();
        ended.sort_by_key(|(operation, _)| operation.returned);
        operations.sort_by_key(|(operation, _)| operation.invoked);
        let mut newest: Option<(&Operation, u64)> = None;
        let mut next_ended = ended.iter().peekable();
        for &(operation, revision) in operations.iter() {
            while let Some(&&(earlier, seen)) = next_ended.peek()
                && earlier.returned < operation.invoked
            {
                if newest.is_none_or(|(_, newest)| seen > newest) {
                    newest = Some((earlier, seen));
                }
                next_ended.next();
            }
            if let Some((earlier, newest)) = newest
                && revision < newest
            {
                return Err(format!(
                    "went back: {operation:?} saw revision {revision} after {earlier:?} had seen {newest}"
                ));
            }
        }
    }
    Ok(format!("{looked_at} reads and writes never went back"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn read(invoked: u64, returned: u64, revision: u64) -> Operation {
        Operation {
            client: 0,
            server: 1,
            action: Action::Read { register: 1 },
            invoked: Duration::from_millis(invoked),
            returned: Duration::from_millis(returned),
            outcome: Outcome::Done { value: None, revision },
        }
    }

    #[test]
    fn a_later_read_of_an_older_revision_is_seen_and_overlapping_ones_may_differ() {
        assert!(monotonic(&[read(0, 1, 5), read(2, 3, 5), read(4, 5, 6)]).is_ok());
        assert!(monotonic(&[read(0, 1, 5), read(2, 3, 4)]).is_err());
        assert!(monotonic(&[read(0, 4, 5), read(2, 3, 4)]).is_ok());
    }
}
