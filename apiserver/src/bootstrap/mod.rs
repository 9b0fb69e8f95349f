//! What a new cluster holds: namespaces, roles, priority classes, the `kubernetes` and DNS services.
//!
//! Every server does all of it at its start and then looks again from time to time; whoever is first makes an object,
//! the others find it. Nothing that people have changed is set back: roles and bindings are only completed.

mod cluster;
mod roles;

use std::time::Duration;

use futures::StreamExt;
use kontiki_proto::api::{DeleteOptions, ListOptions, WriteOptions, encode};
use kontiki_proto::{DynApi, Registry, Resource, Status, Target};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::auth::rbac::{Rule, cover};

/// How often endpoints and aggregated roles are looked at.
const INTERVAL: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Objects made at one time: enough for the store to write them together.
const AT_ONCE: usize = 32;

/// Makes what is missing and keeps the `kubernetes` service's endpoints on the servers' addresses until cancelled.
/// `addresses` gives the API addresses (`host:port`) of the servers. Several servers may do this at once.
/// Returns early only when cancelled; while the cluster cannot be written to, it tries again with growing pauses.
pub async fn run(
    api: DynApi,
    service_cidr: String,
    addresses: impl Fn() -> Vec<String> + Send + Sync + 'static,
    stop: CancellationToken,
) {
    let port = cluster::usual_port(&addresses());
    let steps: [Vec<Value>; 3] =
        [cluster::namespaces(), roles::objects(), cluster::objects(&service_cidr, port)];
    for objects in steps {
        if retried(&stop, || make(&api, &objects)).await.is_none() {
            return;
        }
    }
    loop {
        let current = addresses();
        let kept = retried(&stop, || async {
            publish(&api, &current).await?;
            aggregate(&api).await
        });
        if kept.await.is_none() {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Until it succeeds; `None` when cancelled.
async fn retried<F: Future<Output = Result<(), Status>>>(
    stop: &CancellationToken,
    attempt: impl Fn() -> F,
) -> Option<()> {
    let mut pause = FIRST_PAUSE;
    loop {
        let outcome = tokio::select! {
            () = stop.cancelled() => return None,
            outcome = attempt() => outcome,
        };
        let Err(error) = outcome else { return Some(()) };
        if pause >= LONGEST_PAUSE {
            tracing::warn!(%error, "the cluster's own objects cannot be written; trying again");
        } else {
            tracing::debug!(%error, "the cluster's own objects cannot be written yet");
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn row(object: &Value) -> Result<&'static Resource, Status> {
    Registry::builtin()
        .find_kind(text(&object["apiVersion"]), text(&object["kind"]))
        .map(AsRef::as_ref)
        .ok_or_else(|| Status::internal(format!("no row for {}", object["kind"])))
}

fn target(object: &Value) -> Result<Target, Status> {
    Ok(Target::of(row(object)?).within(text(&object["metadata"]["namespace"])))
}

async fn list(api: &DynApi, of: &Target, selector: &str) -> Result<Vec<Value>, Status> {
    let options = ListOptions { label_selector: selector.into(), ..ListOptions::default() };
    let list = api.list(&of.clone().within(""), &options).await?;
    list.items
        .iter()
        .map(|item| serde_json::from_slice(item).map_err(|error| Status::internal(error.to_string())))
        .collect()
}

/// Makes those of the objects that are missing, and completes roles and bindings.
async fn make(api: &DynApi, objects: &[Value]) -> Result<(), Status> {
    let mut found: Vec<Value> = Vec::new();
    let mut listed: Vec<Target> = Vec::new();
    for object in objects {
        let kind = target(object)?.within("");
        if !listed.contains(&kind) {
            found.extend(list(api, &kind, "").await?);
            listed.push(kind);
        }
    }
    let same = |a: &Value, b: &Value| {
        a["kind"] == b["kind"]
            && a["metadata"]["name"] == b["metadata"]["name"]
            && a["metadata"].get("namespace") == b["metadata"].get("namespace")
    };
    let mut writes: Vec<(Value, bool)> = Vec::new();
    for object in objects {
        match found.iter().find(|found| same(found, object)) {
            None => writes.push((object.clone(), false)),
            Some(found) => writes.extend(completed(found, object).map(|object| (object, true))),
        }
    }
    let writes = writes.into_iter().map(|(object, update)| write(api.clone(), object, update));
    let mut outcomes = futures::stream::iter(writes).buffer_unordered(AT_ONCE);
    while let Some(outcome) = outcomes.next().await {
        outcome?;
    }
    Ok(())
}

/// Losing a race is success: another server, or somebody, has made or changed the object.
async fn write(api: DynApi, object: Value, update: bool) -> Result<(), Status> {
    let target = target(&object)?;
    let body = encode(&object)?;
    let options = WriteOptions { field_manager: "kontiki".into(), ..WriteOptions::default() };
    let outcome = if update {
        api.update(&target.named(text(&object["metadata"]["name"])), body, &options).await
    } else {
        api.create(&target, body, &options).await
    };
    match outcome {
        Ok(_) => Ok(()),
        Err(status) if status.is_already_exists() || status.is_conflict() => Ok(()),
        Err(status) => Err(status),
    }
}

/// The stored role or binding with what it lacks of ours; `None` where it lacks nothing or is not to be touched.
fn completed(stored: &Value, ours: &Value) -> Option<Value> {
    if stored["metadata"]["annotations"][roles::AUTOUPDATE] != "true" {
        return None;
    }
    let mut object = stored.clone();
    let lacking: Vec<Value> = if ours["rules"].is_array() && !ours["aggregationRule"].is_object() {
        let held = Rule::read_all(&stored["rules"]);
        let wanted = Rule::read_all(&ours["rules"]);
        cover::missing(&held, &wanted).iter().map(Rule::write).collect()
    } else {
        let known = stored["subjects"].as_array();
        let ours = ours["subjects"].as_array().into_iter().flatten();
        ours.filter(|subject| !known.is_some_and(|known| known.contains(subject))).cloned().collect()
    };
    if lacking.is_empty() {
        return None;
    }
    let field = if ours["roleRef"].is_object() { "subjects" } else { "rules" };
    match object[field].as_array_mut() {
        Some(list) => list.extend(lacking),
        None => object[field] = lacking.into(),
    }
    Some(object)
}

/// Brings endpoints and slices of the `kubernetes` service to the servers' addresses.
async fn publish(api: &DynApi, addresses: &[String]) -> Result<(), Status> {
    let wanted = cluster::endpoints(addresses);
    if wanted.is_empty() {
        return Ok(());
    }
    let (label, manager) = cluster::MANAGED_BY;
    let slices = Registry::builtin().find("discovery.k8s.io", "v1", "endpointslices");
    let slices = Target::of(slices.ok_or_else(Status::no_such_path)?);
    let found = list(api, &slices, &format!("{label}={manager}")).await?;
    for stale in found.iter().filter(|found| {
        !wanted
            .iter()
            .any(|w| w["kind"] == "EndpointSlice" && w["metadata"]["name"] == found["metadata"]["name"])
    }) {
        let target = slices.clone().within("default").named(text(&stale["metadata"]["name"]));
        let options = DeleteOptions::default().only(text(&stale["metadata"]["uid"]));
        match api.delete(&target, &options).await {
            Ok(_) => {}
            Err(status) if status.is_not_found() || status.is_conflict() => {}
            Err(status) => return Err(status),
        }
    }
    for object in wanted {
        let target = target(&object)?.named(text(&object["metadata"]["name"]));
        let stored = match api.get(&target, &Default::default()).await {
            Ok(bytes) => {
                Some(serde_json::from_slice::<Value>(&bytes).map_err(|e| Status::internal(e.to_string()))?)
            }
            Err(status) if status.is_not_found() => None,
            Err(status) => return Err(status),
        };
        let Some(stored) = stored else {
            write(api.clone(), object, false).await?;
            continue;
        };
        if differs(&stored, &object) {
            let mut object = object;
            object["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
            write(api.clone(), object, true).await?;
        }
    }
    Ok(())
}

/// Whether the addresses or ports are others; whatever defaults have been added does not count.
fn differs(stored: &Value, wanted: &Value) -> bool {
    let shape = |object: &Value| -> Vec<(Vec<String>, Vec<i64>)> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let ports =
            |value: &Value| list(value).iter().filter_map(|port| port["port"].as_i64()).collect::<Vec<_>>();
        if object["kind"] == "Endpoints" {
            let ips = |subset: &Value| {
                list(&subset["addresses"]).iter().map(|a| text(&a["ip"]).to_string()).collect()
            };
            let mut shape: Vec<(Vec<String>, Vec<i64>)> = list(&object["subsets"])
                .iter()
                .map(|subset| (ips(subset), ports(&subset["ports"])))
                .collect();
            shape.sort();
            shape
        } else {
            let endpoints = list(&object["endpoints"]);
            let ips = endpoints.iter().flat_map(|e| list(&e["addresses"]));
            vec![(ips.map(|ip| text(&ip).to_string()).collect(), ports(&object["ports"]))]
        }
    };
    shape(stored) != shape(wanted)
}

/// Writes the rules of aggregating ClusterRoles where those they select have changed.
async fn aggregate(api: &DynApi) -> Result<(), Status> {
    let row = Registry::builtin().find("rbac.authorization.k8s.io", "v1", "clusterroles");
    let target = Target::of(row.ok_or_else(Status::no_such_path)?);
    let mut stored = list(api, &target, "").await?;
    for at in roles::aggregate(&mut stored) {
        write(api.clone(), stored[at].clone(), true).await?;
    }
    Ok(())
}
