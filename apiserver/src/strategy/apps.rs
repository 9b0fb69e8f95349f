//! Workloads: Deployment, ReplicaSet, StatefulSet, DaemonSet, ReplicationController, and what belongs to them.

use serde_json::Value;

use kontiki_proto::status::FieldError;

use super::check::{
    Errors, immutable, is_zero, not_negative, one_of, required, required_one_of, share, workload_selector,
};
use super::value::{default, has, int, is_set, list_mut, object, same, set, text};
use super::{Entry, PLAIN, Strategy, check, labels, meta, pod};
use crate::schema::Path;

const COUNTED: Strategy = Strategy { generation: true, ..PLAIN };

pub(super) static KINDS: &[Entry] = &[
    (
        "apps",
        "deployments",
        Strategy {
            default: deployment,
            validate: validate_deployment,
            validate_update: same_selector,
            ..COUNTED
        },
    ),
    (
        "apps",
        "replicasets",
        Strategy {
            default: replica_set,
            validate: validate_replica_set,
            validate_update: same_selector,
            ..COUNTED
        },
    ),
    (
        "apps",
        "statefulsets",
        Strategy {
            default: stateful_set,
            validate: validate_stateful_set,
            validate_update: update_stateful_set,
            ..COUNTED
        },
    ),
    (
        "apps",
        "daemonsets",
        Strategy {
            default: daemon_set,
            validate: validate_daemon_set,
            validate_update: same_selector,
            ..COUNTED
        },
    ),
    (
        "",
        "replicationcontrollers",
        Strategy { default: replication_controller, validate: validate_replication_controller, ..COUNTED },
    ),
    (
        "",
        "podtemplates",
        Strategy {
            default: pod::default_template,
            validate: |t, errors| pod::validate_template(&t["template"], &Path::of("template"), errors),
            ..COUNTED
        },
    ),
    (
        "apps",
        "controllerrevisions",
        Strategy { validate: validate_revision, validate_update: update_revision, ..PLAIN },
    ),
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

/// The template of a workload whose pods run for ever.
fn lasting_template(spec: &Value, what: &str, errors: &mut Errors) {
    let path = Path::of("spec");
    let here = path.key("template");
    let template = &spec["template"];
    pod::validate_template(template, &here, errors);
    let inner = here.key("spec");
    if text(&template["spec"], "restartPolicy") != "Always" {
        let policy = text(&template["spec"], "restartPolicy");
        errors.push(FieldError::not_supported(inner.key("restartPolicy"), policy, &["Always"]));
    }
    if has(&template["spec"], "activeDeadlineSeconds") {
        let why = format!("activeDeadlineSeconds in {what} is not Supported");
        errors.push(FieldError::forbidden(inner.key("activeDeadlineSeconds"), &why));
    }
}

fn same_selector(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(&new["spec"], &old["spec"], "selector", &Path::of("spec"), errors);
}

fn validate_deployment(deployment: &Value, errors: &mut Errors) {
    let (spec, path) = (&deployment["spec"], Path::of("spec"));
    not_negative(spec, &["replicas"], &path, errors);
    workload_selector(spec, "deployment", errors);
    lasting_template(spec, "ReplicaSet", errors);
    let (strategy, here) = (&spec["strategy"], path.key("strategy"));
    let rolling = here.key("rollingUpdate");
    match text(strategy, "type") {
        "Recreate" if has(strategy, "rollingUpdate") => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden(rolling, why));
        }
        "Recreate" => (),
        "RollingUpdate" => rolling_update(&strategy["rollingUpdate"], "maxSurge", &rolling, errors),
        other => {
            let known = ["Recreate", "RollingUpdate"];
            errors.push(FieldError::not_supported(here.key("type"), other, &known));
        }
    }
    not_negative(
        spec,
        &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"],
        &path,
        errors,
    );
    let ready = int(spec, "minReadySeconds").unwrap_or(0);
    if let Some(deadline) = int(spec, "progressDeadlineSeconds").filter(|deadline| *deadline <= ready) {
        let why = "must be greater than minReadySeconds";
        errors.push(FieldError::invalid(path.key("progressDeadlineSeconds"), deadline, why));
    }
}

/// Something has to be allowed to move: fewer pods or more of them for a while.
fn rolling_update(rolling: &Value, surge: &str, path: &Path, errors: &mut Errors) {
    share(rolling, "maxUnavailable", path, errors);
    check::count_or_percent(rolling, surge, path, errors);
    if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling[surge]) {
        let why = "may not be 0 when `maxSurge` is 0";
        errors.push(FieldError::invalid(path.key("maxUnavailable"), &rolling["maxUnavailable"], why));
    }
}

fn validate_replica_set(replica_set: &Value, errors: &mut Errors) {
    let (spec, path) = (&replica_set["spec"], Path::of("spec"));
    not_negative(spec, &["replicas", "minReadySeconds"], &path, errors);
    workload_selector(spec, "deployment", errors);
    lasting_template(spec, "ReplicaSet", errors);
}

fn validate_daemon_set(daemon_set: &Value, errors: &mut Errors) {
    let (spec, path) = (&daemon_set["spec"], Path::of("spec"));
    workload_selector(spec, "daemonset", errors);
    lasting_template(spec, "ReplicaSet", errors);
    not_negative(spec, &["minReadySeconds", "revisionHistoryLimit"], &path, errors);
    let (strategy, here) = (&spec["updateStrategy"], path.key("updateStrategy"));
    match text(strategy, "type") {
        "OnDelete" => (),
        "RollingUpdate" => {
            let (rolling, here) = (&strategy["rollingUpdate"], here.key("rollingUpdate"));
            share(rolling, "maxUnavailable", &here, errors);
            share(rolling, "maxSurge", &here, errors);
            match (is_zero(&rolling["maxUnavailable"]), is_zero(&rolling["maxSurge"])) {
                (true, true) => errors.push(FieldError::invalid(
                    here.key("maxUnavailable"),
                    &rolling["maxUnavailable"],
                    "cannot be 0 when maxSurge is 0",
                )),
                (false, false) => errors.push(FieldError::invalid(
                    here.key("maxSurge"),
                    &rolling["maxSurge"],
                    "may not be set when maxUnavailable is non-zero",
                )),
                _ => (),
            }
        }
        other => {
            let known = ["RollingUpdate", "OnDelete"];
            errors.push(FieldError::not_supported(here.key("type"), other, &known));
        }
    }
}

fn validate_stateful_set(stateful_set: &Value, errors: &mut Errors) {
    let (spec, path) = (&stateful_set["spec"], Path::of("spec"));
    let policies = ["OrderedReady", "Parallel"];
    required_one_of(spec, "podManagementPolicy", &path, &policies, errors);
    let (strategy, here) = (&spec["updateStrategy"], path.key("updateStrategy"));
    match text(strategy, "type") {
        "OnDelete" if has(strategy, "rollingUpdate") => errors.push(FieldError::invalid(
            here.key("rollingUpdate"),
            &strategy["rollingUpdate"],
            "only allowed for updateStrategy 'RollingUpdate'",
        )),
        "OnDelete" => (),
        "RollingUpdate" => {
            let (rolling, here) = (&strategy["rollingUpdate"], here.key("rollingUpdate"));
            not_negative(rolling, &["partition"], &here, errors);
            share(rolling, "maxUnavailable", &here, errors);
        }
        other => errors.push(FieldError::invalid(here, other, "must be 'RollingUpdate' or 'OnDelete'")),
    }
    let retention = path.key("persistentVolumeClaimRetentionPolicy");
    for key in ["whenDeleted", "whenScaled"] {
        let policy = &spec["persistentVolumeClaimRetentionPolicy"];
        one_of(policy, key, &retention, &["Retain", "Delete"], errors);
    }
    not_negative(spec, &["replicas", "minReadySeconds", "revisionHistoryLimit"], &path, errors);
    workload_selector(spec, "statefulset", errors);
    lasting_template(spec, "ReplicaSet", errors);
}

fn update_stateful_set(new: &Value, old: &Value, errors: &mut Errors) {
    const MUTABLE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fixed = |set: &Value| -> Value {
        let fields = set["spec"].as_object().into_iter().flatten();
        fields
            .filter(|(key, _)| !MUTABLE.contains(&key.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    if !same(&fixed(new), &fixed(old)) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.push(FieldError::forbidden("spec", why));
    }
}

fn validate_replication_controller(controller: &Value, errors: &mut Errors) {
    let (spec, path) = (&controller["spec"], Path::of("spec"));
    not_negative(spec, &["minReadySeconds", "replicas"], &path, errors);
    let selector = &spec["selector"];
    meta::labels(selector, &path.key("selector"), errors);
    if !is_set(spec, "selector") {
        errors.push(FieldError::required(path.key("selector"), ""));
    }
    if !has(spec, "template") {
        errors.push(FieldError::required(path.key("template"), ""));
        return;
    }
    let wrapped = serde_json::json!({"matchLabels": selector});
    let own = &spec["template"]["metadata"]["labels"];
    if !labels::matches(&wrapped, own) {
        let why = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", own, why));
    }
    lasting_template(spec, "ReplicationController", errors);
}

fn validate_revision(revision: &Value, errors: &mut Errors) {
    let root = Path::Root;
    required(revision, "data", &root, errors);
    not_negative(revision, &["revision"], &root, errors);
}

fn update_revision(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(new, old, "data", &Path::Root, errors);
}
