//! What `kubectl get` prints, kind by kind.

use kontiki_proto::Registry;
use kontiki_proto::resource::Column;

use super::*;

fn now() -> Timestamp {
    "2026-01-02T00:00:00Z".parse().expect("a time")
}

fn known(name: &str) -> std::sync::Arc<Resource> {
    Registry::builtin().find_name(name).unwrap_or_else(|| panic!("{name}")).clone()
}

/// Renders an object created an hour ago; cells are joined by ` | `, wide ones too.
fn line(kind: &str, mut object: Value) -> String {
    object["metadata"]["creationTimestamp"] = "2026-01-01T23:00:00Z".into();
    if object["metadata"]["name"].is_null() {
        object["metadata"]["name"] = "x".into();
    }
    let row = known(kind);
    let cells = cells(&row, &object, now());
    assert_eq!(cells.len(), definitions(&row).len());
    let shown: Vec<String> =
        cells.iter().map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned)).collect();
    shown.join(" | ")
}

/// Ready, status and restarts of a pod.
fn pod(pod: Value, expected: &str) {
    let line = line("pod", pod);
    let shown: Vec<&str> = line.split(" | ").skip(1).take(3).collect();
    assert_eq!(shown.join(" "), expected);
}

fn spec(containers: usize, init: usize) -> Value {
    let named = |count: usize, kind: &str| -> Vec<Value> {
        (0..count).map(|at| json!({"name": format!("{kind}{at}")})).collect()
    };
    json!({"containers": named(containers, "c"), "initContainers": named(init, "i")})
}

fn running(name: &str) -> Value {
    json!({"name": name, "ready": true, "restartCount": 0, "state": {"running": {}}})
}

fn waiting(name: &str, reason: &str) -> Value {
    json!({"name": name, "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}})
}

fn ended(name: &str, code: i64, reason: &str) -> Value {
    json!({"name": name, "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": code, "reason": reason}}})
}

#[test]
fn the_status_of_a_pod_is_its_most_telling_reason() {
    pod(json!({"spec": spec(1, 0), "status": {"phase": "Pending"}}), "0/1 Pending 0");
    pod(
        json!({"spec": spec(2, 0), "status": {"phase": "Running", "containerStatuses": [running("c0"), running("c1")]}}),
        "2/2 Running 0",
    );
    pod(
        json!({"spec": spec(2, 0), "status": {"phase": "Running", "containerStatuses": [running("c0"), waiting("c1", "CrashLoopBackOff")]}}),
        "1/2 CrashLoopBackOff 0",
    );
    pod(
        json!({"spec": spec(1, 0), "status": {"phase": "Pending", "containerStatuses": [waiting("c0", "ImagePullBackOff")]}}),
        "0/1 ImagePullBackOff 0",
    );
    pod(
        json!({"spec": spec(1, 0), "status": {"phase": "Succeeded", "containerStatuses": [ended("c0", 0, "Completed")]}}),
        "0/1 Completed 0",
    );
    pod(
        json!({"spec": spec(1, 0), "status": {"phase": "Failed", "containerStatuses": [ended("c0", 1, "Error")]}}),
        "0/1 Error 0",
    );
    pod(json!({"spec": spec(1, 0), "status": {"phase": "Failed", "reason": "Evicted"}}), "0/1 Evicted 0");
    pod(
        json!({"spec": spec(2, 0), "status": {"phase": "Running", "containerStatuses": [ended("c0", 0, "Completed"), running("c1")],
            "conditions": [{"type": "Ready", "status": "True"}]}}),
        "1/2 Running 0",
    );
    pod(
        json!({"spec": spec(2, 0), "status": {"phase": "Running", "containerStatuses": [ended("c0", 0, "Completed"), running("c1")]}}),
        "1/2 NotReady 0",
    );
    pod(
        json!({"spec": spec(1, 0), "status": {"phase": "", "containerStatuses": [{"name": "c0", "state": {"terminated": {"exitCode": 137, "signal": 9}}}]}}),
        "0/1 Signal:9 0",
    );
    pod(
        json!({"spec": spec(1, 0), "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}}),
        "0/1 SchedulingGated 0",
    );
}

#[test]
fn a_pod_that_is_going_says_so() {
    let going = |status: Value| json!({"metadata": {"deletionTimestamp": "2026-01-01T23:59:00Z"}, "spec": spec(1, 0), "status": status});
    pod(going(json!({"phase": "Running", "containerStatuses": [running("c0")]})), "1/1 Terminating 0");
    pod(going(json!({"phase": "Running", "reason": "NodeLost"})), "0/1 Unknown 0");
    pod(going(json!({"phase": "Succeeded"})), "0/1 Succeeded 0");
}

#[test]
fn init_containers_show_how_far_they_are() {
    let status = |init: Value| json!({"spec": spec(1, 2), "status": {"phase": "Pending", "initContainerStatuses": init, "containerStatuses": [waiting("c0", "PodInitializing")]}});
    pod(status(json!([running("i0"), waiting("i1", "PodInitializing")])), "0/1 Init:0/2 0");
    pod(status(json!([ended("i0", 0, "Completed"), running("i1")])), "0/1 Init:1/2 0");
    pod(status(json!([ended("i0", 1, "Error"), waiting("i1", "PodInitializing")])), "0/1 Init:Error 0");
    pod(status(json!([ended("i0", 1, ""), waiting("i1", "PodInitializing")])), "0/1 Init:ExitCode:1 0");
    pod(status(json!([waiting("i0", "ErrImagePull")])), "0/1 Init:ErrImagePull 0");
    pod(status(json!([ended("i0", 0, ""), ended("i1", 0, "")])), "0/1 PodInitializing 0");
    let mut sidecar = spec(1, 1);
    sidecar["initContainers"][0]["restartPolicy"] = "Always".into();
    let mut started = running("i0");
    started["started"] = true.into();
    pod(
        json!({"spec": sidecar, "status": {"phase": "Running", "initContainerStatuses": [started], "containerStatuses": [running("c0")]}}),
        "2/2 Running 0",
    );
}

#[test]
fn restarts_tell_when_the_last_one_was() {
    let container = json!({"name": "c0", "ready": true, "restartCount": 3, "state": {"running": {}},
        "lastState": {"terminated": {"finishedAt": "2026-01-01T23:55:00Z"}}});
    pod(
        json!({"spec": spec(1, 0), "status": {"phase": "Running", "containerStatuses": [container]}}),
        "1/1 Running 3 (5m ago)",
    );
}

#[test]
fn wide_columns_come_after_and_say_so() {
    let definitions = definitions(&known("pod"));
    let wide: Vec<&str> =
        definitions.iter().filter(|d| d["priority"] == 1).filter_map(|d| d["name"].as_str()).collect();
    assert_eq!(wide, ["IP", "Node", "Nominated Node", "Readiness Gates"]);
    assert_eq!(
        definitions[0],
        json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0})
    );
    let line = line(
        "pod",
        json!({
            "spec": {"nodeName": "n1", "readinessGates": [{"conditionType": "g"}, {"conditionType": "h"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.1.2.3"}], "conditions": [{"type": "g", "status": "True"}]},
        }),
    );
    assert_eq!(line, "x | 0/0 | Running | 0 | 60m | 10.1.2.3 | n1 | <none> | 1/2");
}

#[test]
fn each_kind_prints_its_columns() {
    let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b"}]}});
    let selector = json!({"matchLabels": {"app": "a"}});
    let cases = [
        (
            "deploy",
            json!({"spec": {"replicas": 3, "selector": selector, "template": template}, "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2}}),
            "x | 2/3 | 3 | 2 | 60m | a,b | a:1,b | app=a",
        ),
        (
            "rs",
            json!({"spec": {"replicas": 3, "selector": selector, "template": template}, "status": {"replicas": 3}}),
            "x | 3 | 3 | 0 | 60m | a,b | a:1,b | app=a",
        ),
        (
            "sts",
            json!({"spec": {"replicas": 1, "template": template}, "status": {"readyReplicas": 1}}),
            "x | 1/1 | 60m | a,b | a:1,b",
        ),
        (
            "ds",
            json!({"spec": {"selector": {}, "template": template}, "status": {"desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberReady": 1}}),
            "x | 2 | 2 | 1 | 0 | 0 | <none> | 60m | a,b | a:1,b | <none>",
        ),
        (
            "jobs",
            json!({"spec": {"completions": 2, "parallelism": 1, "template": template, "selector": selector}, "status": {"succeeded": 1, "startTime": "2026-01-01T23:59:00Z"}}),
            "x | Running | 1/2 | 60s | 60m | a,b | a:1,b | app=a",
        ),
        (
            "cj",
            json!({"spec": {"schedule": "* * * * *", "suspend": false, "jobTemplate": {"spec": {"template": template}}}, "status": {"lastScheduleTime": "2026-01-01T23:58:00Z"}}),
            "x | * * * * * | <none> | False | 0 | 2m | 60m | a,b | a:1,b | <none>",
        ),
        (
            "svc",
            json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}], "selector": {"a": "b"}}}),
            "x | NodePort | 10.0.0.1 | <none> | 80:30080/TCP,53/UDP | 60m | a=b",
        ),
        (
            "svc",
            json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1"}, "status": {"loadBalancer": {}}}),
            "x | LoadBalancer | 10.0.0.1 | <pending> | <none> | 60m | <none>",
        ),
        (
            "svc",
            json!({"spec": {"type": "ExternalName", "externalName": "a.example"}}),
            "x | ExternalName | <none> | a.example | <none> | 60m | <none>",
        ),
        ("cm", json!({"data": {"a": "1"}, "binaryData": {"b": "MQ=="}}), "x | 2 | 60m"),
        ("secret", json!({"type": "Opaque", "data": {"a": "MQ=="}}), "x | Opaque | 1 | 60m"),
        ("ns", json!({"status": {"phase": "Active"}}), "x | Active | 60m"),
        ("sa", json!({}), "x | 0 | 60m"),
        (
            "no",
            json!({"metadata": {"labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/edge": ""}}, "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.9"}], "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian", "kernelVersion": "6.1", "containerRuntimeVersion": "containerd://1.6"}}}),
            "x | Ready,SchedulingDisabled | edge,worker | 60m | v1.36.0 | 10.0.0.9 | <none> | Debian | 6.1 | containerd://1.6",
        ),
        (
            "no",
            json!({}),
            "x | Unknown | <none> | 60m |  | <none> | <none> | <unknown> | <unknown> | <unknown>",
        ),
        (
            "ep",
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}, {"ip": "10.0.0.3"}, {"ip": "10.0.0.4"}], "ports": [{"port": 80}]}]}),
            "x | 10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 1 more... | 60m",
        ),
        (
            "endpointslices",
            json!({"addressType": "IPv4", "ports": [{"name": "", "port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]}),
            "x | IPv4 | 80 | 10.0.0.1 | 60m",
        ),
        (
            "ing",
            json!({"spec": {"ingressClassName": "nginx", "tls": [{}], "rules": [{"host": "a"}, {"host": "b"}, {"host": "c"}, {"host": "d"}]}, "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}),
            "x | nginx | a,b,c + 1 more... | 1.2.3.4 | 80, 443 | 60m",
        ),
        ("netpol", json!({"spec": {"podSelector": {}}}), "x | <none> | 60m"),
        (
            "pv",
            json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "n", "name": "c"}, "storageClassName": "s", "volumeMode": "Filesystem"}, "status": {"phase": "Bound"}}),
            "x | 1Gi | RWO,RWX | Retain | Bound | n/c | s | <unset> |  | 60m | Filesystem",
        ),
        (
            "pvc",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "s"}, "status": {"phase": "Pending"}}),
            "x | Pending |  |  |  | s | <unset> | 60m | <unset>",
        ),
        (
            "sc",
            json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "p", "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"}),
            "x (default) | p | Delete | Immediate | false | 60m",
        ),
        (
            "hpa",
            json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "minReplicas": 1, "maxReplicas": 5, "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}}]}}),
            "x | Deployment/d | cpu: <unknown>/80% | 1 | 5 | 0 | 60m",
        ),
        ("pdb", json!({"spec": {"minAvailable": "50%"}}), "x | 50% | N/A | 0 | 60m"),
        ("roles", json!({}), "x | 2026-01-01T23:00:00Z"),
        (
            "rolebindings",
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}, {"kind": "Group", "name": "g"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]}),
            "x | Role/r | 60m | u | g | n/s",
        ),
        ("crd", json!({}), "x | 2026-01-01T23:00:00Z"),
        ("leases", json!({"spec": {"holderIdentity": "me"}}), "x | me | 60m"),
        ("pc", json!({"value": 7, "preemptionPolicy": "Never"}), "x | 7 | false | 60m | Never"),
        (
            "csr",
            json!({"spec": {"signerName": "s", "username": "u", "expirationSeconds": 3600}, "status": {"conditions": [{"type": "Approved"}], "certificate": "Zm9v"}}),
            "x | 60m | s | u | 60m | Approved,Issued",
        ),
        (
            "quota",
            json!({"status": {"hard": {"limits.cpu": "2", "pods": "4"}, "used": {"pods": "1"}}}),
            "x | pods: 1/4 | limits.cpu: 0/2 | 60m",
        ),
        ("limits", json!({}), "x | 2026-01-01T23:00:00Z"),
        (
            "ev",
            json!({"type": "Warning", "reason": "Failed", "message": "no\n", "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "f"}, "source": {"component": "kubelet", "host": "n1"}, "firstTimestamp": "2026-01-01T23:50:00Z", "lastTimestamp": "2026-01-01T23:59:00Z", "count": 4}),
            "60s | Warning | Failed | pod/p | f | kubelet, n1 | no | 10m | 4 | x",
        ),
        (
            "events.events.k8s.io",
            json!({"type": "Normal", "reason": "Ok", "note": "yes", "regarding": {"kind": "Pod", "name": "p"}, "reportingController": "k", "reportingInstance": "n1", "eventTime": "2026-01-01T23:50:00Z"}),
            "10m | Normal | Ok | pod/p |  | k, n1 | yes | 10m | 1 | x",
        ),
        (
            "controllerrevisions",
            json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "controller": true}]}, "revision": 2}),
            "x | daemonset.apps/d | 2 | 60m",
        ),
        (
            "apiservices",
            json!({"spec": {}, "status": {"conditions": [{"type": "Available", "status": "True"}]}}),
            "x | Local | True | 60m",
        ),
        (
            "ip",
            json!({"spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "kubernetes"}}}),
            "x | services/default/kubernetes | 60m",
        ),
        (
            "flowschemas",
            json!({"spec": {"priorityLevelConfiguration": {"name": "p"}, "matchingPrecedence": 3}}),
            "x | p | 3 | <none> | 60m | ?",
        ),
        ("resourceclaims", json!({}), "x | pending | 60m"),
        (
            "csidrivers",
            json!({"spec": {"attachRequired": true, "volumeLifecycleModes": ["Persistent"]}}),
            "x | true | false | false | <unset> | false | Persistent | 60m",
        ),
    ];
    for (kind, object, expected) in cases {
        assert_eq!(line(kind, object), expected, "{kind}");
    }
}

#[test]
fn every_kind_can_be_printed_when_empty() {
    for row in Registry::builtin().rows() {
        assert_eq!(cells(row, &json!({}), now()).len(), definitions(row).len(), "{}", row.kind);
    }
}

#[test]
fn custom_resources_print_what_they_declare() {
    let mut row = known("configmap").as_ref().clone();
    row.custom = true;
    let object = json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T23:00:00Z"},
        "spec": {"replicas": 3.7, "on": true, "when": "2026-01-01T22:00:00Z", "list": [1]}});
    assert_eq!(cells(&row, &object, now()), [json!("x"), json!("60m")]);
    let column = |name: &str, kind: &str, path: &str| Column {
        name: name.into(),
        kind: kind.into(),
        format: String::new(),
        description: String::new(),
        priority: 0,
        json_path: path.into(),
    };
    row.columns = vec![
        column("Replicas", "integer", ".spec.replicas"),
        column("On", "boolean", ".spec.on"),
        column("When", "date", ".spec.when"),
        column("List", "string", ".spec.list"),
        column("Gone", "string", ".spec.gone"),
        column("Wrong", "boolean", ".spec.when"),
    ];
    assert_eq!(
        cells(&row, &object, now()),
        [json!("x"), json!(3), json!(true), json!("120m"), json!("[1]"), Value::Null, Value::Null]
    );
}

#[test]
fn a_table_carries_as_much_of_the_object_as_was_asked_for() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "status": {"phase": "Succeeded"}});
    let table = render(
        &known("pod"),
        std::slice::from_ref(&pod),
        &json!({"resourceVersion": "7"}),
        Include::Metadata,
        now(),
    );
    assert_eq!(
        (table["kind"].as_str(), table["metadata"]["resourceVersion"].as_str()),
        (Some("Table"), Some("7"))
    );
    let row = &table["rows"][0];
    assert_eq!(
        row["object"],
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "x"}})
    );
    assert_eq!(row["conditions"][0]["reason"], "Succeeded");
    assert_eq!(self::row(&known("pod"), &pod, Include::Object, now())["object"], pod);
    assert_eq!(self::row(&known("pod"), &pod, Include::None, now())["object"], Value::Null);
}
