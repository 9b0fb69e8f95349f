//! What runs pods, and what scales and guards it.

use serde_json::Value;

use super::Entry;
use super::columns::{
    AGE, Col, Cx, NAME, NONE, SELECTOR, TEMPLATE_CONTAINERS, TEMPLATE_IMAGES, UNKNOWN, UNSET, condition_true,
    container_images, container_names, count, integer, label_selector, or, plain_map, string,
};
use super::time;
use crate::strategy::value::{flag, has, int, list, text};

const DESIRED: Col = integer("Desired", |c| count(c.spec(), "replicas"));
const CURRENT: Col = integer("Current", |c| count(c.status(), "replicas"));
const READY: Col = integer("Ready", |c| count(c.status(), "readyReplicas"));
const READY_OF: Col = string("Ready", |c| {
    let ready = int(c.status(), "readyReplicas").unwrap_or(0);
    format!("{ready}/{}", int(c.spec(), "replicas").unwrap_or(0)).into()
});

pub(super) static TABLES: &[Entry] = &[
    (
        "apps",
        "deployments",
        &[
            NAME,
            READY_OF,
            integer("Up-to-date", |c| count(c.status(), "updatedReplicas")),
            integer("Available", |c| count(c.status(), "availableReplicas")),
            AGE,
            TEMPLATE_CONTAINERS,
            TEMPLATE_IMAGES,
            SELECTOR,
        ],
    ),
    (
        "apps",
        "replicasets",
        &[NAME, DESIRED, CURRENT, READY, AGE, TEMPLATE_CONTAINERS, TEMPLATE_IMAGES, SELECTOR],
    ),
    (
        "",
        "replicationcontrollers",
        &[
            NAME,
            DESIRED,
            CURRENT,
            READY,
            AGE,
            TEMPLATE_CONTAINERS,
            TEMPLATE_IMAGES,
            string("Selector", |c| plain_map(c.spec(), "selector")).wide(),
        ],
    ),
    ("apps", "statefulsets", &[NAME, READY_OF, AGE, TEMPLATE_CONTAINERS, TEMPLATE_IMAGES]),
    (
        "apps",
        "daemonsets",
        &[
            NAME,
            integer("Desired", |c| count(c.status(), "desiredNumberScheduled")),
            integer("Current", |c| count(c.status(), "currentNumberScheduled")),
            integer("Ready", |c| count(c.status(), "numberReady")),
            integer("Up-to-date", |c| count(c.status(), "updatedNumberScheduled")),
            integer("Available", |c| count(c.status(), "numberAvailable")),
            string("Node Selector", |c| plain_map(&c.spec()["template"]["spec"], "nodeSelector")),
            AGE,
            TEMPLATE_CONTAINERS,
            TEMPLATE_IMAGES,
            SELECTOR,
        ],
    ),
    (
        "apps",
        "controllerrevisions",
        &[NAME, string("Controller", controller), integer("Revision", |c| count(c.object, "revision")), AGE],
    ),
    (
        "",
        "podtemplates",
        &[
            NAME,
            string("Containers", |c| container_names(&c.object["template"]["spec"])),
            string("Images", |c| container_images(&c.object["template"]["spec"])),
            string("Pod Labels", |c| plain_map(&c.object["template"]["metadata"], "labels")),
        ],
    ),
    (
        "batch",
        "jobs",
        &[
            NAME,
            string("Status", |c| job_status(c).into()),
            string("Completions", completions),
            string("Duration", duration),
            AGE,
            TEMPLATE_CONTAINERS,
            TEMPLATE_IMAGES,
            SELECTOR,
        ],
    ),
    (
        "batch",
        "cronjobs",
        &[
            NAME,
            string("Schedule", |c| text(c.spec(), "schedule").into()),
            string("Timezone", |c| or(text(c.spec(), "timeZone"), NONE)),
            string("Suspend", |c| match c.spec().get("suspend").and_then(Value::as_bool) {
                Some(true) => "True".into(),
                Some(false) => "False".into(),
                None => UNSET.into(),
            }),
            integer("Active", |c| list(c.status(), "active").len().into()),
            string("Last Schedule", |c| match has(c.status(), "lastScheduleTime") {
                true => c.since(&c.status()["lastScheduleTime"]),
                false => NONE.into(),
            }),
            AGE,
            string("Containers", |c| container_names(job_pod(c))).wide(),
            string("Images", |c| container_images(job_pod(c))).wide(),
            string("Selector", |c| label_selector(&c.spec()["jobTemplate"]["spec"]["selector"])).wide(),
        ],
    ),
    (
        "autoscaling",
        "horizontalpodautoscalers",
        &[
            NAME,
            string("Reference", |c| {
                let target = &c.spec()["scaleTargetRef"];
                format!("{}/{}", text(target, "kind"), text(target, "name")).into()
            }),
            string("Targets", |c| metrics(c).into()),
            string("MinPods", |c| match int(c.spec(), "minReplicas") {
                Some(least) => least.to_string().into(),
                None => UNSET.into(),
            }),
            integer("MaxPods", |c| count(c.spec(), "maxReplicas")),
            integer("Replicas", |c| count(c.status(), "currentReplicas")),
            AGE,
        ],
    ),
    (
        "policy",
        "poddisruptionbudgets",
        &[
            NAME,
            string("Min Available", |c| int_or_percent(c, "minAvailable")),
            string("Max Unavailable", |c| int_or_percent(c, "maxUnavailable")),
            integer("Allowed Disruptions", |c| count(c.status(), "disruptionsAllowed")),
            AGE,
        ],
    ),
];

fn job_pod<'a>(c: &Cx<'a>) -> &'a Value {
    &c.spec()["jobTemplate"]["spec"]["template"]["spec"]
}

fn controller(c: &Cx) -> Value {
    let Some(owner) = list(c.meta(), "ownerReferences").iter().find(|o| flag(o, "controller")) else {
        return NONE.into();
    };
    let kind = text(owner, "kind").to_lowercase();
    match text(owner, "apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", text(owner, "name")).into(),
        None => format!("{kind}/{}", text(owner, "name")).into(),
    }
}

fn job_status(c: &Cx) -> &'static str {
    if condition_true(c.status(), "Complete") {
        return "Complete";
    }
    if condition_true(c.status(), "Failed") {
        return "Failed";
    }
    if has(c.meta(), "deletionTimestamp") {
        return "Terminating";
    }
    ["Suspended", "FailureTarget", "SuccessCriteriaMet"]
        .into_iter()
        .find(|kind| condition_true(c.status(), kind))
        .unwrap_or("Running")
}

fn completions(c: &Cx) -> Value {
    let done = int(c.status(), "succeeded").unwrap_or(0);
    match (int(c.spec(), "completions"), int(c.spec(), "parallelism").unwrap_or(0)) {
        (Some(wanted), _) => format!("{done}/{wanted}").into(),
        (None, many) if many > 1 => format!("{done}/1 of {many}").into(),
        (None, _) => format!("{done}/1").into(),
    }
}

fn duration(c: &Cx) -> Value {
    let Some(start) = time::parse(&c.status()["startTime"]) else {
        return "".into();
    };
    let end = time::parse(&c.status()["completionTime"]).unwrap_or(c.now);
    time::human(time::seconds_between(start, end)).into()
}

fn int_or_percent(c: &Cx, key: &str) -> Value {
    match c.spec().get(key) {
        Some(Value::String(text)) => text.as_str().into(),
        Some(Value::Number(number)) => number.to_string().into(),
        _ => "N/A".into(),
    }
}

fn metrics(c: &Cx) -> String {
    let wanted = list(c.spec(), "metrics");
    let now = list(c.status(), "currentMetrics");
    if wanted.is_empty() {
        // The first version of the kind knows one metric.
        return match int(c.spec(), "targetCPUUtilizationPercentage") {
            Some(target) => {
                let current = int(c.status(), "currentCPUUtilizationPercentage");
                format!("cpu: {}/{target}%", current.map_or(UNKNOWN.into(), |v| format!("{v}%")))
            }
            None => NONE.into(),
        };
    }
    let shown: Vec<String> = wanted
        .iter()
        .enumerate()
        .map(|(at, metric)| one_metric(metric, now.get(at).unwrap_or(&Value::Null)))
        .collect();
    match shown.len().checked_sub(2) {
        Some(more) if more > 0 => format!("{} + {more} more...", shown[..2].join(", ")),
        _ => shown.join(", "),
    }
}

fn one_metric(wanted: &Value, now: &Value) -> String {
    let kind = text(wanted, "type");
    let source = match kind {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        _ => "external",
    };
    let (wanted, current) = (&wanted[source], &now[source]["current"]);
    let target = &wanted["target"];
    let amount = |key: &str| {
        let now = text(current, key);
        format!("{}/{}", if now.is_empty() { UNKNOWN } else { now }, text(target, key))
    };
    let value = if has(target, "averageUtilization") {
        let now = int(current, "averageUtilization").map_or(UNKNOWN.into(), |v| format!("{v}%"));
        format!("{now}/{}%", int(target, "averageUtilization").unwrap_or(0))
    } else if has(target, "averageValue") {
        let average = if matches!(kind, "Object" | "External") { " (avg)" } else { "" };
        format!("{}{average}", amount("averageValue"))
    } else {
        amount("value")
    };
    match kind {
        "Resource" | "ContainerResource" => format!("{}: {value}", text(wanted, "name")),
        _ => value,
    }
}
