//! What extends the API: webhooks, admission policies, custom resource definitions, fairness, devices.

use kontiki_proto::status::FieldError;
use serde_json::{Value, json};

use super::check::{Errors, all, label_selector, one_of, required};
use super::names::{self, NameRule};
use super::value::{default, flag, has, int, list, list_mut, object, text};
use super::{Entry, PLAIN, Strategy};
use crate::schema::Path;

const ADMISSION: &str = "admissionregistration.k8s.io";
const FAIRNESS: &str = "flowcontrol.apiserver.k8s.io";

const COUNTED: Strategy = Strategy { generation: true, ..PLAIN };

pub(super) static KINDS: &[Entry] = &[
    (
        ADMISSION,
        "mutatingwebhookconfigurations",
        Strategy { default: mutating_webhooks, validate: validate_webhooks, ..COUNTED },
    ),
    (
        ADMISSION,
        "validatingwebhookconfigurations",
        Strategy { default: webhooks, validate: validate_webhooks, ..COUNTED },
    ),
    (ADMISSION, "validatingadmissionpolicies", Strategy { default: admission_policy, ..COUNTED }),
    (ADMISSION, "mutatingadmissionpolicies", Strategy { default: admission_policy, ..COUNTED }),
    (
        ADMISSION,
        "validatingadmissionpolicybindings",
        Strategy { default: policy_binding, validate: validate_policy_binding, ..COUNTED },
    ),
    (
        ADMISSION,
        "mutatingadmissionpolicybindings",
        Strategy { default: policy_binding, validate: validate_policy_binding, ..COUNTED },
    ),
    (
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        Strategy { default: definition, validate: validate_definition, ..COUNTED },
    ),
    (
        "apiregistration.k8s.io",
        "apiservices",
        Strategy {
            names: NameRule::PathSegment,
            default: api_service,
            validate: validate_api_service,
            ..PLAIN
        },
    ),
    (
        FAIRNESS,
        "flowschemas",
        Strategy { default: flow_schema, required: true, validate: validate_flow_schema, ..COUNTED },
    ),
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

fn validate_webhooks(configuration: &Value, errors: &mut Errors) {
    let path = Path::of("webhooks");
    let mut known = std::collections::BTreeSet::new();
    for (at, hook) in list(configuration, "webhooks").iter().enumerate() {
        let here = path.item(at);
        let name = text(hook, "name");
        let problems = names::subdomain(name);
        if problems.is_empty() && name.split('.').count() < 3 {
            let why = "should be a domain with at least three segments separated by dots";
            errors.push(FieldError::invalid(here.key("name"), name, why));
        }
        all(here.key("name"), name, problems, errors);
        if !known.insert(name) {
            errors.push(FieldError::duplicate(here.key("name"), name));
        }
        if list(hook, "admissionReviewVersions").is_empty() {
            let why = "must specify one of v1, v1beta1";
            errors.push(FieldError::required(here.key("admissionReviewVersions"), why));
        } else if !list(hook, "admissionReviewVersions").iter().any(|v| v == "v1" || v == "v1beta1") {
            let why = "must include at least one of v1, v1beta1";
            errors.push(FieldError::invalid(
                here.key("admissionReviewVersions"),
                list(hook, "admissionReviewVersions"),
                why,
            ));
        }
        one_of(hook, "failurePolicy", &here, &["Fail", "Ignore"], errors);
        one_of(hook, "matchPolicy", &here, &["Equivalent", "Exact"], errors);
        let effects = text(hook, "sideEffects");
        if effects.is_empty() {
            let why = "must specify one of None, NoneOnDryRun";
            errors.push(FieldError::required(here.key("sideEffects"), why));
        } else {
            one_of(hook, "sideEffects", &here, &["None", "NoneOnDryRun"], errors);
        }
        if let Some(seconds) = int(hook, "timeoutSeconds").filter(|seconds| !(1..=30).contains(seconds)) {
            let why = "the timeout value must be between 1 and 30 seconds";
            errors.push(FieldError::invalid(here.key("timeoutSeconds"), seconds, why));
        }
        one_of(hook, "reinvocationPolicy", &here, &["IfNeeded", "Never"], errors);
        for selector in ["namespaceSelector", "objectSelector"] {
            label_selector(&hook[selector], &here.key(selector), errors);
        }
        operations(hook, "rules", &here, errors);
        client(&hook["clientConfig"], &here.key("clientConfig"), errors);
    }
}

fn operations(owner: &Value, field: &str, path: &Path, errors: &mut Errors) {
    let here = path.key(field);
    for (at, rule) in list(owner, field).iter().enumerate() {
        let place = here.item(at);
        for key in ["operations", "apiGroups", "apiVersions", "resources"] {
            if list(rule, key).is_empty() {
                errors.push(FieldError::required(place.key(key), ""));
            }
        }
        let words = place.key("operations");
        for (nth, operation) in list(rule, "operations").iter().enumerate() {
            let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
            if !known.iter().any(|word| operation == word) {
                errors.push(FieldError::not_supported(words.item(nth), operation, &known));
            }
        }
    }
}

fn client(config: &Value, path: &Path, errors: &mut Errors) {
    match (text(config, "url"), has(config, "service")) {
        ("", false) => errors.push(FieldError::required(path, "exactly one of url or service is required")),
        ("", true) => {
            let here = path.key("service");
            required(&config["service"], "name", &here, errors);
            required(&config["service"], "namespace", &here, errors);
        }
        (_, true) => errors.push(FieldError::required(path, "exactly one of url or service is required")),
        (url, false) => {
            if !url.starts_with("https://") {
                let why = "'https' is the only allowed URL scheme";
                errors.push(FieldError::invalid(path.key("url"), url, why));
            }
        }
    }
}

fn validate_policy_binding(binding: &Value, errors: &mut Errors) {
    let (spec, path) = (&binding["spec"], Path::of("spec"));
    required(spec, "policyName", &path, errors);
}

fn validate_definition(definition: &Value, errors: &mut Errors) {
    let (spec, path) = (&definition["spec"], Path::of("spec"));
    let (group, spelled) = (text(spec, "group"), &spec["names"]);
    let wanted = format!("{}.{group}", text(spelled, "plural"));
    if text(&definition["metadata"], "name") != wanted {
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", text(&definition["metadata"], "name"), why));
    }
    if required(spec, "group", &path, errors) {
        all(path.key("group"), group, names::subdomain(group), errors);
        if !group.contains('.') {
            let why = "should be a domain with at least one dot";
            errors.push(FieldError::invalid(path.key("group"), group, why));
        }
    }
    if required(spec, "scope", &path, errors) {
        one_of(spec, "scope", &path, &["Cluster", "Namespaced"], errors);
    }
    let here = path.key("names");
    for key in ["plural", "kind"] {
        if required(spelled, key, &here, errors) {
            let word = text(spelled, key);
            let lower = if key == "kind" { word.to_lowercase() } else { word.to_owned() };
            all(here.key(key), word, names::label_1035(&lower), errors);
        }
    }
    let here = path.key("versions");
    let versions = list(spec, "versions");
    if versions.is_empty() {
        errors.push(FieldError::required(here, ""));
    }
    let stored = versions.iter().filter(|version| flag(version, "storage")).count();
    if stored != 1 && !versions.is_empty() {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid(here, versions, why));
    }
    let mut known = std::collections::BTreeSet::new();
    for (at, version) in versions.iter().enumerate() {
        let place = here.item(at);
        let name = text(version, "name");
        all(place.key("name"), name, names::label_1035(name), errors);
        if !known.insert(name) {
            errors.push(FieldError::duplicate(place.key("name"), name));
        }
        let schema = place.key("schema");
        if !has(&version["schema"], "openAPIV3Schema") {
            errors.push(FieldError::required(schema.key("openAPIV3Schema"), "schemas are required"));
        }
        let columns = place.key("additionalPrinterColumns");
        for (nth, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
            let spot = columns.item(nth);
            required(column, "name", &spot, errors);
            required(column, "jsonPath", &spot, errors);
            let kinds = ["boolean", "date", "integer", "number", "string"];
            if required(column, "type", &spot, errors) {
                one_of(column, "type", &spot, &kinds, errors);
            }
        }
    }
}

fn validate_api_service(service: &Value, errors: &mut Errors) {
    let (spec, path) = (&service["spec"], Path::of("spec"));
    let (group, version) = (text(spec, "group"), text(spec, "version"));
    let wanted = format!("{version}.{group}");
    if text(&service["metadata"], "name") != wanted {
        let why = format!("must be `spec.version+\".\"+spec.group`: \"{wanted}\"");
        errors.push(FieldError::invalid("metadata.name", text(&service["metadata"], "name"), &why));
    }
    required(spec, "version", &path, errors);
    for key in ["groupPriorityMinimum", "versionPriority"] {
        let priority = int(spec, key).unwrap_or(0);
        let most = if key == "versionPriority" { 1000 } else { 20_000 };
        if !(1..=most).contains(&priority) {
            let why = format!("must be positive and less than {most}");
            errors.push(FieldError::invalid(path.key(key), priority, &why));
        }
    }
}

fn validate_flow_schema(schema: &Value, errors: &mut Errors) {
    let precedence = int(&schema["spec"], "matchingPrecedence").unwrap_or(0);
    if !(1..=10_000).contains(&precedence) {
        let why = "must be a value between 1 and 10000";
        errors.push(FieldError::invalid("spec.matchingPrecedence", precedence, why));
    }
}
