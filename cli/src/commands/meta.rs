//! Small changes to objects: labels, annotations, replicas, images.

use anyhow::{Context, Result, bail};
use clap::Args;
use kontiki_proto::Target;
use kontiki_proto::api::{Api, GetOptions, ListOptions, PatchType, WriteOptions, decode, encode};
use serde_json::{Map, Value, json};

use crate::session::{Selected, Session};

#[derive(Args, Clone, Debug)]
pub struct MetaArgs {
    /// Objects, then KEY=VALUE to set or KEY- to remove: `pod web-1 tier=front old-`
    #[arg(required = true)]
    words: Vec<String>,
    /// All objects with these labels
    #[arg(long, short = 'l', default_value = "")]
    selector: String,
    /// All objects of the kind in the namespace
    #[arg(long)]
    all: bool,
    /// Replace a value that is there
    #[arg(long)]
    overwrite: bool,
}

#[derive(Args, Clone, Debug)]
pub struct ScaleArgs {
    /// `deployment web`, `deployment/web`, `sts/db`
    #[arg(required = true)]
    words: Vec<String>,
    #[arg(long)]
    replicas: u32,
    /// Only if it has so many now
    #[arg(long)]
    current_replicas: Option<i64>,
}

#[derive(Args, Clone, Debug)]
pub struct SetArgs {
    /// `image deployment/web CONTAINER=IMAGE …`; `*` is every container
    #[arg(required = true)]
    words: Vec<String>,
}

fn is_change(word: &str) -> bool {
    word.contains('=') || (word.ends_with('-') && word.len() > 1)
}

/// # Errors
/// A value that is there already without `--overwrite`, or what the server said.
pub async fn set(session: &Session, args: &MetaArgs, field: &str) -> Result<()> {
    let first_change = args
        .words
        .iter()
        .position(|word| is_change(word))
        .context("nothing to change: KEY=VALUE sets, KEY- removes")?;
    let (objects, changes) = args.words.split_at(first_change);
    let mut values = Map::new();
    for change in changes {
        match change.split_once('=') {
            Some((key, value)) => values.insert(key.into(), json!(value)),
            None if is_change(change) => values.insert(change.trim_end_matches('-').into(), Value::Null),
            None => bail!("{change:?} is neither KEY=VALUE nor KEY-"),
        };
    }
    for (target, label) in
        objects_of(session, &session.select(objects).await?, &args.selector, args.all).await?
    {
        let live: Value = decode(&session.client.get(&target, &GetOptions::default()).await?)?;
        let present = &live["metadata"][field];
        for (key, value) in &values {
            let taken = present.get(key).is_some_and(|current| !value.is_null() && current != value);
            if taken && !args.overwrite {
                let current = present[key].as_str().unwrap_or_default();
                bail!("'{key}' already has a value ({current}), and --overwrite is false");
            }
        }
        let patch = json!({ "metadata": { field: values } });
        let after = patch_merge(session, &target, &patch).await?;
        let changed = after["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"];
        let only_removes = values.values().all(Value::is_null);
        let word = match field {
            "labels" if only_removes => "unlabeled",
            "labels" => "labeled",
            _ => "annotated",
        };
        println!("{label} {}", if changed { word } else { "not changed" });
    }
    Ok(())
}

async fn patch_merge(session: &Session, target: &Target, patch: &Value) -> Result<Value> {
    let options = WriteOptions { field_manager: "kontiki".into(), ..WriteOptions::default() };
    Ok(decode(&session.client.patch(target, PatchType::Merge, encode(patch)?, &options).await?)?)
}

/// Named objects, or those a selector finds, with the name people read.
pub async fn objects_of(
    session: &Session,
    selected: &[Selected],
    selector: &str,
    all: bool,
) -> Result<Vec<(Target, String)>> {
    let mut targets = Vec::new();
    for one in selected {
        let label = |name: &str| match one.row.group.as_str() {
            "" => format!("{}/{name}", one.row.singular),
            group => format!("{}.{group}/{name}", one.row.singular),
        };
        targets.extend(one.names.iter().map(|name| (session.object(&one.row, name), label(name))));
        if one.names.is_empty() {
            if !all && selector.is_empty() {
                bail!("name the objects, or say which by -l SELECTOR or --all");
            }
            let chosen = ListOptions { label_selector: selector.into(), ..ListOptions::default() };
            for item in &session.client.list(&session.collection(&one.row), &chosen).await?.items {
                let object: Value = decode(item)?;
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                targets.push((session.object(&one.row, name), label(name)));
            }
        }
    }
    Ok(targets)
}

/// # Errors
/// A precondition that does not hold, or what the server said.
pub async fn scale(session: &Session, args: &ScaleArgs) -> Result<()> {
    for (target, label) in objects_of(session, &session.select(&args.words).await?, "", false).await? {
        let scale = target.sub("scale");
        if let Some(expected) = args.current_replicas {
            let live: Value = decode(&session.client.get(&scale, &GetOptions::default()).await?)?;
            if live["spec"]["replicas"].as_i64().unwrap_or(0) != expected {
                bail!("{label} has {} replicas, not {expected}", live["spec"]["replicas"]);
            }
        }
        patch_merge(session, &scale, &json!({ "spec": { "replicas": args.replicas } })).await?;
        println!("{label} scaled");
    }
    Ok(())
}

/// # Errors
/// A container the workload does not have, or what the server said.
pub async fn set_image(session: &Session, args: &SetArgs) -> Result<()> {
    let [what, rest @ ..] = args.words.as_slice() else { bail!("set what? `set image …`") };
    if what != "image" {
        bail!("`set {what}` is not built; `set image` is");
    }
    let first_change =
        rest.iter().position(|word| word.contains('=')).context("CONTAINER=IMAGE is missing")?;
    let (objects, changes) = rest.split_at(first_change);
    for (target, label) in objects_of(session, &session.select(objects).await?, "", false).await? {
        let live: Value = decode(&session.client.get(&target, &GetOptions::default()).await?)?;
        let is_pod = live["kind"] == "Pod";
        let spec = if is_pod { &live["spec"] } else { &live["spec"]["template"]["spec"] };
        let names: Vec<&str> =
            spec["containers"].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect();
        let mut containers = Vec::new();
        for change in changes {
            let Some((name, image)) = change.split_once('=') else {
                bail!("{change:?} is not CONTAINER=IMAGE")
            };
            if name != "*" && !names.contains(&name) {
                bail!("unable to find container named \"{name}\"; {label} has {}", names.join(", "));
            }
            let chosen = names.iter().filter(|candidate| name == "*" || **candidate == name);
            containers.extend(chosen.map(|name| json!({ "name": name, "image": image })));
        }
        let spec = json!({ "spec": { "containers": containers } });
        let patch = if is_pod { spec } else { json!({ "spec": { "template": spec } }) };
        let options = WriteOptions { field_manager: "kontiki".into(), ..WriteOptions::default() };
        let after: Value = decode(
            &session.client.patch(&target, PatchType::StrategicMerge, encode(&patch)?, &options).await?,
        )?;
        if after["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"] {
            println!("{label} image updated");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_dash_removes_and_an_equals_sign_sets() {
        for (word, expected) in [("a=b", true), ("a-", true), ("web-1", false), ("-", false), ("a=", true)] {
            assert_eq!(is_change(word), expected, "{word}");
        }
    }
}
