//! Tables of custom resources, by the columns their definition declares.

use jiff::Timestamp;
use kontiki_proto::resource::Resource;
use serde_json::{Value, json};

use super::{path, time};

pub(super) fn definitions(row: &Resource) -> Vec<Value> {
    let name = json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0});
    let age = json!({"name": "Age", "type": "date", "format": "", "description": "", "priority": 0});
    let own = row.columns.iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.kind,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        })
    });
    std::iter::once(name).chain(own).chain(row.columns.is_empty().then_some(age)).collect()
}

pub(super) fn cells(row: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    let age = || time::since(&object["metadata"]["creationTimestamp"], now).into();
    let own = row.columns.iter().map(|column| {
        path::find(object, &column.json_path).map_or(Value::Null, |value| cell(&column.kind, value, now))
    });
    std::iter::once(object["metadata"]["name"].clone())
        .chain(own)
        .chain(row.columns.is_empty().then(age))
        .collect()
}

/// A value that is not of the column's type leaves the cell empty.
fn cell(kind: &str, value: &Value, now: Timestamp) -> Value {
    match (kind, value) {
        (_, Value::Null) => Value::Null,
        ("integer", Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(fraction)) => (fraction as i64).into(),
            _ => Value::Null,
        },
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(_)) => match time::parse(value) {
            Some(then) => time::human(time::seconds_between(then, now)).into(),
            None => "<invalid>".into(),
        },
        ("string", Value::String(_)) => value.clone(),
        ("string", other) => other.to_string().into(),
        _ => Value::Null,
    }
}
