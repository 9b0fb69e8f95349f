//! The API as a client sees it, over TLS.

use crate::support::Harness;
use http::Method;
use serde_json::{Value, json};

fn config_map(name: &str, labels: Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels}, "data": {"k": "v"}})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn an_object_is_created_read_listed_updated_and_deleted() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let created = api.post(MAPS, &config_map("a", json!({"app": "x"}))).await.expect(201);
    assert_eq!(created["kind"], "ConfigMap");
    assert!(created["metadata"]["uid"].is_string() && created["metadata"]["creationTimestamp"].is_string());

    let read = api.get(&format!("{MAPS}/a")).await.expect(200);
    assert_eq!(read, created);
    let list = api.get(&format!("{MAPS}?labelSelector=app%3Dx")).await.expect(200);
    assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&json!("ConfigMapList"), Some(1)));

    let mut changed = read.clone();
    changed["data"]["k"] = json!("w");
    let updated = api.put(&format!("{MAPS}/a"), &changed).await.expect(200);
    assert_ne!(updated["metadata"]["resourceVersion"], read["metadata"]["resourceVersion"]);
    let again = api.put(&format!("{MAPS}/a"), &updated).await.expect(200);
    assert_eq!(again, updated, "an update without a change writes nothing");

    let stale = api.put(&format!("{MAPS}/a"), &changed).await.expect(409);
    assert_eq!(stale["reason"], "Conflict");

    let gone = api.delete(&format!("{MAPS}/a"), &Value::Null).await.expect(200);
    assert_eq!((&gone["status"], &gone["details"]["name"]), (&json!("Success"), &json!("a")));
    let missing = api.get(&format!("{MAPS}/a")).await.expect(404);
    assert_eq!(missing["message"], "configmaps \"a\" not found");
}

#[tokio::test]
async fn a_watch_starts_with_what_is_there_and_follows() {
    let harness = Harness::start().await;
    let api = harness.admin();
    api.post(MAPS, &config_map("a", json!({"app": "x"}))).await.expect(201);
    let mut events = api.watch(&format!("{MAPS}?watch=true&labelSelector=app%3Dx")).await;
    assert_eq!(events.event().await.0, "ADDED");
    let away = json!({"metadata": {"labels": {"app": "y"}}});
    api.patch(&format!("{MAPS}/a"), "merge-patch", &away).await.expect(200);
    let (kind, name, object) = events.event().await;
    assert_eq!((kind.as_str(), name.as_str()), ("DELETED", "a"));
    assert_eq!(object["metadata"]["labels"]["app"], "x", "what left is shown as it was last seen");
    let back = json!({"metadata": {"labels": {"app": "x"}}});
    api.patch(&format!("{MAPS}/a"), "merge-patch", &back).await.expect(200);
    assert_eq!(events.event().await.0, "ADDED");
    api.send(Method::DELETE, &format!("{MAPS}/a"), "").await.expect(200);
    assert_eq!(events.event().await.0, "DELETED");
}
