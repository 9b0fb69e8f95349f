//! Deletes: at once, after a grace period, after the last finalizer, after a namespace's content.

use serde_json::{Value, json};

use crate::support::{Harness, Rest};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn pod(api: &Rest, name: &str, node: &str) -> Value {
    let account = json!({"metadata": {"name": "default"}});
    api.post("/api/v1/namespaces/default/serviceaccounts", &account).await;
    let body = json!({
        "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    let pod = api.post(PODS, &body).await.expect(201);
    if node.is_empty() {
        return pod;
    }
    let binding = json!({"target": {"kind": "Node", "name": node}});
    api.post(&format!("{PODS}/{name}/binding"), &binding).await.expect(201);
    api.get(&format!("{PODS}/{name}")).await.expect(200)
}

#[tokio::test]
async fn an_object_goes_when_its_last_finalizer_does() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let body = json!({"metadata": {"name": "a", "finalizers": ["example.com/x"]}});
    api.post(MAPS, &body).await.expect(201);
    let object = format!("{MAPS}/a");
    let waiting = api.delete(&object, &Value::Null).await.expect(200);
    assert!(waiting["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(waiting["metadata"]["deletionGracePeriodSeconds"], 0);
    let again = api.delete(&object, &Value::Null).await.expect(200);
    assert_eq!(again, waiting, "a second delete changes nothing");
    let more = json!({"metadata": {"finalizers": ["example.com/x", "example.com/y"]}});
    let refused = api.patch(&object, "merge-patch", &more).await;
    assert_eq!(refused.code, 422, "{}", refused.text());
    let none = json!({"metadata": {"finalizers": null}});
    api.patch(&object, "merge-patch", &none).await.expect(200);
    api.get(&object).await.expect(404);
}

#[tokio::test]
async fn orphan_and_foreground_wait_for_the_garbage_collector() {
    let harness = Harness::start().await;
    let api = harness.admin();
    for (policy, finalizer) in [("Orphan", "orphan"), ("Foreground", "foregroundDeletion")] {
        let name = policy.to_lowercase();
        api.post(MAPS, &json!({"metadata": {"name": name}})).await.expect(201);
        let waiting =
            api.delete(&format!("{MAPS}/{name}"), &json!({"propagationPolicy": policy})).await.expect(200);
        assert_eq!(waiting["metadata"]["finalizers"], json!([finalizer]));
        let background = json!({"propagationPolicy": "Background"});
        api.delete(&format!("{MAPS}/{name}"), &background).await.expect(200);
        api.get(&format!("{MAPS}/{name}")).await.expect(404);
    }
}

#[tokio::test]
async fn a_pod_on_a_node_waits_for_its_agent() {
    let harness = Harness::start().await;
    let api = harness.admin();
    pod(&api, "p", "n1").await;
    let object = format!("{PODS}/p");
    let waiting = api.delete(&object, &Value::Null).await.expect(200);
    assert_eq!(waiting["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = api.delete(&object, &json!({"gracePeriodSeconds": 5})).await.expect(200);
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let longer = api.delete(&object, &json!({"gracePeriodSeconds": 60})).await.expect(200);
    assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 5, "never longer");
    let gone = api.delete(&object, &json!({"gracePeriodSeconds": 0})).await.expect(200);
    assert_eq!(gone["kind"], "Pod", "a pod's delete answers with the pod");
    api.get(&object).await.expect(404);
}

#[tokio::test]
async fn a_pod_nobody_runs_goes_at_once() {
    let harness = Harness::start().await;
    let api = harness.admin();
    pod(&api, "p", "").await;
    api.delete(&format!("{PODS}/p"), &Value::Null).await.expect(200);
    api.get(&format!("{PODS}/p")).await.expect(404);
}

#[tokio::test]
async fn a_namespace_takes_nothing_new_and_goes_when_it_is_finalized() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let made = api.post("/api/v1/namespaces", &json!({"metadata": {"name": "doomed"}})).await.expect(201);
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    let waiting = api.delete("/api/v1/namespaces/doomed", &Value::Null).await.expect(200);
    assert_eq!(waiting["status"]["phase"], "Terminating");
    let refused = api
        .post("/api/v1/namespaces/doomed/configmaps", &json!({"metadata": {"name": "a"}}))
        .await
        .expect(403);
    assert!(refused["message"].as_str().is_some_and(|m| m.contains("being terminated")), "{refused}");
    let mut empty = waiting;
    empty["spec"]["finalizers"] = json!([]);
    api.put("/api/v1/namespaces/doomed/finalize", &empty).await.expect(200);
    api.get("/api/v1/namespaces/doomed").await.expect(404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selection() {
    let harness = Harness::start().await;
    let api = harness.admin();
    for (name, app) in [("a", "x"), ("b", "x"), ("c", "y")] {
        api.post(MAPS, &json!({"metadata": {"name": name, "labels": {"app": app}}})).await.expect(201);
    }
    api.delete(&format!("{MAPS}?labelSelector=app%3Dx"), &Value::Null).await.expect(200);
    api.get(&format!("{MAPS}/a")).await.expect(404);
    api.get(&format!("{MAPS}/c")).await.expect(200);
}

#[tokio::test]
async fn a_dry_run_deletes_nothing() {
    let harness = Harness::start().await;
    let api = harness.admin();
    api.post(MAPS, &json!({"metadata": {"name": "a"}})).await.expect(201);
    api.delete(&format!("{MAPS}/a?dryRun=All"), &Value::Null).await.expect(200);
    api.delete(&format!("{MAPS}/a"), &json!({"dryRun": ["All"]})).await.expect(200);
    api.get(&format!("{MAPS}/a")).await.expect(200);
}

#[tokio::test]
async fn an_eviction_respects_the_disruption_budget() {
    let harness = Harness::start().await;
    let api = harness.admin();
    pod(&api, "p", "n1").await;
    let labels = json!({"metadata": {"labels": {"app": "x"}}});
    api.patch(&format!("{PODS}/p"), "merge-patch", &labels).await.expect(200);
    let running = json!({"status": {"phase": "Running"}});
    api.patch(&format!("{PODS}/p/status"), "merge-patch", &running).await.expect(200);
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({
        "metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}},
    });
    api.post(budgets, &budget).await.expect(201);
    let counted = json!({"status": {
        "observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1,
    }});
    api.patch(&format!("{budgets}/b/status"), "merge-patch", &counted).await.expect(200);

    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let refused = api.post(&format!("{PODS}/p/eviction"), &eviction).await.expect(429);
    assert_eq!(refused["details"]["causes"][0]["reason"], "DisruptionBudget");
    api.patch(&format!("{budgets}/b/status"), "merge-patch", &json!({"status": {"disruptionsAllowed": 1}}))
        .await
        .expect(200);
    api.post(&format!("{PODS}/p/eviction"), &eviction).await.expect(201);
    let pod = api.get(&format!("{PODS}/p")).await.expect(200);
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
    let spent = api.get(&format!("{budgets}/b")).await.expect(200);
    assert_eq!(spent["status"]["disruptionsAllowed"], 0);
}
