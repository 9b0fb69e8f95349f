//! Workloads: Deployment, ReplicaSet, StatefulSet, DaemonSet, ReplicationController, and what belongs to them.

use serde_json::Value;

use super::value::{default, has, is_set, list_mut, object, set};
use super::{Entry, PLAIN, Strategy, pod};

pub(super) static KINDS: &[Entry] = &[
    ("apps", "deployments", Strategy { default: deployment, generation: true, ..PLAIN }),
    ("apps", "replicasets", Strategy { default: replica_set, generation: true, ..PLAIN }),
    ("apps", "statefulsets", Strategy { default: stateful_set, generation: true, ..PLAIN }),
    ("apps", "daemonsets", Strategy { default: daemon_set, generation: true, ..PLAIN }),
    ("", "replicationcontrollers", Strategy { default: replication_controller, generation: true, ..PLAIN }),
    ("", "podtemplates", Strategy { default: pod::default_template, generation: true, ..PLAIN }),
    ("apps", "controllerrevisions", PLAIN),
];

fn deployment(deployment: &mut Value) {
    let spec = object(deployment, "spec");
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    pod::default_template(spec);
    let strategy = object(spec, "strategy");
    default(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = object(strategy, "rollingUpdate");
        default(rolling, "maxUnavailable", "25%");
        default(rolling, "maxSurge", "25%");
    }
}

fn replica_set(set: &mut Value) {
    let spec = object(set, "spec");
    default(spec, "replicas", 1);
    pod::default_template(spec);
}

fn daemon_set(set: &mut Value) {
    let spec = object(set, "spec");
    default(spec, "revisionHistoryLimit", 10);
    pod::default_template(spec);
    let strategy = object(spec, "updateStrategy");
    default(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = object(strategy, "rollingUpdate");
        default(rolling, "maxUnavailable", 1);
        default(rolling, "maxSurge", 0);
    }
}

fn stateful_set(stateful: &mut Value) {
    let spec = object(stateful, "spec");
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "podManagementPolicy", "OrderedReady");
    pod::default_template(spec);
    let strategy = object(spec, "updateStrategy");
    default(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        default(object(strategy, "rollingUpdate"), "partition", 0);
    }
    let retention = object(spec, "persistentVolumeClaimRetentionPolicy");
    default(retention, "whenDeleted", "Retain");
    default(retention, "whenScaled", "Retain");
    for claim in list_mut(spec, "volumeClaimTemplates") {
        set(claim, "apiVersion", "v1");
        set(claim, "kind", "PersistentVolumeClaim");
        super::storage::default_claim(claim);
    }
}

fn replication_controller(controller: &mut Value) {
    let spec = object(controller, "spec");
    default(spec, "replicas", 1);
    if !has(spec, "template") {
        return;
    }
    pod::default_template(spec);
    let labels = spec["template"]["metadata"]["labels"].clone();
    if labels.is_object() {
        if !is_set(spec, "selector") {
            set(spec, "selector", labels.clone());
        }
        default(object(controller, "metadata"), "labels", labels);
    }
}

/// The owner-independent part of a template's wrapper in `jobTemplate`.
pub(super) fn job_template(owner: &mut Value) {
    let template = object(owner, "jobTemplate");
    object(template, "metadata");
    pod::default_template(object(template, "spec"));
}
