//! Every acknowledged create is there, once, on every server; every refused one is nowhere.

use std::collections::BTreeMap;

use super::Violation;
use crate::history::{Action, Final, Operation, Outcome};

pub fn check(operations: &[Operation], finals: &[Final]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (server, last) in finals.iter().enumerate() {
        if last.listed != last.objects.len() {
            violations.push(format!(
                "server {server} lists {} objects under {} names",
                last.listed,
                last.objects.len()
            ));
        }
        if last.objects != finals[0].objects {
            violations.push(format!("servers 0 and {server} end with different objects"));
        }
    }
    let Some(last) = finals.first() else { return violations };
    let mut created: BTreeMap<&str, &Outcome> = BTreeMap::new();
    for operation in operations {
        if let Action::Create(name) = &operation.action {
            created.insert(name, &operation.outcome);
        }
    }
    for (name, outcome) in &created {
        match (outcome, last.objects.get(*name)) {
            (Outcome::Done { revision }, None) => {
                violations.push(format!("{name} was acknowledged at revision {revision} and is missing"));
            }
            (Outcome::Done { revision }, Some(found)) if revision != found => {
                violations
                    .push(format!("{name} was acknowledged at revision {revision} and is there at {found}"));
            }
            // Names are used once: a name that exists already was created by a request the client sent once.
            (Outcome::Refused(reason), Some(_)) => {
                violations.push(format!("{name} was refused ({reason}) and is there"));
            }
            _ => {}
        }
    }
    for name in last.objects.keys() {
        if name.starts_with("object-") && !created.contains_key(name.as_str()) {
            violations.push(format!("{name} was created by nobody"));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::tests::operation;
    use super::*;

    #[track_caller]
    fn check_one(outcome: Outcome, there: Option<u64>, expected: &str) {
        let operations = [operation(Action::Create("object-1".into()), 0, 1, outcome)];
        let objects: BTreeMap<String, u64> =
            there.map(|revision| ("object-1".to_owned(), revision)).into_iter().collect();
        let last = Final { revision: 9, listed: objects.len(), objects };
        let found = check(&operations, &[last]).join("; ");
        assert!(if expected.is_empty() { found.is_empty() } else { found.contains(expected) }, "{found:?}");
    }

    #[test]
    fn what_was_acknowledged_must_be_there_as_it_was() {
        check_one(Outcome::Done { revision: 5 }, Some(5), "");
        check_one(Outcome::Done { revision: 5 }, None, "missing");
        check_one(Outcome::Done { revision: 5 }, Some(7), "is there at 7");
    }

    #[test]
    fn what_was_refused_must_not_be_there_and_what_is_unknown_may() {
        check_one(Outcome::Refused("503".into()), Some(5), "was refused");
        check_one(Outcome::Refused("503".into()), None, "");
        check_one(Outcome::Unknown("lost".into()), Some(5), "");
        check_one(Outcome::Unknown("lost".into()), None, "");
    }

    #[test]
    fn servers_must_agree_and_names_must_be_single() {
        let one = Final { revision: 1, objects: [("a".to_owned(), 1)].into(), listed: 2 };
        let other = Final { revision: 1, objects: [("a".to_owned(), 2)].into(), listed: 1 };
        assert_eq!(check(&[], &[one, other]).len(), 2);
    }
}
