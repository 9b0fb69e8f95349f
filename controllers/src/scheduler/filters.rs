//! What keeps a pod off a node. Each filter is a function in one list; the first that objects gives the reasons.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::Taint;

use super::affinity::{Survey, node_fits};
use super::snapshot::{NodeInfo, PodInfo};
use crate::cluster::taint_eviction::tolerates;

pub type Reason = Cow<'static, str>;
type Filter = fn(&Survey, &PodInfo, &NodeInfo) -> Vec<Reason>;

/// Cheap ones first; an empty answer lets the node pass.
pub const ALL: &[Filter] =
    &[unschedulable, taints, node_affinity, host_ports, resources, topology_spread, pod_affinity];

fn objection(reason: &'static str, objects: bool) -> Vec<Reason> {
    if objects { vec![reason.into()] } else { Vec::new() }
}

fn unschedulable(_: &Survey, pod: &PodInfo, node: &NodeInfo) -> Vec<Reason> {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    let objects =
        node.unschedulable && !pod.tolerations.iter().any(|toleration| tolerates(toleration, &taint));
    objection("node(s) were unschedulable", objects)
}

/// The first taint that keeps the pod away.
pub fn untolerated<'a>(pod: &PodInfo, node: &'a NodeInfo) -> Option<&'a Taint> {
    node.taints
        .iter()
        .filter(|taint| taint.effect != "PreferNoSchedule")
        .find(|taint| !pod.tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

fn taints(_: &Survey, pod: &PodInfo, node: &NodeInfo) -> Vec<Reason> {
    let reason = |taint: &Taint| {
        let value = taint.value.as_deref().unwrap_or_default();
        format!("node(s) had untolerated taint {{{}: {value}}}", taint.key).into()
    };
    untolerated(pod, node).map(reason).into_iter().collect()
}

fn node_affinity(_: &Survey, pod: &PodInfo, node: &NodeInfo) -> Vec<Reason> {
    objection("node(s) didn't match Pod's node affinity/selector", !node_fits(pod, node))
}

fn host_ports(_: &Survey, pod: &PodInfo, node: &NodeInfo) -> Vec<Reason> {
    let taken = !pod.ports.is_empty()
        && node.pods.values().flat_map(|other| &other.ports).any(|(protocol, address, number)| {
            pod.ports.iter().any(|(p, a, n)| {
                p == protocol && n == number && (a == address || a.is_empty() || address.is_empty())
            })
        });
    objection("node(s) didn't have free ports for the requested pod ports", taken)
}

fn resources(_: &Survey, pod: &PodInfo, node: &NodeInfo) -> Vec<Reason> {
    let mut reasons = objection("Too many pods", node.pods.len() + 1 > node.most_pods);
    let (needs, has, used) = (&pod.needs, &node.allocatable, &node.used);
    let lacks = |need: i64, has: i64, used: i64| need > 0 && need > has.saturating_sub(used);
    reasons.extend(objection("Insufficient cpu", lacks(needs.cpu, has.cpu, used.cpu)));
    reasons.extend(objection("Insufficient memory", lacks(needs.memory, has.memory, used.memory)));
    reasons
        .extend(objection("Insufficient ephemeral-storage", lacks(needs.storage, has.storage, used.storage)));
    for (name, &need) in &needs.others {
        let amount = |list: &super::resources::Resources| list.others.get(name).copied().unwrap_or(0);
        if lacks(need, amount(has), amount(used)) {
            reasons.push(format!("Insufficient {name}").into());
        }
    }
    reasons
}

fn topology_spread(survey: &Survey, _: &PodInfo, node: &NodeInfo) -> Vec<Reason> {
    for spread in survey.spread.iter().filter(|spread| spread.is_required()) {
        match spread.count(node) {
            None => {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return vec![reason.into()];
            }
            Some(count) if !spread.allows(count) => {
                return vec!["node(s) didn't match pod topology spread constraints".into()];
            }
            Some(_) => {}
        }
    }
    Vec::new()
}

fn pod_affinity(survey: &Survey, _: &PodInfo, node: &NodeInfo) -> Vec<Reason> {
    if !survey.is_near(node) {
        return vec!["node(s) didn't match pod affinity rules".into()];
    }
    if survey.apart.iter().any(|term| term.count(node) > 0) {
        return vec!["node(s) didn't match pod anti-affinity rules".into()];
    }
    let repelled = survey.repelled.iter().any(|(key, domain)| node.labels.get(key) == Some(domain));
    objection("node(s) didn't satisfy existing pods anti-affinity rules", repelled)
}
