//! A smallest valid object of every kind that is stored.

use serde_json::{Value, json};

fn pod_template() -> Value {
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn workload() -> Value {
    json!({"selector": {"matchLabels": {"app": "x"}}, "template": pod_template()})
}

fn job() -> Value {
    let mut template = pod_template();
    template["spec"]["restartPolicy"] = json!("Never");
    json!({"template": template})
}

/// PEM of a certificate request; what it asks for does not matter.
fn certificate_request() -> String {
    use base64::Engine;
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "someone");
    let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    base64::engine::general_purpose::STANDARD.encode(pem)
}

fn webhook() -> Value {
    json!([{
        "name": "a.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": {"url": "https://example.com/x"},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        "failurePolicy": "Ignore",
        // Whatever a server makes of webhooks, this one must not touch the other tests' objects.
        "namespaceSelector": {"matchLabels": {"no": "where"}},
    }])
}

/// The object without kind and metadata, for the row; and the name it must have, where it cannot have any.
pub fn sample(group: &str, version: &str, plural: &str) -> (Value, Option<&'static str>) {
    let body = match (group, plural) {
        ("", "configmaps") => json!({"data": {"k": "v"}}),
        ("", "endpoints") => {
            json!({"subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}]})
        }
        ("", "events") => json!({
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "reason": "R", "message": "m",
            "type": "Normal", "source": {"component": "test"},
        }),
        ("events.k8s.io", "events") => json!({
            "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}, "reason": "R", "note": "m",
            "type": "Normal", "action": "Do", "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "example.com/test", "reportingInstance": "test-1",
        }),
        ("", "limitranges") => json!({"spec": {"limits": [{"type": "Pod", "max": {"cpu": "100"}}]}}),
        ("", "namespaces") => json!({}),
        ("", "nodes") => json!({"spec": {}}),
        ("", "persistentvolumeclaims") => json!({
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }),
        ("", "persistentvolumes") => json!({
            "spec": {
                "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/tmp/x"},
            },
        }),
        ("", "pods") => json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}),
        ("", "podtemplates") => json!({"template": pod_template()}),
        ("", "replicationcontrollers") => {
            json!({"spec": {"selector": {"app": "x"}, "template": pod_template()}})
        }
        ("", "resourcequotas") => json!({"spec": {"hard": {"pods": "100"}}}),
        ("", "secrets") => json!({"data": {"k": "dg=="}}),
        ("", "serviceaccounts") => json!({}),
        ("", "services") => json!({"spec": {"ports": [{"port": 80}], "selector": {"app": "x"}}}),
        ("apiregistration.k8s.io", "apiservices") => {
            return (
                json!({"spec": {
                    "group": "example.com", "version": "v9", "groupPriorityMinimum": 100, "versionPriority": 10,
                    "service": {"name": "s", "namespace": "default"}, "insecureSkipTLSVerify": true,
                }}),
                Some("v9.example.com"),
            );
        }
        ("apps", "controllerrevisions") => json!({"revision": 1, "data": {"a": 1}}),
        ("apps", "daemonsets" | "deployments" | "replicasets") => json!({"spec": workload()}),
        ("apps", "statefulsets") => {
            let mut spec = workload();
            spec["serviceName"] = json!("s");
            json!({"spec": spec})
        }
        ("autoscaling", _) if version == "v1" => json!({"spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 3,
            "targetCPUUtilizationPercentage": 50,
        }}),
        ("autoscaling", _) => json!({"spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 3,
        }}),
        ("batch", "cronjobs") => json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job()}}}),
        ("batch", "jobs") => json!({"spec": job()}),
        ("certificates.k8s.io", "certificatesigningrequests") => json!({"spec": {
            "request": certificate_request(), "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth", "digital signature"],
        }}),
        ("networking.k8s.io", "ingressclasses") => json!({"spec": {"controller": "example.com/c"}}),
        ("networking.k8s.io", "ingresses") => json!({"spec": {
            "defaultBackend": {"service": {"name": "s", "port": {"number": 80}}},
        }}),
        ("networking.k8s.io", "ipaddresses") => {
            return (
                json!({"spec": {"parentRef": {"resource": "services", "name": "s", "namespace": "default"}}}),
                Some("192.168.9.9"),
            );
        }
        ("networking.k8s.io", "networkpolicies") => json!({"spec": {"podSelector": {}}}),
        ("networking.k8s.io", "servicecidrs") => json!({"spec": {"cidrs": ["10.111.0.0/24"]}}),
        ("policy", "poddisruptionbudgets") => {
            json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}})
        }
        ("rbac.authorization.k8s.io", "clusterroles" | "roles") => {
            json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]})
        }
        ("rbac.authorization.k8s.io", "clusterrolebindings" | "rolebindings") => json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "u"}],
        }),
        ("storage.k8s.io", "csidrivers") => json!({"spec": {}}),
        ("storage.k8s.io", "csinodes") => json!({"spec": {"drivers": []}}),
        ("storage.k8s.io", "csistoragecapacities") => json!({"storageClassName": "c"}),
        ("storage.k8s.io", "storageclasses") => json!({"provisioner": "example.com/p"}),
        ("storage.k8s.io", "volumeattachments") => json!({"spec": {
            "attacher": "example.com/a", "nodeName": "n", "source": {"persistentVolumeName": "pv"},
        }}),
        ("storage.k8s.io", "volumeattributesclasses") => {
            json!({"driverName": "example.com", "parameters": {"a": "b"}})
        }
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => json!({"spec": {
            "reinvocationPolicy": "Never",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["none.example.com"], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["nothings"],
            }]},
            "mutations": [{
                "patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: \"test\", path: \"/a\"}]"},
            }],
        }}),
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings") => {
            json!({"spec": {"policyName": "p"}})
        }
        (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations" | "validatingwebhookconfigurations",
        ) => {
            json!({"webhooks": webhook()})
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => json!({"spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["none.example.com"], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["nothings"],
            }]},
            "validations": [{"expression": "true"}],
        }}),
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => {
            json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}})
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            return (
                json!({"spec": {
                    "group": "example.com", "scope": "Namespaced",
                    "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"},
                    "versions": [{
                        "name": "v1", "served": true, "storage": true,
                        "schema": {"openAPIV3Schema": {"type": "object"}},
                    }],
                }}),
                Some("foos.example.com"),
            );
        }
        ("scheduling.k8s.io", "priorityclasses") => json!({"value": 5}),
        ("coordination.k8s.io", "leases") => {
            json!({"spec": {"holderIdentity": "h", "leaseDurationSeconds": 15}})
        }
        ("node.k8s.io", "runtimeclasses") => json!({"handler": "h"}),
        ("discovery.k8s.io", "endpointslices") => json!({
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.2.3"]}], "ports": [{"port": 80}],
        }),
        ("resource.k8s.io", "deviceclasses") => json!({"spec": {}}),
        ("resource.k8s.io", "resourceclaims") => json!({"spec": {"devices": {
            "requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}],
        }}}),
        ("resource.k8s.io", "resourceclaimtemplates") => json!({"spec": {"spec": {"devices": {
            "requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}],
        }}}}),
        ("resource.k8s.io", "resourceslices") => json!({"spec": {
            "driver": "example.com", "nodeName": "n",
            "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": [],
        }}),
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => {
            json!({"spec": {"priorityLevelConfiguration": {"name": "exempt"}, "matchingPrecedence": 500}})
        }
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => json!({"spec": {
            "type": "Limited",
            "limited": {"nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}},
        }}),
        other => panic!("no sample for {other:?}"),
    };
    (body, None)
}
