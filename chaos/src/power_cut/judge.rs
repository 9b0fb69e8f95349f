//! What a store must hold after a cut, given what it was told to do and what it said.
//!
//! Before the cut every key has a certain content, or one of several: that of the last acknowledged transaction, or of any whose
//! outcome nobody knows. What is found after the cut is certain from then on: somebody has read it.

use std::collections::{BTreeMap, HashMap};

/// Who wrote a key last, and at which revision.
type Held = BTreeMap<String, (u64, u64)>;

/// A transaction as it was sent.
#[derive(Clone, Debug, Default)]
struct Sent {
    puts: Vec<String>,
    deletes: Vec<String>,
    /// Its revision, once acknowledged.
    revision: Option<u64>,
    refused: bool,
}

/// What is known of one directory over all its lives.
#[derive(Debug, Default)]
pub struct Judge {
    /// What the directory was found to hold when it was last opened.
    held: Held,
    revision: u64,
    term: u64,
    /// Sent since then.
    sent: HashMap<u64, Sent>,
    /// What the opening that is going on has found so far.
    found: Held,
    /// Whether the process that speaks has opened the directory.
    pub opened: bool,
    pub opened_before: bool,
    pub acknowledged: u64,
    pub unknown: u64,
}

impl Judge {
    /// A new process begins to speak.
    pub fn begin(&mut self) {
        self.opened = false;
        self.found.clear();
    }

    /// Takes a line of the record; what is wrong with it, if anything.
    pub fn hear(&mut self, line: &str) -> Vec<String> {
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        let number = |at: usize| rest.get(at).and_then(|word| word.parse::<u64>().ok());
        match (kind, number(0), number(1)) {
            ("have", _, Some(writer)) => {
                if let (Some(key), Some(revision)) = (rest.first(), number(2)) {
                    self.found.insert((*key).to_owned(), (writer, revision));
                }
                Vec::new()
            }
            ("open", Some(term), Some(revision)) => self.judge(term, revision),
            ("try", Some(number), _) => {
                let split = rest.iter().position(|word| *word == "-").unwrap_or(rest.len());
                let names = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
                let sent = Sent {
                    puts: names(&rest[1..split.max(1)]),
                    deletes: names(rest.get(split + 1..).unwrap_or_default()),
                    ..Sent::default()
                };
                self.sent.insert(number, sent);
                Vec::new()
            }
            ("done", Some(number), Some(revision)) => {
                self.acknowledged += 1;
                self.sent.entry(number).or_default().revision = Some(revision);
                Vec::new()
            }
            ("refused", Some(number), _) => {
                self.sent.entry(number).or_default().refused = true;
                Vec::new()
            }
            // Half a line, cut off by the kill: it said nothing.
            _ => Vec::new(),
        }
    }

    fn judge(&mut self, term: u64, revision: u64) -> Vec<String> {
        let mut problems = Vec::new();
        if self.opened_before && term <= self.term {
            problems.push(format!(
                "the vote went back: it leads in term {term}, and led in {} before",
                self.term
            ));
        }
        let acknowledged = self.sent.values().filter_map(|sent| sent.revision).max().unwrap_or(0);
        let least = self.revision.max(acknowledged);
        if revision < least {
            problems.push(format!("the revision went back: {revision} after {least}"));
        }
        // What is certain, in order of revisions.
        let mut certain: BTreeMap<u64, (u64, &Sent)> = BTreeMap::new();
        for (number, sent) in &self.sent {
            if let Some(revision) = sent.revision
                && let Some((other, _)) = certain.insert(revision, (*number, sent))
                && !sent.puts.is_empty()
            {
                problems
                    .push(format!("transactions {number} and {other} were both told revision {revision}"));
            }
        }
        let mut expected = self.held.clone();
        let mut deleted: HashMap<&str, u64> = HashMap::new();
        for (revision, (number, sent)) in &certain {
            for key in &sent.puts {
                expected.insert(key.clone(), (*number, *revision));
                deleted.remove(key.as_str());
            }
            for key in &sent.deletes {
                expected.remove(key);
                deleted.insert(key, *revision);
            }
        }
        let open =
            |number: &u64| self.sent.get(number).filter(|sent| sent.revision.is_none() && !sent.refused);
        for (key, (number, revision)) in &expected {
            match self.found.get(key) {
                Some(found) if found == &(*number, *revision) => {}
                Some((writer, at))
                    if at > revision && open(writer).is_some_and(|sent| sent.puts.contains(key)) => {}
                None if self
                    .sent
                    .iter()
                    .any(|(number, sent)| open(number).is_some() && sent.deletes.contains(key)) => {}
                found => problems.push(format!(
                    "lost: {key} was written by transaction {number} at revision {revision}; found {found:?}"
                )),
            }
        }
        for (key, (writer, at)) in &self.found {
            let after = deleted.get(key.as_str()).is_none_or(|deleted| at > deleted);
            let known =
                expected.contains_key(key) || open(writer).is_some_and(|sent| sent.puts.contains(key));
            if !known || !after {
                problems.push(format!("{key} holds transaction {writer} at revision {at}, which cannot be"));
            }
        }
        // A transaction is there whole or not at all, as far as nothing has been written over it.
        for (number, sent) in self.sent.iter().filter(|(number, _)| open(number).is_some()) {
            let at: Vec<u64> = sent
                .puts
                .iter()
                .filter_map(|key| self.found.get(key))
                .filter_map(|(writer, at)| (writer == number).then_some(*at))
                .collect();
            let Some(revision) = at.first() else { continue };
            let torn = sent.puts.iter().any(|key| self.found.get(key).is_none_or(|(_, at)| at < revision));
            if torn || at.iter().any(|other| other != revision) {
                problems.push(format!("transaction {number} is there in part: {sent:?}"));
            }
        }
        self.unknown += self.sent.keys().filter(|number| open(number).is_some()).count() as u64;
        self.held = std::mem::take(&mut self.found);
        self.sent.clear();
        (self.revision, self.term) = (revision.max(self.revision), term.max(self.term));
        (self.opened, self.opened_before) = (true, true);
        problems.sort();
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &[&str], expected: &str) {
        let mut judge = Judge::default();
        let mut problems = Vec::new();
        for line in lines {
            if *line == "cut" {
                judge.begin();
            } else {
                problems.extend(judge.hear(line));
            }
        }
        let found = problems.join("; ");
        assert!(if expected.is_empty() { found.is_empty() } else { found.contains(expected) }, "{found:?}");
    }

    #[test]
    fn what_was_acknowledged_is_there() {
        check(&["open 1 1", "try 1 a -", "done 1 2", "cut", "have a 1 2", "open 2 2"], "");
        check(&["open 1 1", "try 1 a -", "done 1 2", "cut", "open 2 2"], "lost: a");
        check(&["open 1 1", "try 1 a -", "done 1 2", "cut", "have a 1 3", "open 2 3"], "lost: a");
    }

    #[test]
    fn what_nobody_knows_may_be_there_and_is_known_from_then_on() {
        check(&["open 1 1", "try 1 a -", "cut", "open 2 1"], "");
        check(&["open 1 1", "try 1 a -", "cut", "have a 1 2", "open 2 2"], "");
        check(&["open 1 1", "try 1 a -", "cut", "have a 1 2", "open 2 2", "cut", "open 3 2"], "lost: a");
        check(&["open 1 1", "try 1 a -", "refused 1", "cut", "have a 1 2", "open 2 2"], "cannot be");
        check(&["open 1 1", "try 1 a b -", "cut", "have a 1 2", "open 2 2"], "in part");
    }

    #[test]
    fn deletes_stay_deletes() {
        let begin = ["open 1 1", "try 1 a -", "done 1 2", "try 2 b - a", "done 2 3", "cut", "have b 2 3"];
        check(&[&begin[..], &["open 2 3"]].concat(), "");
        check(&[&begin[..], &["have a 1 2", "open 2 3"]].concat(), "a holds");
    }

    #[test]
    fn neither_term_nor_revision_goes_back() {
        check(&["open 3 5", "cut", "open 3 5"], "the vote went back");
        check(&["open 3 5", "cut", "open 4 4"], "the revision went back");
        check(
            &[
                "open 1 1",
                "try 1 a -",
                "done 1 2",
                "try 2 b -",
                "done 2 2",
                "cut",
                "have a 1 2",
                "have b 2 2",
                "open 2 2",
            ],
            "both",
        );
    }

    #[test]
    fn half_a_line_says_nothing() {
        check(&["open 1 1", "try 1 a -", "done 1", "cut", "open 2 1"], "");
    }
}
