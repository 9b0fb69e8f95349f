//! Lifecycle hooks: postStart after a container's start, preStop before it is asked to end.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use super::check::{Action, Place, check};
use super::model::{container_id, uid};
use super::start::Starting;
use crate::ctx::Ctx;

/// A hook that blocks forever is given up after this.
const LONGEST: Duration = Duration::from_secs(3600);

async fn run(place: &Place, c: &Container, hook: &LifecycleHandler, timeout: Duration) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        check(place, c, &Action::Exec(exec.clone()), timeout).await
    } else if let Some(get) = &hook.http_get {
        check(place, c, &Action::Http(get.clone()), timeout).await
    } else if let Some(sleep) = &hook.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds).min(timeout)).await;
        Ok(())
    } else if hook.tcp_socket.is_some() {
        Err("tcpSocket is not a hook that can be run".into())
    } else {
        Ok(())
    }
}

/// Runs the postStart hook. A container whose hook fails is killed, and restarted as its policy says.
pub async fn post_start(s: &Starting) {
    let Some(hook) = s.container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return };
    let id = container_id(uid(&s.pod), &s.container.name, s.number);
    let place = place(&s.ctx, &id, s.ips.first().copied());
    let outcome = tokio::select! {
        outcome = run(&place, &s.container, hook, LONGEST) => outcome,
        () = s.cancel.cancelled() => return,
    };
    if let Err(why) = outcome {
        let name = &s.container.name;
        s.ctx.events.pod(
            &s.pod,
            Some(name),
            "Warning",
            "FailedPostStartHook",
            format!("PostStartHook failed: {why}"),
        );
        s.ctx.events.pod(&s.pod, Some(name), "Normal", "Killing", "FailedPostStartHook".into());
        if let Err(error) = s.ctx.containerd.kill(&id, "", libc::SIGKILL, true).await {
            tracing::warn!(%error, container = id, "a container whose postStart hook failed was not killed");
        }
    }
}

/// Runs the preStop hook within the grace, and returns how much of it is left: at least two seconds, if there was any.
pub async fn pre_stop(ctx: &Arc<Ctx>, pod: &Pod, c: &Container, place: &Place, grace: Duration) -> Duration {
    let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) else { return grace };
    if grace.is_zero() {
        return grace;
    }
    let began = tokio::time::Instant::now();
    if let Err(why) = run(place, c, hook, grace).await {
        ctx.events.pod(
            pod,
            Some(&c.name),
            "Warning",
            "FailedPreStopHook",
            format!("PreStopHook failed: {why}"),
        );
    }
    grace.saturating_sub(began.elapsed()).max(Duration::from_secs(2))
}

pub fn place(ctx: &Ctx, container_id: &str, ip: Option<std::net::IpAddr>) -> Place {
    Place {
        containerd: ctx.containerd.clone(),
        root: ctx.options.root_dir.clone().into(),
        container_id: container_id.into(),
        ip,
    }
}
