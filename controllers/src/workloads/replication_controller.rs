//! ReplicationController: the older form of a ReplicaSet.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{
    Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::nonzero;
use super::replicas::{Counts, Wanted, manage};
use crate::objects::{controller_of, is_empty_selector, namespace_of, selects};
use crate::runtime::{Action, Controller, Key, Now, Plan, World};

pub fn controller() -> Controller {
    Controller::new("replication-controller", reconcile).of::<ReplicationController>().watching::<Pod>(
        |world, old, new| {
            let mut keys = Vec::new();
            for pod in [old, new].into_iter().flatten() {
                match controller_of(&pod.metadata) {
                    Some(owner) if owner.kind == "ReplicationController" => {
                        keys.push(Key::new(namespace_of(pod), &owner.name));
                    }
                    Some(_) => {}
                    None => {
                        let labels = pod.metadata.labels.as_ref();
                        let all = world.replication_controllers.within(namespace_of(pod));
                        keys.extend(
                            all.filter(|c| selects(&selector(c), labels)).map(|c| Key::of(c.as_ref())),
                        );
                    }
                }
            }
            keys
        },
    )
}

/// The template's labels stand in for a selector that was not given.
fn selector(controller: &ReplicationController) -> LabelSelector {
    let Some(spec) = &controller.spec else { return LabelSelector::default() };
    let template = || spec.template.as_ref()?.metadata.as_ref()?.labels.clone();
    LabelSelector {
        match_labels: spec.selector.clone().filter(|labels| !labels.is_empty()).or_else(template),
        match_expressions: None,
    }
}

pub fn reconcile(world: &World, key: &Key, now: &Now) -> Plan {
    let Some(controller) = world.replication_controllers.get(key) else { return Plan::none() };
    let Some(spec) = &controller.spec else { return Plan::none() };
    let selector = selector(controller);
    if is_empty_selector(&selector) {
        return Plan::none();
    }
    let wanted = Wanted {
        component: "replication-controller",
        selector: &selector,
        template: spec.template.as_ref(),
        replicas: spec.replicas,
        min_ready_seconds: spec.min_ready_seconds,
        crowd: HashMap::new(),
    };
    manage(world, controller.as_ref(), &wanted, now, |counts| {
        let status = status(controller, counts, now);
        let changed = controller.status.as_ref() != Some(&status);
        let updated = || ReplicationController { status: Some(status), ..(**controller).clone() };
        changed.then(|| Action::update_status(&updated()))
    })
}

fn status(controller: &ReplicationController, counts: &Counts, now: &Now) -> ReplicationControllerStatus {
    let mut conditions =
        controller.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    match &counts.failure {
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
        Some(_) if conditions.iter().any(|condition| condition.type_ == "ReplicaFailure") => {}
        Some((reason, message)) => conditions.push(ReplicationControllerCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some((*reason).into()),
            message: Some(message.clone()),
            last_transition_time: Some(now.stamp()),
        }),
    }
    ReplicationControllerStatus {
        replicas: i32::try_from(counts.replicas).unwrap_or(i32::MAX),
        fully_labeled_replicas: nonzero(counts.fully_labeled),
        ready_replicas: nonzero(counts.ready),
        available_replicas: nonzero(counts.available),
        observed_generation: controller.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}
