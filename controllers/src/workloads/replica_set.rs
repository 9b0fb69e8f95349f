//! ReplicaSet: as many pods of one template as asked for.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{claim, nonzero, owners_of, pod_from_template, ranking::sort_for_deletion};
use crate::objects::{
    controller_of, is_active, is_deleting, is_finished, is_ready, min_ready, name_of, node_name, reference,
    until_available,
};
use crate::runtime::{Action, Controller, EventSpec, Key, Now, Plan, Severity, World};

const COMPONENT: &str = "replicaset-controller";
/// Pods created or deleted in one plan; what is beyond follows in the next.
const BURST: usize = 500;

pub fn controller() -> Controller {
    Controller::new("replicaset", reconcile)
        .of::<ReplicaSet>()
        .watching::<Pod>(|world, old, new| owners_of::<ReplicaSet, Pod>(world, old, new, selector))
}

fn selector(set: &ReplicaSet) -> Option<&LabelSelector> {
    set.spec.as_ref().map(|spec| &spec.selector)
}

fn event(set: &ReplicaSet, severity: Severity, reason: &str, message: String) -> EventSpec {
    EventSpec { regarding: reference(set), severity, component: COMPONENT, reason: reason.into(), message }
}

pub fn reconcile(world: &World, key: &Key, now: &Now) -> Plan {
    let Some(set) = world.replica_sets.get(key) else { return Plan::none() };
    let Some(spec) = &set.spec else { return Plan::none() };
    let mut plan = Plan::none();

    let claimed = claim::<ReplicaSet, Pod>(world, set.as_ref(), &spec.selector);
    plan.actions = claimed.actions;
    let terminating =
        claimed.owned.iter().filter(|pod| is_deleting(pod.as_ref()) && !is_finished(pod)).count();
    let mut pods = claimed.owned;
    pods.retain(|pod| is_active(pod));

    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let missing = wanted.saturating_sub(pods.len()).min(BURST);
    let surplus = pods.len().saturating_sub(wanted).min(BURST);
    let mut work = Vec::new();
    let mut deleted = Vec::new();
    if !is_deleting(set.as_ref()) {
        if missing > 0 {
            let pod = pod_from_template(set.as_ref(), &spec.template.clone().unwrap_or_default());
            let create = Action::create(&pod)
                .saying(event(set, Severity::Normal, "SuccessfulCreate", "Created pod: {name}".into()))
                .complaining(event(set, Severity::Warning, "FailedCreate", "Error creating: {error}".into()));
            work = vec![create; missing];
        }
        if surplus > 0 {
            sort_for_deletion(&mut pods, &crowd(world, set), now);
            deleted = pods.drain(..surplus).collect();
            for pod in &deleted {
                let message = format!("Deleted pod: {}", name_of(pod.as_ref()));
                let failed = "Error deleting: {error}".into();
                work.push(
                    Action::delete(pod.as_ref())
                        .saying(event(set, Severity::Normal, "SuccessfulDelete", message))
                        .complaining(event(set, Severity::Warning, "FailedDelete", failed)),
                );
            }
        }
    }

    // The status says what will be once the work is done; after a failure it says what is, and why.
    let working = !work.is_empty();
    let status = if now.failure.is_some() && working {
        let pods: Vec<_> = pods.iter().chain(&deleted).cloned().collect();
        let reason = if missing > 0 { "FailedCreate" } else { "FailedDelete" };
        let failure = now.failure.as_deref().map(|message| (reason, message));
        status(set, &pods, 0, terminating, failure, now)
    } else {
        let created = if is_deleting(set.as_ref()) { 0 } else { missing };
        let removed = deleted.iter().filter(|pod| !node_name(pod).is_empty()).count();
        status(set, &pods, created, terminating + removed, None, now)
    };
    let changed = set.status.as_ref() != Some(&status);
    let update =
        changed.then(|| Action::update_status(&ReplicaSet { status: Some(status), ..(**set).clone() }));
    if now.failure.is_some() {
        plan.actions.extend(update);
        plan.actions.extend(work);
    } else {
        plan.actions.extend(work);
        plan.actions.extend(update);
    }

    let patience = min_ready(spec.min_ready_seconds);
    for pod in &pods {
        if let Some(left) = until_available(pod, patience, now).filter(|left| !left.is_zero()) {
            plan.again_after(left);
        }
    }
    plan
}

/// How many active pods of the set, and of its siblings under the same owner, each node carries.
fn crowd(world: &World, set: &ReplicaSet) -> HashMap<String, usize> {
    let mut crowd = HashMap::new();
    let own = [Arc::new(set.clone())];
    let siblings: Vec<_> = match controller_of(&set.metadata) {
        Some(owner) => world.replica_sets.controlled_by(&owner.uid).cloned().collect(),
        None => own.to_vec(),
    };
    for sibling in &siblings {
        for pod in world.pods.controlled_by(sibling.metadata.uid.as_deref().unwrap_or_default()) {
            if is_active(pod) {
                *crowd.entry(node_name(pod).to_string()).or_default() += 1;
            }
        }
    }
    crowd
}

fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    created: usize,
    terminating: usize,
    failure: Option<(&str, &str)>,
    now: &Now,
) -> ReplicaSetStatus {
    let spec = set.spec.as_ref();
    let template = spec.and_then(|spec| spec.template.as_ref());
    let template_labels =
        template.and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone()).unwrap_or_default();
    let fully_labeled = pods
        .iter()
        .filter(|pod| {
            let labels = pod.metadata.labels.as_ref();
            template_labels.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
        })
        .count();
    let patience = min_ready(spec.and_then(|spec| spec.min_ready_seconds));
    let available = pods
        .iter()
        .filter(|pod| until_available(pod, patience, now).is_some_and(|left| left.is_zero()))
        .count();
    let mut conditions = set.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    match failure {
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
        Some(_) if conditions.iter().any(|condition| condition.type_ == "ReplicaFailure") => {}
        Some((reason, message)) => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_transition_time: Some(now.stamp()),
        }),
    }
    ReplicaSetStatus {
        replicas: i32::try_from(pods.len() + created).unwrap_or(i32::MAX),
        fully_labeled_replicas: nonzero(fully_labeled + created),
        ready_replicas: nonzero(pods.iter().filter(|pod| is_ready(pod)).count()),
        available_replicas: nonzero(available),
        terminating_replicas: nonzero(terminating),
        observed_generation: set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}
