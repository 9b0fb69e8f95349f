//! No read goes back: what one client was told before another asked is the least the other is told.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Violation;
use crate::history::{Operation, Register};

pub fn check(operations: &[Operation]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut by_register: BTreeMap<Register, Vec<&Operation>> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| operation.is_acknowledged()) {
        if let Some(register) = operation.register() {
            by_register.entry(register).or_default().push(operation);
        }
    }
    for (register, mut by_start) in by_register {
        by_start.sort_by_key(|operation| operation.invoked);
        let mut by_end = by_start.clone();
        by_end.sort_by_key(|operation| operation.returned);
        let mut ended = by_end.into_iter().peekable();
        let mut newest: (u64, Duration) = (0, Duration::ZERO);
        for operation in by_start {
            while let Some(earlier) =
                ended.next_if(|earlier| earlier.returned.is_some_and(|at| at < operation.invoked))
            {
                let told = (earlier.revision().unwrap_or_default(), earlier.returned.unwrap_or_default());
                newest = newest.max(told);
            }
            let told = operation.revision().unwrap_or_default();
            if told < newest.0 {
                violations.push(format!(
                    "register {register}: {:?} of client {} (server {:?}) at {:?} was told revision {told}; revision {} \
                     had been told at {:?}",
                    operation.action, operation.client, operation.server, operation.invoked, newest.0, newest.1
                ));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::tests::operation;
    use super::*;
    use crate::history::{Action, Outcome};

    fn read(invoked: u64, returned: u64, revision: u64) -> Operation {
        operation(Action::Read(1), invoked, returned, Outcome::Found { value: revision, revision })
    }

    #[test]
    fn a_read_that_goes_back_in_real_time_is_found() {
        assert_eq!(check(&[read(0, 1, 5), read(2, 3, 4)]).len(), 1);
        assert_eq!(check(&[read(0, 1, 5), read(2, 3, 5)]).len(), 0);
    }

    #[test]
    fn reads_at_the_same_time_may_differ() {
        assert_eq!(check(&[read(0, 10, 5), read(1, 3, 4)]).len(), 0);
    }

    #[test]
    fn a_read_after_an_acknowledged_write_sees_it() {
        let write = operation(Action::Write(1, 9), 0, 1, Outcome::Done { revision: 9 });
        assert_eq!(check(&[write, read(2, 3, 8)]).len(), 1);
    }
}
