//! Disruption budgets and autoscalers.

use kontiki_proto::status::FieldError;
use serde_json::{Value, json};

use super::check::{Errors, all, label_selector, one_of, required};
use super::names::NameRule;
use super::value::{default, has, int, list, object, set, text};
use super::{Entry, PLAIN, Strategy};
use crate::schema::Path;

pub(super) static KINDS: &[Entry] = &[
    ("policy", "poddisruptionbudgets", Strategy { validate: validate_budget, generation: true, ..PLAIN }),
    (
        "autoscaling",
        "horizontalpodautoscalers",
        Strategy { default: autoscaler, validate: validate_autoscaler, ..PLAIN },
    ),
];

fn autoscaler(autoscaler: &mut Value) {
    let second = autoscaler["apiVersion"] != "autoscaling/v1";
    let spec = object(autoscaler, "spec");
    default(spec, "minReplicas", 1);
    if !second {
        return;
    }
    if list(spec, "metrics").is_empty() {
        let cpu = json!([{
            "type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
        }]);
        set(spec, "metrics", cpu);
    }
    if has(spec, "behavior") {
        let behavior = &mut spec["behavior"];
        rules(
            object(behavior, "scaleUp"),
            json!([
                {"type": "Pods", "value": 4, "periodSeconds": 15},
                {"type": "Percent", "value": 100, "periodSeconds": 15}
            ]),
        );
        default(&mut behavior["scaleUp"], "stabilizationWindowSeconds", 0);
        rules(object(behavior, "scaleDown"), json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
    }
}

fn rules(rules: &mut Value, policies: Value) {
    default(rules, "selectPolicy", "Max");
    if list(rules, "policies").is_empty() {
        set(rules, "policies", policies);
    }
}

fn validate_budget(budget: &Value, errors: &mut Errors) {
    let (spec, path) = (&budget["spec"], Path::of("spec"));
    if has(spec, "minAvailable") && has(spec, "maxUnavailable") {
        let why = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid(path, spec, why));
    }
    for key in ["minAvailable", "maxUnavailable"] {
        super::check::share(spec, key, &path, errors);
    }
    label_selector(&spec["selector"], &path.key("selector"), errors);
    let known = ["AlwaysAllow", "IfHealthyBudget"];
    one_of(spec, "unhealthyPodEvictionPolicy", &path, &known, errors);
}

fn validate_autoscaler(autoscaler: &Value, errors: &mut Errors) {
    let (spec, path) = (&autoscaler["spec"], Path::of("spec"));
    let (least, most) = (int(spec, "minReplicas"), int(spec, "maxReplicas").unwrap_or(0));
    if let Some(least) = least.filter(|least| *least < 1) {
        let why = "must be greater than or equal to 1";
        errors.push(FieldError::invalid(path.key("minReplicas"), least, why));
    }
    if most < 1 {
        errors.push(FieldError::invalid(path.key("maxReplicas"), most, "must be greater than 0"));
    }
    if least.is_some_and(|least| most < least) {
        let why = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(path.key("maxReplicas"), most, why));
    }
    let (target, here) = (&spec["scaleTargetRef"], path.key("scaleTargetRef"));
    for key in ["kind", "name"] {
        if required(target, key, &here, errors) {
            let name = text(target, key);
            all(here.key(key), name, NameRule::PathSegment.check(name, false), errors);
        }
    }
    if let Some(percent) = int(spec, "targetCPUUtilizationPercentage").filter(|percent| *percent < 1) {
        let why = "must be greater than 0";
        errors.push(FieldError::invalid(path.key("targetCPUUtilizationPercentage"), percent, why));
    }
    let metrics = path.key("metrics");
    for (at, metric) in list(spec, "metrics").iter().enumerate() {
        let here = metrics.item(at);
        let (source, kinds) = ("type", ["ContainerResource", "External", "Object", "Pods", "Resource"]);
        if !required(metric, source, &here, errors) {
            continue;
        }
        one_of(metric, source, &here, &kinds, errors);
        let source = match text(metric, source) {
            "Resource" => "resource",
            "ContainerResource" => "containerResource",
            "Pods" => "pods",
            "Object" => "object",
            "External" => "external",
            _ => continue,
        };
        if !has(metric, source) {
            let why = "must populate information for the given metric source";
            errors.push(FieldError::required(here.key(source), why));
            continue;
        }
        let (target, place) = (&metric[source]["target"], here.key(source));
        let place = place.key("target");
        required(target, "type", &place, errors);
        one_of(target, "type", &place, &["AverageValue", "Utilization", "Value"], errors);
        if let Some(percent) = int(target, "averageUtilization").filter(|percent| *percent < 1) {
            errors.push(FieldError::invalid(
                place.key("averageUtilization"),
                percent,
                "must be greater than 0",
            ));
        }
    }
}
