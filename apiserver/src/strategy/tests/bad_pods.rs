//! Pods and workloads that are refused, in upstream's words. Each case is a merge patch on the least valid pod or container.

use super::bad::{LABEL, LABEL_VALUE, SUBDOMAIN, check};
use super::*;

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
