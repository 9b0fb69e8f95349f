//! What a write to an existing object may change, and what it keeps.

use super::minimal::minimal;
use super::*;

fn base(kind: &str) -> Value {
    stored(kind, minimal(kind).expect("a stored kind"))
}

/// The patched object is refused with these words.
fn refused(kind: &str, old: &Value, patch: Value, expected: &[&str]) {
    assert_eq!(updated(kind, old, &patch).1, expected, "{kind} with {patch}");
}

fn accepted(kind: &str, old: &Value, patch: Value) -> Value {
    let (new, errors) = updated(kind, old, &patch);
    assert_eq!(errors, Vec::<String>::new(), "{kind} with {patch}");
    new
}

#[test]
fn the_generation_counts_changes_of_the_specification_only() {
    let old = base("Deployment");
    let labelled = accepted("Deployment", &old, json!({"metadata": {"labels": {"a": "b"}}}));
    assert_eq!(labelled["metadata"]["generation"], 1);
    let scaled =
        accepted("Deployment", &old, json!({"spec": {"replicas": 3}, "metadata": {"generation": 9}}));
    assert_eq!(scaled["metadata"]["generation"], 2);
    let hook = base("MutatingWebhookConfiguration");
    let changed = accepted("MutatingWebhookConfiguration", &hook, json!({"webhooks": null}));
    assert_eq!(changed["metadata"]["generation"], 2);
}

#[test]
fn custom_resources_count_all_but_metadata_and_their_status() {
    let mut row = row("ConfigMap").as_ref().clone();
    row.custom = true;
    let old = json!({"metadata": {"name": "x", "generation": 1}, "spec": {"a": 1}, "status": {"b": 1}});
    let generation = |row: &Resource, patch: Value| {
        let mut new = old.clone();
        json_patch::merge(&mut new, &patch);
        prepare_update(row, &mut new, &old);
        new["metadata"]["generation"].clone()
    };
    assert_eq!(generation(&row, json!({"spec": {"a": 2}})), 2);
    assert_eq!(generation(&row, json!({"metadata": {"labels": {"a": "b"}}})), 1);
    assert_eq!(
        generation(&row, json!({"status": {"b": 2}})),
        2,
        "without a status subresource status is like the rest"
    );
    let row = row.with_subresources(["status"].into_iter());
    assert_eq!(generation(&row, json!({"status": {"b": 2}})), 1);
}

#[test]
fn the_main_path_leaves_status_alone_and_the_status_path_all_else() {
    let mut old = base("Deployment");
    old["status"]["replicas"] = 1.into();
    let new = accepted("Deployment", &old, json!({"status": {"replicas": 7}}));
    assert_eq!(new["status"], old["status"]);

    let row = row("Deployment");
    let mut new = old.clone();
    json_patch::merge(
        &mut new,
        &json!({"spec": {"replicas": 9}, "status": {"replicas": 7}, "metadata": {"annotations": {"a": "b"}}}),
    );
    prepare_status_update(&row, &mut new, &old);
    assert_eq!(new["status"]["replicas"], 7);
    assert_eq!(new["spec"], old["spec"]);
    assert_eq!(new["metadata"]["annotations"], json!({"a": "b"}));
    assert_eq!(new["metadata"]["generation"], 1);
    assert!(validate_status_update(&row, &new, &old).is_empty());
}

#[test]
fn identity_and_deletion_marks_cannot_be_changed() {
    let mut old = base("ConfigMap");
    let new = accepted(
        "ConfigMap",
        &old,
        json!({"metadata": {"uid": null, "creationTimestamp": "2020-01-01T00:00:00Z"}}),
    );
    assert_eq!(
        (&new["metadata"]["uid"], &new["metadata"]["creationTimestamp"]),
        (&old["metadata"]["uid"], &old["metadata"]["creationTimestamp"])
    );
    refused(
        "ConfigMap",
        &old,
        json!({"metadata": {"uid": "other"}}),
        &["metadata.uid: Invalid value: \"other\": field is immutable"],
    );
    refused(
        "ConfigMap",
        &old,
        json!({"metadata": {"name": "y"}}),
        &["metadata.name: Invalid value: \"y\": field is immutable"],
    );
    refused(
        "ConfigMap",
        &old,
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
        &["metadata.deletionTimestamp: Invalid value: \"2026-01-01T00:00:00Z\": field is immutable"],
    );
    json_patch::merge(
        &mut old,
        &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b"]}}),
    );
    let kept =
        accepted("ConfigMap", &old, json!({"metadata": {"deletionTimestamp": null, "finalizers": null}}));
    assert_eq!(kept["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
    refused(
        "ConfigMap",
        &old,
        json!({"metadata": {"finalizers": ["a/b", "c/d"]}}),
        &[
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"c/d\"}",
        ],
    );
}

#[test]
fn a_pod_changes_its_image_and_little_else() {
    let old = base("Pod");
    let container = |with: Value| {
        let mut container = old["spec"]["containers"][0].clone();
        json_patch::merge(&mut container, &with);
        json!({"spec": {"containers": [container]}})
    };
    accepted("Pod", &old, container(json!({"image": "i:2"})));
    accepted("Pod", &old, json!({"spec": {"activeDeadlineSeconds": 5}}));
    accepted("Pod", &old, json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists"}]}}));
    let words = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n";
    let starts = |patch: Value| {
        let errors = updated("Pod", &old, &patch).1;
        assert!(errors.len() == 1 && errors[0].starts_with(words), "{errors:?}");
    };
    starts(json!({"spec": {"nodeName": "n"}}));
    starts(json!({"spec": {"hostname": "h"}}));
    starts(container(json!({"command": ["x"]})));
    starts(container(json!({"resources": {"limits": {"cpu": "1"}}})));
    refused("Pod", &old, container(json!({"image": ""})), &["spec.containers[0].image: Required value"]);
    refused(
        "Pod",
        &old,
        json!({"spec": {"containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "j"}]}}),
        &["spec.containers: Forbidden: pod updates may not add or remove containers"],
    );
    let timed = accepted("Pod", &old, json!({"spec": {"activeDeadlineSeconds": 5}}));
    refused(
        "Pod",
        &timed,
        json!({"spec": {"activeDeadlineSeconds": 6}}),
        &["spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"],
    );
}

#[test]
fn selectors_of_workloads_are_fixed() {
    for kind in ["Deployment", "ReplicaSet", "DaemonSet"] {
        let old = base(kind);
        refused(
            kind,
            &old,
            json!({"spec": {"selector": {"matchLabels": {"app": null, "b": "c"}}, "template": {"metadata": {"labels": {"b": "c"}}}}}),
            &["spec.selector: Invalid value: {\"matchLabels\":{\"b\":\"c\"}}: field is immutable"],
        );
    }
    refused(
        "StatefulSet",
        &base("StatefulSet"),
        json!({"spec": {"serviceName": "other"}}),
        &[
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ],
    );
    accepted("StatefulSet", &base("StatefulSet"), json!({"spec": {"replicas": 3}}));
    let errors = updated("Job", &base("Job"), &json!({"spec": {"completions": 4}})).1;
    assert_eq!(errors, ["spec.completions: Invalid value: 4: field is immutable"]);
}

#[test]
fn a_service_keeps_what_it_was_given() {
    let mut old = base("Service");
    json_patch::merge(&mut old, &json!({"spec": {"clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"]}}));
    let kept = accepted("Service", &old, json!({"spec": {"clusterIP": null, "clusterIPs": null}}));
    assert_eq!(
        (&kept["spec"]["clusterIP"], &kept["spec"]["clusterIPs"]),
        (&json!("10.0.0.5"), &json!(["10.0.0.5"]))
    );
    refused(
        "Service",
        &old,
        json!({"spec": {"clusterIP": "10.0.0.6"}}),
        &["spec.clusterIPs[0]: Invalid value: [\"10.0.0.6\"]: may not change once set"],
    );
    let named =
        accepted("Service", &old, json!({"spec": {"type": "ExternalName", "externalName": "a.example"}}));
    assert_eq!(named["spec"].get("clusterIP"), None);

    json_patch::merge(
        &mut old,
        &json!({"spec": {"type": "NodePort", "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80, "nodePort": 30001}]}}),
    );
    let kept = accepted(
        "Service",
        &old,
        json!({"spec": {"ports": [{"port": 80, "protocol": "TCP", "targetPort": 81}]}}),
    );
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], 30001);
    let inner = accepted("Service", &old, json!({"spec": {"type": "ClusterIP"}}));
    assert_eq!(inner["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(inner["spec"].get("externalTrafficPolicy"), None);
}

#[test]
fn sealed_objects_stay_as_they_are() {
    let config = stored("ConfigMap", json!({"immutable": true, "data": {"a": "1"}}));
    let sealed = "Forbidden: field is immutable when `immutable` is set";
    refused("ConfigMap", &config, json!({"data": {"a": "2"}}), &[&format!("data: {sealed}")]);
    refused("ConfigMap", &config, json!({"immutable": null}), &[&format!("immutable: {sealed}")]);
    let secret = stored("Secret", json!({"immutable": true, "data": {"a": "MQ=="}}));
    refused("Secret", &secret, json!({"stringData": {"a": "2"}}), &[&format!("data: {sealed}")]);
    refused("Secret", &secret, json!({"type": "b"}), &["type: Invalid value: \"b\": field is immutable"]);
}

#[test]
fn some_fields_are_set_once() {
    refused(
        "RoleBinding",
        &base("RoleBinding"),
        json!({"roleRef": {"name": "other"}}),
        &[
            "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"other\"}: cannot change roleRef",
        ],
    );
    let node = stored("Node", json!({"spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]}}));
    refused(
        "Node",
        &node,
        json!({"spec": {"podCIDRs": ["10.0.1.0/24"]}}),
        &["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"],
    );
    refused(
        "PriorityClass",
        &base("PriorityClass"),
        json!({"value": 11}),
        &["value: Forbidden: may not be changed in an update."],
    );
    refused(
        "StorageClass",
        &base("StorageClass"),
        json!({"provisioner": "example.com/q"}),
        &["provisioner: Forbidden: updates to provisioner are forbidden."],
    );
    refused(
        "PersistentVolumeClaim",
        &base("PersistentVolumeClaim"),
        json!({"spec": {"accessModes": ["ReadOnlyMany"]}}),
        &[
            "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ],
    );
    refused(
        "PersistentVolume",
        &base("PersistentVolume"),
        json!({"spec": {"hostPath": {"path": "/y"}}}),
        &["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"],
    );
    let request = base("CertificateSigningRequest");
    let same = accepted("CertificateSigningRequest", &request, json!({"spec": {"signerName": "a.b/c"}}));
    assert_eq!(same["spec"], request["spec"]);
    let namespace = stored("Namespace", json!({"metadata": {"name": "n"}}));
    assert_eq!(
        accepted("Namespace", &namespace, json!({"spec": {"finalizers": null}}))["spec"],
        namespace["spec"]
    );
}

#[test]
fn only_a_pod_that_runs_has_to_be_waited_for() {
    let row = row("Pod");
    let mut pod = base("Pod");
    assert_eq!(grace_seconds(&row, &pod, Some(60)), 0, "nobody runs it");
    pod["spec"]["nodeName"] = "n".into();
    assert_eq!(grace_seconds(&row, &pod, None), 30);
    assert_eq!(grace_seconds(&row, &pod, Some(5)), 5);
    assert_eq!(grace_seconds(&row, &pod, Some(0)), 0);
    assert_eq!(grace_seconds(&row, &pod, Some(-1)), 1);
    pod["status"]["phase"] = "Succeeded".into();
    assert_eq!(grace_seconds(&row, &pod, None), 0, "it has ended");
    assert_eq!(grace_seconds(&self::row("ConfigMap"), &json!({}), Some(30)), 0);
}
