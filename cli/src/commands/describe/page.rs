//! Indented lines of `Name: value`, values in one column per block.

use jiff::Timestamp;
use serde_json::Value;

/// Blanks per level.
const INDENT: usize = 2;
const COLUMN: usize = 18;

#[derive(Default)]
pub struct Page {
    text: String,
    level: usize,
}

impl Page {
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn line(&mut self, more: usize, line: &str) {
        self.text.extend(std::iter::repeat_n(' ', (self.level + more) * INDENT));
        self.text += line.trim_end();
        self.text.push('\n');
    }

    pub fn heading(&mut self, name: &str) {
        self.line(0, &format!("{name}:"));
    }

    /// An empty value is left out of the line, not the line of the page.
    pub fn field(&mut self, name: &str, value: &str) {
        let width = COLUMN.saturating_sub(self.level * INDENT);
        self.line(0, &format!("{:<width$} {value}", format!("{name}:")));
    }

    /// Nothing for what is not there.
    pub fn optional(&mut self, name: &str, value: &Value) {
        match plain(value) {
            Some(text) if !text.is_empty() => self.field(name, &text),
            _ => {}
        }
    }

    /// `<none>` for what is not there.
    pub fn value(&mut self, name: &str, value: &Value) {
        let text = plain(value).filter(|text| !text.is_empty());
        self.field(name, text.as_deref().unwrap_or("<none>"));
    }

    /// A map as `key=value` lines under one another.
    pub fn map(&mut self, name: &str, map: &Value, separator: &str) {
        let entries: Vec<String> = map
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}{separator}{}", plain(value).unwrap_or_default()))
            .collect();
        self.lines(name, &entries);
    }

    /// Several values under one another; `<none>` where there are none.
    pub fn lines(&mut self, name: &str, values: &[String]) {
        let Some((first, rest)) = values.split_first() else {
            self.field(name, "<none>");
            return;
        };
        self.field(name, first);
        for value in rest {
            self.field_continued(value);
        }
    }

    fn field_continued(&mut self, value: &str) {
        let width = COLUMN.saturating_sub(self.level * INDENT) + 1;
        self.line(0, &format!("{}{value}", " ".repeat(width)));
    }

    pub fn within(&mut self, write: impl FnOnce(&mut Page)) {
        self.level += 1;
        write(self);
        self.level -= 1;
    }

    /// Any document, field by field, for kinds that have no page of their own.
    pub fn tree(&mut self, name: &str, value: &Value) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                self.heading(name);
                self.within(|page| {
                    for (key, value) in fields {
                        page.tree(&title(key), value);
                    }
                });
            }
            Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
                self.heading(name);
                self.within(|page| {
                    for (nth, item) in items.iter().enumerate() {
                        let label = item["name"].as_str().or(item["type"].as_str());
                        page.tree(&label.map_or_else(|| format!("[{nth}]"), String::from), item);
                    }
                });
            }
            Value::Array(items) => {
                let words: Vec<String> = items.iter().filter_map(plain).collect();
                self.lines(name, &words);
            }
            value => self.field(name, &plain(value).unwrap_or_default()),
        }
    }
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Object(_) | Value::Array(_) => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// `lastTransitionTime` as `Last Transition Time`.
fn title(key: &str) -> String {
    let is_plain = key.chars().all(|c| c.is_ascii_alphanumeric());
    if !is_plain {
        return key.to_string();
    }
    let mut title = String::new();
    let mut was_upper = true;
    for (nth, c) in key.chars().enumerate() {
        if nth == 0 {
            title.extend(c.to_uppercase());
            continue;
        }
        if c.is_uppercase() && !was_upper {
            title.push(' ');
        }
        was_upper = c.is_uppercase();
        title.push(c);
    }
    title
}

/// How long ago, in at most two units, as tables show it.
pub fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = (now.as_second() - then.as_second()).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 != 0 => format!("{minutes}m{}s", seconds % 60),
        120..10_800 => format!("{minutes}m"),
        10_800..28_800 if minutes % 60 != 0 => format!("{hours}h{}m", minutes % 60),
        10_800..172_800 => format!("{hours}h"),
        172_800..691_200 if hours % 24 != 0 => format!("{days}d{}h", hours % 24),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ages_get_coarser_as_they_grow() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (seconds, expected) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (130, "2m10s"),
            (700, "11m"),
            (10_800, "3h"),
            (14_460, "4h1m"),
            (90_000, "25h"),
            (180_000, "2d2h"),
            (864_000, "10d"),
        ] {
            assert_eq!(age(at(0), at(seconds)), expected);
        }
    }

    #[test]
    fn any_document_can_be_shown() {
        let mut page = Page::default();
        page.tree("Spec", &json!({ "hostPorts": 1, "list": ["a", "b"], "rules": [{ "name": "x", "to": "y" }], "none": null }));
        assert_eq!(
            page.text(),
            "Spec:\n  Host Ports:      1\n  List:            a\n                   b\n  None:\n  Rules:\n    x:\n      Name:        x\n      To:          y\n"
        );
    }
}
