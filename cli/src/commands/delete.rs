//! `kontiki delete`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use kontiki_proto::api::{Api, DeleteOptions, GetOptions, ListOptions, decode};
use kontiki_proto::{Status, Target};
use serde_json::Value;
use tokio::time::Instant;

use super::Failures;
use crate::documents;
use crate::output::name_of;
use crate::session::Session;

/// How often a deletion in progress is looked at.
const POLL: Duration = Duration::from_millis(200);

#[derive(Args, Clone, Debug)]
pub struct DeleteArgs {
    /// Kinds and names: `pod web-1`, `deployment/web`
    words: Vec<String>,
    /// The objects in these files, folders, or standard input (-)
    #[arg(long, short = 'f')]
    filename: Vec<PathBuf>,
    /// All objects with these labels
    #[arg(long, short = 'l', default_value = "")]
    selector: String,
    /// All objects with these fields
    #[arg(long, default_value = "")]
    field_selector: String,
    /// All objects of the kind in the namespace
    #[arg(long)]
    all: bool,
    /// What becomes of dependents: background, foreground or orphan
    #[arg(long, default_value = "background")]
    cascade: String,
    /// Seconds the object has to end; -1 leaves it to the object
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    grace_period: i64,
    /// Let the object end within a second
    #[arg(long, conflicts_with = "grace_period")]
    now: bool,
    /// Do not give the object any time: with --grace-period 0
    #[arg(long)]
    force: bool,
    /// Wait until the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    wait: bool,
    /// Seconds to wait at most
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    #[arg(long)]
    ignore_not_found: bool,
}

/// # Errors
/// What the server said of each object it refused; the others are deleted.
pub async fn delete(session: &Session, args: &DeleteArgs) -> Result<()> {
    let options = options(args)?;
    let mut going = Vec::new();
    let mut errors: Vec<anyhow::Error> = Vec::new();
    for (target, label) in targets(session, args).await? {
        match session.client.delete(&target, &options).await {
            Ok(answer) => {
                println!("{label} deleted");
                going.push((target, label, uid(&answer)));
            }
            Err(status) if status.is_not_found() && args.ignore_not_found => {}
            Err(status) => errors.push(status.into()),
        }
    }
    if going.is_empty() && errors.is_empty() && !args.ignore_not_found {
        println!("No resources found");
    }
    if args.wait {
        let deadline = Instant::now() + Duration::from_secs(args.timeout);
        for (target, label, uid) in going {
            await_end(session, &target, &uid, deadline)
                .await
                .map_err(|status| anyhow::anyhow!("{label}: {status}"))?;
        }
    }
    Failures::check(errors)
}

fn options(args: &DeleteArgs) -> Result<DeleteOptions> {
    let policy = match args.cascade.as_str() {
        "background" | "true" => "Background",
        "foreground" => "Foreground",
        "orphan" | "false" => "Orphan",
        other => bail!("--cascade {other:?} is none of background, foreground, orphan"),
    };
    let options = DeleteOptions::default().propagate(policy);
    Ok(match args.grace_period {
        _ if args.now => options.grace(1),
        _ if args.force => options.grace(0),
        seconds if seconds >= 0 => options.grace(seconds),
        _ => options,
    })
}

async fn targets(session: &Session, args: &DeleteArgs) -> Result<Vec<(Target, String)>> {
    let mut targets = Vec::new();
    if !args.filename.is_empty() {
        for object in documents::read(&args.filename)? {
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
            let (api_version, kind) =
                (text("/apiVersion").unwrap_or_default(), text("/kind").unwrap_or_default());
            let row = session.kind_of(api_version, kind).await?;
            let Some(name) = text("/metadata/name") else { bail!("a {kind} in the files has no name") };
            let mut target = session.object(&row, name);
            if let (true, Some(namespace)) = (row.namespaced(), text("/metadata/namespace")) {
                target = target.within(namespace);
            }
            targets.push((target, quoted(&name_of(&object))));
        }
        return Ok(targets);
    }
    for one in session.select(&args.words).await? {
        let label = |name: &str| match one.row.group.as_str() {
            "" => format!("{} \"{name}\"", one.row.singular),
            group => format!("{}.{group} \"{name}\"", one.row.singular),
        };
        for name in &one.names {
            targets.push((session.object(&one.row, name), label(name)));
        }
        if one.names.is_empty() {
            if !args.all && args.selector.is_empty() && args.field_selector.is_empty() {
                bail!("name the objects, or say which by -l SELECTOR or --all");
            }
            let chosen = ListOptions {
                label_selector: args.selector.clone(),
                field_selector: args.field_selector.clone(),
                ..ListOptions::default()
            };
            let list = session.client.list(&session.collection(&one.row), &chosen).await?;
            for item in &list.items {
                let object: Value = decode(item)?;
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                targets.push((session.object(&one.row, name), label(name)));
            }
        }
    }
    Ok(targets)
}

/// `configmap/a` as `configmap "a"`.
fn quoted(name: &str) -> String {
    match name.split_once('/') {
        Some((kind, name)) => format!("{kind} \"{name}\""),
        None => name.into(),
    }
}

/// From the object, or from the details of a `Status`.
fn uid(answer: &[u8]) -> String {
    let answer: Value = decode(answer).unwrap_or_default();
    let text = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str);
    text("/metadata/uid").or(text("/details/uid")).unwrap_or_default().to_string()
}

/// Until the object is gone, or another one has its name.
pub async fn await_end(
    session: &Session,
    target: &Target,
    uid: &str,
    deadline: Instant,
) -> Result<(), Status> {
    loop {
        match session.client.get(target, &GetOptions::default()).await {
            Ok(document) => {
                let object: Value = decode(&document)?;
                if !uid.is_empty() && object["metadata"]["uid"].as_str() != Some(uid) {
                    return Ok(());
                }
            }
            Err(status) if status.is_not_found() => return Ok(()),
            Err(status) if status.is_retriable() => {}
            Err(status) => return Err(status),
        }
        if Instant::now() >= deadline {
            return Err(Status::timeout("timed out waiting for its end; it is still being deleted"));
        }
        tokio::time::sleep(POLL).await;
    }
}
