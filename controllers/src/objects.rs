//! Small questions about API objects that several controllers ask.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition, ObjectReference, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kontiki_proto::api::Object;

use crate::runtime::Now;

pub type Labels = BTreeMap<String, String>;

/// The owner that controls the object.
pub fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

pub fn name_of<K: Object>(object: &K) -> &str {
    object.metadata().name.as_deref().unwrap_or_default()
}

pub fn namespace_of<K: Object>(object: &K) -> &str {
    object.metadata().namespace.as_deref().unwrap_or_default()
}

pub fn uid_of<K: Object>(object: &K) -> &str {
    object.metadata().uid.as_deref().unwrap_or_default()
}

pub fn is_deleting<K: Object>(object: &K) -> bool {
    object.metadata().deletion_timestamp.is_some()
}

pub fn is_controlled_by<O: Object, K: Object>(object: &O, owner: &K) -> bool {
    controller_of(object.metadata()).is_some_and(|reference| reference.uid == uid_of(owner))
}

/// Names `owner` as the one that controls, and that waits for the object when it is deleted in the foreground.
pub fn controlling_reference<K: Object>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::API_VERSION.into(),
        kind: K::KIND.into(),
        name: name_of(owner).into(),
        uid: uid_of(owner).into(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Points events at an object.
pub fn reference<K: Object>(object: &K) -> ObjectReference {
    let metadata = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.into()),
        kind: Some(K::KIND.into()),
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        field_path: None,
    }
}

/// Whether the labels satisfy the selector; the empty selector takes everything, an operator nobody knows nothing.
pub fn selects(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let get = |key: &str| labels.and_then(|labels| labels.get(key));
    let pairs = selector.match_labels.iter().flatten().all(|(key, value)| get(key) == Some(value));
    pairs
        && selector.match_expressions.iter().flatten().all(|term| {
            let value = get(&term.key);
            let listed = value.is_some_and(|value| term.values.iter().flatten().any(|v| v == value));
            match term.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// A selector that names nothing; controllers refuse to own everything.
pub fn is_empty_selector(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

pub fn pod_condition<'a>(pod: &'a Pod, condition: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == condition)
}

pub fn node_condition<'a>(node: &'a Node, condition: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == condition)
}

pub fn pod_phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// Succeeded or failed: it will not run again.
pub fn is_finished(pod: &Pod) -> bool {
    matches!(pod_phase(pod), "Succeeded" | "Failed")
}

/// Counts towards the replicas of its owner: neither finished nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_deleting(pod)
}

pub fn is_ready(pod: &Pod) -> bool {
    pod_condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

pub fn ready_since(pod: &Pod) -> Option<&Time> {
    pod_condition(pod, "Ready").filter(|c| c.status == "True")?.last_transition_time.as_ref()
}

/// How long until the pod has been ready for `min_ready`: zero when it is available, `None` when it is not ready.
pub fn until_available(pod: &Pod, min_ready: Duration, now: &Now) -> Option<Duration> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready.is_zero() {
        return Some(Duration::ZERO);
    }
    ready_since(pod).map(|since| min_ready.saturating_sub(now.since(since)))
}

/// `minReadySeconds` as a duration.
pub fn min_ready(seconds: Option<i32>) -> Duration {
    Duration::from_secs(u64::try_from(seconds.unwrap_or(0)).unwrap_or(0))
}

/// A number, or a percentage of `total`; `None` where the text is neither.
pub fn scaled(value: &IntOrString, total: i32, round_up: bool) -> Option<i32> {
    match value {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.trim().parse().ok()?;
            let exact = percent * i64::from(total);
            let scaled = if round_up { (exact + 99).div_euclid(100) } else { exact.div_euclid(100) };
            i32::try_from(scaled).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn selectors_take_pairs_and_expressions_together() {
        let term = |key: &str, operator: &str, values: &[&str]| LabelSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: (!values.is_empty()).then(|| values.iter().map(ToString::to_string).collect()),
        };
        let selector = LabelSelector {
            match_labels: Some(labels(&[("app", "web")])),
            match_expressions: Some(vec![term("tier", "NotIn", &["old"]), term("v", "Exists", &[])]),
        };
        for (given, expected) in [
            (&[("app", "web"), ("v", "1")][..], true),
            (&[("app", "web"), ("v", "1"), ("tier", "old")], false),
            (&[("app", "web")], false),
            (&[("app", "db"), ("v", "1")], false),
        ] {
            assert_eq!(selects(&selector, Some(&labels(given))), expected, "{given:?}");
        }
        assert!(selects(&LabelSelector::default(), None));
        assert!(is_empty_selector(&LabelSelector::default()));
    }

    #[test]
    fn percentages_round_as_asked() {
        for (value, total, up, expected) in [
            (IntOrString::Int(3), 10, true, Some(3)),
            (IntOrString::String("25%".into()), 10, true, Some(3)),
            (IntOrString::String("25%".into()), 10, false, Some(2)),
            (IntOrString::String("100%".into()), 7, false, Some(7)),
            (IntOrString::String("many".into()), 7, false, None),
        ] {
            assert_eq!(scaled(&value, total, up), expected, "{value:?} of {total}");
        }
    }
}
