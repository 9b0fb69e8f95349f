//! Writes: concurrency, names, dry runs, subresources, allocations, versions, formats.

use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::support::Harness;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn deployment() -> Value {
    json!({
        "metadata": {"name": "d"},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "x"}},
            "template": {
                "metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    })
}

#[tokio::test]
async fn concurrent_patches_are_all_applied() {
    let harness = Harness::start().await;
    let api = harness.admin();
    api.post(MAPS, &json!({"metadata": {"name": "a"}})).await.expect(201);
    let patches = (0..5).map(|index| {
        let api = api.clone();
        let patch = json!({"data": {format!("k{index}"): "v"}});
        async move { api.patch(&format!("{MAPS}/a"), "merge-patch", &patch).await.expect(200) }
    });
    join_all(patches).await;
    let data = api.get(&format!("{MAPS}/a")).await.expect(200)["data"].clone();
    assert_eq!(data.as_object().map(serde_json::Map::len), Some(5), "{data}");
}

#[tokio::test]
async fn of_concurrent_creates_of_one_name_one_wins() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let creates = (0..8).map(|_| {
        let api = api.clone();
        async move { api.post(MAPS, &json!({"metadata": {"name": "a"}})).await.code }
    });
    let mut codes = join_all(creates).await;
    codes.sort_unstable();
    assert_eq!(codes, [201, 409, 409, 409, 409, 409, 409, 409]);
}

#[tokio::test]
async fn names_are_generated() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let body = json!({"metadata": {"generateName": "web-"}});
    let one = api.post(MAPS, &body).await.expect(201);
    let other = api.post(MAPS, &body).await.expect(201);
    let name = one["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
    assert_ne!(one["metadata"]["name"], other["metadata"]["name"]);
}

#[tokio::test]
async fn a_dry_run_answers_and_writes_nothing() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let path = format!("{DEPLOYMENTS}?dryRun=All");
    let answer = api.post(&path, &deployment()).await.expect(201);
    assert_eq!(answer["spec"]["strategy"]["type"], "RollingUpdate", "defaults are shown");
    api.get(&format!("{DEPLOYMENTS}/d")).await.expect(404);
}

#[tokio::test]
async fn the_generation_counts_changes_of_the_specification() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let object = format!("{DEPLOYMENTS}/d");
    assert_eq!(api.post(DEPLOYMENTS, &deployment()).await.expect(201)["metadata"]["generation"], 1);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(api.patch(&object, "merge-patch", &label).await.expect(200)["metadata"]["generation"], 1);
    let status = json!({"status": {"replicas": 2}, "spec": {"replicas": 9}});
    let written = api.patch(&format!("{object}/status"), "merge-patch", &status).await.expect(200);
    assert_eq!((&written["spec"]["replicas"], &written["status"]["replicas"]), (&json!(2), &json!(2)));
    let both = json!({"status": {"replicas": 5}, "spec": {"replicas": 3}});
    let written = api.patch(&object, "merge-patch", &both).await.expect(200);
    assert_eq!((&written["spec"]["replicas"], &written["status"]["replicas"]), (&json!(3), &json!(2)));
    assert_eq!(written["metadata"]["generation"], 2);
}

#[tokio::test]
async fn scale_is_read_written_and_patched() {
    let harness = Harness::start().await;
    let api = harness.admin();
    api.post(DEPLOYMENTS, &deployment()).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d/scale");
    let mut scale = api.get(&path).await.expect(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    assert_eq!(scale["status"]["selector"], "app=x");
    scale["spec"]["replicas"] = json!(5);
    assert_eq!(api.put(&path, &scale).await.expect(200)["spec"]["replicas"], 5);
    assert_eq!(api.put(&path, &scale).await.expect(409)["reason"], "Conflict", "the scale is stale now");
    let patch = json!({"spec": {"replicas": 1}});
    assert_eq!(api.patch(&path, "merge-patch", &patch).await.expect(200)["spec"]["replicas"], 1);
    let negative = json!({"spec": {"replicas": -1}});
    assert_eq!(api.patch(&path, "merge-patch", &negative).await.code, 422);
    assert_eq!(api.get(&format!("{DEPLOYMENTS}/d")).await.expect(200)["spec"]["replicas"], 1);
}

#[tokio::test]
async fn services_get_addresses_and_ports_of_their_own_and_give_them_back() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let ports = json!([{"port": 80}]);
    let creates = (0..10).map(|index| {
        let (api, body) =
            (api.clone(), service(&format!("s{index}"), json!({"ports": ports, "type": "NodePort"})));
        async move { api.post(SERVICES, &body).await.expect(201) }
    });
    let made = join_all(creates).await;
    let mut addresses: Vec<_> = made.iter().map(|s| s["spec"]["clusterIP"].to_string()).collect();
    let mut node_ports: Vec<_> = made.iter().map(|s| s["spec"]["ports"][0]["nodePort"].to_string()).collect();
    for list in [&mut addresses, &mut node_ports] {
        list.sort();
        list.dedup();
        assert_eq!(list.len(), 10, "{list:?}");
    }

    let taken = made[0]["spec"]["clusterIP"].clone();
    let fixed = service("fixed", json!({"ports": ports, "clusterIP": taken}));
    let refused = api.post(SERVICES, &fixed).await.expect(422);
    assert!(refused["message"].as_str().is_some_and(|m| m.contains("already allocated")), "{refused}");
    api.delete(&format!("{SERVICES}/s0"), &Value::Null).await.expect(200);
    let given = api.post(SERVICES, &fixed).await;
    if made[0]["metadata"]["name"] == "s0" {
        assert_eq!(given.expect(201)["spec"]["clusterIPs"], json!([taken]));
    }
    let moved = json!({"spec": {"clusterIP": "10.96.0.77"}});
    assert_eq!(api.patch(&format!("{SERVICES}/s1"), "merge-patch", &moved).await.code, 422);
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let account = json!({"metadata": {"name": "default"}});
    api.post("/api/v1/namespaces/default/serviceaccounts", &account).await;
    let pods = "/api/v1/namespaces/default/pods";
    let body = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    api.post(pods, &body).await.expect(201);
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"},
    });
    api.post(&format!("{pods}/p/binding"), &binding).await.expect(201);
    let bound = api.get(&format!("{pods}?fieldSelector=spec.nodeName%3Dn1")).await.expect(200);
    assert_eq!(bound["items"][0]["status"]["conditions"][0]["type"], "PodScheduled");
    let twice = api.post(&format!("{pods}/p/binding"), &binding).await.expect(409);
    assert!(twice["message"].as_str().is_some_and(|m| m.contains("already assigned to node")), "{twice}");
}

#[tokio::test]
async fn a_kind_of_two_versions_is_one_object() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let path =
        |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    let body = json!({
        "metadata": {"name": "h"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 3,
            "targetCPUUtilizationPercentage": 50,
        },
    });
    api.post(&path("v1"), &body).await.expect(201);
    let newer = api.get(&format!("{}/h", path("v2"))).await.expect(200);
    assert_eq!(newer["apiVersion"], "autoscaling/v2");
    assert_eq!(newer["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    let patch = json!({"spec": {"maxReplicas": 7}});
    let older = api.patch(&format!("{}/h", path("v1")), "merge-patch", &patch).await.expect(200);
    assert_eq!(
        (&older["apiVersion"], &older["spec"]["targetCPUUtilizationPercentage"]),
        (&json!("autoscaling/v1"), &json!(50))
    );
    let mut events = api.watch(&format!("{}?watch=1", path("v1"))).await;
    assert_eq!(events.event().await.2["spec"]["maxReplicas"], 7);
}

#[tokio::test]
async fn bodies_may_be_yaml() {
    let harness = Harness::start().await;
    let api = harness.admin().with("content-type", "application/yaml");
    let answer = api.send(Method::POST, MAPS, "metadata:\n  name: yam\ndata:\n  k: \"1\"\n").await;
    assert_eq!(answer.expect(201)["data"]["k"], "1");
    let broken = api.send(Method::POST, MAPS, "metadata: [\n").await;
    assert_eq!(broken.code, 400, "{}", broken.text());
}

#[tokio::test]
async fn events_are_kept_for_a_while_only() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let body = json!({
        "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "R", "message": "m", "type": "Normal",
    });
    api.post("/api/v1/namespaces/default/events", &body).await.expect(201);
    let key = b"/registry/core/events/default/e";
    assert!(harness.store.get(key).expect("stored").lease.is_some());
    let grouped = api.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.expect(200);
    assert_eq!((&grouped["note"], &grouped["regarding"]["name"]), (&json!("m"), &json!("p")));
    let selected = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp";
    assert_eq!(api.get(selected).await.expect(200)["items"].as_array().map(Vec::len), Some(1));
}
