//! `kontiki apply`: three-way, by the annotation kubectl uses, so that both can be used on one object.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use kontiki_proto::api::{Api, GetOptions, PatchType, WriteOptions, decode, encode};
use kontiki_proto::Resource;
use serde_json::{Map, Value, json};

use crate::documents;
use crate::output::name_of;
use crate::session::Session;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[derive(Args, Clone, Debug)]
pub struct ApplyArgs {
    /// Files, folders, or standard input (-)
    #[arg(long, short = 'f', required = true)]
    filename: Vec<PathBuf>,
    /// Ask the server, change nothing
    #[arg(long)]
    dry_run: bool,
}

/// # Errors
/// What a file or the server said; the objects before it are applied.
pub async fn apply(session: &Session, args: &ApplyArgs) -> Result<()> {
    for object in documents::read(&args.filename)? {
        let outcome = one(session, args, &object).await?;
        println!("{} {outcome}", name_of(&object));
    }
    Ok(())
}

async fn one(session: &Session, args: &ApplyArgs, object: &Value) -> Result<&'static str> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let row =
        session.kind_of(text("/apiVersion").unwrap_or_default(), text("/kind").unwrap_or_default()).await?;
    let name = text("/metadata/name").with_context(|| format!("a {} in the files has no name", row.kind))?;
    let mut target = session.object(&row, name);
    if let (true, Some(namespace)) = (row.namespaced(), text("/metadata/namespace")) {
        target = target.within(namespace);
    }
    let wanted = annotated(object)?;
    let options = WriteOptions {
        dry_run: args.dry_run,
        field_manager: "kontiki-client-side-apply".into(),
        ..WriteOptions::default()
    };
    let live: Value = match session.client.get(&target, &GetOptions::default()).await {
        Ok(document) => decode(&document)?,
        Err(status) if status.is_not_found() => {
            let mut collection = target.clone();
            collection.name = Default::default();
            session.client.create(&collection, encode(&wanted)?, &options).await?;
            return Ok("created");
        }
        Err(status) => return Err(status.into()),
    };
    let last = live["metadata"]["annotations"][LAST_APPLIED].as_str();
    let last: Value = last.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let patch = three_way(&last, &wanted, &live);
    if patch.as_object().is_none_or(Map::is_empty) {
        return Ok("unchanged");
    }
    // Lists merge by their keys where the server knows these; custom resources replace them.
    let patch_type = if builtin(&row) { PatchType::StrategicMerge } else { PatchType::Merge };
    let before = live["metadata"]["resourceVersion"].clone();
    let after: Value = decode(&session.client.patch(&target, patch_type, encode(&patch)?, &options).await?)?;
    Ok(if after["metadata"]["resourceVersion"] == before && !args.dry_run { "unchanged" } else { "configured" })
}

fn builtin(row: &Resource) -> bool {
    kontiki_proto::Registry::builtin().find(&row.group, &row.version, &row.plural).is_some()
}

/// The object with its own text in the annotation, as kubectl writes it.
fn annotated(object: &Value) -> Result<Value> {
    let mut plain = object.clone();
    let annotations = plain["metadata"]["annotations"].take();
    let mut annotations = annotations.as_object().cloned().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    plain["metadata"]["annotations"] = Value::Object(annotations.clone());
    let text = format!("{}\n", serde_json::to_string(&plain)?);
    annotations.insert(LAST_APPLIED.into(), json!(text));
    plain["metadata"]["annotations"] = Value::Object(annotations);
    Ok(plain)
}

/// The changes that make `live` what `wanted` says, and remove what `last` said and `wanted` no longer does. What
/// others have set stays.
pub fn three_way(last: &Value, wanted: &Value, live: &Value) -> Value {
    let empty = Map::new();
    let (last, live) = (last.as_object().unwrap_or(&empty), live.as_object().unwrap_or(&empty));
    let mut patch = Map::new();
    for (key, value) in wanted.as_object().unwrap_or(&empty) {
        match (value, live.get(key)) {
            (Value::Object(_), Some(current @ Value::Object(_))) => {
                let inner = three_way(last.get(key).unwrap_or(&Value::Null), value, current);
                if inner.as_object().is_some_and(|inner| !inner.is_empty()) {
                    patch.insert(key.clone(), inner);
                }
            }
            (Value::Array(items), Some(Value::Array(current))) => {
                let former = last.get(key).and_then(Value::as_array);
                if !covered(items, current) || former.is_some_and(|former| former != items) {
                    list_patch(key, former, items, &mut patch);
                }
            }
            (value, Some(current)) if value == current => {}
            (Value::Null, None) => {}
            (value, _) => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in last.keys() {
        if !wanted.as_object().is_some_and(|wanted| wanted.contains_key(key)) && live.contains_key(key) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    patch.into()
}

/// Whether the live list has the wanted items in order, each with at least the wanted fields.
fn covered(wanted: &[Value], live: &[Value]) -> bool {
    wanted.len() == live.len() && wanted.iter().zip(live).all(|(wanted, live)| contains(wanted, live))
}

fn contains(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => wanted
            .iter()
            .all(|(key, value)| live.get(key).map_or(value.is_null(), |current| contains(value, current))),
        (Value::Array(wanted), Value::Array(live)) => covered(wanted, live),
        (wanted, live) => wanted == live,
    }
}

/// Keys by which upstream merges lists of objects; the first all items have decides which items went away.
const MERGE_KEYS: [&str; 6] = ["name", "containerPort", "mountPath", "port", "ip", "uid"];

/// The wanted list, and for merged lists a directive for each item that has gone.
fn list_patch(key: &str, former: Option<&Vec<Value>>, wanted: &[Value], patch: &mut Map<String, Value>) {
    let mut items = wanted.to_vec();
    if let Some(former) = former {
        let keyed = |items: &[Value], key: &str| items.iter().all(|item| item.get(key).is_some());
        if let Some(merge_key) = MERGE_KEYS.iter().find(|k| keyed(former, k) && keyed(wanted, k)) {
            for item in former {
                let gone = wanted.iter().all(|other| other[merge_key] != item[merge_key]);
                if gone {
                    let name = *merge_key;
                    items.push(json!({ "$patch": "delete", name: item[merge_key] }));
                }
            }
        }
    }
    patch.insert(key.into(), items.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// last, wanted, live, and the patch.
    fn check(last: Value, wanted: Value, live: Value, expected: Value) {
        assert_eq!(three_way(&last, &wanted, &live), expected, "last {last} wanted {wanted} live {live}");
    }

    #[test]
    fn only_what_differs_is_sent_and_others_fields_stay() {
        check(json!({ "a": 1 }), json!({ "a": 1 }), json!({ "a": 1, "other": 2 }), json!({}));
        check(json!({ "a": 1 }), json!({ "a": 2 }), json!({ "a": 1, "other": 2 }), json!({ "a": 2 }));
        check(json!({ "a": 1, "b": 1 }), json!({ "a": 1 }), json!({ "a": 1, "b": 1 }), json!({ "b": null }));
        check(json!({ "a": 1, "b": 1 }), json!({ "a": 1 }), json!({ "a": 1 }), json!({}));
        check(
            json!({ "s": { "x": 1, "y": 1 } }),
            json!({ "s": { "x": 2 } }),
            json!({ "s": { "x": 1, "y": 1, "z": 1 } }),
            json!({ "s": { "x": 2, "y": null } }),
        );
    }

    #[test]
    fn lists_are_sent_when_they_differ_and_defaults_in_them_are_no_difference() {
        let wanted = json!({ "c": [{ "name": "a", "image": "x" }] });
        check(
            wanted.clone(),
            wanted.clone(),
            json!({ "c": [{ "name": "a", "image": "x", "pull": "Always" }] }),
            json!({}),
        );
        check(
            wanted.clone(),
            wanted.clone(),
            json!({ "c": [{ "name": "a", "image": "changed" }] }),
            wanted.clone(),
        );
        check(
            json!({ "c": [{ "name": "a" }, { "name": "b" }] }),
            json!({ "c": [{ "name": "a" }] }),
            json!({ "c": [{ "name": "a" }, { "name": "b" }] }),
            json!({ "c": [{ "name": "a" }, { "$patch": "delete", "name": "b" }] }),
        );
    }

    #[test]
    fn the_annotation_holds_the_object_without_itself() {
        let object = json!({ "kind": "A", "metadata": { "name": "a" } });
        let once = annotated(&object).unwrap();
        let text = once["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap();
        assert!(!text.contains(LAST_APPLIED));
        assert_eq!(annotated(&once).unwrap(), once);
    }
}
