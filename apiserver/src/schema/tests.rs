//! Decoding as upstream's decoder does it, message for message.

use kontiki_proto::Registry;
use serde_json::{Value, json};

use super::*;

fn row(name: &str) -> std::sync::Arc<Resource> {
    Registry::builtin().find_name(name).expect("a built-in kind").clone()
}

fn refused(kind: &str, object: Value) -> String {
    let mut object = object;
    canonicalize(&row(kind), &mut object, FieldValidation::Strict).expect_err("refused").message
}

#[test]
fn every_row_has_a_type_and_every_type_name_leads_back() {
    for row in Registry::builtin().rows() {
        let of = type_of(row).unwrap_or_else(|| panic!("{} has a type", row.kind));
        assert_eq!(type_named(of.name()), Some(of));
        assert_eq!(of.kind(), Some((row.group.as_str(), row.version.as_str(), row.kind.as_str())));
    }
    for (group, version, kind) in [
        ("autoscaling", "v1", "Scale"),
        ("policy", "v1", "Eviction"),
        ("", "v1", "DeleteOptions"),
        ("", "v1", "Status"),
    ] {
        assert!(type_of_kind(group, version, kind).is_some(), "{kind}");
    }
}

#[test]
fn wrong_types_are_named_as_go_names_them() {
    let deployment = |spec: Value| json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": spec});
    let says = |spec: Value, expected: &str| {
        assert_eq!(
            refused("deployment", deployment(spec)),
            format!("Deployment in version \"v1\" cannot be handled as a Deployment: {expected}")
        );
    };
    says(
        json!({"replicas": "three"}),
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    says(
        json!({"replicas": 1.5}),
        "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    says(
        json!({"replicas": 3_000_000_000_u64}),
        "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    says(
        json!({"template": {"spec": {"containers": [{"env": [{"name": "a", "value": 1}]}]}}}),
        "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string",
    );
    says(
        json!({"template": {"spec": {"containers": {"name": "a"}}}}),
        "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
    );
    says(
        json!({"selector": {"matchLabels": {"app": true}}}),
        "json: cannot unmarshal bool into Go struct field LabelSelector.spec.selector.matchLabels of type string",
    );
    says(
        json!({"strategy": {"rollingUpdate": {"maxSurge": true}}}),
        "json: cannot unmarshal bool into Go value of type int32",
    );
    says(
        json!({"template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "much"}}}]}}}),
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
    assert_eq!(
        refused("configmap", json!({"metadata": "x"})),
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal string into Go struct field ConfigMap.metadata of type v1.ObjectMeta"
    );
    assert_eq!(
        refused("secret", json!({"data": {"a": "not base64!"}})),
        "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 3"
    );
}

#[test]
fn unknown_and_doubled_fields_follow_the_clients_wish() {
    let body =
        br#"{"kind":"ConfigMap","metadata":{"name":"a","nmae":"b"},"date":{},"data":{"a":"1","a":"2"}}"#;
    let cm = row("configmap");
    let (object, warnings) = decode(&cm, body, FieldValidation::Warn).expect("decoded");
    assert_eq!(
        warnings,
        ["duplicate field \"data.a\"", "unknown field \"date\"", "unknown field \"metadata.nmae\""]
    );
    assert_eq!(object, json!({"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "2"}}));
    assert_eq!(decode(&cm, body, FieldValidation::Ignore).expect("decoded").1, Vec::<String>::new());
    let refused = decode(&cm, body, FieldValidation::Strict).expect_err("refused");
    assert_eq!((refused.code, refused.reason.as_str()), (400, "BadRequest"));
    assert_eq!(
        refused.message,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: duplicate field \"data.a\", unknown field \"date\", unknown field \"metadata.nmae\""
    );
    assert_eq!(
        self::refused("pod", json!({"spec": {"containers": [{"imgae": "x"}]}})),
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.containers[0].imgae\""
    );
}

#[test]
fn nulls_and_empty_collections_vanish_as_they_do_in_go() {
    let mut object = json!({
        "metadata": {"name": "a", "labels": {}, "annotations": null, "creationTimestamp": null},
        "spec": {"replicas": null, "selector": {}, "template": {"spec": {"containers": [null], "volumes": []}}},
        "status": {}
    });
    canonicalize(&row("deployment"), &mut object, FieldValidation::Strict).expect("fits");
    assert_eq!(
        object,
        json!({
            "metadata": {"name": "a"},
            "spec": {"selector": {}, "template": {"spec": {"containers": [{}]}}},
            "status": {}
        })
    );
}

#[test]
fn times_are_kept_in_utc() {
    let mut lease = json!({"metadata": {"creationTimestamp": "2024-05-01T12:00:00.7+02:00"}, "spec": {"renewTime": "2024-05-01T10:00:00.123456Z"}});
    canonicalize(&row("lease"), &mut lease, FieldValidation::Strict).expect("fits");
    assert_eq!(lease["metadata"]["creationTimestamp"], "2024-05-01T10:00:00Z");
    assert_eq!(lease["spec"]["renewTime"], "2024-05-01T10:00:00.123456Z");
    assert_eq!(
        refused("lease", json!({"spec": {"renewTime": "noon"}})),
        "Lease in version \"v1\" cannot be handled as a Lease: parsing time \"noon\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"noon\" as \"2006\""
    );
}

#[test]
fn a_body_that_is_no_object_is_a_bad_request() {
    for body in ["{", "[]", "\"x\"", "{}}", "\u{0}"] {
        let status = decode(&row("pod"), body.as_bytes(), FieldValidation::Warn).expect_err(body);
        assert_eq!(status.code, 400, "{body}: {}", status.message);
    }
    let deep = "[".repeat(10_000);
    assert_eq!(decode(&row("pod"), deep.as_bytes(), FieldValidation::Warn).expect_err("deep").code, 400);
}

#[test]
fn the_schemas_own_defaults_go_in_and_optional_objects_stay_out() {
    let mut pod = json!({"spec": {"containers": [{"ports": [{"containerPort": 1}]}]}});
    fill(type_of(&row("pod")).expect("pod"), &mut pod);
    assert_eq!(
        pod,
        json!({
            "metadata": {}, "status": {},
            "spec": {"containers": [{"resources": {}, "ports": [{"containerPort": 1, "protocol": "TCP"}]}]}
        })
    );
}
