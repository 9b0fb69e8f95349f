//! CronJob: starts a job at each of its times.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kontiki_proto::api::Object;

use super::job::finished;
use super::schedule::Schedule;
use crate::objects::{
    controller_of, controlling_reference, is_controlled_by, is_deleting, name_of, namespace_of, reference,
    uid_of,
};
use crate::runtime::{Action, Controller, EventSpec, Key, Now, Plan, Severity, World};

const COMPONENT: &str = "cronjob-controller";
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Missed times looked through before giving up on the oldest.
const MISSED: usize = 100;

pub fn controller() -> Controller {
    Controller::new("cronjob", reconcile).of::<CronJob>().watching::<Job>(|world, old, new| {
        let job = old.or(new);
        let owner = job.and_then(|job| Some((job, controller_of(&job.metadata)?)));
        let owner = owner.filter(|(job, owner)| {
            let found = world.cron_jobs.find(namespace_of(*job), &owner.name);
            owner.kind == "CronJob" && found.is_some_and(|found| is_controlled_by(*job, found.as_ref()))
        });
        owner.map(|(job, owner)| Key::new(namespace_of(job), &owner.name)).into_iter().collect()
    })
}

fn event(cron: &CronJob, severity: Severity, reason: &str, message: String) -> EventSpec {
    EventSpec { regarding: reference(cron), severity, component: COMPONENT, reason: reason.into(), message }
}

pub fn reconcile(world: &World, key: &Key, now: &Now) -> Plan {
    let mut plan = Plan::none();
    let Some(cron) = world.cron_jobs.get(key).filter(|cron| !is_deleting(cron.as_ref())) else { return plan };
    let spec = &cron.spec;
    let mut jobs: Vec<_> = world.jobs.controlled_by(uid_of(cron.as_ref())).cloned().collect();
    jobs.sort_by_key(|job| job.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let mut status = cron.status.clone().unwrap_or_default();

    for job in jobs.iter().filter(|job| finished(job).is_some_and(|end| end.type_ == "Complete")) {
        let end = job.status.as_ref().and_then(|status| status.completion_time.clone());
        status.last_successful_time = status.last_successful_time.take().max(end);
    }
    let running: Vec<_> =
        jobs.iter().filter(|job| finished(job).is_none() && !is_deleting(job.as_ref())).collect();
    let mut active: Vec<_> = running.iter().map(|job| short_reference(job.as_ref())).collect();

    for (kind, limit) in [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
    ] {
        let ended = jobs
            .iter()
            .filter(|job| !is_deleting(job.as_ref()) && finished(job).is_some_and(|e| e.type_ == kind));
        let ended: Vec<_> = ended.collect();
        let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for job in ended.into_iter().take(surplus) {
            let message = format!("Deleted job {}", name_of(job.as_ref()));
            let delete = Action::delete_with(job.as_ref(), |options| options.propagate("Background"));
            plan.push(delete.saying(event(cron, Severity::Normal, "SuccessfulDelete", message)));
        }
    }

    if let Some((schedule, zone)) = times(spec) {
        if spec.suspend != Some(true) {
            let due = latest(cron, spec, &status, &schedule, &zone, now);
            if let Some(due) = due {
                let name = format!("{}-{}", name_of(cron.as_ref()), due.as_second() / 60);
                let policy = spec.concurrency_policy.as_deref().unwrap_or("Allow");
                let known = world.jobs.find(&key.namespace, &name).is_some();
                if known {
                    status.last_schedule_time = Some(Time(due));
                } else if policy == "Forbid" && !running.is_empty() {
                    // The time stays open: it is made up for when the running one ends, if that is soon enough.
                } else {
                    if policy == "Replace" {
                        for job in &running {
                            let delete =
                                Action::delete_with(job.as_ref(), |options| options.propagate("Background"));
                            plan.push(delete);
                        }
                        active.clear();
                    }
                    let job = job(cron, spec, name, due, &zone);
                    let message = "Created job {name}".to_string();
                    let failed = "Error creating job: {error}".to_string();
                    plan.push(
                        Action::create(&job)
                            .saying(event(cron, Severity::Normal, "SuccessfulCreate", message))
                            .complaining(event(cron, Severity::Warning, "FailedCreate", failed)),
                    );
                    // The job's uid is known only when it is there; the next look fills it in.
                    status.last_schedule_time = Some(Time(due));
                }
            }
            if let Some(next) = schedule.next(now.time, &zone) {
                let pause = Duration::try_from(next.duration_since(now.time)).unwrap_or_default();
                plan.again_after(pause + Duration::from_millis(100));
            }
        }
    } else {
        let message = format!("unparseable schedule: {:?}", spec.schedule);
        let seen = now.failure.is_none() && cron.status.is_none();
        if seen {
            plan.push(Action::report(event(cron, Severity::Warning, "UnparseableSchedule", message)));
        }
    }
    status.active = (!active.is_empty()).then_some(active);
    if cron.status.as_ref() != Some(&status) {
        plan.push(Action::update_status(&CronJob { status: Some(status), ..(**cron).clone() }));
    }
    plan
}

fn short_reference<K: Object>(object: &K) -> k8s_openapi::api::core::v1::ObjectReference {
    k8s_openapi::api::core::v1::ObjectReference { resource_version: None, ..reference(object) }
}

fn times(spec: &CronJobSpec) -> Option<(Schedule, TimeZone)> {
    let zone = match spec.time_zone.as_deref() {
        None => TimeZone::UTC,
        Some(name) => TimeZone::get(name).ok()?,
    };
    Some((Schedule::parse(&spec.schedule)?, zone))
}

/// The latest time that has come and was not served, unless it is too late for it.
fn latest(
    cron: &CronJob,
    spec: &CronJobSpec,
    status: &CronJobStatus,
    schedule: &Schedule,
    zone: &TimeZone,
    now: &Now,
) -> Option<Timestamp> {
    let created = cron.metadata.creation_timestamp.as_ref().map_or(now.time, |time| time.0);
    let mut from = status.last_schedule_time.as_ref().map_or(created, |time| time.0);
    if let Some(deadline) = spec.starting_deadline_seconds {
        from = from.max(now.time.checked_sub(jiff::SignedDuration::from_secs(deadline)).unwrap_or(from));
    }
    let mut due = None;
    for count in 0.. {
        match schedule.next(from, zone).filter(|next| *next <= now.time) {
            None => break,
            Some(next) => (due, from) = (Some(next), next),
        }
        if count == MISSED {
            // Too many to walk through: only the recent past counts.
            from = from.max(now.time.checked_sub(jiff::SignedDuration::from_hours(1)).unwrap_or(from));
        }
        if count > MISSED * 2 {
            break;
        }
    }
    due
}

fn job(cron: &CronJob, spec: &CronJobSpec, name: String, due: Timestamp, zone: &TimeZone) -> Job {
    let metadata = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = metadata.annotations.unwrap_or_default();
    let local = due.to_zoned(zone.clone());
    annotations.insert(
        SCHEDULED.into(),
        jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%S%:z", &local).unwrap_or_default(),
    );
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron.metadata.namespace.clone(),
            labels: metadata.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controlling_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}
