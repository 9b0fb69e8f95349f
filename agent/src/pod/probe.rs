//! Probes of a running container: startup first, then liveness and readiness side by side.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::check::{Action, Place, check};
use crate::ctx::Ctx;

/// What a probe has found out, once it passes its thresholds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Started,
    Ready(bool),
    /// The container is to be killed; the text says why.
    Failed(String),
}

/// The container's id, and what was found out about it.
pub type Judged = (String, Verdict);

/// Consecutive outcomes against thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    success: i32,
    failure: i32,
    last: bool,
    run: i32,
}

impl Counter {
    pub fn new(success: i32, failure: i32) -> Counter {
        Counter { success: success.max(1), failure: failure.max(1), last: false, run: 0 }
    }

    /// `Some` while the outcome has been seen often enough in a row.
    pub fn add(&mut self, outcome: bool) -> Option<bool> {
        if outcome != self.last {
            self.run = 0;
        }
        self.last = outcome;
        self.run = self.run.saturating_add(1);
        let needed = if outcome { self.success } else { self.failure };
        (self.run >= needed).then_some(outcome)
    }
}

pub fn action(probe: &Probe) -> Option<Action> {
    if let Some(exec) = &probe.exec {
        Some(Action::Exec(exec.clone()))
    } else if let Some(get) = &probe.http_get {
        Some(Action::Http(get.clone()))
    } else if let Some(tcp) = &probe.tcp_socket {
        Some(Action::Tcp(tcp.clone()))
    } else {
        probe.grpc.clone().map(Action::Grpc)
    }
}

/// Everything the probes of one container run with.
#[derive(Clone)]
pub struct Probing {
    pub ctx: Arc<Ctx>,
    pub pod: Arc<Pod>,
    pub container: Container,
    pub place: Place,
    pub started_at: Timestamp,
    pub verdicts: mpsc::Sender<Judged>,
    pub cancel: CancellationToken,
}

/// Runs the container's probes until it is cancelled.
pub fn start(probing: Probing) {
    tokio::spawn(async move {
        let cancel = probing.cancel.clone();
        tokio::select! {
            () = run(&probing) => {}
            () = cancel.cancelled() => {}
        }
    });
}

async fn run(p: &Probing) {
    if let Some(probe) = &p.container.startup_probe
        && !watch(p, "Startup", probe).await
    {
        return;
    }
    tell(p, Verdict::Started).await;
    let liveness = async {
        if let Some(probe) = &p.container.liveness_probe {
            watch(p, "Liveness", probe).await;
        }
    };
    let readiness = async {
        if let Some(probe) = &p.container.readiness_probe {
            watch(p, "Readiness", probe).await;
        }
    };
    tokio::join!(liveness, readiness);
}

async fn tell(p: &Probing, verdict: Verdict) {
    // A worker that is gone needs no verdicts.
    let _ = p.verdicts.send((p.place.container_id.clone(), verdict)).await;
}

/// Looks again and again. Returns true when a startup probe has passed, false when the container has been given up.
async fn watch(p: &Probing, kind: &'static str, probe: &Probe) -> bool {
    let Some(action) = action(probe) else { return true };
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default))
    };
    let period = seconds(probe.period_seconds, 10);
    let timeout = seconds(probe.timeout_seconds, 1);
    let mut counter =
        Counter::new(probe.success_threshold.unwrap_or(1), probe.failure_threshold.unwrap_or(3));
    let delay = Duration::from_secs(u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0));
    let running = Timestamp::now().duration_since(p.started_at);
    let running = Duration::try_from(running).unwrap_or_default();
    tokio::time::sleep(delay.saturating_sub(running)).await;
    loop {
        let outcome = check(&p.place, &p.container, &action, timeout).await;
        if let Err(why) = &outcome {
            let message = format!("{kind} probe failed: {why}");
            p.ctx.events.pod(&p.pod, Some(&p.container.name), "Warning", "Unhealthy", message);
        }
        match (kind, counter.add(outcome.is_ok())) {
            ("Readiness", Some(ready)) => tell(p, Verdict::Ready(ready)).await,
            ("Startup", Some(true)) => return true,
            ("Startup" | "Liveness", Some(false)) => {
                let why = format!(
                    "Container {} failed {} probe, will be restarted",
                    p.container.name,
                    kind.to_lowercase()
                );
                tell(p, Verdict::Failed(why)).await;
                return false;
            }
            _ => {}
        }
        tokio::time::sleep(period).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_its_threshold_in_a_row() {
        let mut counter = Counter::new(2, 3);
        let outcomes = [true, true, false, false, true, false, false, false, true, true];
        let verdicts = outcomes.map(|o| counter.add(o));
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(verdicts, [None, yes, None, None, None, None, None, no, None, yes]);
    }
}
