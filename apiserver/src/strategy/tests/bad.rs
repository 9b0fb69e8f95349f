//! What is refused, in upstream's words. Each case is a merge patch on the least valid object of its kind.

use super::minimal::minimal;
use super::*;

/// All errors of the patched object, joined by a line break.
fn check(kind: &str, cases: &[(Value, &str)]) {
    for (patch, expected) in cases {
        let mut object = minimal(kind).unwrap_or_else(|| panic!("{kind} is stored"));
        json_patch::merge(&mut object, patch);
        let errors = created(kind, object).1;
        assert_eq!(errors.join("\n"), *expected, "{kind} with {patch}");
    }
}

/// Cases of a pod's only container.
fn containers(cases: &[(Value, &str)]) {
    for (patch, expected) in cases {
        let mut container = json!({"name": "c", "image": "i"});
        json_patch::merge(&mut container, patch);
        let errors =
            created("Pod", json!({"spec": {"containers": [container], "volumes": [{"name": "v"}]}})).1;
        let expected = expected.replace('@', "spec.containers[0]");
        assert_eq!(errors.join("\n"), expected, "a container with {patch}");
    }
}

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

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
fn pods() {
    check(
        "Pod",
        &[
            (json!({"spec": {"containers": null}}), "spec.containers: Required value"),
            (
                json!({"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]}}),
                "spec.containers[1].name: Duplicate value: \"a\"",
            ),
            (
                json!({"spec": {"initContainers": [{"name": "c", "image": "i"}]}}),
                "spec.initContainers[0].name: Duplicate value: \"c\"",
            ),
            (
                json!({"spec": {"initContainers": [{"name": "i", "image": "i", "readinessProbe": {"exec": {"command": ["a"]}}}]}}),
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ),
            (
                json!({"spec": {"restartPolicy": "Sometimes"}}),
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ),
            (
                json!({"spec": {"dnsPolicy": "x"}}),
                "spec.dnsPolicy: Unsupported value: \"x\": supported values: \"ClusterFirstWithHostNet\", \"ClusterFirst\", \"Default\", \"None\"",
            ),
            (
                json!({"spec": {"dnsPolicy": "None"}}),
                "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
            ),
            (
                json!({"spec": {"schedulingGates": [{"name": "a"}], "nodeName": "n"}}),
                "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
            ),
            (
                json!({"spec": {"securityContext": {"sysctls": [{"name": "A"}]}}}),
                "spec.securityContext.sysctls[0].name: Invalid value: \"A\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            ),
            (
                json!({"spec": {"activeDeadlineSeconds": 0}}),
                "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            ),
            (
                json!({"spec": {"nodeSelector": {"a": "b c"}}}),
                &format!("spec.nodeSelector: Invalid value: \"b c\": {LABEL_VALUE}"),
            ),
            (
                json!({"spec": {"serviceAccountName": "A"}}),
                &format!("spec.serviceAccountName: Invalid value: \"A\": {SUBDOMAIN}"),
            ),
            (json!({"spec": {"hostname": "A"}}), &format!("spec.hostname: Invalid value: \"A\": {LABEL}")),
            (
                json!({"spec": {"volumes": [{"name": "v"}, {"name": "v"}]}}),
                "spec.volumes[1].name: Duplicate value: \"v\"",
            ),
            (
                json!({"spec": {"volumes": [{"name": "V"}]}}),
                &format!("spec.volumes[0].name: Invalid value: \"V\": {LABEL}"),
            ),
            (
                json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}]}}),
                "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
            ),
            (
                json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": ""}}]}}),
                "spec.volumes[0].hostPath.path: Required value",
            ),
            (
                json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/a/../b"}}]}}),
                "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            ),
            (
                json!({"spec": {"volumes": [{"name": "v", "secret": {}}]}}),
                "spec.volumes[0].secret.secretName: Required value",
            ),
            (
                json!({"spec": {"volumes": [{"name": "v", "configMap": {}}]}}),
                "spec.volumes[0].configMap.name: Required value",
            ),
            (
                json!({"spec": {"volumes": [{"name": "v", "configMap": {"name": "c", "items": [{"key": "a", "path": "../b"}]}}]}}),
                "spec.volumes[0].configMap.items[0].path: Invalid value: \"../b\": must not contain '..'",
            ),
            (
                json!({"spec": {"volumes": [{"name": "v", "secret": {"secretName": "s", "defaultMode": 512}}]}}),
                "spec.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
            ),
            (
                json!({"spec": {"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 5}}]}}], "serviceAccountName": "s"}}),
                "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
            ),
            (
                json!({"spec": {"securityContext": {"runAsUser": -1}}}),
                "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ),
            (
                json!({"spec": {"hostAliases": [{"ip": "x", "hostnames": ["a"]}]}}),
                "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
        ],
    );
}

#[test]
fn where_a_pod_may_run() {
    check(
        "Pod",
        &[
            (
                json!({"spec": {"tolerations": [{"operator": "Equal", "value": "a"}]}}),
                "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ),
            (
                json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists", "tolerationSeconds": 5, "effect": "NoSchedule"}]}}),
                "spec.tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
            ),
            (
                json!({"spec": {"tolerations": [{"key": "a", "operator": "Like"}]}}),
                "spec.tolerations[0].operator: Unsupported value: \"Like\": supported values: \"Equal\", \"Exists\"",
            ),
            (
                json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists", "effect": "x"}]}}),
                "spec.tolerations[0].effect: Unsupported value: \"x\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ),
            (
                json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}}}),
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
            ),
            (
                json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}}}}}),
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ),
            (
                json!({"spec": {"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 0, "podAffinityTerm": {"topologyKey": "k"}}]}}}}),
                "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100",
            ),
            (
                json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": ""}]}}}}),
                "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
            ),
            (
                json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule"}]}}),
                "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
            ),
            (
                json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "k", "whenUnsatisfiable": "x"}]}}),
                "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"x\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
            ),
        ],
    );
}

#[test]
fn containers_of_a_pod() {
    containers(&[
        (json!({"name": ""}), "@.name: Required value"),
        (json!({"name": "A"}), &format!("@.name: Invalid value: \"A\": {LABEL}")),
        (json!({"image": null}), "@.image: Required value"),
        (
            json!({"image": " i"}),
            "@.image: Invalid value: \" i\": must not have leading or trailing whitespace",
        ),
        (
            json!({"imagePullPolicy": "Maybe"}),
            "@.imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            json!({"terminationMessagePolicy": "x"}),
            "@.terminationMessagePolicy: Unsupported value: \"x\": supported values: \"File\", \"FallbackToLogsOnError\"",
        ),
        (json!({"ports": [{"containerPort": 0}]}), "@.ports[0].containerPort: Required value"),
        (
            json!({"ports": [{"containerPort": 70_000}]}),
            "@.ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"ports": [{"containerPort": 80, "protocol": "IP"}]}),
            "@.ports[0].protocol: Unsupported value: \"IP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            json!({"ports": [{"containerPort": 80, "name": "HTTP"}]}),
            "@.ports[0].name: Invalid value: \"HTTP\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)\n@.ports[0].name: Invalid value: \"HTTP\": must contain at least one letter (a-z)",
        ),
        (
            json!({"ports": [{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}]}),
            "@.ports[1].name: Duplicate value: \"a\"",
        ),
        (
            json!({"ports": [{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 80}]}),
            "@.ports[1].hostPort: Duplicate value: \"TCP//80\"",
        ),
        (json!({"env": [{"name": ""}]}), "@.env[0].name: Required value"),
        (
            json!({"env": [{"name": "a=b"}]}),
            "@.env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='",
        ),
        (
            json!({"env": [{"name": "a", "value": "b", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
            "@.env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ),
        (
            json!({"env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}}]}),
            "@.env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
        ),
        (
            json!({"env": [{"name": "a", "valueFrom": {"configMapKeyRef": {"key": "k"}}}]}),
            &format!("@.env[0].valueFrom.configMapKeyRef.name: Invalid value: \"\": {SUBDOMAIN}"),
        ),
        (json!({"envFrom": [{"secretRef": {}}]}), "@.envFrom[0].secretRef.name: Required value"),
        (
            json!({"volumeMounts": [{"name": "w", "mountPath": "/w"}]}),
            "@.volumeMounts[0].name: Not found: \"w\"",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": ""}]}),
            "@.volumeMounts[0].mountPath: Required value",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}]}),
            "@.volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "/b"}]}),
            "@.volumeMounts.subPath: Invalid value: \"/b\": must be a relative path",
        ),
        (json!({"livenessProbe": {}}), "@.livenessProbe: Required value: must specify a handler type"),
        (
            json!({"livenessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}}),
            "@.livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (
            json!({"livenessProbe": {"exec": {"command": ["a"]}, "successThreshold": 2}}),
            "@.livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            json!({"readinessProbe": {"httpGet": {"port": 0}}}),
            "@.readinessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"readinessProbe": {"exec": {"command": ["a"]}, "periodSeconds": -1}}),
            "@.readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
        (json!({"startupProbe": {"exec": {}}}), "@.startupProbe.exec.command: Required value"),
        (
            json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}),
            "@.resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            json!({"resources": {"limits": {"memory": "-1"}}}),
            "@.resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0\n@.resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            json!({"resources": {"requests": {"cpus": "1"}}}),
            "@.resources.requests[cpus]: Invalid value: \"cpus\": must be a standard resource type or fully qualified\n@.resources.requests[cpus]: Invalid value: \"cpus\": must be a standard resource for containers",
        ),
        (
            json!({"resources": {"requests": {"example.com/gpu": "1"}}}),
            "@.resources.limits: Required value: Limit must be set for non overcommitable resources",
        ),
        (
            json!({"securityContext": {"runAsGroup": -5}}),
            "@.securityContext.runAsGroup: Invalid value: -5: must be between 0 and 2147483647, inclusive",
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}}),
            "@.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
        ),
    ]);
}

#[test]
fn workloads() {
    let negative = "spec.replicas: Invalid value: -1: must be greater than or equal to 0";
    for kind in ["Deployment", "ReplicaSet", "StatefulSet"] {
        check(kind, &[(json!({"spec": {"replicas": -1}}), negative)]);
    }
    for kind in ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"] {
        check(
            kind,
            &[
                (json!({"spec": {"selector": null}}), "spec.selector: Required value"),
                (
                    json!({"spec": {"template": {"metadata": {"labels": {"app": "b"}}}}}),
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does not match template `labels`",
                ),
                (
                    json!({"spec": {"template": {"spec": {"restartPolicy": "Never"}}}}),
                    "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                ),
                (
                    json!({"spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}}),
                    "spec.template.spec.containers[0].image: Required value",
                ),
            ],
        );
    }
    check(
        "Deployment",
        &[
            (
                json!({"spec": {"selector": {"matchLabels": null}}}),
                "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
            ),
            (
                json!({"spec": {"selector": {"matchExpressions": [{"key": "app", "operator": "Like"}]}}}),
                "spec.selector.matchExpressions[0].operator: Invalid value: \"Like\": not a valid selector operator\nspec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`",
            ),
            (
                json!({"spec": {"strategy": {"type": "x"}}}),
                "spec.strategy.type: Unsupported value: \"x\": supported values: \"Recreate\", \"RollingUpdate\"",
            ),
            (
                json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}}),
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}}}),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
            ),
            (
                json!({"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": "120%"}}}}),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"120%\": must not be greater than 100%",
            ),
            (
                json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": "half"}}}}),
                "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"half\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
            ),
            (
                json!({"spec": {"progressDeadlineSeconds": 10, "minReadySeconds": 10}}),
                "spec.progressDeadlineSeconds: Invalid value: 10: must be greater than minReadySeconds",
            ),
            (
                json!({"spec": {"revisionHistoryLimit": -1}}),
                "spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                json!({"spec": {"template": {"spec": {"activeDeadlineSeconds": 5}}}}),
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
            ),
        ],
    );
    check(
        "ReplicationController",
        &[(
            json!({"spec": {"template": null}}),
            "spec.selector: Required value\nspec.template: Required value",
        )],
    );
    check(
        "Job",
        &[
            (
                json!({"spec": {"template": {"spec": {"restartPolicy": null}}}}),
                "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            ),
            (
                json!({"spec": {"parallelism": -1}}),
                "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                json!({"spec": {"completionMode": "Indexed", "parallelism": 1}}),
                "spec.completions: Required value: when completion mode is Indexed",
            ),
        ],
    );
    check(
        "CronJob",
        &[
            (json!({"spec": {"schedule": null}}), "spec.schedule: Required value"),
            (
                json!({"spec": {"schedule": "* *"}}),
                "spec.schedule: Invalid value: \"* *\": expected exactly 5 fields, found 2: [* *]",
            ),
            (
                json!({"spec": {"concurrencyPolicy": "x"}}),
                "spec.concurrencyPolicy: Unsupported value: \"x\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
            ),
            (
                json!({"spec": {"timeZone": "Moon/Sea"}}),
                "spec.timeZone: Invalid value: \"Moon/Sea\": unknown time zone Moon/Sea",
            ),
        ],
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
