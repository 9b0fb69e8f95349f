//! The documented behaviour of the three patch types.

use kontiki_proto::Registry;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn row(name: &str) -> std::sync::Arc<Resource> {
    Registry::builtin().find_name(name).expect("a built-in kind").clone()
}

fn strategic(kind: &str, current: &Value, patch: &Value) -> Result<Value, Status> {
    apply(PatchType::StrategicMerge, &row(kind), current, patch.to_string().as_bytes())
}

/// Patches a pod's spec.
fn check(current: Value, patch: Value, expected: Value) {
    let patched = strategic("pod", &json!({"spec": current}), &json!({"spec": patch})).expect("applied");
    assert_eq!(patched["spec"], expected, "patch {patch}");
}

#[test]
fn keyed_lists_merge_by_key_and_new_items_come_first() {
    check(
        json!({"containers": [{"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]}),
        json!({"containers": [{"name": "c", "image": "c"}, {"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}]}]}),
        json!({"containers": [
            {"name": "c", "image": "c"},
            {"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]},
            {"name": "b"},
        ]}),
    );
}

#[test]
fn lists_without_a_key_are_replaced() {
    check(
        json!({"tolerations": [{"key": "a"}], "containers": [{"name": "a", "args": ["x", "y"]}]}),
        json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "args": ["z"]}]}),
        json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "args": ["z"]}]}),
    );
}

#[test]
fn null_removes_a_field_and_leaves_no_null_behind() {
    check(
        json!({"nodeName": "n", "nodeSelector": {"a": "1", "b": "2"}}),
        json!({"nodeName": null, "nodeSelector": {"a": null}, "hostname": null, "dnsConfig": {"options": null}}),
        json!({"nodeSelector": {"b": "2"}, "dnsConfig": {}}),
    );
}

#[test]
fn an_item_is_deleted_by_its_key() {
    check(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "x", "$patch": "delete"}]}),
        json!({"containers": [{"name": "b"}]}),
    );
    check(
        json!({}),
        json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "b"}]}),
        json!({"containers": [{"name": "b"}]}),
    );
}

#[test]
fn a_list_or_an_object_is_replaced_on_demand() {
    check(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
        json!({"containers": [{"name": "c"}]}),
    );
    check(
        json!({"nodeSelector": {"a": "1"}, "securityContext": {"runAsUser": 1}}),
        json!({"nodeSelector": {"$patch": "replace", "b": "2"}, "securityContext": {"$patch": "delete"}}),
        json!({"nodeSelector": {"b": "2"}, "securityContext": {}}),
    );
}

#[test]
fn only_retained_keys_stay() {
    check(
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
    );
    let deployment =
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let patched = strategic("deployment", &deployment, &patch).expect("applied");
    assert_eq!(patched["spec"]["strategy"], json!({"type": "Recreate"}));
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["rollingUpdate"], "type": "Recreate"}}});
    let refused = strategic("deployment", &deployment, &patch).expect_err("type is not retained");
    assert_eq!((refused.code, refused.message.as_str()), (400, "invalid patch format of retainKeys"));
}

#[test]
fn primitive_lists_are_merged_as_sets() {
    let meta = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    let patched =
        strategic("pod", &meta(json!(["a/x", "b/x"])), &meta(json!(["c/x", "a/x"]))).expect("applied");
    assert_eq!(patched, meta(json!(["c/x", "a/x", "b/x"])));
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/x", "z/x"]}});
    let patched = strategic("pod", &meta(json!(["a/x", "b/x"])), &patch).expect("applied");
    assert_eq!(patched, meta(json!(["b/x"])));
}

#[test]
fn the_order_of_a_list_can_be_set() {
    check(
        json!({"containers": [{"name": "a"}, {"name": "server"}, {"name": "b"}]}),
        json!({
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "c"}],
            "containers": [{"name": "c", "image": "c"}],
        }),
        json!({"containers": [{"name": "server"}, {"name": "b"}, {"name": "a"}, {"name": "c", "image": "c"}]}),
    );
    check(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
        json!({"containers": [{"name": "b"}, {"name": "a"}]}),
    );
}

#[test]
fn service_ports_merge_by_port_and_secrets_by_key() {
    let service = json!({"spec": {"ports": [{"port": 80, "name": "http"}, {"port": 443}]}});
    let patch = json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}});
    let patched = strategic("service", &service, &patch).expect("applied");
    assert_eq!(
        patched["spec"]["ports"],
        json!([{"port": 80, "name": "http", "targetPort": 8080}, {"port": 443}])
    );
    let secret = json!({"data": {"a": "MQ==", "b": "Mg=="}});
    let patched = strategic("secret", &secret, &json!({"data": {"b": null, "c": "Mw=="}})).expect("applied");
    assert_eq!(patched["data"], json!({"a": "MQ==", "c": "Mw=="}));
}

#[test]
fn what_cannot_be_merged_is_refused_with_the_reason() {
    let says = |patch: Value, expected: &str| {
        let current = json!({"spec": {"containers": [{"name": "a"}]}});
        let refused = strategic("pod", &current, &patch).expect_err("refused");
        assert_eq!((refused.code, refused.message.as_str()), (400, expected));
    };
    says(
        json!({"spec": {"containers": [{"image": "x"}]}}),
        "map: map[image:x] does not contain declared merge key: name",
    );
    says(json!({"spec": {"$patch": "mangle"}}), "unknown patch type: mangle in map: map[]");
    says(json!({"spec": {"containers": [["a"]]}}), "lists of lists are not supported");
    says(
        json!([]),
        "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
    );
    says(json!({"spec": {"$setElementOrder/containers": "a"}}), "invalid patch format of setElementOrder");
}

#[test]
fn custom_resources_know_no_strategic_merge() {
    let mut custom = row("configmap").as_ref().clone();
    custom.custom = true;
    let refused = apply(PatchType::StrategicMerge, &custom, &json!({}), b"{}").expect_err("refused");
    assert_eq!((refused.code, refused.reason.as_str()), (415, "UnsupportedMediaType"));
}

#[test]
fn json_patches_follow_rfc_6902() {
    let current = json!({"data": {"a": "1"}});
    let run =
        |patch: Value| apply(PatchType::Json, &row("configmap"), &current, patch.to_string().as_bytes());
    let patched = run(json!([
        {"op": "test", "path": "/data/a", "value": "1"},
        {"op": "add", "path": "/data/b~1c", "value": "2"},
        {"op": "move", "from": "/data/a", "path": "/data/d"},
    ]));
    assert_eq!(patched.expect("applied"), json!({"data": {"b/c": "2", "d": "1"}}));
    for failing in [
        json!([{"op": "test", "path": "/data/a", "value": "2"}]),
        json!([{"op": "remove", "path": "/data/x"}]),
        json!([{"op": "replace", "path": "/data/x", "value": "1"}]),
        json!([{"op": "add", "path": "/x/y/z", "value": "1"}]),
    ] {
        let refused = run(failing).expect_err("refused");
        assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
        assert_eq!(refused.message, "the server rejected our request due to an error in our request");
        assert_eq!(refused.details.expect("details").causes[0].reason, "UnexpectedServerResponse");
    }
    assert_eq!(run(json!([{"op": "explode", "path": "/data"}])).expect_err("refused").code, 400);
    assert_eq!(run(json!({"data": {}})).expect_err("refused").code, 400);
    let many: Vec<Value> =
        (0..10_001).map(|_| json!({"op": "test", "path": "/data/a", "value": "1"})).collect();
    let refused = run(Value::Array(many)).expect_err("too many");
    assert_eq!(refused.code, 413);
    assert_eq!(
        refused.message,
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"
    );
}

#[test]
fn copies_cannot_blow_an_object_up() {
    let doubling: Vec<Value> =
        (0..64).map(|at| json!({"op": "copy", "from": "/data", "path": format!("/data/x{at}")})).collect();
    let patch = Value::Array(doubling).to_string();
    let refused = apply(PatchType::Json, &row("configmap"), &json!({"data": {"a": "1"}}), patch.as_bytes());
    assert_eq!(refused.expect_err("refused").code, 422);
}

#[test]
fn what_a_patch_makes_has_to_fit_the_schema() {
    let mut patched = json!({"kind": "Deployment", "spec": {"replicas": "x"}});
    let refused = decode(&row("deployment"), &mut patched, FieldValidation::Strict).expect_err("refused");
    assert_eq!(refused.code, 422);
    assert_eq!(
        refused.message,
        " \"\" is invalid: patch: Invalid value: \"{\\\"kind\\\":\\\"Deployment\\\",\\\"spec\\\":{\\\"replicas\\\":\\\"x\\\"}}\": json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
    );
}

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..3_i64).prop_map(Value::from),
        "[a-c]".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map(
                "[a-d]|\\$patch|name|metadata|spec|containers|finalizers",
                inner,
                0..4
            )
            .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(key, value)| !value.is_null() && !key.starts_with('$'))
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

proptest! {
    /// Whatever the patch, the answer is an object or an error; no directive survives in it.
    #[test]
    fn no_patch_panics_or_leaves_directives(current in tree(), patch in tree()) {
        let current = json!({"spec": without_nulls(current)});
        if let Ok(patched) = strategic("pod", &current, &json!({"spec": patch})) {
            prop_assert!(patched.is_object());
            prop_assert!(!patched.to_string().contains("$patch"), "{patched}");
        }
    }

    /// Applying the same merge again changes nothing.
    #[test]
    fn a_patch_is_idempotent(current in tree(), patch in tree()) {
        let current = json!({"spec": without_nulls(current)});
        let patch = json!({"spec": patch});
        if let Ok(once) = strategic("pod", &current, &patch)
            && let Ok(twice) = strategic("pod", &once, &patch)
        {
            prop_assert_eq!(once, twice);
        }
    }

    /// An object patched with itself stays itself.
    #[test]
    fn patching_with_itself_changes_nothing(names in prop::collection::btree_set("[a-e]", 0..5)) {
        let containers: Vec<Value> =
            names.iter().map(|name| json!({"name": name, "image": "x", "args": ["1"]})).collect();
        let pod = json!({"metadata": {"finalizers": ["a/b"]}, "spec": {"containers": containers}});
        prop_assert_eq!(strategic("pod", &pod, &pod).expect("applied"), pod);
    }
}
