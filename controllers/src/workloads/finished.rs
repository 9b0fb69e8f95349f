//! Deletes finished jobs some time after their end, where they ask for it.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;

use super::job::finished;
use crate::objects::is_deleting;
use crate::runtime::{Action, Controller, Key, Now, Plan, World};

pub fn controller() -> Controller {
    Controller::new("ttl-after-finished", reconcile).of::<Job>()
}

pub fn reconcile(world: &World, key: &Key, now: &Now) -> Plan {
    let mut plan = Plan::none();
    let Some(job) = world.jobs.get(key).filter(|job| !is_deleting(job.as_ref())) else { return plan };
    let ttl = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
    let end = finished(job).and_then(|condition| condition.last_transition_time.as_ref());
    if let (Some(ttl), Some(end)) = (ttl, end) {
        let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
        let passed = now.since(end);
        if passed >= ttl {
            plan.push(Action::delete_with(job.as_ref(), |options| options.propagate("Foreground")));
        } else {
            plan.again_after(ttl - passed);
        }
    }
    plan
}
