//! Watches: every event after the start, once, in order; or an error that says to list again.

use serde_json::{Value, json};

use crate::support::Harness;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_watch_resumes_where_another_ended() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let a = api.post(MAPS, &json!({"metadata": {"name": "a"}})).await.expect(201);
    let at = a["metadata"]["resourceVersion"].as_str().expect("one").to_string();
    api.post(MAPS, &json!({"metadata": {"name": "b"}})).await.expect(201);
    api.delete(&format!("{MAPS}/a"), &Value::Null).await.expect(200);
    let mut events = api.watch(&format!("{MAPS}?watch=1&resourceVersion={at}")).await;
    let (kind, name, b) = events.event().await;
    assert_eq!((kind.as_str(), name.as_str()), ("ADDED", "b"));
    let (kind, name, gone) = events.event().await;
    assert_eq!((kind.as_str(), name.as_str()), ("DELETED", "a"));
    let version = |object: &Value| {
        object["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok()).expect("a number")
    };
    assert!(version(&gone) > version(&b), "a delete carries the revision of the delete");
}

#[tokio::test]
async fn a_streamed_list_ends_with_a_marked_bookmark() {
    let harness = Harness::start().await;
    let api = harness.admin();
    api.post(MAPS, &json!({"metadata": {"name": "a"}})).await.expect(201);
    let query = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut events = api.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(events.event().await.1, "a");
    let (kind, _, bookmark) = events.event().await;
    assert_eq!(kind, "BOOKMARK");
    assert_eq!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let refused = api.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await;
    assert_eq!(refused.code, 422, "{}", refused.text());
}

#[tokio::test]
async fn a_watch_ends_at_its_timeout() {
    let harness = Harness::start().await;
    let mut events = harness.admin().watch(&format!("{MAPS}?watch=1&timeoutSeconds=1")).await;
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_watch_from_the_future_is_an_error_event() {
    let harness = Harness::start().await;
    let mut events = harness.admin().watch(&format!("{MAPS}?watch=1&resourceVersion=99999999")).await;
    let event = events.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["kind"]), (&json!("ERROR"), &json!("Status")));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_watch_of_one_object_does_not_see_its_neighbours() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let mut events = api.watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Da")).await;
    for name in ["ab", "a", "b"] {
        api.post(MAPS, &json!({"metadata": {"name": name}})).await.expect(201);
    }
    api.delete(&format!("{MAPS}/a"), &Value::Null).await.expect(200);
    let (first, second) = (events.event().await, events.event().await);
    assert_eq!((first.0.as_str(), first.1.as_str()), ("ADDED", "a"));
    assert_eq!((second.0.as_str(), second.1.as_str()), ("DELETED", "a"));
}

#[tokio::test]
async fn tables_of_a_watch_define_their_columns_once() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let tables = api.clone().with("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let mut events = tables.watch(&format!("{MAPS}?watch=1")).await;
    for name in ["a", "b"] {
        api.post(MAPS, &json!({"metadata": {"name": name}})).await.expect(201);
    }
    let (first, second) = (events.next().await.expect("one"), events.next().await.expect("another"));
    assert_eq!(first["object"]["kind"], "Table");
    assert!(first["object"]["columnDefinitions"].is_array());
    assert!(second["object"]["columnDefinitions"].is_null());
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
}

#[tokio::test]
async fn the_old_watch_path_still_works() {
    let harness = Harness::start().await;
    let api = harness.admin();
    api.post(MAPS, &json!({"metadata": {"name": "a"}})).await.expect(201);
    let mut events = api.watch("/api/v1/watch/namespaces/default/configmaps/a").await;
    assert_eq!(events.event().await.1, "a");
}
