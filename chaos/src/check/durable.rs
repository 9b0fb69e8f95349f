//! Every acknowledged creation is there, once, on every server.

use std::collections::HashMap;

use super::Verdict;

/// `found` has, for each server, the names a list of it gave.
///
/// # Errors
/// The first names that are missing or doubled.
pub fn durable(created: &[String], found: &[(u8, Vec<String>)]) -> Verdict {
    for (server, names) in found {
        let mut count: HashMap<&str, usize> = HashMap::new();
        for name in names {
            *count.entry(name).or_default() += 1;
        }
        let missing: Vec<&String> = created.iter().filter(|name| !count.contains_key(name.as_str())).take(5).collect();
        if !missing.is_empty() {
            return Err(format!("server {server} lost acknowledged objects, such as {missing:?}"));
        }
        if let Some((name, times)) = count.iter().find(|(_, times)| **times > 1) {
            return Err(format!("server {server} has {name} {times} times"));
        }
    }
    Ok(format!("{} acknowledged objects are on {} servers, once", created.len(), found.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(created: &[&str], found: &[&str], good: bool) {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(durable(&owned(created), &[(1, owned(found))]).is_ok(), good, "{created:?} {found:?}");
    }

    #[test]
    fn a_lost_or_doubled_object_is_seen_and_an_unacknowledged_one_is_no_fault() {
        check(&["a", "b"], &["a", "b"], true);
        check(&["a"], &["a", "b"], true);
        check(&["a", "b"], &["a"], false);
        check(&["a"], &["a", "a"], false);
    }
}
