//! Namespaces and what they hold, events, access.

use serde_json::Value;

use super::Entry;
use super::columns::{
    AGE, CREATED, Col, Cx, NAME, NONE, boolean, condition, count, integer, join, or, string,
};
use super::time;
use crate::strategy::value::{entries, has, int, list, text};

const RBAC: &str = "rbac.authorization.k8s.io";

static BINDING: &[Col] = &[
    NAME,
    string("Role", |c| {
        let role = &c.object["roleRef"];
        format!("{}/{}", text(role, "kind"), text(role, "name")).into()
    }),
    AGE,
    string("Users", |c| subjects(c, "User")).wide(),
    string("Groups", |c| subjects(c, "Group")).wide(),
    string("ServiceAccounts", |c| subjects(c, "ServiceAccount")).wide(),
];

static EVENT: &[Col] = &[
    string("Last Seen", last_seen),
    string("Type", |c| text(c.object, "type").into()),
    string("Reason", |c| text(c.object, "reason").into()),
    string("Object", |c| {
        let about = either(c, "involvedObject", "regarding");
        let kind = text(about, "kind").to_lowercase();
        match text(about, "name") {
            "" => kind.into(),
            name => format!("{kind}/{name}").into(),
        }
    }),
    string("Subobject", |c| text(either(c, "involvedObject", "regarding"), "fieldPath").into()).wide(),
    string("Source", source).wide(),
    string("Message", |c| {
        let message = either(c, "message", "note").as_str().unwrap_or_default();
        message.trim().into()
    }),
    string("First Seen", first_seen).wide(),
    string("Count", |c| match (int(&c.object["series"], "count"), number(c, "count", "deprecatedCount")) {
        (Some(count), _) => count.into(),
        (None, 0) => 1.into(),
        (None, count) => count.into(),
    })
    .wide(),
    string("Name", |c| c.meta()["name"].clone()).wide(),
];

pub(super) static TABLES: &[Entry] = &[
    ("", "namespaces", &[NAME, string("Status", |c| text(c.status(), "phase").into()), AGE]),
    (
        "",
        "configmaps",
        &[
            NAME,
            integer("Data", |c| {
                (entries(c.object, "data").count() + entries(c.object, "binaryData").count()).into()
            }),
            AGE,
        ],
    ),
    (
        "",
        "secrets",
        &[
            NAME,
            string("Type", |c| text(c.object, "type").into()),
            integer("Data", |c| entries(c.object, "data").count().into()),
            AGE,
        ],
    ),
    ("", "serviceaccounts", &[NAME, integer("Secrets", |c| list(c.object, "secrets").len().into()), AGE]),
    (
        "",
        "resourcequotas",
        &[NAME, string("Request", |c| quota(c, false)), string("Limit", |c| quota(c, true)), AGE],
    ),
    (
        "",
        "componentstatuses",
        &[
            NAME,
            string("Status", |c| match condition(c.object, "Healthy").map(|h| text(h, "status")) {
                Some("True") => "Healthy".into(),
                Some("False") => "Unhealthy".into(),
                _ => "Unknown".into(),
            }),
            string("Message", |c| condition(c.object, "Healthy").map_or("", |h| text(h, "message")).into()),
            string("Error", |c| condition(c.object, "Healthy").map_or("", |h| text(h, "error")).into()),
        ],
    ),
    ("", "events", EVENT),
    ("events.k8s.io", "events", EVENT),
    (
        "coordination.k8s.io",
        "leases",
        &[NAME, string("Holder", |c| text(c.spec(), "holderIdentity").into()), AGE],
    ),
    (
        "scheduling.k8s.io",
        "priorityclasses",
        &[
            NAME,
            integer("Value", |c| count(c.object, "value")),
            boolean("Global-Default", |c| {
                c.object.get("globalDefault").and_then(Value::as_bool).unwrap_or(false).into()
            }),
            AGE,
            string("PreemptionPolicy", |c| text(c.object, "preemptionPolicy").into()),
        ],
    ),
    ("node.k8s.io", "runtimeclasses", &[NAME, string("Handler", |c| text(c.object, "handler").into()), AGE]),
    (RBAC, "roles", &[NAME, CREATED]),
    (RBAC, "clusterroles", &[NAME, CREATED]),
    (RBAC, "rolebindings", BINDING),
    (RBAC, "clusterrolebindings", BINDING),
    (
        "certificates.k8s.io",
        "certificatesigningrequests",
        &[
            NAME,
            AGE,
            string("SignerName", |c| or(text(c.spec(), "signerName"), NONE)),
            string("Requestor", |c| text(c.spec(), "username").into()),
            string("RequestedDuration", |c| match int(c.spec(), "expirationSeconds") {
                Some(seconds) => time::human(seconds).into(),
                None => NONE.into(),
            }),
            string("Condition", |c| request_condition(c).into()),
        ],
    ),
];

fn either<'a>(c: &Cx<'a>, old: &str, new: &str) -> &'a Value {
    if has(c.object, old) { &c.object[old] } else { &c.object[new] }
}

fn number(c: &Cx, old: &str, new: &str) -> i64 {
    either(c, old, new).as_i64().unwrap_or(0)
}

fn first_seen(c: &Cx) -> Value {
    let first = either(c, "firstTimestamp", "deprecatedFirstTimestamp");
    c.since(if first.is_null() { &c.object["eventTime"] } else { first })
}

fn last_seen(c: &Cx) -> Value {
    if has(c.object, "series") {
        return c.since(&c.object["series"]["lastObservedTime"]);
    }
    let last = either(c, "lastTimestamp", "deprecatedLastTimestamp");
    if last.is_null() { first_seen(c) } else { c.since(last) }
}

fn source(c: &Cx) -> Value {
    let source = either(c, "source", "deprecatedSource");
    let (component, host) = match text(source, "component") {
        "" => (
            either(c, "reportingComponent", "reportingController").as_str().unwrap_or_default(),
            text(c.object, "reportingInstance"),
        ),
        component => (component, text(source, "host")),
    };
    join([component, host].into_iter().filter(|part| !part.is_empty()), ", ").into()
}

fn subjects(c: &Cx, kind: &str) -> Value {
    let named = list(c.object, "subjects").iter().filter(|subject| text(subject, "kind") == kind);
    let names: Vec<String> = named
        .map(|subject| match kind {
            "ServiceAccount" => format!("{}/{}", text(subject, "namespace"), text(subject, "name")),
            _ => text(subject, "name").to_owned(),
        })
        .collect();
    names.join(", ").into()
}

fn quota(c: &Cx, limits: bool) -> Value {
    let used = &c.status()["used"];
    let mut shown: Vec<String> = entries(c.status(), "hard")
        .filter(|(name, _)| name.starts_with("limits.") == limits)
        .map(|(name, hard)| {
            let used = match text(used, name) {
                "" => "0",
                used => used,
            };
            format!("{name}: {used}/{}", hard.as_str().unwrap_or_default())
        })
        .collect();
    shown.sort();
    shown.join(", ").into()
}

fn request_condition(c: &Cx) -> String {
    let has = |kind: &str| condition(c.status(), kind).is_some();
    let mut words = vec![if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }];
    if has("Failed") {
        words.push("Failed");
    }
    if !text(c.status(), "certificate").is_empty() {
        words.push("Issued");
    }
    words.join(",")
}
