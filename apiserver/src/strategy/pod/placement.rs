//! Where a pod may run: tolerations, affinity, spreading.

use std::collections::BTreeSet;

use kontiki_proto::status::FieldError;
use serde_json::Value;

use crate::schema::Path;
use crate::strategy::check::{Errors, all, label_selector, required_one_of};
use crate::strategy::names;
use crate::strategy::value::{has, int, list, text};

pub(super) fn check(spec: &Value, path: &Path, errors: &mut Errors) {
    let tolerations = path.key("tolerations");
    for (at, one) in list(spec, "tolerations").iter().enumerate() {
        toleration(one, &tolerations.item(at), errors);
    }
    let affinity = path.key("affinity");
    node_affinity(&spec["affinity"]["nodeAffinity"], &affinity.key("nodeAffinity"), errors);
    for kind in ["podAffinity", "podAntiAffinity"] {
        pod_affinity(&spec["affinity"][kind], &affinity.key(kind), errors);
    }
    spread(spec, &path.key("topologySpreadConstraints"), errors);
}

fn toleration(toleration: &Value, path: &Path, errors: &mut Errors) {
    let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
    let value = text(toleration, "value");
    if !key.is_empty() {
        all(path.key("key"), key, names::qualified(key), errors);
    } else if operator != "Exists" {
        let why =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(path.key("operator"), operator, why));
    }
    if has(toleration, "tolerationSeconds") && text(toleration, "effect") != "NoExecute" {
        let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid(path.key("effect"), text(toleration, "effect"), why));
    }
    match operator {
        "" | "Equal" => {
            let problems = names::label_value(value);
            if !problems.is_empty() {
                errors.push(FieldError::invalid(path.key("operator"), value, &problems.join(";")));
            }
        }
        "Exists" if !value.is_empty() => {
            let why = "value must be empty when `operator` is 'Exists'";
            errors.push(FieldError::invalid(path.key("operator"), value, why));
        }
        "Exists" => (),
        other => errors.push(FieldError::not_supported(path.key("operator"), other, &["Equal", "Exists"])),
    }
    taint_effect(toleration, false, path, errors);
}

/// The effect of a taint or toleration. The words come in the order in which upstream lists them.
pub(crate) fn taint_effect(owner: &Value, required: bool, path: &Path, errors: &mut Errors) {
    let words = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let effect = text(owner, "effect");
    if effect.is_empty() {
        if required {
            errors.push(FieldError::required(path.key("effect"), ""));
        }
    } else if !words.contains(&effect) {
        errors.push(FieldError::not_supported(path.key("effect"), effect, &words));
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn node_affinity(affinity: &Value, path: &Path, errors: &mut Errors) {
    if has(affinity, REQUIRED) {
        node_selector(&affinity[REQUIRED], &path.key(REQUIRED), errors);
    }
    let preferred = path.key(PREFERRED);
    for (at, one) in list(affinity, PREFERRED).iter().enumerate() {
        let here = preferred.item(at);
        weight(one, &here, errors);
        node_term(&one["preference"], &here.key("preference"), errors);
    }
}

/// A `NodeSelector`: terms of which one has to hold.
pub(crate) fn node_selector(selector: &Value, path: &Path, errors: &mut Errors) {
    let terms = path.key("nodeSelectorTerms");
    if list(selector, "nodeSelectorTerms").is_empty() {
        errors.push(FieldError::required(terms, "must have at least one node selector term"));
    }
    for (at, term) in list(selector, "nodeSelectorTerms").iter().enumerate() {
        node_term(term, &terms.item(at), errors);
    }
}

fn node_term(term: &Value, path: &Path, errors: &mut Errors) {
    let expressions = path.key("matchExpressions");
    for (at, expression) in list(term, "matchExpressions").iter().enumerate() {
        let here = expressions.item(at);
        let values = list(expression, "values");
        match text(expression, "operator") {
            "In" | "NotIn" => {
                if values.is_empty() {
                    let why = "must be specified when `operator` is 'In' or 'NotIn'";
                    errors.push(FieldError::required(here.key("values"), why));
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    errors.push(FieldError::forbidden(here.key("values"), why));
                }
            }
            "Gt" | "Lt" => {
                if values.len() != 1 {
                    let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                    errors.push(FieldError::required(here.key("values"), why));
                }
            }
            other => {
                errors.push(FieldError::invalid(
                    here.key("operator"),
                    other,
                    "not a valid selector operator",
                ));
            }
        }
        let key = text(expression, "key");
        all(here.key("key"), key, names::qualified(key), errors);
    }
    let fields = path.key("matchFields");
    for (at, field) in list(term, "matchFields").iter().enumerate() {
        let here = fields.item(at);
        match text(field, "operator") {
            "In" | "NotIn" => {
                if list(field, "values").len() != 1 {
                    let why =
                        "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                    errors.push(FieldError::required(here.key("values"), why));
                }
            }
            other => {
                errors.push(FieldError::invalid(
                    here.key("operator"),
                    other,
                    "not a valid selector operator",
                ));
            }
        }
        if text(field, "key") != "metadata.name" {
            errors.push(FieldError::invalid(
                here.key("key"),
                text(field, "key"),
                "not a valid field selector key",
            ));
        }
    }
}

fn weight(owner: &Value, path: &Path, errors: &mut Errors) {
    let weight = int(owner, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(path.key("weight"), weight, "must be in the range 1-100"));
    }
}

fn pod_affinity(affinity: &Value, path: &Path, errors: &mut Errors) {
    let required = path.key(REQUIRED);
    for (at, term) in list(affinity, REQUIRED).iter().enumerate() {
        pod_term(term, &required.item(at), errors);
    }
    let preferred = path.key(PREFERRED);
    for (at, one) in list(affinity, PREFERRED).iter().enumerate() {
        let here = preferred.item(at);
        weight(one, &here, errors);
        pod_term(&one["podAffinityTerm"], &here.key("podAffinityTerm"), errors);
    }
}

fn pod_term(term: &Value, path: &Path, errors: &mut Errors) {
    label_selector(&term["labelSelector"], &path.key("labelSelector"), errors);
    label_selector(&term["namespaceSelector"], &path.key("namespaceSelector"), errors);
    let namespaces = path.key("namespaces");
    for (at, namespace) in list(term, "namespaces").iter().enumerate() {
        let name = namespace.as_str().unwrap_or_default();
        all(namespaces.item(at), name, names::label(name), errors);
    }
    topology_key(term, path, errors);
}

fn topology_key(owner: &Value, path: &Path, errors: &mut Errors) {
    let key = text(owner, "topologyKey");
    if key.is_empty() {
        errors.push(FieldError::required(path.key("topologyKey"), "can not be empty"));
    } else {
        all(path.key("topologyKey"), key, names::qualified(key), errors);
    }
}

fn spread(spec: &Value, path: &Path, errors: &mut Errors) {
    let mut known = BTreeSet::new();
    for (at, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let here = path.item(at);
        let skew = int(constraint, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.push(FieldError::invalid(here.key("maxSkew"), skew, "must be greater than zero"));
        }
        topology_key(constraint, &here, errors);
        required_one_of(constraint, "whenUnsatisfiable", &here, &["DoNotSchedule", "ScheduleAnyway"], errors);
        let pair = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        if !known.insert(pair) {
            let shown = format!("{{{}, {}}}", pair.0, pair.1);
            errors.push(FieldError::duplicate(here.key("{topologyKey, whenUnsatisfiable}"), shown));
        }
        if let Some(least) = int(constraint, "minDomains").filter(|least| *least <= 0) {
            errors.push(FieldError::invalid(here.key("minDomains"), least, "must be greater than zero"));
        }
        label_selector(&constraint["labelSelector"], &here.key("labelSelector"), errors);
    }
}
