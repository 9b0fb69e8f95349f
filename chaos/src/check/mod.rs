//! What must hold of every history, one file for each guarantee.

mod acknowledged;
mod linear;
mod monotonic;
mod watch;

use crate::history::{Final, Operation, Watched};

/// A guarantee that did not hold, in words for the person who has to find out why.
pub type Violation = String;

/// Runs every checker; an empty answer is a clean history.
pub fn check(operations: &[Operation], watched: &[Watched], finals: &[Final]) -> Vec<Violation> {
    let mut violations = acknowledged::check(operations, finals);
    violations.extend(monotonic::check(operations));
    violations.extend(linear::check(operations));
    violations.extend(watch::check(operations, watched));
    violations
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::history::{Action, Operation, Outcome};

    /// An operation of client 0 from `invoked` to `returned`, in milliseconds.
    pub fn operation(action: Action, invoked: u64, returned: u64, outcome: Outcome) -> Operation {
        let returned = (!matches!(outcome, Outcome::Unknown(_))).then_some(Duration::from_millis(returned));
        Operation {
            client: 0,
            server: None,
            action,
            invoked: Duration::from_millis(invoked),
            returned,
            outcome,
        }
    }
}
