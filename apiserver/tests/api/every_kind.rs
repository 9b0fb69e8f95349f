//! Every row of the resource table that is stored can be created, read, listed, watched, patched, updated and deleted,
//! through REST and through gRPC.

use crate::support::{Harness, Lines};
use futures::StreamExt;
use kontiki_proto::api::{
    DeleteOptions, EventType, GetOptions, ListOptions, PatchType, WatchOptions, WriteOptions,
};
use kontiki_proto::client::{Client, ClientConfig};
use kontiki_proto::resource::Verbs;
use kontiki_proto::{Api, Registry, Resource, Target};
use serde_json::{Value, json};

fn body(row: &Resource, name: &str) -> Value {
    let (mut body, fixed) = crate::samples::sample(&row.group, &row.version, &row.plural);
    body["apiVersion"] = row.api_version().as_str().into();
    body["kind"] = row.kind.as_str().into();
    body["metadata"] = json!({"name": fixed.unwrap_or(name), "labels": {"test": "every-kind"}});
    body
}

fn stored() -> impl Iterator<Item = &'static Resource> {
    Registry::builtin().rows().iter().map(|row| &**row).filter(|row| row.stored())
}

fn path(row: &Resource) -> String {
    let root = if row.group.is_empty() { "/api".to_string() } else { format!("/apis/{}", row.group) };
    let scope = if row.namespaced() { "/namespaces/default" } else { "" };
    format!("{root}/{}{scope}/{}", row.version, row.plural)
}

/// Ready for what the kinds need of others.
async fn start() -> Harness {
    let harness = Harness::start().await;
    let account = json!({"metadata": {"name": "default"}});
    let made = harness.admin().post("/api/v1/namespaces/default/serviceaccounts", &account).await;
    assert!(matches!(made.code, 201 | 409), "{}", made.text());
    harness
}

/// Takes the finalizers out, so that what waits for a controller goes.
fn freed(object: &Value) -> Value {
    let mut freed = object.clone();
    if let Some(metadata) = freed["metadata"].as_object_mut() {
        metadata.remove("finalizers");
    }
    freed
}

/// Reads up to the event of this very write.
async fn until(events: &mut Lines, kind: &str, written: &Value) {
    loop {
        let (seen, _, object) = events.event().await;
        if object["metadata"]["resourceVersion"] == written["metadata"]["resourceVersion"] {
            assert_eq!(seen, kind);
            return;
        }
    }
}

#[tokio::test]
async fn through_rest() {
    let harness = start().await;
    let api = harness.admin();
    let mut failures = Vec::new();
    for row in stored() {
        let what = format!("{}/{}", row.api_version(), row.plural);
        let collection = path(row);
        let sent = body(row, "every-kind");
        let name = sent["metadata"]["name"].as_str().expect("a name").to_string();
        let object = format!("{collection}/{name}");
        let mut events = api.watch(&format!("{collection}?watch=1&labelSelector=test%3Devery-kind")).await;

        let created = api.post(&collection, &sent).await;
        if created.code != 201 {
            failures.push(format!("{what}: create: {}", created.text()));
            continue;
        }
        let created = created.json();
        let (kind, seen, _) = events.event().await;
        assert_eq!((kind.as_str(), seen.as_str()), ("ADDED", name.as_str()), "{what}");

        let read = api.get(&object).await.expect(200);
        assert_eq!(read["metadata"]["uid"], created["metadata"]["uid"], "{what}");
        let list = api.get(&format!("{collection}?labelSelector=test%3Devery-kind")).await.expect(200);
        assert_eq!(list["kind"], row.list_kind.as_str(), "{what}");
        assert_eq!(list["items"][0]["metadata"]["name"], name.as_str(), "{what}");
        let table = api.clone().with("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
        let table = table.get(&collection).await.expect(200);
        assert_eq!(table["kind"], "Table", "{what}");

        for (patch_type, patch) in [
            ("merge-patch", json!({"metadata": {"annotations": {"a": "merge"}}})),
            ("strategic-merge-patch", json!({"metadata": {"annotations": {"b": "strategic"}}})),
            ("json-patch", json!([{"op": "add", "path": "/metadata/annotations/c", "value": "json"}])),
        ] {
            let patched = api.patch(&object, patch_type, &patch).await;
            if patched.code != 200 {
                failures.push(format!("{what}: {patch_type}: {}", patched.text()));
                continue;
            }
            until(&mut events, "MODIFIED", &patched.json()).await;
        }
        // A controller of the server's own may write in between, as it does to definitions of custom resources.
        let updated = loop {
            let mut changed = api.get(&object).await.expect(200);
            changed["metadata"]["annotations"]["d"] = json!("update");
            let updated = api.put(&object, &changed).await;
            if updated.code != 409 {
                break updated;
            }
        };
        if updated.code == 200 {
            until(&mut events, "MODIFIED", &updated.json()).await;
        } else {
            failures.push(format!("{what}: update: {}", updated.text()));
        }

        let background = json!({"propagationPolicy": "Background", "gracePeriodSeconds": 0});
        api.delete(&object, &background).await.expect(200);
        loop {
            let left = api.get(&object).await;
            if left.code == 404 {
                break;
            }
            // What waits for a controller: the test is that controller, unless the server's own is faster.
            let mut freed = freed(&left.json());
            let mut at = object.clone();
            if row.plural == "namespaces" {
                freed["spec"]["finalizers"] = json!([]);
                at.push_str("/finalize");
            }
            let answer = api.put(&at, &freed).await;
            assert!(matches!(answer.code, 200 | 404 | 409), "{what}: {}", answer.text());
        }
        loop {
            let (kind, _, _) = events.event().await;
            if kind == "DELETED" {
                break;
            }
            assert_eq!(kind, "MODIFIED", "{what}");
        }
        if row.verbs.contains(Verbs::DELETECOLLECTION) {
            api.delete(&format!("{collection}?labelSelector=test%3Devery-kind"), &Value::Null)
                .await
                .expect(200);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test]
async fn through_grpc() {
    let harness = start().await;
    let admin = harness.ca.client("admin", &["system:masters"]);
    let config = ClientConfig::new([harness.address.to_string()], &harness.ca.cert_pem)
        .with_identity(&admin.cert_pem, &admin.key_pem);
    let api = Client::new(config).expect("a client");
    let write = WriteOptions::default();
    let mut failures = Vec::new();
    for row in stored() {
        let what = format!("{}/{}", row.api_version(), row.plural);
        let collection = if row.namespaced() { Target::of(row).within("default") } else { Target::of(row) };
        let sent = body(row, "every-kind-too");
        let name = sent["metadata"]["name"].as_str().expect("a name").to_string();
        let target = collection.clone().named(&name);
        let options = WatchOptions { label_selector: "test=every-kind".into(), ..WatchOptions::default() };
        let mut events = api.watch(&collection, &options).await.expect("a watch");

        let created = match api.create(&collection, sent.to_string().into(), &write).await {
            Ok(created) => created,
            Err(status) => {
                failures.push(format!("{what}: create: {status}"));
                continue;
            }
        };
        let mut event = async || {
            let event = tokio::time::timeout(std::time::Duration::from_secs(10), events.next()).await;
            let event = event.expect("in time").expect("an event").expect("no error");
            (event.event_type, event.object)
        };
        assert_eq!(event().await, (EventType::Added, created.clone()), "{what}");
        let read = api.get(&target, &GetOptions::default()).await.expect("read");
        let uid =
            |json: &[u8]| serde_json::from_slice::<Value>(json).expect("JSON")["metadata"]["uid"].clone();
        assert_eq!(uid(&read), uid(&created), "{what}");
        let options = ListOptions { label_selector: "test=every-kind".into(), ..ListOptions::default() };
        let list = api.list(&collection, &options).await.expect("listed");
        assert_eq!(list.items.len(), 1, "{what}");

        for (patch_type, patch) in [
            (PatchType::Merge, json!({"metadata": {"annotations": {"a": "merge"}}})),
            (PatchType::StrategicMerge, json!({"metadata": {"annotations": {"b": "strategic"}}})),
            (PatchType::Json, json!([{"op": "add", "path": "/metadata/annotations/c", "value": "json"}])),
        ] {
            match api.patch(&target, patch_type, patch.to_string().into(), &write).await {
                Ok(patched) => while event().await != (EventType::Modified, patched.clone()) {},
                Err(status) => failures.push(format!("{what}: {patch_type:?}: {status}")),
            }
        }
        let updated = loop {
            let current = api.get(&target, &GetOptions::default()).await.expect("read");
            let mut changed: Value = serde_json::from_slice(&current).expect("JSON");
            changed["metadata"]["annotations"]["d"] = json!("update");
            match api.update(&target, changed.to_string().into(), &write).await {
                Err(status) if status.is_conflict() => {}
                updated => break updated,
            }
        };
        match updated {
            Ok(updated) => while event().await != (EventType::Modified, updated.clone()) {},
            Err(status) => failures.push(format!("{what}: update: {status}")),
        }

        let background = DeleteOptions::default().propagate("Background").grace(0);
        api.delete(&target, &background).await.expect("deleted");
        while let Ok(left) = api.get(&target, &GetOptions::default()).await {
            let mut freed = freed(&serde_json::from_slice(&left).expect("JSON"));
            let mut at = target.clone();
            if row.plural == "namespaces" {
                freed["spec"]["finalizers"] = json!([]);
                at = at.sub("finalize");
            }
            match api.update(&at, freed.to_string().into(), &write).await {
                Ok(_) => {}
                Err(status) => assert!(status.is_conflict() || status.is_not_found(), "{what}: {status}"),
            }
        }
        let gone = api.get(&target, &GetOptions::default()).await.expect_err("gone");
        assert!(gone.is_not_found(), "{what}: {gone}");
        while event().await.0 != EventType::Deleted {}
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
