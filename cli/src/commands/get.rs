//! `kontiki get` and `kontiki watch`.

use anyhow::{Result, bail};
use clap::Args;
use futures::StreamExt;
use kontiki_proto::api::{Api, EventType, GetOptions, ListOptions, Shape, WatchOptions, decode};
use kontiki_proto::{Status, Target};
use serde_json::{Value, json};

use super::Failures;
use crate::output::{Format, Printer, print_document, separate, table};
use crate::session::{Selected, Session};

/// Before a watch that ended is begun again.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(500);
/// How often in a row a watch may fail.
const MOST_FAILURES: u32 = 20;

#[derive(Args, Clone, Debug)]
pub struct GetArgs {
    /// Kinds and names: `pods`, `pods web-1`, `pods,services`, `deployment/web`
    #[arg(required = true)]
    words: Vec<String>,
    /// wide, yaml, json, name, or jsonpath=TEMPLATE
    #[arg(long, short, default_value = "")]
    output: Format,
    /// Only objects with these labels
    #[arg(long, short = 'l', default_value = "")]
    selector: String,
    /// Only objects with these fields
    #[arg(long, default_value = "")]
    field_selector: String,
    /// In all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Go on with changes as they happen
    #[arg(long, short)]
    watch: bool,
    /// No header line
    #[arg(long)]
    no_headers: bool,
    /// Labels as a column
    #[arg(long)]
    show_labels: bool,
    /// A name that does not exist is no error
    #[arg(long)]
    ignore_not_found: bool,
}

#[derive(Args, Clone, Debug)]
pub struct WatchArgs {
    #[command(flatten)]
    get: GetArgs,
}

/// # Errors
/// What the server said.
pub async fn watch(session: &Session, args: &WatchArgs) -> Result<()> {
    get(session, &GetArgs { watch: true, ..args.get.clone() }).await
}

/// # Errors
/// What the server said.
pub async fn get(session: &Session, args: &GetArgs) -> Result<()> {
    let selected = session.select(&args.words).await?;
    if args.watch {
        let [one] = selected.as_slice() else { bail!("--watch follows one kind at a time") };
        return follow(session, args, one).await;
    }
    if args.output.is_table() {
        tables(session, args, &selected).await
    } else {
        documents(session, args, &selected).await
    }
}

fn target(session: &Session, args: &GetArgs, one: &Selected) -> Target {
    if args.all_namespaces { Target::of(&one.row) } else { session.collection(&one.row) }
}

fn list_options(args: &GetArgs, shape: Shape) -> ListOptions {
    ListOptions {
        label_selector: args.selector.clone(),
        field_selector: args.field_selector.clone(),
        shape,
        ..ListOptions::default()
    }
}

fn printer(args: &GetArgs, one: &Selected, several: bool) -> Printer {
    Printer {
        wide: args.output == Format::Wide,
        headers: !args.no_headers,
        namespaces: args.all_namespaces && one.row.namespaced(),
        labels: args.show_labels,
        prefix: several.then(|| {
            if one.row.group.is_empty() {
                one.row.singular.to_string()
            } else {
                format!("{}.{}", one.row.singular, one.row.group)
            }
        }),
    }
}

async fn tables(session: &Session, args: &GetArgs, selected: &[Selected]) -> Result<()> {
    let several = selected.len() > 1 || args.words.len() > 1 && args.words[0].contains('/');
    let mut printed = 0;
    let mut errors = Vec::new();
    for one in selected {
        let mut rows: Option<Value> = None;
        for name in &one.names {
            let options = GetOptions { shape: Shape::Table, ..GetOptions::default() };
            match session.client.get(&session.object(&one.row, name), &options).await {
                Ok(document) => merge(&mut rows, decode(&document)?),
                Err(status) if status.is_not_found() && args.ignore_not_found => {}
                Err(status) => errors.push(status.into()),
            }
        }
        if one.names.is_empty() {
            let list =
                session.client.list(&target(session, args, one), &list_options(args, Shape::Table)).await?;
            rows = list.document.as_deref().map(decode::<Value>).transpose()?;
        }
        let Some(rows) = rows else { continue };
        let count = rows["rows"].as_array().map_or(0, Vec::len);
        if count == 0 {
            continue;
        }
        if printed > 0 {
            println!();
        }
        printed += count;
        print!("{}", table::render(&rows, &printer(args, one, several)));
    }
    if printed == 0 && errors.is_empty() && !args.ignore_not_found {
        if args.all_namespaces || selected.iter().all(|one| !one.row.namespaced()) {
            eprintln!("No resources found");
        } else {
            eprintln!("No resources found in {} namespace.", session.namespace);
        }
    }
    Failures::check(errors)
}

/// Tables of single objects become one.
fn merge(all: &mut Option<Value>, next: Value) {
    match all {
        None => *all = Some(next),
        Some(all) => {
            let more = next["rows"].as_array().cloned().unwrap_or_default();
            if let Some(rows) = all["rows"].as_array_mut() {
                rows.extend(more);
            }
        }
    }
}

async fn documents(session: &Session, args: &GetArgs, selected: &[Selected]) -> Result<()> {
    let mut found = Vec::new();
    let mut errors = Vec::new();
    let named = selected.iter().all(|one| !one.names.is_empty());
    for one in selected {
        for name in &one.names {
            match session.client.get(&session.object(&one.row, name), &GetOptions::default()).await {
                Ok(document) => found.push(decode::<Value>(&document)?),
                Err(status) if status.is_not_found() && args.ignore_not_found => {}
                Err(status) => errors.push(status.into()),
            }
        }
        if one.names.is_empty() {
            let list =
                session.client.list(&target(session, args, one), &list_options(args, Shape::Object)).await?;
            for item in &list.items {
                let mut object: Value = decode(item)?;
                // Items of a list need not say what they are; documents of their own must.
                if let Some(object) = object.as_object_mut() {
                    object.entry("apiVersion").or_insert_with(|| json!(one.row.api_version()));
                    object.entry("kind").or_insert_with(|| json!(one.row.kind));
                }
                found.push(object);
            }
        }
    }
    if args.output == Format::Name || (named && found.len() == 1) {
        for object in &found {
            print_document(object, &args.output)?;
        }
        return Failures::check(errors);
    }
    if named && found.is_empty() {
        return Failures::check(errors);
    }
    let list =
        json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "" }, "items": found });
    print_document(&list, &args.output)?;
    Failures::check(errors)
}

async fn follow(session: &Session, args: &GetArgs, one: &Selected) -> Result<()> {
    let shape = if args.output.is_table() { Shape::Table } else { Shape::Object };
    let field_selector = match one.names.as_slice() {
        [] => args.field_selector.clone(),
        [name] => format!("metadata.name={name}"),
        _ => bail!("--watch follows one name at a time"),
    };
    let target = target(session, args, one);
    let options = ListOptions { field_selector: field_selector.clone(), ..list_options(args, shape) };
    let list = session.client.list(&target, &options).await?;
    let mut printer = printer(args, one, false);
    if let Some(document) = &list.document {
        let rows: Value = decode(document)?;
        if rows["rows"].as_array().is_some_and(|rows| !rows.is_empty()) {
            print!("{}", table::render(&rows, &printer));
            printer.headers = false;
        }
    }
    let mut count = 0;
    let mut print_one = |object: &Value| {
        if count > 0 {
            separate(&args.output);
        }
        count += 1;
        print_document(object, &args.output)
    };
    for item in &list.items {
        print_one(&decode(item)?)?;
    }
    let mut options = WatchOptions {
        label_selector: args.selector.clone(),
        field_selector,
        resource_version: list.resource_version,
        allow_bookmarks: true,
        shape,
        ..WatchOptions::default()
    };
    let mut failures = 0;
    loop {
        let ended: Option<Status> = match session.client.watch(&target, &options).await {
            Err(status) => Some(status),
            Ok(mut events) => loop {
                let event = match events.next().await {
                    None => break None,
                    Some(Err(status)) => break Some(status),
                    Some(Ok(event)) => event,
                };
                failures = 0;
                let object: Value = decode(&event.object)?;
                if let Some(version) = newest_version(&object) {
                    options.resource_version = version;
                }
                if event.event_type == EventType::Bookmark {
                    continue;
                }
                if shape == Shape::Table {
                    print!("{}", table::render(&object, &printer));
                    printer.headers = false;
                } else {
                    print_one(&object)?;
                }
            },
        };
        // A server that ends a watch in peace, or dies, is no reason to stop: another goes on from the same revision.
        if let Some(status) = ended {
            failures += 1;
            if !status.is_retriable() || failures > MOST_FAILURES {
                return Err(status.into());
            }
            session.client.turn_away();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Of an object, or of the rows of a table.
fn newest_version(object: &Value) -> Option<String> {
    let of = |object: &Value| {
        object["metadata"]["resourceVersion"].as_str().filter(|v| !v.is_empty()).map(String::from)
    };
    let row = object["rows"].as_array().and_then(|rows| rows.last());
    row.and_then(|row| of(&row["object"])).or_else(|| of(object))
}
