//! `kontiki apply`: three-way, by the annotation kubectl uses, so that both can be used on one object.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use kontiki_apiserver::schema;
use kontiki_proto::api::{Api, GetOptions, PatchType, WriteOptions, decode, encode};
use serde_json::{Value, json};

use super::Failures;
use crate::documents;
use crate::merge::three_way;
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
/// What a file said, or the server of each object it refused; the others are applied.
pub async fn apply(session: &Session, args: &ApplyArgs) -> Result<()> {
    let mut errors = Vec::new();
    for object in documents::read(&args.filename)? {
        let mark = if args.dry_run { " (server dry run)" } else { "" };
        match one(session, args, &object).await {
            Ok(outcome) => println!("{} {outcome}{mark}", name_of(&object)),
            Err(error) => errors.push(error),
        }
    }
    Failures::check(errors)
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
    let mut object = object.clone();
    if row.namespaced() {
        // kubectl writes it into the annotation, and two annotations that differ would be a change each time.
        object["metadata"]["namespace"] = json!(target.namespace);
    }
    let wanted = annotated(&object)?;
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
    let of = schema::type_of(&row);
    let patch = three_way(of, &last, &wanted, &live);
    if patch == json!({}) {
        return Ok("unchanged");
    }
    // Lists merge by their keys where the server knows these; custom resources replace them.
    let patch_type = if of.is_some() { PatchType::StrategicMerge } else { PatchType::Merge };
    let before = live["metadata"]["resourceVersion"].clone();
    let after: Value = decode(&session.client.patch(&target, patch_type, encode(&patch)?, &options).await?)?;
    Ok(if after["metadata"]["resourceVersion"] == before && !args.dry_run {
        "unchanged"
    } else {
        "configured"
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_holds_the_object_without_itself() {
        let object = json!({ "kind": "A", "metadata": { "name": "a" } });
        let once = annotated(&object).unwrap();
        let text = once["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap();
        assert!(!text.contains(LAST_APPLIED));
        assert_eq!(annotated(&once).unwrap(), once);
    }
}
