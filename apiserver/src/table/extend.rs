//! What extends the API, and the devices of nodes.

use serde_json::Value;

use super::Entry;
use super::columns::{AGE, Col, Cx, NAME, NONE, UNSET, condition, count, integer, or, string};
use crate::strategy::value::{has, int, list, text};

const ADMISSION: &str = "admissionregistration.k8s.io";
const FAIRNESS: &str = "flowcontrol.apiserver.k8s.io";

static WEBHOOKS: &[Col] = &[NAME, integer("Webhooks", |c| list(c.object, "webhooks").len().into()), AGE];
static POLICY_BINDING: &[Col] = &[
    NAME,
    string("PolicyName", |c| text(c.spec(), "policyName").into()),
    string("ParamRef", |c| {
        if !has(c.spec(), "paramRef") {
            return UNSET.into();
        }
        let reference = &c.spec()["paramRef"];
        match (text(reference, "namespace"), text(reference, "name")) {
            (namespace, "") => format!("{}/*", if namespace.is_empty() { "*" } else { namespace }).into(),
            ("", name) => format!("*/{name}").into(),
            (namespace, name) => format!("{namespace}/{name}").into(),
        }
    }),
    AGE,
];
const PARAM_KIND: Col = string("ParamKind", |c| {
    if !has(c.spec(), "paramKind") {
        return UNSET.into();
    }
    let kind = &c.spec()["paramKind"];
    format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind")).into()
});

pub(super) static TABLES: &[Entry] = &[
    (ADMISSION, "mutatingwebhookconfigurations", WEBHOOKS),
    (ADMISSION, "validatingwebhookconfigurations", WEBHOOKS),
    (
        ADMISSION,
        "validatingadmissionpolicies",
        &[NAME, integer("Validations", |c| list(c.spec(), "validations").len().into()), PARAM_KIND, AGE],
    ),
    (
        ADMISSION,
        "mutatingadmissionpolicies",
        &[NAME, integer("Mutations", |c| list(c.spec(), "mutations").len().into()), PARAM_KIND, AGE],
    ),
    (ADMISSION, "validatingadmissionpolicybindings", POLICY_BINDING),
    (ADMISSION, "mutatingadmissionpolicybindings", POLICY_BINDING),
    (
        "apiregistration.k8s.io",
        "apiservices",
        &[
            NAME,
            string("Service", |c| match has(c.spec(), "service") {
                true => {
                    let service = &c.spec()["service"];
                    format!("{}/{}", text(service, "namespace"), text(service, "name")).into()
                }
                false => "Local".into(),
            }),
            string("Available", |c| match condition(c.status(), "Available") {
                Some(found) if text(found, "status") == "True" => "True".into(),
                Some(found) => format!("{} ({})", text(found, "status"), text(found, "reason")).into(),
                None => "Unknown".into(),
            }),
            AGE,
        ],
    ),
    (
        FAIRNESS,
        "flowschemas",
        &[
            NAME,
            string("PriorityLevel", |c| text(&c.spec()["priorityLevelConfiguration"], "name").into()),
            integer("MatchingPrecedence", |c| count(c.spec(), "matchingPrecedence")),
            string("DistinguisherMethod", |c| or(text(&c.spec()["distinguisherMethod"], "type"), NONE)),
            AGE,
            string("MissingPL", |c| {
                or(condition(c.status(), "Dangling").map_or("", |d| text(d, "status")), "?")
            }),
        ],
    ),
    (
        FAIRNESS,
        "prioritylevelconfigurations",
        &[
            NAME,
            string("Type", |c| text(c.spec(), "type").into()),
            string("NominalConcurrencyShares", |c| {
                let shares = |part: &str| int(&c.spec()[part], "nominalConcurrencyShares");
                shares("limited").or_else(|| shares("exempt")).map_or(NONE.into(), Value::from)
            }),
            string("Queues", |c| queuing(c, "queues")),
            string("HandSize", |c| queuing(c, "handSize")),
            string("QueueLengthLimit", |c| queuing(c, "queueLengthLimit")),
            AGE,
        ],
    ),
    ("resource.k8s.io", "deviceclasses", &[NAME, AGE]),
    ("resource.k8s.io", "resourceclaimtemplates", &[NAME, AGE]),
    ("resource.k8s.io", "resourceclaims", &[NAME, string("State", |c| claim_state(c).into()), AGE]),
    (
        "resource.k8s.io",
        "resourceslices",
        &[
            NAME,
            string("Node", |c| or(text(c.spec(), "nodeName"), UNSET)),
            string("Driver", |c| text(c.spec(), "driver").into()),
            string("Pool", |c| text(&c.spec()["pool"], "name").into()),
            AGE,
        ],
    ),
];

fn queuing(c: &Cx, key: &str) -> Value {
    int(&c.spec()["limited"]["limitResponse"]["queuing"], key).map_or(NONE.into(), Value::from)
}

fn claim_state(c: &Cx) -> String {
    let mut words = Vec::new();
    let going = has(c.meta(), "deletionTimestamp");
    if going {
        words.push("deleted");
    }
    match (has(c.status(), "allocation"), list(c.status(), "reservedFor").is_empty()) {
        (false, _) if !going => words.push("pending"),
        (false, _) => (),
        (true, true) => words.push("allocated"),
        (true, false) => words.extend(["allocated", "reserved"]),
    }
    words.join(",")
}
