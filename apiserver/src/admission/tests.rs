//! One table for each plug-in: what goes in, what comes out.

use serde_json::json;

use super::*;
use crate::auth::objects::fixture::Fixture;
use crate::auth::rbac::index::Change;
use crate::auth::{MASTERS, NODES};
use kontiki_proto::Registry;

fn objects() -> Fixture {
    let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let mut going = namespace("going");
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let account = |namespace: &str, name: &str| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": name}});
    Fixture::default().with([
        namespace("shop"),
        namespace("kube-node-lease"),
        going,
        account("shop", "default"),
        account("shop", "web"),
    ])
}

async fn admit(
    objects: Fixture,
    user: &User,
    operation: Operation,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let objects = Arc::new(objects);
    let authorizer = Arc::new(Authorizer::new(objects.clone()));
    let admission = Admission::new(objects, authorizer);
    call(&admission, user, operation, object, old).await
}

async fn call(
    admission: &Admission,
    user: &User,
    operation: Operation,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let known = old.unwrap_or(object);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let row =
        Registry::builtin().find_kind(&text(&known["apiVersion"]), &text(&known["kind"])).expect("a row");
    let target = Target::of(row)
        .within(&text(&known["metadata"]["namespace"]))
        .named(&text(&known["metadata"]["name"]));
    admission.admit(operation, row, &target, user, object, old).await
}

fn root() -> User {
    User::new("root", [MASTERS])
}

async fn created(objects: Fixture, mut object: Value) -> Result<Value, Status> {
    admit(objects, &root(), Operation::Create, &mut object, None).await?;
    Ok(object)
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "p"}, "spec": spec})
}

#[tokio::test]
async fn a_namespace_has_to_be_there_and_to_stay() {
    let map = |namespace: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": namespace, "name": "c"}});
    assert!(created(objects(), map("shop")).await.is_ok());
    let missing = created(objects(), map("nowhere")).await.expect_err("missing");
    assert_eq!((missing.code, missing.message.as_str()), (404, "namespaces \"nowhere\" not found"));
    let going = created(objects(), map("going")).await.expect_err("going");
    assert_eq!(
        (going.code, going.message.as_str()),
        (
            403,
            "configmaps \"c\" is forbidden: unable to create new content in namespace going because it is being terminated"
        )
    );
    let cause = &going.details.expect("details").causes[0];
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("NamespaceTerminating", "metadata.namespace"));

    let old = map("going");
    let changed = admit(objects(), &root(), Operation::Update, &mut old.clone(), Some(&old)).await;
    assert!(changed.is_ok(), "what is there may still be changed, or finalizers could not be taken off");
    assert!(admit(objects(), &root(), Operation::Delete, &mut Value::Null, Some(&old)).await.is_ok());
}

#[tokio::test]
async fn some_namespaces_stay() {
    for (name, stays) in [("default", true), ("kube-system", true), ("kube-public", true), ("shop", false)] {
        let old = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let answer = admit(objects(), &root(), Operation::Delete, &mut Value::Null, Some(&old)).await;
        assert_eq!(answer.is_err(), stays, "{name}");
        if let Err(status) = answer {
            assert_eq!(
                status.message,
                format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted")
            );
        }
    }
}

#[tokio::test]
async fn a_namespace_is_labelled_with_its_name() {
    let made =
        created(objects(), json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}})).await;
    assert_eq!(made.expect("made")["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "n"}));
}

#[tokio::test]
async fn a_pod_gets_account_token_tolerations_and_priority() {
    let pod = pod(json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]}));
    let made = created(objects(), pod).await.expect("made");
    let spec = &made["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["serviceAccount"]),
        (&json!("default"), &json!("default"))
    );
    let volume = spec["volumes"][0]["name"].as_str().expect("a volume");
    assert!(volume.starts_with("kube-api-access-") && volume.len() == 21, "{volume}");
    let mount = json!([{
        "name": volume, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    }]);
    assert_eq!(spec["containers"][0]["volumeMounts"], mount);
    assert_eq!(spec["initContainers"][0]["volumeMounts"], mount);
    let sources = &spec["volumes"][0]["projected"]["sources"];
    assert_eq!(sources[0]["serviceAccountToken"], json!({"expirationSeconds": 3607, "path": "token"}));
    assert_eq!(sources[1]["configMap"]["name"], "kube-root-ca.crt");
    let tolerations: Vec<_> =
        items(&spec["tolerations"]).map(|t| (&t["key"], &t["tolerationSeconds"])).collect();
    assert_eq!(
        tolerations,
        [
            (&json!("node.kubernetes.io/not-ready"), &json!(300)),
            (&json!("node.kubernetes.io/unreachable"), &json!(300)),
        ]
    );
    assert_eq!((&spec["priority"], &spec["preemptionPolicy"]), (&json!(0), &json!("PreemptLowerPriority")));
}

#[tokio::test]
async fn a_pod_may_do_without_token_and_tolerate_otherwise() {
    let made = created(
        objects(),
        pod(json!({
            "serviceAccountName": "web", "automountServiceAccountToken": false, "containers": [{"name": "c"}],
            "tolerations": [{"operator": "Exists"}],
        })),
    );
    let made = made.await.expect("made");
    assert_eq!(made["spec"]["volumes"], Value::Null);
    assert_eq!(made["spec"]["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(made["spec"]["serviceAccountName"], "web");

    let objects = objects();
    objects.put(json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "shop", "name": "web"},
        "automountServiceAccountToken": false, "imagePullSecrets": [{"name": "registry"}],
    }));
    let made = created(objects, pod(json!({"serviceAccountName": "web", "containers": [{"name": "c"}]})));
    let made = made.await.expect("made");
    assert_eq!(made["spec"]["volumes"], Value::Null);
    assert_eq!(made["spec"]["imagePullSecrets"], json!([{"name": "registry"}]));
}

#[tokio::test(start_paused = true)]
async fn an_account_that_never_comes_is_an_error_that_names_it() {
    let error = created(objects(), pod(json!({"serviceAccountName": "ghost"}))).await.expect_err("missing");
    assert_eq!(
        (error.code, error.message.as_str()),
        (
            403,
            "pods \"p\" is forbidden: error looking up service account shop/ghost: serviceaccount \"ghost\" not found"
        )
    );
}

#[tokio::test]
async fn priority_comes_from_the_class() {
    let objects = || {
        objects().with([
            json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 100, "preemptionPolicy": "Never"}),
            json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "usual"}, "value": 7, "globalDefault": true}),
        ])
    };
    for (spec, priority) in [
        (json!({"priorityClassName": "high"}), Ok((100, "Never"))),
        (json!({}), Ok((7, "PreemptLowerPriority"))),
        (json!({"priorityClassName": "system-node-critical"}), Ok((2_000_001_000, "PreemptLowerPriority"))),
        (
            json!({"priorityClassName": "none"}),
            Err("pods \"p\" is forbidden: no PriorityClass with name none was found"),
        ),
        (
            json!({"priorityClassName": "high", "priority": 5}),
            Err(
                "pods \"p\" is forbidden: the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 100 from the given PriorityClass name",
            ),
        ),
    ] {
        let made = created(objects(), pod(spec.clone())).await;
        match (made, priority) {
            (Ok(made), Ok((value, policy))) => {
                let spec = &made["spec"];
                assert_eq!(
                    (spec["priority"].as_i64(), spec["preemptionPolicy"].as_str()),
                    (Some(value), Some(policy))
                );
            }
            (Err(status), Err(message)) => assert_eq!(status.message, message),
            (made, _) => panic!("{spec}: {made:?}"),
        }
    }
}

#[tokio::test]
async fn a_new_node_is_tainted_once() {
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    for spec in [json!({}), json!({"taints": [taint]})] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": spec});
        assert_eq!(created(objects(), node).await.expect("made")["spec"]["taints"], json!([taint]));
    }
}

#[tokio::test]
async fn a_claim_gets_the_newest_default_class() {
    let class = |name: &str, at: &str| {
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {
                "name": name, "creationTimestamp": at,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
        })
    };
    let objects =
        || objects().with([class("old", "2025-01-01T00:00:00Z"), class("new", "2026-01-01T00:00:00Z")]);
    for (spec, expected) in [(json!({}), "new"), (json!({"storageClassName": ""}), "")] {
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"namespace": "shop", "name": "c"}, "spec": spec,
        });
        assert_eq!(created(objects(), claim).await.expect("made")["spec"]["storageClassName"], expected);
    }
}

#[tokio::test]
async fn limit_ranges_default_and_bound_containers() {
    let objects = || {
        objects().with([json!({
            "apiVersion": "v1", "kind": "LimitRange", "metadata": {"namespace": "shop", "name": "l"},
            "spec": {"limits": [{
                "type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"},
                "max": {"cpu": "1"},
            }]},
        })])
    };
    let with = |resources: Value| pod(json!({"containers": [{"name": "c", "resources": resources}]}));
    let made = created(objects(), with(json!({}))).await.expect("made");
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}})
    );
    let error = created(objects(), with(json!({"limits": {"cpu": "2"}}))).await.expect_err("too much");
    assert_eq!(
        error.message,
        "pods \"p\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"
    );
}

#[tokio::test]
async fn a_node_writes_only_its_own() {
    let node = User::new("system:node:n1", [NODES]);
    let named = |api: &str, kind: &str, namespace: &str, name: &str| json!({"apiVersion": api, "kind": kind, "metadata": {"namespace": namespace, "name": name}, "spec": {}});
    let bound = |to: &str| pod(json!({"nodeName": to}));
    let lease = |namespace: &str, name: &str| named("coordination.k8s.io/v1", "Lease", namespace, name);
    let mut tainted = named("v1", "Node", "", "n1");
    tainted["spec"]["taints"] = json!([{"key": "mine"}]);
    let mut labelled = named("v1", "Node", "", "n1");
    labelled["metadata"]["labels"] = json!({"node-restriction.kubernetes.io/zone": "a"});
    let me = named("v1", "Node", "", "n1");
    for (operation, mut object, old, allowed) in [
        (Operation::Create, me.clone(), None, true),
        (Operation::Create, labelled.clone(), None, false),
        (Operation::Create, named("v1", "Node", "", "n2"), None, false),
        (Operation::Update, me.clone(), Some(me.clone()), true),
        (Operation::Update, tainted, Some(me.clone()), false),
        (Operation::Update, labelled, Some(me), false),
        (Operation::Create, lease("kube-node-lease", "n1"), None, true),
        (Operation::Create, lease("kube-node-lease", "n2"), None, false),
        (Operation::Create, lease("shop", "n1"), None, false),
        (Operation::Create, bound("n1"), None, false),
        (Operation::Update, bound("n1"), Some(bound("n1")), true),
        (Operation::Update, bound("n2"), Some(bound("n2")), false),
        (Operation::Delete, Value::Null, Some(bound("n1")), true),
        (Operation::Delete, Value::Null, Some(bound("n2")), false),
    ] {
        let shown = format!("{operation:?} {object} over {old:?}");
        let answer = admit(objects(), &node, operation, &mut object, old.as_ref()).await;
        assert_eq!(answer.is_ok(), allowed, "{shown}: {answer:?}");
    }
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_hold() {
    let rule =
        |verb: &str, resource: &str| json!({"verbs": [verb], "apiGroups": [""], "resources": [resource]});
    let objects = Arc::new(objects());
    let authorizer = Arc::new(Authorizer::new(objects.clone()));
    let held = json!({"rules": [rule("*", "pods"), rule("get", "secrets")]});
    let all = json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
    let binding = json!({
        "roleRef": {"kind": "ClusterRole", "name": "held"}, "subjects": [{"kind": "User", "name": "jane"}],
    });
    authorizer.index().apply([
        Change::Put { plural: "clusterroles", namespace: "", name: "held", object: &held },
        Change::Put { plural: "clusterroles", namespace: "", name: "all", object: &all },
        Change::Put { plural: "rolebindings", namespace: "shop", name: "b", object: &binding },
    ]);
    let admission = Admission::new(objects, authorizer);
    let metadata = json!({"namespace": "shop", "name": "x"});
    let role = |rule: Value| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": [rule]});
    let bind = |name: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"kind": "ClusterRole", "name": name},
        })
    };
    let jane = User::new("jane", ["dev"]);
    for (mut object, allowed) in [
        (role(rule("delete", "pods")), true),
        (role(rule("get", "secrets")), true),
        (role(rule("list", "secrets")), false),
        (role(rule("get", "pods/exec")), false),
        (role(rule("get", "*")), false),
        (bind("held"), true),
        (bind("all"), false),
        (bind("missing"), false),
    ] {
        let answer = call(&admission, &jane, Operation::Create, &mut object, None).await;
        assert_eq!(answer.is_ok(), allowed, "{object}: {answer:?}");
    }
}
