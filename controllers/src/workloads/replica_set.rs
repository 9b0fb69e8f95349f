//! ReplicaSet: as many pods of one template as asked for.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::replicas::{Counts, Wanted, manage};
use super::{nonzero, owners_of};
use crate::objects::{controller_of, is_active, node_name, uid_of};
use crate::runtime::{Action, Controller, Key, Now, Plan, World};

pub fn controller() -> Controller {
    Controller::new("replicaset", reconcile)
        .of::<ReplicaSet>()
        .watching::<Pod>(|world, old, new| owners_of::<ReplicaSet, Pod>(world, old, new, selector))
}

fn selector(set: &ReplicaSet) -> Option<&LabelSelector> {
    set.spec.as_ref().map(|spec| &spec.selector)
}

pub fn reconcile(world: &World, key: &Key, now: &Now) -> Plan {
    let Some(set) = world.replica_sets.get(key) else { return Plan::none() };
    let Some(spec) = &set.spec else { return Plan::none() };
    let wanted = Wanted {
        component: "replicaset-controller",
        selector: &spec.selector,
        template: spec.template.as_ref(),
        replicas: spec.replicas,
        min_ready_seconds: spec.min_ready_seconds,
        crowd: crowd(world, set),
    };
    manage(world, set.as_ref(), &wanted, now, |counts| {
        let status = status(set, counts, now);
        let changed = set.status.as_ref() != Some(&status);
        changed.then(|| Action::update_status(&ReplicaSet { status: Some(status), ..(**set).clone() }))
    })
}

/// How many active pods of the set, and of its siblings under the same owner, each node carries.
fn crowd(world: &World, set: &Arc<ReplicaSet>) -> HashMap<String, usize> {
    let mut crowd = HashMap::new();
    let siblings: Vec<_> = match controller_of(&set.metadata) {
        Some(owner) => world.replica_sets.controlled_by(&owner.uid).cloned().collect(),
        None => vec![set.clone()],
    };
    for sibling in &siblings {
        for pod in world.pods.controlled_by(uid_of(sibling.as_ref())).filter(|pod| is_active(pod)) {
            *crowd.entry(node_name(pod).to_string()).or_default() += 1;
        }
    }
    crowd
}

fn status(set: &ReplicaSet, counts: &Counts, now: &Now) -> ReplicaSetStatus {
    let mut conditions = set.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    match &counts.failure {
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
        Some(_) if conditions.iter().any(|condition| condition.type_ == "ReplicaFailure") => {}
        Some((reason, message)) => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some((*reason).into()),
            message: Some(message.clone()),
            last_transition_time: Some(now.stamp()),
        }),
    }
    ReplicaSetStatus {
        replicas: i32::try_from(counts.replicas).unwrap_or(i32::MAX),
        fully_labeled_replicas: nonzero(counts.fully_labeled),
        ready_replicas: nonzero(counts.ready),
        available_replicas: nonzero(counts.available),
        terminating_replicas: nonzero(counts.terminating),
        observed_generation: set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}
