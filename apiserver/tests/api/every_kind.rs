//! Every row of the resource table that is stored can be created, read, listed, watched, patched, updated and deleted,
//! through REST and through gRPC.

use crate::support::Harness;
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

        assert_eq!(api.get(&object).await.expect(200), created, "{what}");
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
            assert_eq!(events.event().await.0, "MODIFIED", "{what}");
        }
        let mut changed = api.get(&object).await.expect(200);
        changed["metadata"]["annotations"]["d"] = json!("update");
        let updated = api.put(&object, &changed).await;
        if updated.code == 200 {
            assert_eq!(events.event().await.0, "MODIFIED", "{what}");
        } else {
            failures.push(format!("{what}: update: {}", updated.text()));
        }

        let background = json!({"propagationPolicy": "Background", "gracePeriodSeconds": 0});
        api.delete(&object, &background).await.expect(200);
        let left = api.get(&object).await;
        if left.code == 200 {
            // What waits for a controller: the test is that controller.
            let freed = freed(&left.json());
            if row.plural == "namespaces" {
                let mut empty = freed;
                empty["spec"]["finalizers"] = json!([]);
                api.put(&format!("{object}/finalize"), &empty).await.expect(200);
            } else {
                api.put(&object, &freed).await.expect(200);
            }
        }
        api.get(&object).await.expect(404);
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
            event.expect("in time").expect("an event").expect("no error").event_type
        };
        assert_eq!(event().await, EventType::Added, "{what}");
        assert_eq!(api.get(&target, &GetOptions::default()).await.expect("read"), created, "{what}");
        let options = ListOptions { label_selector: "test=every-kind".into(), ..ListOptions::default() };
        let list = api.list(&collection, &options).await.expect("listed");
        assert_eq!(list.items.len(), 1, "{what}");

        for (patch_type, patch) in [
            (PatchType::Merge, json!({"metadata": {"annotations": {"a": "merge"}}})),
            (PatchType::StrategicMerge, json!({"metadata": {"annotations": {"b": "strategic"}}})),
            (PatchType::Json, json!([{"op": "add", "path": "/metadata/annotations/c", "value": "json"}])),
        ] {
            match api.patch(&target, patch_type, patch.to_string().into(), &write).await {
                Ok(_) => assert_eq!(event().await, EventType::Modified, "{what}"),
                Err(status) => failures.push(format!("{what}: {patch_type:?}: {status}")),
            }
        }
        let current = api.get(&target, &GetOptions::default()).await.expect("read");
        let mut changed: Value = serde_json::from_slice(&current).expect("JSON");
        changed["metadata"]["annotations"]["d"] = json!("update");
        match api.update(&target, changed.to_string().into(), &write).await {
            Ok(_) => assert_eq!(event().await, EventType::Modified, "{what}"),
            Err(status) => failures.push(format!("{what}: update: {status}")),
        }

        let background = DeleteOptions::default().propagate("Background").grace(0);
        api.delete(&target, &background).await.expect("deleted");
        if let Ok(left) = api.get(&target, &GetOptions::default()).await {
            let mut freed = freed(&serde_json::from_slice(&left).expect("JSON"));
            let mut at = target.clone();
            if row.plural == "namespaces" {
                freed["spec"]["finalizers"] = json!([]);
                at = at.sub("finalize");
            }
            api.update(&at, freed.to_string().into(), &write).await.expect("freed");
        }
        let gone = api.get(&target, &GetOptions::default()).await.expect_err("gone");
        assert!(gone.is_not_found(), "{what}: {gone}");
        while event().await != EventType::Deleted {}
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
