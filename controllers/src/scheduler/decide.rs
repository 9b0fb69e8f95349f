//! The decision: one pod, all nodes, the best that fits or the reasons why none does.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use smol_str::SmolStr;

use super::affinity::Survey;
use super::filters::{self, Reason};
use super::scores;
use super::snapshot::{NodeInfo, PodInfo, Snapshot};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Node(SmolStr),
    /// Why not, in upstream's words.
    Nowhere(String),
}

/// Pure: the same snapshot and pod give the same answer.
pub fn schedule(snapshot: &Snapshot, pod: &PodInfo) -> Decision {
    let survey = Survey::of(snapshot, pod);
    let mut fitting: Vec<&NodeInfo> = Vec::new();
    let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
    let mut count = 0;
    for node in snapshot.nodes() {
        count += 1;
        let objections = filters::ALL.iter().map(|filter| filter(&survey, pod, node)).find(|o| !o.is_empty());
        match objections {
            None => fitting.push(node),
            Some(objections) => {
                for reason in objections {
                    *reasons.entry(reason).or_default() += 1;
                }
            }
        }
    }
    let scores = scores::total(&survey, pod, &fitting);
    let best = scores.iter().copied().max();
    // Among equals the emptier node, then one that differs from pod to pod.
    let best = fitting
        .iter()
        .zip(&scores)
        .filter(|(_, score)| Some(**score) == best)
        .min_by_key(|(node, _)| (node.pods.len(), lot(pod, node)));
    match best {
        Some((node, _)) => Decision::Node(node.name.clone()),
        None if count == 0 => Decision::Nowhere("no nodes available to schedule pods".into()),
        None => {
            let mut parts: Vec<_> =
                reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            parts.sort();
            Decision::Nowhere(format!("0/{count} nodes are available: {}.", parts.join(", ")))
        }
    }
}

fn lot(pod: &PodInfo, node: &NodeInfo) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&pod.uid, &node.name).hash(&mut hasher);
    hasher.finish()
}
