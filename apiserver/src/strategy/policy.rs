//! Disruption budgets and autoscalers.

use serde_json::{Value, json};

use super::value::{default, has, list, object, set};
use super::{Entry, PLAIN, Strategy};

pub(super) static KINDS: &[Entry] = &[
    ("policy", "poddisruptionbudgets", Strategy { generation: true, ..PLAIN }),
    ("autoscaling", "horizontalpodautoscalers", Strategy { default: autoscaler, ..PLAIN }),
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
