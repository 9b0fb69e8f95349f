//! PodDisruptionBudget: how many pods may be evicted now.

use std::collections::HashSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::objects::{
    controller_of, is_deleting, is_finished, is_ready, name_of, namespace_of, scaled, selects,
};
use crate::runtime::{Action, Controller, Key, Now, Plan, World};

/// An eviction that was allowed and did not happen is forgotten after this long.
const FORGET: Duration = Duration::from_secs(120);

pub fn controller() -> Controller {
    Controller::new("disruption", reconcile).of::<PodDisruptionBudget>().watching::<Pod>(|world, old, new| {
        let Some(pod) = old.or(new) else { return Vec::new() };
        let chosen =
            |budget: &PodDisruptionBudget| [old, new].into_iter().flatten().any(|pod| covers(budget, pod));
        let budgets = world.disruption_budgets.within(namespace_of(pod));
        budgets.filter(|budget| chosen(budget)).map(|budget| Key::of(budget.as_ref())).collect()
    })
}

/// A budget without a selector covers nothing, one with an empty selector everything.
fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| selects(selector, pod.metadata.labels.as_ref()))
}

/// How many pods the owners of these pods want; `None` where one is not known to scale.
fn expected(world: &World, pods: &[&Pod]) -> Option<i32> {
    let mut seen = HashSet::new();
    let mut total = 0;
    for pod in pods {
        let owner = controller_of(&pod.metadata)?;
        let namespace = namespace_of(*pod);
        let (uid, replicas) = match owner.kind.as_str() {
            "ReplicaSet" => {
                let set = world.replica_sets.find(namespace, &owner.name)?;
                let deployment = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment");
                let deployment = deployment.and_then(|owner| world.deployments.find(namespace, &owner.name));
                match deployment {
                    Some(deployment) => (
                        deployment.metadata.uid.clone(),
                        deployment.spec.as_ref().and_then(|spec| spec.replicas),
                    ),
                    None => (set.metadata.uid.clone(), set.spec.as_ref().and_then(|spec| spec.replicas)),
                }
            }
            "StatefulSet" => {
                let set = world.stateful_sets.find(namespace, &owner.name)?;
                (set.metadata.uid.clone(), set.spec.as_ref().and_then(|spec| spec.replicas))
            }
            "ReplicationController" => {
                let controller = world.replication_controllers.find(namespace, &owner.name)?;
                (controller.metadata.uid.clone(), controller.spec.as_ref().and_then(|spec| spec.replicas))
            }
            _ => return None,
        };
        if seen.insert(uid) {
            total += replicas.unwrap_or(1);
        }
    }
    Some(total)
}

pub fn reconcile(world: &World, key: &Key, now: &Now) -> Plan {
    let mut plan = Plan::none();
    let Some(budget) = world.disruption_budgets.get(key).filter(|b| !is_deleting(b.as_ref())) else {
        return plan;
    };
    let Some(spec) = &budget.spec else { return plan };
    let pods: Vec<&Pod> = world
        .pods
        .within(&key.namespace)
        .map(|pod| pod.as_ref())
        .filter(|pod| covers(budget, pod) && !is_finished(pod))
        .collect();
    let count = i32::try_from(pods.len()).unwrap_or(i32::MAX);

    let before = budget.status.clone().unwrap_or_default();
    let mut disrupted = before.disrupted_pods.clone().unwrap_or_default();
    disrupted.retain(|name, time| {
        let here = pods.iter().any(|pod| name_of(*pod) == name && !is_deleting(*pod));
        let left = FORGET.saturating_sub(now.since(time));
        if here && !left.is_zero() {
            plan.again_after(left);
        }
        here && !left.is_zero()
    });
    let healthy = pods.iter().filter(|pod| is_ready(pod) && !is_deleting(**pod));
    let healthy = healthy.filter(|pod| !disrupted.contains_key(name_of(**pod))).count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);

    let numbers = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => expected(world, &pods).and_then(|expected| {
            scaled(most, expected, true).map(|most| (expected, (expected - most).max(0)))
        }),
        (None, Some(IntOrString::Int(least))) => Some((count, *least)),
        (None, Some(share)) => expected(world, &pods)
            .and_then(|expected| scaled(share, expected, true).map(|least| (expected, least))),
        (None, None) => Some((count, 0)),
    };
    let failed = numbers.is_none();
    let (expected, desired) = numbers.unwrap_or((count, count));
    let allowed = if failed || expected <= 0 { 0 } else { (healthy - desired).max(0) };

    let (state, reason, message) = if failed {
        let message = "the owner of a pod is not known to have a scale";
        ("False", "SyncFailed", message)
    } else if allowed > 0 {
        ("True", "SufficientPods", "")
    } else {
        ("False", "InsufficientPods", "")
    };
    let mut conditions = before.conditions.clone().unwrap_or_default();
    let old = conditions.iter().find(|condition| condition.type_ == "DisruptionAllowed").cloned();
    conditions.retain(|condition| condition.type_ != "DisruptionAllowed");
    let since =
        old.filter(|old| old.status == state).map_or_else(|| now.stamp(), |old| old.last_transition_time);
    conditions.push(Condition {
        type_: "DisruptionAllowed".into(),
        status: state.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: since,
        observed_generation: budget.metadata.generation,
    });
    let status = PodDisruptionBudgetStatus {
        conditions: Some(conditions),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: budget.metadata.generation,
    };
    if budget.status.as_ref() != Some(&status) {
        let updated = PodDisruptionBudget { status: Some(status), ..(**budget).clone() };
        plan.push(Action::update_status(&updated));
    }
    plan
}
