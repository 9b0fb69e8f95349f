//! What is refused, in upstream's words. Each case is a merge patch on the least valid object of its kind.

use super::minimal::minimal;
use super::*;

/// All errors of the patched object, joined by a line break.
pub(super) fn check(kind: &str, cases: &[(Value, &str)]) {
    for (patch, expected) in cases {
        let mut object = minimal(kind).unwrap_or_else(|| panic!("{kind} is stored"));
        json_patch::merge(&mut object, patch);
        let errors = created(kind, object).1;
        assert_eq!(errors.join("\n"), *expected, "{kind} with {patch}");
    }
}

pub(super) const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
pub(super) const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
pub(super) const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
pub(super) const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
pub(super) const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

#[test]
fn metadata() {
    let long = "a".repeat(254);
    let huge = "x".repeat(300_000);
    check(
        "ConfigMap",
        &[
            (
                json!({"metadata": {"name": "A_b"}}),
                &format!("metadata.name: Invalid value: \"A_b\": {SUBDOMAIN}"),
            ),
            (
                json!({"metadata": {"name": long}}),
                &format!("metadata.name: Invalid value: \"{long}\": must be no more than 253 bytes"),
            ),
            (
                json!({"metadata": {"namespace": "a.b"}}),
                "metadata.namespace: Invalid value: \"a.b\": must not contain dots",
            ),
            (
                json!({"metadata": {"generateName": "A-"}}),
                &format!("metadata.generateName: Invalid value: \"A-\": {SUBDOMAIN}"),
            ),
            (
                json!({"metadata": {"labels": {"a b": "c"}}}),
                &format!("metadata.labels: Invalid value: \"a b\": {NAME_PART}"),
            ),
            (
                json!({"metadata": {"labels": {"/b": "c"}}}),
                "metadata.labels: Invalid value: \"/b\": prefix part must be non-empty",
            ),
            (
                json!({"metadata": {"labels": {"a": "b c"}}}),
                &format!("metadata.labels: Invalid value: \"b c\": {LABEL_VALUE}"),
            ),
            (
                json!({"metadata": {"annotations": {"a": huge}}}),
                "metadata.annotations: Too long: may not be more than 262144 bytes",
            ),
            (
                json!({"metadata": {"finalizers": ["mine"]}}),
                "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
            ),
            (
                json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}}),
                "metadata.ownerReferences[0].uid: Invalid value: \"\": must not be empty",
            ),
            (
                json!({"metadata": {"ownerReferences": [{"apiVersion": "", "kind": "", "name": "p", "uid": "u"}]}}),
                "metadata.ownerReferences[0].apiVersion: Invalid value: \"\": version must not be empty\nmetadata.ownerReferences[0].kind: Invalid value: \"\": must not be empty",
            ),
        ],
    );
    check(
        "Namespace",
        &[
            (
                json!({"metadata": {"name": "a.b"}}),
                "metadata.name: Invalid value: \"a.b\": must not contain dots",
            ),
            (
                json!({"metadata": {"namespace": "a"}}),
                "metadata.namespace: Forbidden: not allowed on this type",
            ),
            (
                json!({"spec": {"finalizers": ["x"]}}),
                "spec.finalizers[0]: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified",
            ),
        ],
    );
    check(
        "Role",
        &[(
            json!({"metadata": {"name": "a/b"}}),
            "metadata.name: Invalid value: \"a/b\": may not contain '/'",
        )],
    );
    let unnamed = validate_create(&row("ConfigMap"), &json!({"metadata": {"namespace": "a"}}));
    assert_eq!(unnamed[0].to_string(), "metadata.name: Required value: name or generateName is required");
    let two = json!([{"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "1", "controller": true}, {"apiVersion": "v1", "kind": "Pod", "name": "b", "uid": "2", "controller": true}]);
    let errors = created("ConfigMap", json!({"metadata": {"ownerReferences": two}})).1;
    assert!(
        errors[0].ends_with(
            "Only one reference can have Controller set to true. Found \"true\" in references for a and b"
        ),
        "{errors:?}"
    );
}

#[test]
fn services_and_endpoints() {
    check(
        "Service",
        &[
            (
                json!({"metadata": {"name": "1a"}}),
                "metadata.name: Invalid value: \"1a\": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
            ),
            (json!({"spec": {"ports": null}}), "spec.ports: Required value"),
            (
                json!({"spec": {"ports": [{"port": 80}, {"port": 81}]}}),
                "spec.ports[0].name: Required value\nspec.ports[1].name: Required value",
            ),
            (
                json!({"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}}),
                "spec.ports[1].name: Duplicate value: \"a\"",
            ),
            (
                json!({"spec": {"ports": [{"port": 0, "targetPort": 80}]}}),
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"spec": {"ports": [{"port": 80, "protocol": "x"}]}}),
                "spec.ports[0].protocol: Unsupported value: \"x\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ),
            (
                json!({"spec": {"ports": [{"port": 80, "targetPort": "A"}]}}),
                "spec.ports[0].targetPort: Invalid value: \"A\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)\nspec.ports[0].targetPort: Invalid value: \"A\": must contain at least one letter (a-z)",
            ),
            (
                json!({"spec": {"ports": [{"port": 80, "nodePort": 30_000}]}}),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (
                json!({"spec": {"type": "x"}}),
                "spec.type: Unsupported value: \"x\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ),
            (json!({"spec": {"type": "ExternalName"}}), "spec.externalName: Required value"),
            (
                json!({"spec": {"type": "LoadBalancer", "clusterIP": "None"}}),
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for LoadBalancer services",
            ),
            (
                json!({"spec": {"clusterIP": "ten"}}),
                "spec.clusterIPs[0]: Invalid value: \"ten\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
            (
                json!({"spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"]}}),
                "spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`",
            ),
            (
                json!({"spec": {"sessionAffinity": "x"}}),
                "spec.sessionAffinity: Unsupported value: \"x\": supported values: \"ClientIP\", \"None\"",
            ),
            (
                json!({"spec": {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 90_000}}}}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 90000: must be greater than 0 and less than 86400",
            ),
            (
                json!({"spec": {"externalTrafficPolicy": "Local"}}),
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ),
            (
                json!({"spec": {"selector": {"a b": "c"}}}),
                &format!("spec.selector: Invalid value: \"a b\": {NAME_PART}"),
            ),
        ],
    );
    check(
        "Endpoints",
        &[
            (
                json!({"subsets": [{}]}),
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
            ),
            (
                json!({"subsets": [{"addresses": [{"ip": "x"}]}]}),
                "subsets[0].addresses[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
        ],
    );
    check(
        "EndpointSlice",
        &[
            (json!({"addressType": null}), "addressType: Required value"),
            (
                json!({"endpoints": [{"addresses": []}]}),
                "endpoints[0].addresses: Required value: must contain at least 1 address",
            ),
            (
                json!({"endpoints": [{"addresses": ["::1"]}]}),
                "endpoints[0].addresses[0]: Invalid value: \"::1\": must be a valid IPv4 address",
            ),
        ],
    );
}

#[test]
fn configuration() {
    let mebibyte = "x".repeat(1024 * 1024 + 1);
    check(
        "ConfigMap",
        &[
            (json!({"data": {"a b": "c"}}), &format!("data[a b]: Invalid value: \"a b\": {CONFIG_KEY}")),
            (json!({"data": {"..": "c"}}), "data[..]: Invalid value: \"..\": must not be '..'"),
            (
                json!({"data": {"a": "1"}, "binaryData": {"a": "MQ=="}}),
                "data[a]: Invalid value: \"a\": duplicate of key present in binaryData",
            ),
            (json!({"data": {"a": mebibyte}}), ": Too long: may not be more than 1048576 bytes"),
        ],
    );
    check(
        "Secret",
        &[
            (json!({"data": {"a/b": "MQ=="}}), &format!("data[a/b]: Invalid value: \"a/b\": {CONFIG_KEY}")),
            (json!({"stringData": {"a": mebibyte}}), "data: Too long: may not be more than 1048576 bytes"),
            (
                json!({"type": "kubernetes.io/tls"}),
                "data[tls.crt]: Required value\ndata[tls.key]: Required value",
            ),
            (
                json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "MQ=="}}),
                "data[tls.key]: Required value",
            ),
            (json!({"type": "kubernetes.io/ssh-auth"}), "data[ssh-privatekey]: Required value"),
            (
                json!({"type": "kubernetes.io/basic-auth"}),
                "data[username]: Required value\ndata[password]: Required value",
            ),
            (json!({"type": "kubernetes.io/dockerconfigjson"}), "data[.dockerconfigjson]: Required value"),
            (
                json!({"type": "kubernetes.io/service-account-token"}),
                "metadata.annotations[kubernetes.io/service-account.name]: Required value",
            ),
        ],
    );
    let errors =
        created("Secret", json!({"type": "kubernetes.io/dockercfg", "stringData": {".dockercfg": "{"}})).1;
    assert!(
        errors[0].starts_with("data[.dockercfg]: Invalid value: \"<secret contents redacted>\": "),
        "{errors:?}"
    );
    check(
        "LimitRange",
        &[(
            json!({"spec": {"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}, "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}}]}}),
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1\nspec.limits[0].default[cpu]: Invalid value: \"1\": min value 2 is greater than default value 1\nspec.limits[0].defaultRequest[cpu]: Invalid value: \"1\": min value 2 is greater than default request value 1",
        )],
    );
    check(
        "Node",
        &[
            (json!({"spec": {"taints": [{"key": "a"}]}}), "spec.taints[0].effect: Required value"),
            (
                json!({"spec": {"taints": [{"key": "a", "effect": "x"}]}}),
                "spec.taints[0].effect: Unsupported value: \"x\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ),
            (
                json!({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoExecute"}]}}),
                "spec.taints[1]: Duplicate value: {\"effect\":\"NoExecute\",\"key\":\"a\"}: taints must be unique by key and effect pair",
            ),
        ],
    );
    check(
        "PriorityClass",
        &[(
            json!({"value": 2_000_000_000}),
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
        )],
    );
    check(
        "Lease",
        &[(
            json!({"spec": {"leaseDurationSeconds": 0}}),
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
        )],
    );
    check(
        "Event",
        &[(
            json!({"involvedObject": {"namespace": "other"}}),
            "involvedObject.namespace: Invalid value: \"other\": does not match event.namespace",
        )],
    );
}

#[test]
fn access() {
    check(
        "Role",
        &[
            (
                json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": []}]}),
                "rules[0].verbs: Required value: verbs must contain at least one value",
            ),
            (
                json!({"rules": [{"resources": ["pods"], "verbs": ["get"]}]}),
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
            ),
            (
                json!({"rules": [{"apiGroups": [""], "verbs": ["get"]}]}),
                "rules[0].resources: Required value: resource rules must supply at least one resource",
            ),
            (
                json!({"rules": [{"nonResourceURLs": ["/x"], "verbs": ["get"]}]}),
                "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
            ),
        ],
    );
    check(
        "RoleBinding",
        &[
            (json!({"roleRef": {"name": ""}}), "roleRef.name: Required value"),
            (
                json!({"roleRef": {"kind": "Pod"}}),
                "roleRef.kind: Unsupported value: \"Pod\": supported values: \"Role\", \"ClusterRole\"",
            ),
            (
                json!({"subjects": [{"kind": "ServiceAccount", "name": "a"}]}),
                "subjects[0].namespace: Required value",
            ),
            (
                json!({"subjects": [{"kind": "Robot", "name": "a"}]}),
                "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            ),
        ],
    );
    check(
        "CertificateSigningRequest",
        &[
            (
                json!({"spec": {"request": "MQ=="}}),
                "spec.request: Invalid value: \"MQ==\": PEM block type must be CERTIFICATE REQUEST",
            ),
            (
                json!({"spec": {"signerName": "x"}}),
                "spec.signerName: Invalid value: \"x\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
            ),
            (
                json!({"spec": {"expirationSeconds": 5}}),
                "spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 600 seconds (10 minutes)",
            ),
        ],
    );
}

#[test]
fn network_storage_and_scaling() {
    check(
        "Ingress",
        &[
            (
                json!({"spec": {"defaultBackend": null}}),
                "spec: Invalid value: {}: either `defaultBackend` or `rules` must be specified",
            ),
            (
                json!({"spec": {"rules": [{"http": {"paths": [{"path": "/", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}}),
                "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
            ),
            (
                json!({"spec": {"rules": [{"http": {"paths": [{"path": "x", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}}),
                "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
            ),
            (
                json!({"spec": {"defaultBackend": {"service": {"port": {"number": null}}}}}),
                "spec.defaultBackend.service.port: Required value: port name or number is required",
            ),
            (
                json!({"spec": {"rules": [{"host": "1.2.3.4"}]}}),
                "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            ),
        ],
    );
    check(
        "NetworkPolicy",
        &[
            (
                json!({"spec": {"policyTypes": ["Both"]}}),
                "spec.policyTypes[0]: Unsupported value: \"Both\": supported values: \"Egress\", \"Ingress\"",
            ),
            (
                json!({"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "x"}}]}]}}),
                "spec.ingress[0].from[0].ipBlock.cidr: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            (
                json!({"spec": {"ingress": [{"from": [{}]}]}}),
                "spec.ingress[0].from[0]: Required value: must specify a peer",
            ),
        ],
    );
    check("IngressClass", &[(json!({"spec": {"controller": null}}), "spec.controller: Required value")]);
    check(
        "IPAddress",
        &[(
            json!({"metadata": {"name": "x"}}),
            "metadata.name: Invalid value: \"x\": must be a valid IP address",
        )],
    );
    check(
        "PersistentVolume",
        &[
            (json!({"spec": {"hostPath": null}}), "spec: Required value: must specify a volume type"),
            (json!({"spec": {"capacity": null}}), "spec.capacity: Required value"),
            (
                json!({"spec": {"accessModes": ["x"]}}),
                "spec.accessModes: Unsupported value: \"x\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
            ),
        ],
    );
    check(
        "PersistentVolumeClaim",
        &[
            (
                json!({"spec": {"accessModes": null}}),
                "spec.accessModes: Required value: at least 1 access mode is required",
            ),
            (json!({"spec": {"resources": null}}), "spec.resources.requests[storage]: Required value"),
            (
                json!({"spec": {"resources": {"requests": {"storage": "0"}}}}),
                "spec.resources.requests[storage]: Invalid value: \"0\": must be greater than zero",
            ),
        ],
    );
    check(
        "StorageClass",
        &[
            (json!({"provisioner": null}), "provisioner: Required value"),
            (
                json!({"reclaimPolicy": "x"}),
                "reclaimPolicy: Unsupported value: \"x\": supported values: \"Delete\", \"Retain\"",
            ),
        ],
    );
    check(
        "PodDisruptionBudget",
        &[(
            json!({"spec": {"minAvailable": 1, "maxUnavailable": 1}}),
            "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1}: minAvailable and maxUnavailable cannot be both set",
        )],
    );
    check(
        "HorizontalPodAutoscaler",
        &[
            (
                json!({"spec": {"maxReplicas": 0, "minReplicas": null}}),
                "spec.maxReplicas: Invalid value: 0: must be greater than 0\nspec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
            ),
            (
                json!({"spec": {"minReplicas": 3}}),
                "spec.maxReplicas: Invalid value: 2: must be greater than or equal to `minReplicas`",
            ),
            (json!({"spec": {"scaleTargetRef": {"name": ""}}}), "spec.scaleTargetRef.name: Required value"),
        ],
    );
    check(
        "MutatingWebhookConfiguration",
        &[
            (
                json!({"webhooks": [{"name": "a.b.c", "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://h"}}]}),
                "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
            ),
            (
                json!({"webhooks": [{"name": "a", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://h"}}]}),
                "webhooks[0].name: Invalid value: \"a\": should be a domain with at least three segments separated by dots",
            ),
        ],
    );
    check(
        "CustomResourceDefinition",
        &[
            (
                json!({"metadata": {"name": "x.example.com"}}),
                "metadata.name: Invalid value: \"x.example.com\": must be spec.names.plural+\".\"+spec.group",
            ),
            (json!({"spec": {"scope": null}}), "spec.scope: Required value"),
        ],
    );
    check("RuntimeClass", &[(json!({"handler": "A"}), &format!("handler: Invalid value: \"A\": {LABEL}"))]);
    check("VolumeAttachment", &[(json!({"spec": {"nodeName": null}}), "spec.nodeName: Required value")]);
}
