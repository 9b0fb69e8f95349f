//! Figures beside their budgets.

use std::fmt;
use std::time::Duration;

/// What a budget allows.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    AtMost(f64),
    AtLeast(f64),
    /// So many times etcd's figure.
    AtMostTimes(f64),
    AtLeastTimes(f64),
    None,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub what: String,
    pub unit: &'static str,
    pub budget: Budget,
    pub measured: Result<f64, String>,
    /// The same asked of etcd.
    pub etcd: Option<f64>,
    /// What else is worth knowing, such as percentiles.
    pub note: String,
}

impl Row {
    pub fn new(
        what: impl Into<String>,
        unit: &'static str,
        budget: Budget,
        measured: Result<f64, String>,
    ) -> Row {
        Row { what: what.into(), unit, budget, measured, etcd: None, note: String::new() }
    }

    fn verdict(&self) -> &'static str {
        let Ok(measured) = &self.measured else { return "not measured" };
        let met = match (self.budget, self.etcd) {
            (Budget::None, _) => return "",
            (Budget::AtMostTimes(_) | Budget::AtLeastTimes(_), None) => return "no etcd",
            (Budget::AtMost(most), _) => *measured <= most,
            (Budget::AtLeast(least), _) => *measured >= least,
            (Budget::AtMostTimes(times), Some(etcd)) => *measured <= etcd * times,
            (Budget::AtLeastTimes(times), Some(etcd)) => *measured >= etcd * times,
        };
        if met { "met" } else { "missed" }
    }

    fn cells(&self) -> [String; 6] {
        let figure = |value: f64| format!("{} {}", number(value), self.unit);
        let budget = match self.budget {
            Budget::AtMost(most) => format!("≤ {}", figure(most)),
            Budget::AtLeast(least) => format!("≥ {}", figure(least)),
            Budget::AtMostTimes(times) => format!("≤ {times} × etcd"),
            Budget::AtLeastTimes(times) => format!("≥ {times} × etcd"),
            Budget::None => "–".to_owned(),
        };
        let measured = self.measured.as_ref().map_or_else(|_| "–".to_owned(), |value| figure(*value));
        let mut note = self.measured.as_ref().err().unwrap_or(&self.note).clone();
        if let (Ok(measured), Some(etcd)) = (&self.measured, self.etcd)
            && etcd > 0.0
        {
            note = format!("{:.2} × etcd; {note}", measured / etcd);
        }
        [
            self.what.clone(),
            budget,
            measured,
            self.etcd.map_or("–".into(), figure),
            self.verdict().into(),
            note,
        ]
    }
}

fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[derive(Debug, Default)]
pub struct Table(Vec<Row>);

impl Table {
    pub fn rows(&self) -> &[Row] {
        &self.0
    }

    pub fn add(&mut self, row: Row) {
        let [what, budget, measured, etcd, verdict, note] = row.cells();
        eprintln!("{what}: {measured} (budget {budget}, etcd {etcd}) {verdict} {note}");
        self.0.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["what", "budget", "measured", "etcd", "verdict", "note"].map(String::from);
        let rows: Vec<[String; 6]> = std::iter::once(header).chain(self.0.iter().map(Row::cells)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..6).map(width).collect();
        for (line, row) in rows.iter().enumerate() {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}", width = *width))
                .collect();
            writeln!(f, "| {} |", cells.join(" | "))?;
            if line == 0 {
                let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                writeln!(f, "|-{}-|", rules.join("-|-"))?;
            }
        }
        Ok(())
    }
}

/// The middle one, in the unit of the values; 0 for none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

pub fn seconds(durations: &[Duration]) -> Vec<f64> {
    durations.iter().map(Duration::as_secs_f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_follows_from_budget_and_figure() {
        for (budget, measured, expected) in [
            (Budget::AtMost(1.0), Ok(0.5), "met"),
            (Budget::AtMost(1.0), Ok(1.5), "missed"),
            (Budget::AtLeast(1.0), Ok(1.5), "met"),
            (Budget::AtLeast(1.0), Ok(0.5), "missed"),
            (Budget::None, Ok(0.5), ""),
            (Budget::AtMost(1.0), Err("no".to_owned()), "not measured"),
        ] {
            assert_eq!(Row::new("x", "s", budget, measured).verdict(), expected);
        }
        let mut beside = Row::new("x", "s", Budget::AtLeastTimes(2.0), Ok(4.0));
        assert_eq!(beside.verdict(), "no etcd");
        for (etcd, expected) in [(2.0, "met"), (2.1, "missed")] {
            beside.etcd = Some(etcd);
            assert_eq!(beside.verdict(), expected);
        }
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::default();
        table.add(Row::new("short", "s", Budget::AtMost(0.4), Ok(0.123)));
        table.add(Row::new("a longer name", "/s", Budget::AtLeast(1200.0), Ok(1500.4)));
        let lengths: Vec<usize> = table.to_string().lines().map(|line| line.chars().count()).collect();
        assert!(lengths.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
        assert!(table.to_string().contains("≥ 1200 /s"));
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[]), 0.0);
    }
}
