//! What must hold of every run, one file for each guarantee.
//!
//! ```text
//!  History ──────┐
//!                ├─► Evidence { + Truth: what happened at each revision } ─► all() ─► Verdict
//!  Observations ─┘
//! ```
//!
//! A checker is a pure function from the evidence to the violations it found, in words for the person who has to find out
//! why. It judges what clients and observers saw and nothing else; where they saw nothing, it has nothing to say. Judging
//! the history of a simulated run takes milliseconds: it is done a hundred thousand times.
//!
//! **Invariant:** a checker never reports what a correct store can do. Each passes the histories of a correct model
//! (`model`), and each catches a fault that its test plants.

mod acknowledged;
mod agreed;
mod convergence;
mod fresh;
mod invented;
mod leader;
mod lease;
mod linear;
mod log;
mod moment;
mod resumed;
mod revision;
mod state_hash;
mod truth;
mod vote;
mod watch;

#[cfg(test)]
mod model;
#[cfg(test)]
mod story;

use std::fmt;
use std::time::Duration;

use crate::history::{History, Key, Operation, Revision, Value, Write};
use crate::observe::Observations;

pub use truth::Truth;

/// A guarantee that did not hold, in words for the person who has to find out why.
pub type Violation = String;

/// Longest list of violations of one guarantee that is kept: the first ones say it all.
const KEPT: usize = 20;

/// All that is known of a run.
pub struct Evidence<'a> {
    pub history: &'a History,
    pub observations: &'a Observations,
    pub truth: Truth,
}

impl<'a> Evidence<'a> {
    pub fn new(history: &'a History, observations: &'a Observations) -> Evidence<'a> {
        Evidence { history, observations, truth: Truth::of(history) }
    }

    /// Whether the value may have left its key without a witness, before this time: it was put under a lease, or a
    /// transaction would have deleted it whose outcome or revision is unknown.
    fn may_have_gone(&self, key: &Key, value: Value, before: Option<Duration>) -> bool {
        let is_leased =
            |write: &Write| matches!(write, Write::Put { value: put, lease: Some(_), .. } if *put == value);
        let deletes = |write: &Write| matches!(write, Write::Delete { key: deleted } if deleted == key);
        // A put of unknown outcome that nobody saw may have replaced it under a lease, and gone with that.
        let hides =
            |write: &Write| matches!(write, Write::Put { key: put, lease: Some(_), .. } if put == key);
        let untold =
            |operation: &Operation| operation.is_acknowledged_write() && operation.revision().is_none();
        self.history.operations.iter().any(|operation| {
            let writes = operation.action.writes();
            let in_time = before.is_none_or(|before| operation.invoked <= before);
            writes.iter().any(is_leased)
                || ((operation.is_unknown() || untold(operation))
                    && in_time
                    && writes.iter().any(|write| deletes(write) || hides(write)))
        })
    }
}

/// One guarantee and how it is checked.
pub struct Guarantee {
    pub name: &'static str,
    /// What it promises, and what it means when it does not hold.
    pub about: &'static str,
    pub check: fn(&Evidence) -> Vec<Violation>,
}

/// Every guarantee, in the order they are checked and reported.
pub fn all() -> &'static [Guarantee] {
    &[
        acknowledged::GUARANTEE,
        invented::GUARANTEE,
        agreed::GUARANTEE,
        revision::GUARANTEE,
        fresh::GUARANTEE,
        moment::GUARANTEE,
        linear::GUARANTEE,
        watch::ordered::GUARANTEE,
        watch::unique::GUARANTEE,
        watch::atomic::GUARANTEE,
        watch::reliable::GUARANTEE,
        watch::resumable::GUARANTEE,
        watch::bookmarkable::GUARANTEE,
        watch::filterable::GUARANTEE,
        watch::previous::GUARANTEE,
        leader::GUARANTEE,
        vote::GUARANTEE,
        log::GUARANTEE,
        state_hash::GUARANTEE,
        convergence::GUARANTEE,
        lease::early::GUARANTEE,
        lease::leaked::GUARANTEE,
        lease::known::GUARANTEE,
        resumed::GUARANTEE,
    ]
}

/// A guarantee that did not hold in a run.
#[derive(Clone, Debug)]
pub struct Finding {
    pub guarantee: &'static str,
    pub about: &'static str,
    pub violations: Vec<Violation>,
    /// How many there were; not all are kept.
    pub count: usize,
}

/// What all checkers together say of a run.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Empty: passed.
    pub findings: Vec<Finding>,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// The names of the guarantees that did not hold.
    pub fn broken(&self) -> Vec<&'static str> {
        self.findings.iter().map(|finding| finding.guarantee).collect()
    }

    /// One line for each violation that was kept.
    pub fn lines(&self) -> Vec<Violation> {
        let of = |finding: &Finding| {
            let name = finding.guarantee;
            finding.violations.iter().map(|what| format!("{name}: {what}")).collect::<Vec<_>>()
        };
        self.findings.iter().flat_map(of).collect()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return write!(f, "every guarantee held");
        }
        for (number, finding) in self.findings.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            writeln!(f, "{} did not hold. {}", finding.guarantee, finding.about)?;
            for violation in &finding.violations {
                writeln!(f, "  ! {violation}")?;
            }
            let more = finding.count - finding.violations.len();
            if more > 0 {
                writeln!(f, "  ! and {more} more")?;
            }
        }
        Ok(())
    }
}

/// Checks every guarantee.
pub fn judge(history: &History, observations: &Observations) -> Verdict {
    let evidence = Evidence::new(history, observations);
    let mut verdict = Verdict::default();
    for guarantee in all() {
        let mut violations = (guarantee.check)(&evidence);
        if violations.is_empty() {
            continue;
        }
        let count = violations.len();
        violations.truncate(KEPT);
        verdict.findings.push(Finding {
            guarantee: guarantee.name,
            about: guarantee.about,
            violations,
            count,
        });
    }
    verdict
}

/// For each acknowledged operation or conflict: the highest revision that anybody had been told, by an operation that
/// `counts`, before it began. Operations are by invocation, and so is the answer.
fn floors(
    operations: &[Operation],
    counts: impl Fn(usize) -> bool,
) -> impl Iterator<Item = (usize, Revision)> {
    let told = |number: &usize| operations[*number].revision().is_some() && counts(*number);
    let numbers: Vec<usize> = (0..operations.len()).filter(told).collect();
    let mut by_end: Vec<usize> =
        numbers.iter().copied().filter(|number| operations[*number].returned.is_some()).collect();
    by_end.sort_by_key(|number| operations[*number].returned);
    let mut ended = by_end.into_iter().peekable();
    let mut floor = 0;
    numbers
        .into_iter()
        .map(|number| {
            let began = operations[number].invoked;
            while let Some(earlier) = ended
                .next_if(|earlier| operations[*earlier].returned.is_some_and(|returned| returned < began))
            {
                floor = floor.max(operations[earlier].revision().unwrap_or_default());
            }
            (number, floor)
        })
        .collect::<Vec<_>>()
        .into_iter()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::story::Story;
    use super::*;

    #[test]
    fn names_are_single_and_explained() {
        let names: BTreeSet<&str> = all().iter().map(|guarantee| guarantee.name).collect();
        assert_eq!(names.len(), all().len());
        assert!(all().iter().all(|guarantee| guarantee.about.ends_with('.')));
    }

    #[test]
    fn a_verdict_says_what_did_not_hold_and_why() {
        let story = Story::new().put("a", 1).at(0, 1).read("a", 7).at(2, 3);
        let verdict = judge(&story.history, &story.observations);
        assert!(verdict.broken().contains(&"nothing-invented"), "{verdict}");
        assert!(verdict.lines().iter().any(|line| line.contains("nothing-invented: a=7")), "{verdict}");
        assert!(verdict.to_string().contains("A refusal is a promise"), "{verdict}");
        assert!(judge(&History::default(), &Observations::default()).is_clean());
    }
}
