//! Which nodes a pod wants by their labels, and which by the pods already there.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::snapshot::{NodeInfo, PodInfo, Snapshot, repels};
use crate::objects::{Labels, selects};

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|v| v == value));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// Whether the node fits one term; an empty term fits none.
pub fn term_fits(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let field = |key: &str| (key == "metadata.name").then_some(node.name.as_str());
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| holds(r, node.labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| holds(r, field(&r.key)))
}

/// `nodeSelector` and required node affinity.
pub fn node_fits(pod: &PodInfo, node: &NodeInfo) -> bool {
    let pairs = pod.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    pairs
        && required
            .is_none_or(|selector| selector.node_selector_terms.iter().any(|term| term_fits(term, node)))
}

/// Whether `other` is among the pods an affinity term of a pod in `namespace` speaks of.
pub fn term_selects(
    term: &PodAffinityTerm,
    owner: &PodInfo,
    other: &PodInfo,
    namespaces: &HashMap<smol_str::SmolStr, Labels>,
) -> bool {
    let listed = term.namespaces.as_deref().unwrap_or_default();
    let here = match &term.namespace_selector {
        None if listed.is_empty() => owner.key.namespace == other.key.namespace,
        selector => {
            listed.iter().any(|namespace| *namespace == other.key.namespace)
                || selector.as_ref().is_some_and(|s| selects(s, namespaces.get(&other.key.namespace)))
        }
    };
    let Some(selector) = &term.label_selector else { return false };
    here && selects(&with_keys(selector, term.match_label_keys.as_deref(), owner), Some(&other.labels))
}

/// `matchLabelKeys`: the pod's own values of these labels become part of the selector.
fn with_keys(selector: &LabelSelector, keys: Option<&[String]>, pod: &PodInfo) -> LabelSelector {
    let mut selector = selector.clone();
    for key in keys.unwrap_or_default() {
        if let Some(value) = pod.labels.get(key) {
            selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                key: key.clone(),
                operator: "In".into(),
                values: Some(vec![value.clone()]),
            });
        }
    }
    selector
}

/// How many pods a term speaks of in each domain of its topology key.
type Domains = HashMap<String, i64>;

fn count_domains(
    snapshot: &Snapshot,
    key: &str,
    eligible: impl Fn(&NodeInfo) -> bool,
    counts: impl Fn(&PodInfo) -> bool,
) -> Domains {
    let mut domains = Domains::new();
    for node in snapshot.nodes().filter(|node| eligible(node)) {
        if let Some(domain) = node.labels.get(key) {
            let count = node.pods.values().filter(|pod| counts(pod)).count() as i64;
            *domains.entry(domain.clone()).or_default() += count;
        }
    }
    domains
}

pub struct Spread {
    pub constraint: TopologySpreadConstraint,
    domains: Domains,
    fewest: i64,
    own: i64,
}

impl Spread {
    fn of(snapshot: &Snapshot, pod: &PodInfo, constraint: &TopologySpreadConstraint) -> Spread {
        let selector = constraint.label_selector.clone().unwrap_or_default();
        let selector = with_keys(&selector, constraint.match_label_keys.as_deref(), pod);
        let ignores_affinity = constraint.node_affinity_policy.as_deref() == Some("Ignore");
        let honors_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
        let eligible = |node: &NodeInfo| {
            (ignores_affinity || node_fits(pod, node))
                && (!honors_taints || super::filters::untolerated(pod, node).is_none())
        };
        let counts = |other: &PodInfo| {
            other.key.namespace == pod.key.namespace
                && !other.deleting
                && selects(&selector, Some(&other.labels))
        };
        let domains = count_domains(snapshot, &constraint.topology_key, eligible, counts);
        let enough = domains.len() as i64 >= i64::from(constraint.min_domains.unwrap_or(1));
        let fewest = if enough { domains.values().copied().min().unwrap_or(0) } else { 0 };
        let own = i64::from(selects(&selector, Some(&pod.labels)));
        Spread { constraint: constraint.clone(), domains, fewest, own }
    }

    pub fn is_required(&self) -> bool {
        self.constraint.when_unsatisfiable != "ScheduleAnyway"
    }

    /// Pods already in the node's domain; `None` where the node has no such domain.
    pub fn count(&self, node: &NodeInfo) -> Option<i64> {
        let domain = node.labels.get(&self.constraint.topology_key)?;
        Some(self.domains.get(domain).copied().unwrap_or(0))
    }

    pub fn allows(&self, count: i64) -> bool {
        count + self.own - self.fewest <= i64::from(self.constraint.max_skew)
    }
}

/// One affinity term with what it counted.
pub struct Term {
    key: String,
    domains: Domains,
    /// No pod fits the term yet but the pod itself does: the first of its kind may go anywhere.
    first: bool,
}

impl Term {
    pub fn count(&self, node: &NodeInfo) -> i64 {
        node.labels.get(&self.key).and_then(|domain| self.domains.get(domain)).copied().unwrap_or(0)
    }

    fn of(snapshot: &Snapshot, pod: &PodInfo, term: &PodAffinityTerm) -> Term {
        let counts = |other: &PodInfo| term_selects(term, pod, other, &snapshot.namespaces);
        let domains = count_domains(snapshot, &term.topology_key, |_| true, counts);
        let first = domains.values().all(|&count| count == 0) && counts(pod);
        Term { key: term.topology_key.clone(), domains, first }
    }
}

/// What has to be counted over all nodes before one node can be judged; computed once per pod.
#[derive(Default)]
pub struct Survey {
    pub spread: Vec<Spread>,
    pub near: Vec<Term>,
    pub apart: Vec<Term>,
    /// Domains where a pod lives that does not want this one beside it.
    pub repelled: Vec<(String, String)>,
    /// Weighted wishes: positive to be near, negative to be apart.
    pub wishes: Vec<(i64, Term)>,
}

impl Survey {
    pub fn of(snapshot: &Snapshot, pod: &PodInfo) -> Survey {
        let mut survey = Survey {
            spread: pod.spread.iter().map(|constraint| Spread::of(snapshot, pod, constraint)).collect(),
            ..Survey::default()
        };
        let terms = |list: &Option<Vec<PodAffinityTerm>>| -> Vec<Term> {
            list.iter().flatten().map(|term| Term::of(snapshot, pod, term)).collect()
        };
        if let Some(affinity) = pod.affinity.as_ref().and_then(|affinity| affinity.pod_affinity.as_ref()) {
            survey.near = terms(&affinity.required_during_scheduling_ignored_during_execution);
            for wish in affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten() {
                let term = Term::of(snapshot, pod, &wish.pod_affinity_term);
                survey.wishes.push((i64::from(wish.weight), term));
            }
        }
        if let Some(affinity) = pod.affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.as_ref())
        {
            survey.apart = terms(&affinity.required_during_scheduling_ignored_during_execution);
            for wish in affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten() {
                let term = Term::of(snapshot, pod, &wish.pod_affinity_term);
                survey.wishes.push((-i64::from(wish.weight), term));
            }
        }
        if snapshot.repelling > 0 {
            for node in snapshot.nodes() {
                for other in node.pods.values().filter(|other| repels(other)) {
                    survey.note_repelling(snapshot, pod, node, other);
                }
            }
        }
        survey
    }

    fn note_repelling(&mut self, snapshot: &Snapshot, pod: &PodInfo, node: &NodeInfo, other: &PodInfo) {
        let affinity = other.affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let terms = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        for term in terms.into_iter().flatten() {
            if term_selects(term, other, pod, &snapshot.namespaces)
                && let Some(domain) = node.labels.get(&term.topology_key)
            {
                self.repelled.push((term.topology_key.clone(), domain.clone()));
            }
        }
    }

    pub fn is_near(&self, node: &NodeInfo) -> bool {
        let first = !self.near.is_empty() && self.near.iter().all(|term| term.first);
        self.near.iter().all(|term| node.labels.contains_key(&term.key) && (first || term.count(node) > 0))
    }
}
