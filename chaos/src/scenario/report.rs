//! The verdict on one run, and the table of many.

use std::fmt;
use std::time::Duration;

use crate::check::Violation;
use crate::history::{Operation, Outcome, Watched};

#[derive(Debug, Default)]
pub struct Report {
    pub name: &'static str,
    pub seed: u64,
    pub took: Duration,
    pub faults: usize,
    pub acknowledged: usize,
    pub refused: usize,
    pub unknown: usize,
    pub events: usize,
    pub remarks: Vec<String>,
    /// Empty: passed.
    pub violations: Vec<Violation>,
}

impl Report {
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }

    pub fn operations(&self) -> usize {
        self.acknowledged + self.refused + self.unknown
    }

    pub(super) fn count(&mut self, operations: &[Operation], watched: &[Watched]) {
        for operation in operations {
            match operation.outcome {
                Outcome::Unknown(_) => self.unknown += 1,
                Outcome::Refused(_) | Outcome::NoSuchLease => self.refused += 1,
                _ => self.acknowledged += 1,
            }
        }
        self.events = watched.iter().map(Watched::events).sum();
    }

    /// One line of the table.
    pub fn line(&self) -> String {
        format!(
            "{}  {:<17} seed {:<11} {:>6.1} s  {:>3} faults, {:>6} acknowledged, {:>5} refused, {:>4} unknown, {:>6} events",
            if self.passed() { "PASS" } else { "FAIL" },
            self.name,
            self.seed,
            self.took.as_secs_f64(),
            self.faults,
            self.acknowledged,
            self.refused,
            self.unknown,
            self.events
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.line())?;
        for remark in &self.remarks {
            writeln!(f, "      {}", remark.replace('\n', "\n      "))?;
        }
        for violation in self.violations.iter().take(20) {
            writeln!(f, "    ! {violation}")?;
        }
        if self.violations.len() > 20 {
            writeln!(f, "    ! and {} more", self.violations.len() - 20)?;
        }
        write!(f, "      again: kontiki-chaos run --scenario {} --seed {}", self.name, self.seed)
    }
}
