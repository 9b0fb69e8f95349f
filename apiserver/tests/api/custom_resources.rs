//! A definition becomes a resource, and goes with its objects.

use serde_json::{Value, json};

use crate::support::{Answer, Harness, Rest};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TOYS: &str = "/apis/example.com/v1/namespaces/default/toys";

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "toys.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "toys", "kind": "Toy"},
            "versions": [
                {
                    "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {
                        "type": "object", "required": ["size"],
                        "properties": {
                            "size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red"},
                        },
                    }}}},
                },
                {
                    "name": "v1beta1", "served": true, "storage": false,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                },
            ],
        },
    })
}

fn toy(size: i64) -> Value {
    json!({
        "apiVersion": "example.com/v1", "kind": "Toy", "metadata": {"name": "a"}, "spec": {"size": size, "junk": 1},
    })
}

/// Asks until the answer has the code: rows come and go a moment after their definition.
async fn until(client: &Rest, path: &str, code: u16) -> Answer {
    for _ in 0..500 {
        let answer = client.get(path).await;
        if answer.code == code {
            return answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{path} never answers {code}");
}

#[tokio::test]
async fn a_definition_becomes_a_resource_and_goes_with_its_objects() {
    let harness = Harness::start().await;
    let admin = harness.admin();
    admin.get(TOYS).await.expect(404);
    let made = admin.post(DEFINITIONS, &definition()).await.expect(201);
    let conditions = made["status"]["conditions"].as_array().expect("conditions");
    assert!(conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True"));
    until(&admin, TOYS, 200).await;

    let refused = admin.post(TOYS, &toy(0)).await.expect(422);
    assert_eq!(
        refused["message"],
        "Toy.example.com \"a\" is invalid: spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"
    );
    let toy = admin.post(TOYS, &toy(1)).await.expect(201);
    assert_eq!(toy["spec"], json!({"size": 1, "color": "red"}), "pruned and defaulted");
    let older = admin.get("/apis/example.com/v1beta1/namespaces/default/toys/a").await.expect(200);
    assert_eq!(older["apiVersion"], "example.com/v1beta1");
    let patch = json!({"spec": {"size": 2}});
    let patched = admin.patch(&format!("{TOYS}/a"), "merge-patch", &patch).await.expect(200);
    assert_eq!((&patched["spec"]["size"], &patched["metadata"]["generation"]), (&json!(2), &json!(2)));
    admin.patch(&format!("{TOYS}/a"), "strategic-merge-patch", &patch).await.expect(415);
    let status = json!({"status": {"phase": "Built"}, "spec": {"size": 9}});
    let path = format!("{TOYS}/a/status");
    admin.patch(&path, "merge-patch", &status).await.expect(200);
    assert_eq!(admin.get(&format!("{TOYS}/a")).await.expect(200)["spec"]["size"], 2);

    let listed = admin.get("/apis/example.com/v1").await.expect(200);
    assert_eq!(listed["resources"][0]["name"], "toys");
    admin.delete(&format!("{DEFINITIONS}/toys.example.com"), &Value::Null).await.expect(200);
    until(&admin, &format!("{DEFINITIONS}/toys.example.com"), 404).await;
    until(&admin, TOYS, 404).await;
    let left = harness.store.range(&kontiki_store::RangeRequest {
        prefix: "/registry/example.com/".into(),
        ..Default::default()
    });
    assert!(left.expect("read").entries.is_empty(), "no object outlives its definition");
}

#[tokio::test]
async fn what_is_not_built_is_refused_with_its_name() {
    let harness = Harness::start().await;
    let mut definition = definition();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["x-kubernetes-validations"] =
        json!([{"rule": "self.spec.size < 5"}]);
    let refused = harness.admin().post(DEFINITIONS, &definition).await.expect(501);
    let message = refused["message"].as_str().expect("a message");
    assert!(message.contains("x-kubernetes-validations"), "{message}");
}
