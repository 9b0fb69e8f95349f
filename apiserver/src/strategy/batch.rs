//! Jobs and what starts them.

use serde_json::{Value, json};

use super::value::{default, has, object, set, text};
use super::{Entry, PLAIN, Strategy, apps, pod};

pub(super) static KINDS: &[Entry] = &[
    ("batch", "jobs", Strategy { default: job, prepare_create: own_pods, generation: true, ..PLAIN }),
    ("batch", "cronjobs", Strategy { default: cron_job, generation: true, ..PLAIN }),
];

fn job(job: &mut Value) {
    let spec = object(job, "spec");
    if !has(spec, "completions") && !has(spec, "parallelism") {
        set(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    let limit = if has(spec, "backoffLimitPerIndex") { i32::MAX } else { 6 };
    default(spec, "backoffLimit", limit);
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    let replacement = if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    default(spec, "podReplacementPolicy", replacement);
    pod::default_template(spec);
    let labels = spec["template"]["metadata"]["labels"].clone();
    if labels.is_object() {
        default(object(job, "metadata"), "labels", labels);
    }
}

/// A job finds its pods by its own uid, unless the client wants to select them.
fn own_pods(job: &mut Value) {
    if job["spec"]["manualSelector"] == true {
        return;
    }
    let uid = text(&job["metadata"], "uid").to_owned();
    let name = text(&job["metadata"], "name").to_owned();
    let spec = object(job, "spec");
    let labels = object(object(object(spec, "template"), "metadata"), "labels");
    for (key, value) in [
        ("controller-uid", &uid),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
    ] {
        default(labels, key, value.as_str());
    }
    if !has(spec, "selector") {
        set(spec, "selector", json!({}));
    }
    let wanted = object(object(spec, "selector"), "matchLabels");
    default(wanted, "batch.kubernetes.io/controller-uid", uid);
}

fn cron_job(cron: &mut Value) {
    let spec = object(cron, "spec");
    default(spec, "concurrencyPolicy", "Allow");
    default(spec, "suspend", false);
    default(spec, "successfulJobsHistoryLimit", 3);
    default(spec, "failedJobsHistoryLimit", 1);
    apps::job_template(spec);
}
