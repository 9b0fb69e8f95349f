//! Which of the nodes that fit is the best: each score gives 0 to 100, its weight says how much it counts.

use super::affinity::{Survey, term_fits};
use super::snapshot::{NodeInfo, PodInfo};
use crate::cluster::taint_eviction::tolerates;

type Score = fn(&Survey, &PodInfo, &[&NodeInfo]) -> Vec<i64>;

pub const ALL: &[(Score, i64)] = &[
    (least_allocated, 1),
    (balanced, 1),
    (taints, 3),
    (node_affinity, 2),
    (spread_owner, 2),
    (spread_domains, 2),
    (pod_affinity, 2),
];

/// The total for each node, in the order given.
pub fn total(survey: &Survey, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let mut total = vec![0; nodes.len()];
    for (score, weight) in ALL {
        for (sum, points) in total.iter_mut().zip(score(survey, pod, nodes)) {
            *sum += points * weight;
        }
    }
    total
}

/// Raw values become 0 to 100: the highest gets 100, or with `reverse` 0.
fn normalized(raw: Vec<i64>, reverse: bool) -> Vec<i64> {
    let lowest = raw.iter().copied().min().unwrap_or(0).min(0);
    let highest = raw.iter().copied().max().unwrap_or(0) - lowest;
    let scale = |value: i64| if highest == 0 { 0 } else { (value - lowest) * 100 / highest };
    raw.into_iter().map(|value| if reverse { 100 - scale(value) } else { scale(value) }).collect()
}

/// The parts of CPU and memory in use once the pod is there.
fn fractions(pod: &PodInfo, node: &NodeInfo) -> (f64, f64) {
    let part = |used: i64, has: i64| if has <= 0 { 1.0 } else { (used as f64 / has as f64).min(1.0) };
    (
        part(node.weight.0 + pod.weight.0, node.allocatable.cpu),
        part(node.weight.1 + pod.weight.1, node.allocatable.memory),
    )
}

fn least_allocated(_: &Survey, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let score = |node: &&NodeInfo| {
        let (cpu, memory) = fractions(pod, node);
        ((2.0 - cpu - memory) * 50.0) as i64
    };
    nodes.iter().map(score).collect()
}

fn balanced(_: &Survey, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let score = |node: &&NodeInfo| {
        let (cpu, memory) = fractions(pod, node);
        ((1.0 - (cpu - memory).abs() / 2.0) * 100.0) as i64
    };
    nodes.iter().map(score).collect()
}

fn taints(_: &Survey, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let unwelcome = |node: &&NodeInfo| {
        let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        soft.filter(|taint| !pod.tolerations.iter().any(|t| tolerates(t, taint))).count() as i64
    };
    normalized(nodes.iter().map(unwelcome).collect(), true)
}

fn node_affinity(_: &Survey, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let Some(preferred) =
        affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
    else {
        return vec![0; nodes.len()];
    };
    let wanted = |node: &&NodeInfo| {
        let fitting = preferred.iter().filter(|wish| {
            let term = &wish.preference;
            let empty = term.match_expressions.is_none() && term.match_fields.is_none();
            empty || term_fits(term, node)
        });
        fitting.map(|wish| i64::from(wish.weight)).sum()
    };
    normalized(nodes.iter().map(wanted).collect(), false)
}

/// Pods of one owner do not gather on one node.
fn spread_owner(_: &Survey, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let Some(owner) = &pod.owner else { return vec![0; nodes.len()] };
    normalized(nodes.iter().map(|node| node.owners.get(owner).copied().unwrap_or(0) as i64).collect(), true)
}

fn spread_domains(survey: &Survey, _: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let soft: Vec<_> = survey.spread.iter().filter(|spread| !spread.is_required()).collect();
    if soft.is_empty() {
        return vec![0; nodes.len()];
    }
    // A node without the label is as bad as the fullest domain.
    let worst = |spread: &super::affinity::Spread| nodes.iter().filter_map(|node| spread.count(node)).max();
    let crowd = |node: &&NodeInfo| {
        soft.iter().map(|spread| spread.count(node).or_else(|| worst(spread)).unwrap_or(0)).sum()
    };
    normalized(nodes.iter().map(crowd).collect(), true)
}

fn pod_affinity(survey: &Survey, _: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    if survey.wishes.is_empty() {
        return vec![0; nodes.len()];
    }
    let wanted =
        |node: &&NodeInfo| survey.wishes.iter().map(|(weight, term)| weight * term.count(node)).sum();
    normalized(nodes.iter().map(wanted).collect(), false)
}
