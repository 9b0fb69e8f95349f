//! `kontiki describe`: an object, its parts and its events, for people.

mod kinds;
mod page;

use anyhow::Result;
use clap::Args;
use kontiki_proto::api::{Api, GetOptions, ListOptions, decode};
use kontiki_proto::{Registry, Target};
use serde_json::Value;

use self::page::Page;
use super::meta::objects_of;
use crate::output::table::align;
use crate::session::Session;

#[derive(Args, Clone, Debug)]
pub struct DescribeArgs {
    /// `pod web-1`, `deployment/web`, `nodes`
    #[arg(required = true)]
    words: Vec<String>,
    /// All objects with these labels
    #[arg(long, short = 'l', default_value = "")]
    selector: String,
    /// Leave events out
    #[arg(long)]
    no_events: bool,
}

/// # Errors
/// What the server said.
pub async fn describe(session: &Session, args: &DescribeArgs) -> Result<()> {
    // A kind alone stands for all of its objects, as in kubectl.
    let selected = session.select(&args.words).await?;
    for (nth, (target, _)) in
        objects_of(session, &selected, &args.selector, true).await?.into_iter().enumerate()
    {
        if nth > 0 {
            print!("\n\n");
        }
        let object: Value = decode(&session.client.get(&target, &GetOptions::default()).await?)?;
        let related = related(session, &object).await?;
        let mut page = Page::default();
        kinds::describe(&object, &related, &mut page);
        if !args.no_events {
            let events = events(session, &object).await?;
            show_events(&events, jiff::Timestamp::now(), &mut page);
        }
        print!("{}", page.text());
    }
    Ok(())
}

/// Other objects that the description of this one shows.
async fn related(session: &Session, object: &Value) -> Result<Vec<Value>> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let name = text("/metadata/name");
    let (plural, group, namespace, options) = match text("/kind") {
        "Node" => {
            let field_selector = format!("spec.nodeName={name},status.phase!=Succeeded,status.phase!=Failed");
            ("pods", "", "", ListOptions { field_selector, ..ListOptions::default() })
        }
        "Service" => {
            let label_selector = format!("kubernetes.io/service-name={name}");
            let options = ListOptions { label_selector, ..ListOptions::default() };
            ("endpointslices", "discovery.k8s.io", text("/metadata/namespace"), options)
        }
        "Deployment" => ("replicasets", "apps", text("/metadata/namespace"), ListOptions::default()),
        _ => return Ok(Vec::new()),
    };
    let Some(row) = Registry::builtin().find(group, "v1", plural) else { return Ok(Vec::new()) };
    let list = session.client.list(&Target::of(row).within(namespace), &options).await?;
    Ok(list.items.iter().map(|item| decode(item)).collect::<Result<_, _>>()?)
}

/// Newest last.
async fn events(session: &Session, object: &Value) -> Result<Vec<Value>> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let Some(row) = Registry::builtin().find("", "v1", "events") else { return Ok(Vec::new()) };
    let field_selector = format!(
        "involvedObject.name={},involvedObject.kind={},involvedObject.namespace={}",
        text("/metadata/name"),
        text("/kind"),
        text("/metadata/namespace")
    );
    let options = ListOptions { field_selector, ..ListOptions::default() };
    let list = session.client.list(&Target::of(row).within(text("/metadata/namespace")), &options).await?;
    let mut events: Vec<Value> = list.items.iter().map(|item| decode(item)).collect::<Result<_, _>>()?;
    // Nodes are often named by their name where the uid belongs.
    let uid = text("/metadata/uid");
    events.retain(|event| {
        let involved = event["involvedObject"]["uid"].as_str().unwrap_or_default();
        involved.is_empty() || involved == uid || involved == text("/metadata/name")
    });
    events.sort_by_key(|event| last_seen(event).map(|(time, _)| time));
    Ok(events)
}

/// When an event happened last, and how often.
fn last_seen(event: &Value) -> Option<(jiff::Timestamp, i64)> {
    let time = |field: &Value| field.as_str().and_then(|text| text.parse().ok());
    let series = &event["series"];
    let last = time(&series["lastObservedTime"])
        .or(time(&event["lastTimestamp"]))
        .or(time(&event["eventTime"]))
        .or(time(&event["metadata"]["creationTimestamp"]))?;
    Some((last, series["count"].as_i64().or(event["count"].as_i64()).unwrap_or(1)))
}

fn show_events(events: &[Value], now: jiff::Timestamp, page: &mut Page) {
    if events.is_empty() {
        page.field("Events", "<none>");
        return;
    }
    let mut lines = vec![
        ["Type", "Reason", "Age", "From", "Message"].map(String::from).to_vec(),
        ["----", "------", "---", "----", "-------"].map(String::from).to_vec(),
    ];
    for event in events {
        let text =
            |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
        let age = match last_seen(event) {
            Some((last, count)) if count > 1 => {
                let first = text("/firstTimestamp").parse().unwrap_or(last);
                format!("{} (x{count} over {})", page::age(last, now), page::age(first, now))
            }
            Some((last, _)) => page::age(last, now),
            None => "<unknown>".into(),
        };
        let from = [text("/source/component"), text("/reportingComponent")];
        let from = from.into_iter().find(|from| !from.is_empty()).unwrap_or_default();
        lines.push(vec![
            text("/type"),
            text("/reason"),
            age,
            from,
            text("/message").trim().replace('\n', " "),
        ]);
    }
    page.heading("Events");
    for line in align(&lines).lines() {
        page.line(1, line);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_show_their_age_and_how_often_they_happened() {
        let events = [
            json!({ "type": "Normal", "reason": "Scheduled", "message": "placed\n", "eventTime": "2026-01-01T00:00:00.000000Z",
                    "reportingComponent": "scheduler" }),
            json!({ "type": "Warning", "reason": "BackOff", "message": "waits", "count": 3, "source": { "component": "agent" },
                    "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:04:00Z" }),
        ];
        let mut page = Page::default();
        show_events(&events, "2026-01-01T00:05:00Z".parse().unwrap(), &mut page);
        let text = page.text();
        assert!(text.contains("Scheduled   5m"), "{text}");
        assert!(text.contains("60s (x3 over 5m)") || text.contains("1m (x3 over 5m)"), "{text}");
        assert!(text.contains("scheduler   placed"), "{text}");
    }
}
