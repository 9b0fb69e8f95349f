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

mod truth;

use std::fmt;

use crate::history::History;
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
    &[]
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
