//! Kinds that are served at several versions: which one is stored, and the way there and back.

use kontiki_proto::resource::Resource;
use serde_json::{Map, Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// Field names of an event: in the core group, as stored, and in `events.k8s.io`.
static EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Whether objects of the row are stored at the row's own group and version. Custom resources are stored at whichever
/// version they were last written.
pub fn is_stored(row: &Resource) -> bool {
    !row.custom
        && !matches!(
            (row.group.as_str(), row.version.as_str(), row.plural.as_str()),
            ("events.k8s.io", _, "events") | ("autoscaling", "v1", "horizontalpodautoscalers")
        )
}

/// From the row's version to the stored one. Whatever the stored version has no field for goes into annotations.
pub fn to_stored(row: &Resource, object: &mut Value) {
    match row.plural.as_str() {
        "events" if row.group == "events.k8s.io" => {
            object["apiVersion"] = "v1".into();
            rename(object, |(core, grouped)| (grouped, core));
        }
        "horizontalpodautoscalers" if row.version == "v1" => scaler_to_v2(object),
        _ => {}
    }
}

/// From the stored version to the row's.
pub fn from_stored(row: &Resource, object: &mut Value) {
    if row.custom {
        object["apiVersion"] = row.api_version().as_str().into();
        return;
    }
    match row.plural.as_str() {
        "events" if row.group == "events.k8s.io" => {
            object["apiVersion"] = "events.k8s.io/v1".into();
            rename(object, |names| names);
        }
        "horizontalpodautoscalers" if row.version == "v1" => scaler_to_v1(object),
        _ => {}
    }
}

fn rename(object: &mut Value, direction: fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    let Some(map) = object.as_object_mut() else { return };
    for &names in EVENT_FIELDS {
        let (from, to) = direction(names);
        if let Some(value) = map.remove(from) {
            map.insert(to.into(), value);
        }
    }
}

fn is_cpu_utilization(metric: &Value, values: &str) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"][values]["averageUtilization"].is_number()
}

fn part<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(name)?.as_object_mut()
}

fn annotate(object: &mut Value, name: &str, value: &Value) {
    if let Some(metadata) = super::metadata_mut(object) {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        annotations[name] = value.to_string().into();
    }
}

/// Takes an annotation out again; one that is no JSON stays where it is.
fn annotated(object: &mut Value, name: &str) -> Option<Value> {
    let annotations = object.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()?;
    let value = serde_json::from_str(annotations.get(name)?.as_str()?).ok()?;
    annotations.remove(name);
    if annotations.is_empty() {
        part(object, "metadata")?.remove("annotations");
    }
    Some(value)
}

fn scaler_to_v1(object: &mut Value) {
    object["apiVersion"] = "autoscaling/v1".into();
    for (of, list, values, field, target, rest) in [
        ("spec", "metrics", "target", "averageUtilization", "targetCPUUtilizationPercentage", METRICS),
        (
            "status",
            "currentMetrics",
            "current",
            "averageUtilization",
            "currentCPUUtilizationPercentage",
            CURRENT_METRICS,
        ),
    ] {
        let Some(map) = part(object, of) else { continue };
        let Some(Value::Array(mut metrics)) = map.remove(list) else { continue };
        if let Some(at) = metrics.iter().position(|metric| is_cpu_utilization(metric, values)) {
            let cpu = metrics.remove(at);
            map.insert(target.into(), cpu["resource"][values][field].clone());
        }
        if !metrics.is_empty() {
            annotate(object, rest, &Value::Array(metrics));
        }
    }
    for (of, field, name) in [("spec", "behavior", BEHAVIOR), ("status", "conditions", CONDITIONS)] {
        if let Some(value) = part(object, of).and_then(|map| map.remove(field)) {
            annotate(object, name, &value);
        }
    }
}

fn scaler_to_v2(object: &mut Value) {
    object["apiVersion"] = "autoscaling/v2".into();
    for (of, list, values, target, rest) in [
        ("spec", "metrics", "target", "targetCPUUtilizationPercentage", METRICS),
        ("status", "currentMetrics", "current", "currentCPUUtilizationPercentage", CURRENT_METRICS),
    ] {
        let others = annotated(object, rest);
        let Some(map) = part(object, of) else { continue };
        let mut metrics = Vec::new();
        if let Some(percent) = map.remove(target) {
            let mut value = json!({"averageUtilization": percent});
            if values == "target" {
                value["type"] = "Utilization".into();
            }
            metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", values: value}}));
        }
        if let Some(Value::Array(others)) = others {
            metrics.extend(others);
        }
        if !metrics.is_empty() {
            map.insert(list.into(), metrics.into());
        }
    }
    for (of, field, name) in [("spec", "behavior", BEHAVIOR), ("status", "conditions", CONDITIONS)] {
        if let Some(value) = annotated(object, name)
            && let Some(map) = part(object, of)
        {
            map.insert(field.into(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use kontiki_proto::Registry;

    use super::*;

    #[test]
    fn an_autoscaler_survives_the_way_to_the_old_version_and_back() {
        let v1 = Registry::builtin().find("autoscaling", "v1", "horizontalpodautoscalers").expect("a row");
        let stored = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "a", "annotations": {"mine": "kept"}},
            "spec": {
                "maxReplicas": 3,
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                ],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}},
            },
        });
        let mut object = stored.clone();
        from_stored(v1, &mut object);
        assert_eq!(object["apiVersion"], "autoscaling/v1");
        assert_eq!(object["spec"], json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 80}));
        to_stored(v1, &mut object);
        assert_eq!(object, stored);
    }
}
