//! What ReplicaSet and ReplicationController have in common: a number of pods of one template.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{claim, pod_from_template, ranking::sort_for_deletion};
use crate::objects::{
    is_active, is_deleting, is_finished, is_ready, min_ready, name_of, node_name, reference, until_available,
};
use crate::runtime::{Action, EventSpec, Kind, Now, Plan, Severity, World};

/// Pods created or deleted in one plan; what is beyond follows in the next.
const BURST: usize = 500;

/// What an owner asks for.
pub struct Wanted<'a> {
    pub component: &'static str,
    pub selector: &'a LabelSelector,
    pub template: Option<&'a PodTemplateSpec>,
    pub replicas: Option<i32>,
    pub min_ready_seconds: Option<i32>,
    /// Related pods on each node, for choosing which go first.
    pub crowd: HashMap<String, usize>,
}

/// What the owner's status has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub replicas: usize,
    pub fully_labeled: usize,
    pub ready: usize,
    pub available: usize,
    pub terminating: usize,
    /// Reason and message of what could not be done.
    pub failure: Option<(&'static str, String)>,
}

/// Plans towards the wanted number; `status` makes the action that writes the counts, where they changed.
pub fn manage<K: Kind>(
    world: &World,
    owner: &K,
    wanted: &Wanted,
    now: &Now,
    status: impl FnOnce(&Counts) -> Option<Action>,
) -> Plan {
    let mut plan = Plan::none();
    let event = |severity, reason: &str, message: String| EventSpec {
        regarding: reference(owner),
        severity,
        component: wanted.component,
        reason: reason.into(),
        message,
    };
    let claimed = claim::<K, Pod>(world, owner, wanted.selector);
    plan.actions = claimed.actions;
    let terminating =
        claimed.owned.iter().filter(|pod| is_deleting(pod.as_ref()) && !is_finished(pod)).count();
    let mut pods = claimed.owned;
    pods.retain(|pod| is_active(pod));

    let lives = !is_deleting(owner);
    let replicas = usize::try_from(wanted.replicas.unwrap_or(1)).unwrap_or(0);
    let missing = if lives { replicas.saturating_sub(pods.len()).min(BURST) } else { 0 };
    let surplus = if lives { pods.len().saturating_sub(replicas).min(BURST) } else { 0 };
    let mut work = Vec::new();
    let mut deleted = Vec::new();
    if missing > 0 {
        let pod = pod_from_template(owner, &wanted.template.cloned().unwrap_or_default());
        let create = Action::create(&pod)
            .saying(event(Severity::Normal, "SuccessfulCreate", "Created pod: {name}".into()))
            .complaining(event(Severity::Warning, "FailedCreate", "Error creating: {error}".into()));
        work = vec![create; missing];
    }
    if surplus > 0 {
        sort_for_deletion(&mut pods, &wanted.crowd, now);
        deleted = pods.drain(..surplus).collect();
        for pod in &deleted {
            let message = format!("Deleted pod: {}", name_of(pod.as_ref()));
            let failed = "Error deleting: {error}".into();
            work.push(
                Action::delete(pod.as_ref())
                    .saying(event(Severity::Normal, "SuccessfulDelete", message))
                    .complaining(event(Severity::Warning, "FailedDelete", failed)),
            );
        }
    }

    // The status says what will be once the work is done; after a failure it says what is, and why.
    match now.failure.as_ref().filter(|_| !work.is_empty()) {
        Some(message) => {
            let present: Vec<_> = pods.iter().chain(&deleted).cloned().collect();
            let mut counts = count(&present, 0, terminating, wanted, now);
            let reason = if missing > 0 { "FailedCreate" } else { "FailedDelete" };
            counts.failure = Some((reason, message.clone()));
            plan.actions.extend(status(&counts));
            plan.actions.extend(work);
        }
        None => {
            let leaving = deleted.iter().filter(|pod| !node_name(pod).is_empty()).count();
            let counts = count(&pods, missing, terminating + leaving, wanted, now);
            plan.actions.extend(work);
            plan.actions.extend(status(&counts));
        }
    }
    let patience = min_ready(wanted.min_ready_seconds);
    for pod in &pods {
        if let Some(left) = until_available(pod, patience, now).filter(|left| !left.is_zero()) {
            plan.again_after(left);
        }
    }
    plan
}

fn count(pods: &[Arc<Pod>], created: usize, terminating: usize, wanted: &Wanted, now: &Now) -> Counts {
    let labels =
        wanted.template.and_then(|template| template.metadata.as_ref()?.labels.clone()).unwrap_or_default();
    let labelled = |pod: &&Arc<Pod>| {
        let own = pod.metadata.labels.as_ref();
        labels.iter().all(|(key, value)| own.and_then(|own| own.get(key)) == Some(value))
    };
    let patience = min_ready(wanted.min_ready_seconds);
    let available = |pod: &&Arc<Pod>| until_available(pod, patience, now).is_some_and(|left| left.is_zero());
    Counts {
        replicas: pods.len() + created,
        fully_labeled: pods.iter().filter(labelled).count() + created,
        ready: pods.iter().filter(|pod| is_ready(pod)).count(),
        available: pods.iter().filter(available).count(),
        terminating,
        failure: None,
    }
}
