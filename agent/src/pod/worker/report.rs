//! What a worker tells the API, and what it takes the API to know.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PodCondition, PodStatus};

use super::super::model::{container, full_name};
use super::super::plan::{Step, deleting, plan};
use super::super::status::{Addresses, same, status};
use super::super::writer::Wish;
use super::Worker;

impl Worker {
    /// Tells the API what there is, where it does not know. Returns when there will be something else to tell.
    pub(super) fn report(&mut self, now: Timestamp) -> Option<Timestamp> {
        if self.removed {
            // The object is gone; one of the same name would be another pod's.
            self.wishes.send_replace(None);
            return None;
        }
        let mut soon = None;
        for trouble in self.troubles.values_mut().filter(|t| t.reason == "ErrImagePull") {
            // The failure is shown for a moment, then that it is waited.
            let failed_at = trouble.retry_at - SignedDuration::from_secs(trouble.delay.into());
            let over_at = failed_at + SignedDuration::from_secs(2);
            if over_at <= now {
                trouble.reason = "ImagePullBackOff".into();
                trouble.message = format!("Back-off pulling image: ErrImagePull: {}", trouble.message);
            } else {
                soon = Some(over_at);
            }
        }
        for (name, observed) in &mut self.containers {
            observed.trouble = self.troubles.get(name).cloned();
        }
        let node = Some(self.ctx.options.node_ip);
        let addresses = Addresses { node, pod: self.ips.clone() };
        let (wanted, remove) = {
            let view = self.view(now);
            (
                status(&view, &addresses),
                deleting(&view) && !self.removed && plan(&view).steps.contains(&Step::Remove),
            )
        };
        if let Some(shown) = self.shown.replace(wanted.clone()) {
            self.tell_back_off(&shown, &wanted);
        }
        let pending = self
            .wishes
            .borrow()
            .as_ref()
            .filter(|_| self.writing)
            .map(|w| if w.delete { remove } else { !remove && same(&w.status, &wanted) });
        let needed = remove || !same(&self.known.0, &wanted);
        if pending == Some(true) || (pending.is_none() && !needed) {
            return soon;
        }
        let here = |ip: &str| wanted.pod_ips.iter().flatten().any(|w| w.ip == ip);
        let stale = self.known.0.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).filter(|ip| !here(ip));
        let wish = Wish { stale_ips: stale.collect(), status: wanted, delete: remove };
        self.writing = true;
        self.wishes.send_replace(Some(wish));
        soon
    }

    /// An event when a container begins to wait for its next try.
    fn tell_back_off(&self, before: &PodStatus, now: &PodStatus) {
        for (name, reason) in waiting(now) {
            if waiting(before).any(|w| w == (name, reason)) {
                continue;
            }
            let spec = self.pod.spec.as_ref();
            let image =
                spec.and_then(|s| container(s, name)).and_then(|(_, c)| c.image.clone()).unwrap_or_default();
            let message = match reason {
                "ImagePullBackOff" => format!("Back-off pulling image \"{image}\""),
                "CrashLoopBackOff" => {
                    format!("Back-off restarting failed container {name} in pod {}", full_name(&self.pod))
                }
                _ => continue,
            };
            let kind = if reason == "CrashLoopBackOff" { "Warning" } else { "Normal" };
            self.ctx.events.pod(&self.pod, Some(name), kind, "BackOff", message);
        }
    }

    /// The API holds this status. What we say ourselves is taken as we said it last: our word may still be on its way.
    pub(super) fn learn(&mut self, status: PodStatus, revision: u64) {
        if revision >= self.known.1 {
            self.known = (status, revision);
        }
        let status = match &self.shown {
            Some(shown) => merged(shown, &self.known.0),
            None => self.known.0.clone(),
        };
        Arc::make_mut(&mut self.pod).status = Some(status);
    }
}

/// Conditions and phase as we have said them, everything else as the API has it.
fn merged(shown: &PodStatus, arrived: &PodStatus) -> PodStatus {
    const OURS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];
    let ours = |c: &&PodCondition| OURS.contains(&c.type_.as_str());
    let conditions = arrived.conditions.iter().flatten().filter(|c| !ours(c));
    let own = shown.conditions.iter().flatten().filter(ours);
    let ended = matches!(arrived.phase.as_deref(), Some("Succeeded" | "Failed"));
    PodStatus {
        conditions: Some(conditions.chain(own).cloned().collect()),
        phase: if ended { arrived.phase.clone() } else { shown.phase.clone() },
        start_time: shown.start_time.clone(),
        ..arrived.clone()
    }
}

/// The containers that wait, and why.
fn waiting(status: &PodStatus) -> impl Iterator<Item = (&str, &str)> {
    let lists = [&status.init_container_statuses, &status.container_statuses];
    lists
        .into_iter()
        .flat_map(|l| l.iter().flatten())
        .filter_map(|s| Some((s.name.as_str(), s.state.as_ref()?.waiting.as_ref()?.reason.as_deref()?)))
}
