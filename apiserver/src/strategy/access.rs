//! Roles, bindings, and certificates.

use kontiki_proto::status::FieldError;
use serde_json::Value;

use super::check::{Errors, all, label_selector, required};
use super::names;
use super::names::NameRule;
use super::value::{default, has, int, is_set, list, list_mut, object, same, text};
use super::{Entry, PLAIN, Strategy};
use crate::schema::Path;

const RBAC: &str = "rbac.authorization.k8s.io";
const ROLE: Strategy =
    Strategy { names: NameRule::PathSegment, validate: |role, errors| rules(role, true, errors), ..PLAIN };
const CLUSTER_ROLE: Strategy = Strategy { validate: validate_cluster_role, ..ROLE };
const BINDING: Strategy = Strategy {
    names: NameRule::PathSegment,
    default: binding,
    validate: |binding, errors| validate_binding(binding, true, errors),
    validate_update: update_binding,
    ..PLAIN
};
const CLUSTER_BINDING: Strategy =
    Strategy { validate: |binding, errors| validate_binding(binding, false, errors), ..BINDING };

pub(super) static KINDS: &[Entry] = &[
    (RBAC, "roles", ROLE),
    (RBAC, "clusterroles", CLUSTER_ROLE),
    (RBAC, "rolebindings", BINDING),
    (RBAC, "clusterrolebindings", CLUSTER_BINDING),
    (
        "certificates.k8s.io",
        "certificatesigningrequests",
        Strategy { names: NameRule::Own, validate: validate_request, prepare_update: keep_request, ..PLAIN },
    ),
];

fn binding(binding: &mut Value) {
    default(object(binding, "roleRef"), "apiGroup", RBAC);
    for subject in list_mut(binding, "subjects") {
        if !is_set(subject, "apiGroup") && matches!(text(subject, "kind"), "User" | "Group") {
            default(subject, "apiGroup", RBAC);
        }
    }
}

fn rules(role: &Value, namespaced: bool, errors: &mut Errors) {
    let path = Path::of("rules");
    for (at, rule) in list(role, "rules").iter().enumerate() {
        let here = path.item(at);
        if list(rule, "verbs").is_empty() {
            errors.push(FieldError::required(here.key("verbs"), "verbs must contain at least one value"));
        }
        let urls = list(rule, "nonResourceURLs");
        if !urls.is_empty() {
            let why = if namespaced {
                "namespaced rules cannot apply to non-resource URLs"
            } else if ["apiGroups", "resources", "resourceNames"]
                .iter()
                .any(|key| !list(rule, key).is_empty())
            {
                "rules cannot apply to both regular resources and non-resource URLs"
            } else {
                continue;
            };
            errors.push(FieldError::invalid(here.key("nonResourceURLs"), urls, why));
            continue;
        }
        if list(rule, "apiGroups").is_empty() {
            let why = "resource rules must supply at least one api group";
            errors.push(FieldError::required(here.key("apiGroups"), why));
        }
        if list(rule, "resources").is_empty() {
            let why = "resource rules must supply at least one resource";
            errors.push(FieldError::required(here.key("resources"), why));
        }
    }
}

fn validate_cluster_role(role: &Value, errors: &mut Errors) {
    rules(role, false, errors);
    if has(role, "aggregationRule") {
        let path = Path::of("aggregationRule");
        let here = path.key("clusterRoleSelectors");
        let selectors = list(&role["aggregationRule"], "clusterRoleSelectors");
        if selectors.is_empty() {
            let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(FieldError::required(here, why));
        }
        for (at, selector) in selectors.iter().enumerate() {
            label_selector(selector, &here.item(at), errors);
        }
    }
}

fn validate_binding(binding: &Value, namespaced: bool, errors: &mut Errors) {
    let (role, path) = (&binding["roleRef"], Path::of("roleRef"));
    if text(role, "apiGroup") != RBAC {
        errors.push(FieldError::not_supported(path.key("apiGroup"), text(role, "apiGroup"), &[RBAC]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(role, "kind")) {
        errors.push(FieldError::not_supported(path.key("kind"), text(role, "kind"), kinds));
    }
    if required(role, "name", &path, errors) {
        let name = text(role, "name");
        all(path.key("name"), name, NameRule::PathSegment.check(name, false), errors);
    }
    let path = Path::of("subjects");
    for (at, subject) in list(binding, "subjects").iter().enumerate() {
        let here = path.item(at);
        let (name, group) = (text(subject, "name"), text(subject, "apiGroup"));
        required(subject, "name", &here, errors);
        match text(subject, "kind") {
            "ServiceAccount" => {
                if !name.is_empty() {
                    all(here.key("name"), name, names::subdomain(name), errors);
                }
                if !group.is_empty() {
                    errors.push(FieldError::not_supported(here.key("apiGroup"), group, &[""]));
                }
                required(subject, "namespace", &here, errors);
            }
            "User" | "Group" => {
                if group != RBAC {
                    errors.push(FieldError::not_supported(here.key("apiGroup"), group, &[RBAC]));
                }
            }
            other => {
                let known = ["ServiceAccount", "User", "Group"];
                errors.push(FieldError::not_supported(here.key("kind"), other, &known));
            }
        }
    }
}

fn update_binding(new: &Value, old: &Value, errors: &mut Errors) {
    if !same(&new["roleRef"], &old["roleRef"]) {
        errors.push(FieldError::invalid("roleRef", &new["roleRef"], "cannot change roleRef"));
    }
}

fn validate_request(request: &Value, errors: &mut Errors) {
    let (spec, path) = (&request["spec"], Path::of("spec"));
    if required(spec, "request", &path, errors) && !is_certificate_request(text(spec, "request")) {
        let why = "PEM block type must be CERTIFICATE REQUEST";
        errors.push(FieldError::invalid(path.key("request"), text(spec, "request"), why));
    }
    if list(spec, "usages").is_empty() {
        errors.push(FieldError::required(path.key("usages"), ""));
    }
    let signer = text(spec, "signerName");
    if required(spec, "signerName", &path, errors)
        && !signer.split_once('/').is_some_and(|(domain, name)| domain.contains('.') && !name.is_empty())
    {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid(path.key("signerName"), signer, why));
    }
    if let Some(seconds) = int(spec, "expirationSeconds").filter(|seconds| *seconds < 600) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid(path.key("expirationSeconds"), seconds, why));
    }
}

/// Whether base64 text holds a PEM block of the right kind.
fn is_certificate_request(text: &str) -> bool {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    let head = b"-----BEGIN CERTIFICATE REQUEST-----";
    bytes.windows(head.len()).any(|window| window == head)
}

/// What was asked for cannot be changed behind an approver's back.
fn keep_request(new: &mut Value, old: &Value) {
    super::value::carry(new, old, "spec");
}
