//! Tables for people: `meta.k8s.io/v1` `Table`, column for column what `kubectl get` prints.
//!
//! A kind is a list of columns, a column a name and a function from an object to a cell. Kinds without a list have a
//! name and the time of their creation; custom resources bring columns of their own.

mod cluster;
mod columns;
mod custom;
mod extend;
mod network;
mod path;
mod pod;
mod storage;
#[cfg(test)]
mod tests;
mod time;
mod workloads;

use jiff::Timestamp;
use kontiki_proto::resource::Resource;
use serde_json::{Value, json};

use columns::{Col, Cx};

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

/// One line of a family's list: group, plural, columns.
type Entry = (&'static str, &'static str, &'static [Col]);

static FAMILIES: &[&[Entry]] =
    &[pod::TABLES, workloads::TABLES, network::TABLES, cluster::TABLES, storage::TABLES, extend::TABLES];

fn columns_of(row: &Resource) -> &'static [Col] {
    FAMILIES
        .iter()
        .flat_map(|family| family.iter())
        .find(|(group, plural, _)| row.group == *group && row.plural == *plural)
        .map_or(columns::PLAIN, |(_, _, columns)| columns)
}

/// The `columnDefinitions` of a kind.
pub fn definitions(row: &Resource) -> Vec<Value> {
    if row.custom {
        return custom::definitions(row);
    }
    columns_of(row).iter().map(Col::definition).collect()
}

/// The cells of one object, in the order of [`definitions`].
pub fn cells(row: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    if row.custom {
        return custom::cells(row, object, now);
    }
    let context = Cx { object, now };
    columns_of(row).iter().map(|column| (column.cell)(&context)).collect()
}

/// One row: cells and as much of the object as was asked for.
pub fn row(row: &Resource, object: &Value, include: Include, now: Timestamp) -> Value {
    let part = match include {
        Include::None => Value::Null,
        Include::Metadata => json!({
            "apiVersion": "meta.k8s.io/v1",
            "kind": "PartialObjectMetadata",
            "metadata": object["metadata"],
        }),
        Include::Object => object.clone(),
    };
    let mut rendered = json!({"cells": cells(row, object, now), "object": part});
    if !row.custom
        && row.group.is_empty()
        && row.plural == "pods"
        && let Some(condition) = pod::condition(object)
    {
        rendered["conditions"] = json!([condition]);
    }
    rendered
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
