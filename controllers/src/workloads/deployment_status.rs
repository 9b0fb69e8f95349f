//! The status of a Deployment: counts, and the conditions that `kubectl rollout status` and `kubectl wait` read.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus};

use super::deployment::{Set, Wanted};
use super::nonzero;
use crate::objects::name_of;
use crate::runtime::Now;

/// What happened to the rollout in this plan, as far as conditions tell of it.
pub(super) enum Progress {
    Created(String),
    Found(String),
    Paused,
    Resumed,
}

const PROGRESSING: &str = "Progressing";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// Conditions by type. Setting one that says the same leaves its times alone.
struct Conditions<'a> {
    list: Vec<DeploymentCondition>,
    now: &'a Now,
}

impl Conditions<'_> {
    fn get(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_ == kind)
    }

    fn reason(&self, kind: &str) -> &str {
        self.get(kind).and_then(|condition| condition.reason.as_deref()).unwrap_or_default()
    }

    fn remove(&mut self, kind: &str) {
        self.list.retain(|condition| condition.type_ != kind);
    }

    fn set(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let current = self.get(kind);
        if current.is_some_and(|c| c.status == status && c.reason.as_deref() == Some(reason)) {
            return;
        }
        self.renew(kind, status, reason, message);
    }

    /// Sets the condition even if it says the same: its update time is what the deadline counts from.
    fn renew(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let kept = self.get(kind).filter(|condition| condition.status == status);
        let since = kept.and_then(|condition| condition.last_transition_time.clone());
        let stamp = self.now.stamp();
        self.remove(kind);
        self.list.push(DeploymentCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(since.unwrap_or_else(|| stamp.clone())),
            last_update_time: Some(stamp),
        });
    }
}

fn deadline(spec: &DeploymentSpec) -> Option<Duration> {
    let seconds = spec.progress_deadline_seconds.unwrap_or(600);
    (seconds != i32::MAX).then(|| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

pub(super) fn is_complete(deployment: &Deployment, wanted: &Wanted, status: &DeploymentStatus) -> bool {
    let size = Some(wanted.replicas).filter(|&size| size != 0);
    status.updated_replicas == size
        && status.replicas == size
        && status.available_replicas == size
        && status.observed_generation >= deployment.metadata.generation
}

/// How long until the rollout, if it does not move, has to be called stuck.
pub(super) fn until_deadline(
    spec: &DeploymentSpec,
    status: &DeploymentStatus,
    now: &Now,
) -> Option<Duration> {
    let deadline = deadline(spec)?;
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == PROGRESSING)?;
    if [COMPLETE, TIMED_OUT].contains(&condition.reason.as_deref().unwrap_or_default()) {
        return None;
    }
    let quiet = now.since(condition.last_update_time.as_ref()?);
    // Times are kept in whole seconds.
    Some(deadline.saturating_sub(quiet) + Duration::from_secs(1))
}

#[expect(clippy::too_many_arguments, reason = "called once, by the plan that has all of these")]
pub(super) fn compute(
    deployment: &Deployment,
    wanted: &Wanted,
    sets: &[Set],
    newest: Option<usize>,
    collisions: i32,
    progress: &[Progress],
    rolls: bool,
    now: &Now,
) -> DeploymentStatus {
    let count = |number: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
        sets.iter().filter_map(|set| set.now.status.as_ref()).map(number).sum()
    };
    let shown = |count: i32| nonzero(usize::try_from(count).unwrap_or(0));
    let available = count(|status| status.available_replicas.unwrap_or(0));
    let planned: i32 = sets.iter().map(Set::replicas).sum();
    let updated =
        newest.and_then(|newest| sets[newest].now.status.as_ref()).map_or(0, |status| status.replicas);
    let before = deployment.status.clone().unwrap_or_default();

    let mut conditions = Conditions { list: before.conditions.clone().unwrap_or_default(), now };
    if available >= wanted.replicas - wanted.max_unavailable {
        let message = "Deployment has minimum availability.";
        conditions.set("Available", "True", "MinimumReplicasAvailable", message.into());
    } else {
        let message = "Deployment does not have minimum availability.";
        conditions.set("Available", "False", "MinimumReplicasUnavailable", message.into());
    }

    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: shown(count(|status| status.replicas)),
        updated_replicas: shown(updated),
        ready_replicas: shown(count(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: shown(available),
        unavailable_replicas: shown(planned - available),
        terminating_replicas: shown(count(|status| status.terminating_replicas.unwrap_or(0))),
        collision_count: Some(collisions).filter(|&count| count > 0 || before.collision_count.is_some()),
        conditions: None,
    };

    let deadline = deadline(wanted.spec);
    for step in progress {
        match step {
            _ if deadline.is_none() => {}
            Progress::Created(name) => {
                let message = format!("Created new replica set \"{name}\"");
                conditions.renew(PROGRESSING, "True", "NewReplicaSetCreated", message);
            }
            Progress::Found(name) if conditions.get(PROGRESSING).is_none() => {
                let message = format!("Found new replica set \"{name}\"");
                conditions.set(PROGRESSING, "True", "FoundNewReplicaSet", message);
            }
            Progress::Paused if conditions.reason(PROGRESSING) != TIMED_OUT => {
                conditions.set(PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused".into());
            }
            Progress::Resumed if conditions.reason(PROGRESSING) == "DeploymentPaused" => {
                conditions.set(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".into());
            }
            Progress::Found(_) | Progress::Paused | Progress::Resumed => {}
        }
    }
    if rolls {
        match deadline {
            None => conditions.remove(PROGRESSING),
            Some(deadline) => {
                let newest = newest.map(|newest| name_of(&sets[newest].now));
                judge(deployment, wanted, &before, &status, newest, deadline, &mut conditions);
            }
        }
    }
    let failing = newest
        .into_iter()
        .chain(0..sets.len())
        .filter_map(|index| sets[index].now.status.as_ref()?.conditions.as_ref())
        .flatten()
        .find(|condition| condition.type_ == "ReplicaFailure");
    match failing {
        Some(failure) => conditions.set(
            "ReplicaFailure",
            &failure.status,
            failure.reason.as_deref().unwrap_or_default(),
            failure.message.clone().unwrap_or_default(),
        ),
        None => conditions.remove("ReplicaFailure"),
    }
    status.conditions = Some(conditions.list);
    status
}

/// Says whether the rollout is done, moves, or is stuck.
fn judge(
    deployment: &Deployment,
    wanted: &Wanted,
    before: &DeploymentStatus,
    status: &DeploymentStatus,
    newest: Option<&str>,
    deadline: Duration,
    conditions: &mut Conditions,
) {
    let settled = status.replicas == status.updated_replicas && conditions.reason(PROGRESSING) == COMPLETE;
    if settled {
        return;
    }
    let subject = match newest {
        Some(name) => format!("ReplicaSet \"{name}\""),
        None => format!("Deployment \"{}\"", name_of(deployment)),
    };
    let number = |count: Option<i32>| count.unwrap_or(0);
    let old = |s: &DeploymentStatus| number(s.replicas) - number(s.updated_replicas);
    let moves = number(status.updated_replicas) > number(before.updated_replicas)
        || old(status) < old(before)
        || number(status.ready_replicas) > number(before.ready_replicas)
        || number(status.available_replicas) > number(before.available_replicas);
    if is_complete(deployment, wanted, status) {
        conditions.set(PROGRESSING, "True", COMPLETE, format!("{subject} has successfully progressed."));
    } else if moves {
        conditions.renew(PROGRESSING, "True", "ReplicaSetUpdated", format!("{subject} is progressing."));
    } else if let Some(current) = conditions.get(PROGRESSING)
        && current.reason.as_deref() != Some(COMPLETE)
        && current.last_update_time.as_ref().is_some_and(|time| conditions.now.since(time) > deadline)
    {
        conditions.set(PROGRESSING, "False", TIMED_OUT, format!("{subject} has timed out progressing."));
    }
}
