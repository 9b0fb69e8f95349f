//! `meta.k8s.io/v1` Tables as columns of text.

use serde_json::Value;

/// What of a table is shown.
#[derive(Clone, Debug, Default)]
pub struct Printer {
    /// Columns of priority above 0 too.
    pub wide: bool,
    pub headers: bool,
    /// The namespace as the first column.
    pub namespaces: bool,
    /// The labels as the last column.
    pub labels: bool,
    /// `deployment.apps`, put before each name when several kinds are listed.
    pub prefix: Option<String>,
}

/// Columns three blanks apart, without blanks at the line's end.
pub fn render(table: &Value, printer: &Printer) -> String {
    let empty = Vec::new();
    let definitions = table["columnDefinitions"].as_array().unwrap_or(&empty);
    let shown: Vec<usize> = (0..definitions.len())
        .filter(|&at| printer.wide || definitions[at]["priority"].as_i64().unwrap_or(0) == 0)
        .collect();
    let mut lines: Vec<Vec<String>> = Vec::new();
    if printer.headers {
        let mut header: Vec<String> = Vec::new();
        if printer.namespaces {
            header.push("NAMESPACE".into());
        }
        header.extend(
            shown.iter().map(|&at| definitions[at]["name"].as_str().unwrap_or_default().to_uppercase()),
        );
        if printer.labels {
            header.push("LABELS".into());
        }
        lines.push(header);
    }
    for row in table["rows"].as_array().unwrap_or(&empty) {
        let metadata = &row["object"]["metadata"];
        let mut line: Vec<String> = Vec::new();
        if printer.namespaces {
            line.push(metadata["namespace"].as_str().unwrap_or_default().into());
        }
        for (nth, &at) in shown.iter().enumerate() {
            let cell = cell(&row["cells"][at]);
            line.push(match &printer.prefix {
                Some(prefix) if nth == 0 => format!("{prefix}/{cell}"),
                _ => cell,
            });
        }
        if printer.labels {
            line.push(labels(&metadata["labels"]));
        }
        lines.push(line);
    }
    align(&lines)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".into(),
        Value::String(text) if text.is_empty() => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn labels(labels: &Value) -> String {
    let Some(labels) = labels.as_object().filter(|labels| !labels.is_empty()) else {
        return "<none>".into();
    };
    labels
        .iter()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(",")
}

/// Pads all columns but the last to their widest cell.
pub fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut padded = String::new();
        for (cell, &width) in line.iter().zip(&widths) {
            padded += cell;
            padded.extend(std::iter::repeat_n(' ', width + 3 - cell.chars().count()));
        }
        text += padded.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample() -> Value {
        json!({
            "columnDefinitions": [
                { "name": "Name", "priority": 0 }, { "name": "Ready", "priority": 0 }, { "name": "IP", "priority": 1 },
            ],
            "rows": [
                { "cells": ["long-name", "1/1", "10.0.0.1"],
                  "object": { "metadata": { "namespace": "a", "labels": { "x": "y" } } } },
                { "cells": ["b", "0/1", null], "object": { "metadata": { "namespace": "b" } } },
            ],
        })
    }

    #[test]
    fn columns_are_aligned_and_wide_ones_left_out() {
        let printer = Printer { headers: true, ..Printer::default() };
        assert_eq!(render(&sample(), &printer), "NAME        READY\nlong-name   1/1\nb           0/1\n");
    }

    #[test]
    fn namespaces_labels_prefix_and_wide_columns_are_added() {
        let printer = Printer {
            wide: true,
            headers: false,
            namespaces: true,
            labels: true,
            prefix: Some("pod".into()),
        };
        assert_eq!(
            render(&sample(), &printer),
            "a   pod/long-name   1/1   10.0.0.1   x=y\nb   pod/b           0/1   <none>     <none>\n"
        );
    }
}
