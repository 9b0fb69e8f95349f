//! What there is of a pod on the node: records on disk joined with containerd's tasks. What has ended is written down and
//! removed on the way, so that a restart of the agent at any point finds its way on.

use k8s_openapi::api::core::v1::Container;

use super::dirs::PodDir;
use super::model::{Attempt, Busy, Health, Observed, container_id};
use super::stop;
use crate::ctx::Ctx;
use crate::runtime::{RuntimeError, TaskState};

/// One container as it is now. An error means that containerd does not answer: then nothing is known to have changed.
pub async fn observe(
    ctx: &Ctx,
    dir: &PodDir,
    uid: &str,
    c: &Container,
    busy: Option<Busy>,
) -> Result<(Option<Attempt>, Option<Attempt>), RuntimeError> {
    let (last, previous) = dir.attempts(&c.name);
    // A start in progress owns its attempt: until it has started, there is only the one before.
    if busy == Some(Busy::Starting) {
        return Ok(match last {
            Some(attempt) if attempt.started_at.is_none() && attempt.exit.is_none() => (previous, None),
            other => (other, previous),
        });
    }
    let Some(mut attempt) = last else { return Ok((None, None)) };
    if attempt.exit.is_some() {
        return Ok((Some(attempt), previous));
    }
    let id = attempt.container_id.clone();
    match ctx.containerd.task(&id).await?.map(|t| t.state) {
        Some(TaskState::Running) => {
            if attempt.started_at.is_none() {
                // The agent ended between starting the container and writing it down.
                attempt.started_at = Some(attempt.created_at);
                save(dir, c, &attempt)?;
            }
        }
        Some(TaskState::Stopped { code, at }) => {
            let cgroup = format!("{}/{id}", ctx.pod_cgroup(uid));
            attempt.started_at.get_or_insert(attempt.created_at);
            attempt.exit = Some(stop::exit(dir, c, &cgroup, &attempt, code, at));
            save(dir, c, &attempt)?;
            remove(ctx, uid, &id).await?;
        }
        None if attempt.started_at.is_some() => {
            attempt.exit = Some(stop::lost());
            save(dir, c, &attempt)?;
            remove(ctx, uid, &id).await?;
        }
        // Made and never started: the agent ended in between. It is made anew.
        Some(TaskState::Created) | None => {
            remove(ctx, uid, &id).await?;
            dir.discard(&c.name, attempt.number);
            return Ok((previous, None));
        }
    }
    Ok((Some(attempt), previous))
}

fn save(dir: &PodDir, c: &Container, attempt: &Attempt) -> Result<(), RuntimeError> {
    dir.save(&c.name, attempt).map_err(|e| RuntimeError::new("recording a container's state", e.to_string()))
}

async fn remove(ctx: &Ctx, uid: &str, id: &str) -> Result<(), RuntimeError> {
    ctx.containerd.remove(id).await?;
    for dir in crate::runtime::cgroup::remove(&format!("{}/{id}", ctx.pod_cgroup(uid))) {
        tracing::warn!(dir = %dir.display(), "a cgroup still has processes; it goes with its pod");
    }
    Ok(())
}

/// Containers of the pod that no record speaks of: left by a start that was broken off.
pub async fn sweep(ctx: &Ctx, dir: &PodDir, uid: &str, names: &[&str]) -> Result<(), RuntimeError> {
    let live = names
        .iter()
        .filter_map(|name| dir.attempts(name).0.filter(|a| a.exit.is_none()).map(|a| a.container_id))
        .collect::<Vec<_>>();
    for found in ctx.containerd.containers(Some((super::start::LABEL_UID, uid))).await? {
        if !live.contains(&found.id) {
            remove(ctx, uid, &found.id).await?;
        }
    }
    Ok(())
}

/// The health of a container that has no probes, or whose probes have not spoken yet.
pub fn initial_health(c: &Container, was_ready: bool) -> Health {
    Health {
        started: c.startup_probe.is_none() || was_ready,
        ready: c.readiness_probe.is_none() || was_ready,
        failed: None,
    }
}

/// Whether the container has anything to be probed.
pub fn probed(c: &Container) -> bool {
    c.startup_probe.is_some() || c.liveness_probe.is_some() || c.readiness_probe.is_some()
}

/// The number and the id of the next attempt.
pub fn next(uid: &str, name: &str, observed: &Observed) -> (u32, String) {
    let number = observed.last.as_ref().map_or(0, |a| a.number + 1);
    (number, container_id(uid, name, number))
}
