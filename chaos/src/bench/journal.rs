//! One line for each run, so that figures can be compared over time.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::table::{Row, Table};

/// Appends the time and every figure that was measured, as `name=value` pairs.
///
/// # Errors
/// When the file cannot be written.
pub fn append(path: &Path, table: &Table) -> Result<()> {
    let line = line(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%MZ").to_string(), table.rows());
    let mut file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("the run is not kept: {} cannot be written", path.display()))?;
    Ok(writeln!(file, "{line}")?)
}

fn line(mut line: String, rows: &[Row]) -> String {
    for row in rows {
        let Ok(measured) = &row.measured else { continue };
        line += &format!("; {}={measured:.4}{}", row.what, row.unit);
        if let Some(etcd) = row.etcd {
            line += &format!(" (etcd {etcd:.4})");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::super::table::Budget;
    use super::*;

    #[test]
    fn a_line_has_what_was_measured_and_leaves_out_what_was_not() {
        let mut rate = Row::new("rate", "/s", Budget::None, Ok(12.5));
        rate.etcd = Some(10.0);
        let missing = Row::new("missing", "s", Budget::None, Err("no program".into()));
        assert_eq!(line("now".into(), &[rate, missing]), "now; rate=12.5000/s (etcd 10.0000)");
    }
}
