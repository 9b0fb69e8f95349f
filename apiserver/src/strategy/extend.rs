//! What extends the API: webhooks, admission policies, custom resource definitions, fairness, devices.

use serde_json::{Value, json};

use super::names::NameRule;
use super::value::{default, has, list_mut, object, text};
use super::{Entry, PLAIN, Strategy};

const ADMISSION: &str = "admissionregistration.k8s.io";
const FAIRNESS: &str = "flowcontrol.apiserver.k8s.io";

const COUNTED: Strategy = Strategy { generation: true, ..PLAIN };

pub(super) static KINDS: &[Entry] = &[
    (ADMISSION, "mutatingwebhookconfigurations", Strategy { default: mutating_webhooks, ..COUNTED }),
    (ADMISSION, "validatingwebhookconfigurations", Strategy { default: webhooks, ..COUNTED }),
    (ADMISSION, "validatingadmissionpolicies", Strategy { default: admission_policy, ..COUNTED }),
    (ADMISSION, "mutatingadmissionpolicies", Strategy { default: admission_policy, ..COUNTED }),
    (ADMISSION, "validatingadmissionpolicybindings", Strategy { default: policy_binding, ..COUNTED }),
    (ADMISSION, "mutatingadmissionpolicybindings", Strategy { default: policy_binding, ..COUNTED }),
    (
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        Strategy { default: definition, required: true, ..COUNTED },
    ),
    (
        "apiregistration.k8s.io",
        "apiservices",
        Strategy { names: NameRule::PathSegment, default: api_service, ..PLAIN },
    ),
    (FAIRNESS, "flowschemas", Strategy { default: flow_schema, required: true, ..COUNTED }),
    (
        FAIRNESS,
        "prioritylevelconfigurations",
        Strategy { default: priority_level, required: true, ..COUNTED },
    ),
    ("resource.k8s.io", "resourceslices", Strategy { required: true, ..COUNTED }),
    (
        "resource.k8s.io",
        "resourceclaims",
        Strategy { default: |claim| device_claim(object(claim, "spec")), required: true, ..PLAIN },
    ),
    (
        "resource.k8s.io",
        "resourceclaimtemplates",
        Strategy { default: |t| device_claim(object(object(t, "spec"), "spec")), required: true, ..PLAIN },
    ),
];

fn webhooks(configuration: &mut Value) {
    for hook in list_mut(configuration, "webhooks") {
        default(hook, "failurePolicy", "Fail");
        default(hook, "matchPolicy", "Equivalent");
        default(hook, "namespaceSelector", json!({}));
        default(hook, "objectSelector", json!({}));
        default(hook, "timeoutSeconds", 10);
        scopes(hook, "rules");
        if has(&hook["clientConfig"], "service") {
            default(&mut hook["clientConfig"]["service"], "port", 443);
        }
    }
}

fn mutating_webhooks(configuration: &mut Value) {
    webhooks(configuration);
    for hook in list_mut(configuration, "webhooks") {
        default(hook, "reinvocationPolicy", "Never");
    }
}

fn scopes(owner: &mut Value, rules: &str) {
    for rule in list_mut(owner, rules) {
        default(rule, "scope", "*");
    }
}

fn match_resources(resources: &mut Value) {
    default(resources, "matchPolicy", "Equivalent");
    default(resources, "namespaceSelector", json!({}));
    default(resources, "objectSelector", json!({}));
    scopes(resources, "resourceRules");
    scopes(resources, "excludeResourceRules");
}

fn admission_policy(policy: &mut Value) {
    let spec = object(policy, "spec");
    default(spec, "failurePolicy", "Fail");
    if has(spec, "matchConstraints") {
        match_resources(&mut spec["matchConstraints"]);
    }
}

fn policy_binding(binding: &mut Value) {
    let spec = object(binding, "spec");
    if has(spec, "matchResources") {
        match_resources(&mut spec["matchResources"]);
    }
}

fn definition(definition: &mut Value) {
    let spec = object(definition, "spec");
    let names = object(spec, "names");
    let kind = text(names, "kind").to_owned();
    if !kind.is_empty() {
        default(names, "singular", kind.to_lowercase());
        default(names, "listKind", format!("{kind}List"));
    }
    let conversion = object(spec, "conversion");
    default(conversion, "strategy", "None");
    if has(&conversion["webhook"]["clientConfig"], "service") {
        default(&mut conversion["webhook"]["clientConfig"]["service"], "port", 443);
    }
}

fn api_service(service: &mut Value) {
    let spec = object(service, "spec");
    if has(spec, "service") {
        default(&mut spec["service"], "port", 443);
    }
}

fn flow_schema(schema: &mut Value) {
    default(object(schema, "spec"), "matchingPrecedence", 1000);
}

fn priority_level(level: &mut Value) {
    let spec = object(level, "spec");
    if has(spec, "limited") {
        let limited = &mut spec["limited"];
        default(limited, "nominalConcurrencyShares", 30);
        default(limited, "lendablePercent", 0);
        if has(&limited["limitResponse"], "queuing") {
            let queuing = &mut limited["limitResponse"]["queuing"];
            default(queuing, "queues", 64);
            default(queuing, "handSize", 8);
            default(queuing, "queueLengthLimit", 50);
        }
    }
    if has(spec, "exempt") {
        default(&mut spec["exempt"], "nominalConcurrencyShares", 0);
        default(&mut spec["exempt"], "lendablePercent", 0);
    }
}

fn device_claim(spec: &mut Value) {
    if !has(spec, "devices") {
        return;
    }
    for request in list_mut(&mut spec["devices"], "requests") {
        if has(request, "exactly") {
            let exactly = &mut request["exactly"];
            default(exactly, "allocationMode", "ExactCount");
            if exactly["allocationMode"] == "ExactCount" {
                default(exactly, "count", 1);
            }
        }
    }
}
