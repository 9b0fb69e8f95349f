//! The least an object of each kind needs, and what it becomes.

use super::*;

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}})
}

fn selector() -> Value {
    json!({"matchLabels": {"app": "a"}})
}

/// The least valid object of a kind; `None` for those that are only answered.
pub(super) fn minimal(kind: &str) -> Option<Value> {
    let workload = json!({"spec": {"selector": selector(), "template": template()}});
    let mut job = template();
    job["spec"]["restartPolicy"] = "Never".into();
    let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"});
    let hook = json!({"webhooks": [{
        "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://h/"},
    }]});
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    Some(match kind {
        "Pod" => json!({"spec": template()["spec"]}),
        "PodTemplate" => json!({"template": template()}),
        "ReplicationController" => json!({"spec": {"template": template()}}),
        "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet" => workload,
        "ControllerRevision" => json!({"data": {"a": 1}, "revision": 1}),
        "Job" => json!({"spec": {"template": job}}),
        "CronJob" => json!({"spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": job}}}}),
        "Service" => json!({"spec": {"ports": [{"port": 80}]}}),
        "PersistentVolume" => json!({"spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"},
        }}),
        "PersistentVolumeClaim" => json!({"spec": claim}),
        "EndpointSlice" => json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]}),
        "Event" => json!({}),
        "HorizontalPodAutoscaler" => {
            json!({"spec": {"maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}})
        }
        "CertificateSigningRequest" => json!({"spec": {
            "request": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K",
            "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"],
        }}),
        "IngressClass" => json!({"spec": {"controller": "example.com/c"}}),
        "Ingress" => json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}),
        "IPAddress" => {
            json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": {"resource": "services", "name": "s"}}})
        }
        "ServiceCIDR" => json!({"spec": {"cidrs": ["10.0.0.0/16"]}}),
        "RoleBinding" | "ClusterRoleBinding" => json!({"roleRef": reference}),
        "CSIDriver" => json!({"spec": {}}),
        "CSINode" => json!({"spec": {"drivers": []}}),
        "CSIStorageCapacity" => json!({"storageClassName": "s"}),
        "StorageClass" => json!({"provisioner": "example.com/p"}),
        "VolumeAttachment" => {
            json!({"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}})
        }
        "VolumeAttributesClass" => json!({"driverName": "d", "parameters": {"a": "b"}}),
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => hook,
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => {
            json!({"spec": {"policyName": "p"}})
        }
        "CustomResourceDefinition" => json!({
            "metadata": {"name": "things.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
            },
        }),
        "APIService" => json!({
            "metadata": {"name": "v1.example.com"},
            "spec": {"group": "example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10},
        }),
        "PriorityClass" => json!({"value": 10}),
        "RuntimeClass" => json!({"handler": "runc"}),
        "ResourceClaim" => json!({"spec": {}}),
        "ResourceClaimTemplate" => json!({"spec": {"spec": {}}}),
        "ResourceSlice" => {
            json!({"spec": {"driver": "d", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}})
        }
        "FlowSchema" => json!({"spec": {"priorityLevelConfiguration": {"name": "p"}}}),
        "PriorityLevelConfiguration" => {
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}})
        }
        "Binding" | "ComponentStatus" => return None,
        other if other.ends_with("Review") => return None,
        _ => json!({}),
    })
}

#[test]
fn the_least_object_of_every_kind_is_valid_and_stays_so() {
    for row in Registry::builtin().rows().iter().filter(|row| row.stored()) {
        let object = minimal(&row.kind).unwrap_or_else(|| panic!("{} is stored", row.kind));
        let object = stored(&row.qualified(), object);
        let (again, errors) = updated(&row.qualified(), &object, &json!({}));
        assert_eq!(errors, Vec::<String>::new(), "{} can be written back", row.kind);
        assert_eq!(again, object, "{} is not changed by being written back", row.kind);
    }
}

/// Every default that a small Deployment gets, as `kubectl get -o yaml` shows it.
#[test]
fn a_deployment_is_filled_in() {
    let deployment = stored("Deployment", minimal("Deployment").expect("a deployment"));
    assert_eq!(
        deployment["spec"],
        json!({
            "progressDeadlineSeconds": 600, "replicas": 1, "revisionHistoryLimit": 10,
            "selector": {"matchLabels": {"app": "a"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {
                    "containers": [{
                        "image": "i:1", "imagePullPolicy": "IfNotPresent", "name": "c", "resources": {},
                        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    }],
                    "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
                    "securityContext": {}, "terminationGracePeriodSeconds": 30,
                },
            },
        })
    );
    assert_eq!(deployment["status"], json!({}));
    assert_eq!(deployment["metadata"]["generation"], 1);
}

#[test]
fn a_pod_is_pending_and_has_a_class() {
    let pod = stored("Pod", minimal("Pod").expect("a pod"));
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(pod["spec"]["enableServiceLinks"], true);
    let class = |resources: Value| {
        let spec = json!({"containers": [{"name": "c", "image": "i", "resources": resources}]});
        stored("Pod", json!({"spec": spec}))["status"]["qosClass"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(class(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
    assert_eq!(
        class(
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}})
        ),
        "Guaranteed"
    );
    assert_eq!(
        class(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}})),
        "Burstable"
    );
    assert_eq!(class(json!({"requests": {"memory": "1Gi"}})), "Burstable");
    assert_eq!(class(json!({"requests": {"memory": "0"}})), "BestEffort");
}

#[test]
fn probes_environment_and_volumes_of_a_pod_are_filled_in() {
    let pod = stored(
        "Pod",
        json!({"spec": {
            "hostNetwork": true,
            "serviceAccount": "s",
            "containers": [{
                "name": "c", "image": "i",
                "ports": [{"containerPort": 80}],
                "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "livenessProbe": {"httpGet": {"port": 80}},
                "resources": {"limits": {"cpu": "0.5"}},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            }],
            "volumes": [
                {"name": "v"},
                {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
            ],
        }}),
    );
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(container["ports"], json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]));
    assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
    assert_eq!(
        container["livenessProbe"],
        json!({"failureThreshold": 3, "periodSeconds": 10, "successThreshold": 1, "timeoutSeconds": 1,
            "httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}})
    );
    assert_eq!(container["resources"], json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "500m"}}));
    assert_eq!(pod["spec"]["serviceAccountName"], "s");
    assert_eq!(pod["spec"]["volumes"][0], json!({"name": "v", "emptyDir": {}}));
    assert_eq!(
        pod["spec"]["volumes"][1]["projected"],
        json!({"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]})
    );
}

#[test]
fn a_service_is_filled_in_by_its_type() {
    let service = stored("Service", minimal("Service").expect("a service"));
    assert_eq!(
        service["spec"],
        json!({
            "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
            "sessionAffinity": "None", "type": "ClusterIP",
        })
    );
    assert_eq!(service["status"], json!({"loadBalancer": {}}));
    let spec = |spec: Value| stored("Service", json!({"spec": spec}))["spec"].clone();
    let balanced = spec(json!({"type": "LoadBalancer", "ports": [{"port": 80, "targetPort": "http"}]}));
    assert_eq!(balanced["externalTrafficPolicy"], "Cluster");
    assert_eq!(balanced["allocateLoadBalancerNodePorts"], true);
    assert_eq!(balanced["ports"][0]["targetPort"], "http");
    let sticky = spec(json!({"sessionAffinity": "ClientIP", "ports": [{"port": 80}]}));
    assert_eq!(sticky["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10_800}}));
    let headless = spec(json!({"clusterIP": "None"}));
    assert_eq!(headless["clusterIPs"], json!(["None"]));
    let named = spec(json!({"type": "ExternalName", "externalName": "a.example"}));
    assert_eq!(
        named,
        json!({"type": "ExternalName", "externalName": "a.example", "sessionAffinity": "None"})
    );
}

#[test]
fn other_kinds_are_filled_in() {
    let namespace = stored("Namespace", json!({"metadata": {"name": "n"}}));
    assert_eq!(namespace["spec"], json!({"finalizers": ["kubernetes"]}));
    assert_eq!(namespace["status"], json!({"phase": "Active"}));
    assert_eq!(namespace["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "n"}));

    let secret = stored("Secret", json!({"stringData": {"a": "1"}, "data": {"a": "AA==", "b": "MQ=="}}));
    assert_eq!(secret["data"], json!({"a": "MQ==", "b": "MQ=="}));
    assert_eq!((&secret["type"], secret.get("stringData")), (&json!("Opaque"), None));

    let node = stored("Node", json!({"status": {"capacity": {"cpu": "2"}}}));
    assert_eq!(node["status"]["allocatable"], json!({"cpu": "2"}));

    let job = stored("Job", minimal("Job").expect("a job"));
    assert_eq!(job["spec"]["selector"]["matchLabels"], json!({"batch.kubernetes.io/controller-uid": "u"}));
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "x");
    assert_eq!((&job["spec"]["backoffLimit"], &job["spec"]["completions"]), (&json!(6), &json!(1)));

    let policy = stored("NetworkPolicy", json!({"spec": {"podSelector": {}, "egress": [{}]}}));
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));

    let claim = stored("PersistentVolumeClaim", minimal("PersistentVolumeClaim").expect("a claim"));
    assert_eq!(
        (&claim["spec"]["volumeMode"], &claim["status"]["phase"]),
        (&json!("Filesystem"), &json!("Pending"))
    );

    let binding = stored(
        "RoleBinding",
        json!({
            "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}],
        }),
    );
    assert_eq!(binding["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");

    let set = stored("StatefulSet", minimal("StatefulSet").expect("a set"));
    assert_eq!(
        set["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
    );
    assert_eq!(set["status"]["replicas"], 0);

    let limits =
        stored("LimitRange", json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}}));
    assert_eq!(
        limits["spec"]["limits"][0],
        json!({"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}})
    );
}

#[test]
fn defaulting_twice_is_defaulting_once() {
    for row in Registry::builtin().rows().iter().filter(|row| row.stored()) {
        let mut once = minimal(&row.kind).expect("a stored kind");
        default(row, &mut once);
        let mut twice = once.clone();
        default(row, &mut twice);
        assert_eq!(once, twice, "{}", row.kind);
    }
}

#[test]
fn scale_reads_and_writes_replicas() {
    let row = row("Deployment");
    let mut deployment = stored("Deployment", minimal("Deployment").expect("a deployment"));
    deployment["status"]["replicas"] = 2.into();
    let scale = scale::read(&row, &deployment).expect("a scale");
    assert_eq!(scale["spec"], json!({"replicas": 1}));
    assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=a"}));
    scale::write(&row, &mut deployment, &json!({"spec": {"replicas": 5}})).expect("written");
    assert_eq!(deployment["spec"]["replicas"], 5);
    let refused =
        scale::write(&row, &mut deployment, &json!({"spec": {"replicas": -1}})).expect_err("refused");
    assert_eq!(refused.code, 422);
    assert_eq!(
        refused.message,
        "Scale.autoscaling \"x\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
    );
    assert_eq!(scale::read(&self::row("Pod"), &json!({})).expect_err("no scale").code, 404);
}
