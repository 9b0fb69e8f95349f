//! What a column is, and the cells that many kinds share.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::time;
use crate::strategy::labels::selector_text;
use crate::strategy::value::{entries, int, list, text};

/// One object, and the time it is looked at.
pub(super) struct Cx<'a> {
    pub object: &'a Value,
    pub now: Timestamp,
}

impl<'a> Cx<'a> {
    pub fn meta(&self) -> &'a Value {
        &self.object["metadata"]
    }

    pub fn spec(&self) -> &'a Value {
        &self.object["spec"]
    }

    pub fn status(&self) -> &'a Value {
        &self.object["status"]
    }

    pub fn since(&self, stamp: &Value) -> Value {
        time::since(stamp, self.now).into()
    }
}

pub(super) type Cell = fn(&Cx) -> Value;

/// One column.
pub(super) struct Col {
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    /// 0 is shown always, 1 only with `-o wide`.
    priority: i32,
    pub cell: Cell,
}

impl Col {
    pub fn definition(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": "",
            "priority": self.priority,
        })
    }

    /// The column that tells a row's object.
    pub const fn named(mut self) -> Col {
        self.format = "name";
        self
    }

    pub const fn wide(mut self) -> Col {
        self.priority = 1;
        self
    }
}

pub(super) const fn string(name: &'static str, cell: Cell) -> Col {
    Col { name, kind: "string", format: "", priority: 0, cell }
}

pub(super) const fn integer(name: &'static str, cell: Cell) -> Col {
    Col { name, kind: "integer", format: "", priority: 0, cell }
}

pub(super) const fn boolean(name: &'static str, cell: Cell) -> Col {
    Col { name, kind: "boolean", format: "", priority: 0, cell }
}

pub(super) const NAME: Col =
    Col { name: "Name", kind: "string", format: "name", priority: 0, cell: |c| c.meta()["name"].clone() };
pub(super) const AGE: Col = string("Age", |c| c.since(&c.meta()["creationTimestamp"]));
pub(super) const CREATED: Col = Col {
    name: "Created At",
    kind: "date",
    format: "",
    priority: 0,
    cell: |c| c.meta()["creationTimestamp"].clone(),
};

/// Kinds upstream has no printer for.
pub(super) static PLAIN: &[Col] = &[NAME, CREATED];

pub(super) const NONE: &str = "<none>";
pub(super) const UNSET: &str = "<unset>";
pub(super) const UNKNOWN: &str = "<unknown>";

/// The text, or a word for its absence.
pub(super) fn or(text: &str, absent: &str) -> Value {
    if text.is_empty() { absent.into() } else { text.into() }
}

pub(super) fn count(value: &Value, key: &str) -> Value {
    int(value, key).unwrap_or(0).into()
}

pub(super) fn join<'a>(items: impl Iterator<Item = &'a str>, separator: &str) -> String {
    items.collect::<Vec<_>>().join(separator)
}

pub(super) fn strings<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    list(value, key).iter().filter_map(Value::as_str)
}

/// The first `most` items, and how many more there are.
pub(super) fn few(items: &[String], most: usize) -> String {
    let shown = items[..items.len().min(most)].join(",");
    match items.len().checked_sub(most) {
        Some(more) if more > 0 => format!("{shown} + {more} more..."),
        _ => shown,
    }
}

/// `a=1,b=2`, or `<none>`.
pub(super) fn plain_map(owner: &Value, key: &str) -> Value {
    let mut terms: Vec<String> = entries(owner, key)
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    terms.sort();
    or(&terms.join(","), NONE)
}

pub(super) fn label_selector(selector: &Value) -> Value {
    or(&selector_text(selector), NONE)
}

pub(super) fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    list(status, "conditions").iter().find(|condition| text(condition, "type") == kind)
}

pub(super) fn condition_true(status: &Value, kind: &str) -> bool {
    condition(status, kind).is_some_and(|condition| text(condition, "status") == "True")
}

pub(super) fn container_names(pod_spec: &Value) -> Value {
    join(list(pod_spec, "containers").iter().map(|c| text(c, "name")), ",").into()
}

pub(super) fn container_images(pod_spec: &Value) -> Value {
    join(list(pod_spec, "containers").iter().map(|c| text(c, "image")), ",").into()
}

pub(super) const TEMPLATE_CONTAINERS: Col =
    string("Containers", |c| container_names(&c.spec()["template"]["spec"])).wide();
pub(super) const TEMPLATE_IMAGES: Col =
    string("Images", |c| container_images(&c.spec()["template"]["spec"])).wide();
pub(super) const SELECTOR: Col = string("Selector", |c| label_selector(&c.spec()["selector"])).wide();
