//! A watch is ordered, unique and reliable: revisions rise, no event comes twice, and no acknowledged creation between
//! its first and its last event is left out.

use std::collections::HashSet;

use super::Verdict;

/// One stretch of events without a gap that the server announced.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub server: u8,
    /// Name and revision, in the order they came.
    pub events: Vec<(String, u64)>,
    /// Creations acknowledged while this stretch was open, with their revision.
    pub announced_gaps: usize,
}

/// `created` has every acknowledged creation with its revision.
///
/// # Errors
/// The event that came out of order, twice, or not at all.
pub fn watch(created: &[(String, u64)], stretches: &[Seen]) -> Verdict {
    let mut events = 0;
    for seen in stretches {
        let mut last = 0;
        let mut known = HashSet::new();
        for (name, revision) in &seen.events {
            if *revision < last {
                return Err(format!("server {}: {name} at {revision} came after {last}", seen.server));
            }
            if !known.insert((name, revision)) {
                return Err(format!("server {}: {name} at {revision} came twice", seen.server));
            }
            last = *revision;
        }
        events += seen.events.len();
        let (Some((_, first)), Some((_, last))) = (seen.events.first(), seen.events.last()) else { continue };
        let skipped = created
            .iter()
            .find(|(name, revision)| first <= revision && revision <= last && !known.contains(&(name, revision)));
        if let Some((name, revision)) = skipped {
            return Err(format!("server {}: the creation of {name} at {revision} was skipped", seen.server));
        }
    }
    let gaps: usize = stretches.iter().map(|seen| seen.announced_gaps).sum();
    Ok(format!("{events} events in order, once, none skipped ({} watches, {gaps} announced gaps)", stretches.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(created: &[(&str, u64)], events: &[(&str, u64)], good: bool) {
        let owned = |list: &[(&str, u64)]| list.iter().map(|(n, r)| (n.to_string(), *r)).collect::<Vec<_>>();
        let seen = Seen { server: 1, events: owned(events), announced_gaps: 0 };
        assert_eq!(watch(&owned(created), &[seen]).is_ok(), good, "{created:?} {events:?}");
    }

    #[test]
    fn disorder_doubles_and_holes_are_seen() {
        check(&[("a", 1), ("b", 2), ("c", 3)], &[("a", 1), ("b", 2), ("c", 3)], true);
        check(&[("a", 1), ("b", 2), ("c", 3)], &[("a", 1), ("c", 3)], false);
        check(&[("a", 1), ("z", 9)], &[("a", 1), ("b", 2)], true);
        check(&[], &[("a", 2), ("b", 1)], false);
        check(&[], &[("a", 1), ("a", 1)], false);
    }
}
