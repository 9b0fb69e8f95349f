//! Job: runs pods until enough of them have succeeded, or too many have failed.
//!
//! Every finished pod is counted exactly once: pods carry a finalizer, and the status keeps the uids of those that are
//! counted but not released yet.
//!
//! ```text
//!   pod finished, finalizer ──uid into uncountedTerminatedPods──▶ finalizer removed ──▶ uid out, counter up
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kontiki_proto::api::PatchType;
use serde_json::json;

use super::job_index as index;
use super::{nonzero, owners_of, pod_from_template};
use crate::objects::{is_deleting, is_ready, name_of, node_name, pod_phase, reference, uid_of};
use crate::runtime::{Action, Controller, EventSpec, Key, Now, Plan, Severity, World};

const COMPONENT: &str = "job-controller";
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Pods created in one plan.
const BURST: usize = 500;

pub fn controller() -> Controller {
    Controller::new("job", reconcile)
        .of::<Job>()
        .watching::<Pod>(|world, old, new| owners_of::<Job, Pod>(world, old, new, selector))
}

fn selector(job: &Job) -> Option<&LabelSelector> {
    job.spec.as_ref()?.selector.as_ref()
}

/// Whether the job has come to its end: `Complete` or `Failed`.
pub fn finished(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| ["Complete", "Failed"].contains(&c.type_.as_str()) && c.status == "True")
}

/// Why a job ends without success.
struct Failure {
    reason: &'static str,
    message: String,
}

struct Run<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    now: &'a Now,
    /// Pods that still run or are to run.
    active: Vec<Arc<Pod>>,
    terminating: usize,
    status: JobStatus,
    succeeded: usize,
    failed: usize,
    completed: BTreeSet<i32>,
    last_failure: Option<Time>,
}

pub fn reconcile(world: &World, key: &Key, now: &Now) -> Plan {
    let mut plan = Plan::none();
    let Some(job) = world.jobs.get(key) else { return plan };
    let Some(spec) = job.spec.as_ref().filter(|spec| ours(spec)) else { return plan };
    let pods: Vec<_> = world.pods.controlled_by(uid_of(job.as_ref())).cloned().collect();
    if finished(job).is_some() || is_deleting(job.as_ref()) {
        plan.actions.extend(pods.iter().filter(|pod| is_tracked(pod)).map(|pod| release(pod)));
        return plan;
    }
    let mut run = Run {
        job,
        spec,
        now,
        active: Vec::new(),
        terminating: 0,
        status: job.status.clone().unwrap_or_default(),
        succeeded: 0,
        failed: 0,
        completed: BTreeSet::new(),
        last_failure: None,
    };
    run.count(&pods, &mut plan);
    run.proceed(&mut plan);
    plan
}

fn ours(spec: &JobSpec) -> bool {
    spec.managed_by.as_deref().is_none_or(|manager| manager == "kubernetes.io/job-controller")
}

fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

fn release(pod: &Pod) -> Action {
    let rest: Vec<_> = pod.metadata.finalizers.iter().flatten().filter(|f| *f != FINALIZER).collect();
    let body = json!({"metadata": {"resourceVersion": pod.metadata.resource_version, "finalizers": rest}});
    Action::patch(pod, "", PatchType::Merge, body)
}

fn finished_at(pod: &Pod) -> Option<Time> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let ends =
        statuses.iter().filter_map(|status| status.state.as_ref()?.terminated.as_ref()?.finished_at.clone());
    ends.max()
}

impl Run<'_> {
    fn indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    /// A pod that is ending is replaced only once it has ended.
    fn replaces_failed_alone(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed")
    }

    fn parallelism(&self) -> usize {
        usize::try_from(self.spec.parallelism.unwrap_or(1)).unwrap_or(0)
    }

    /// Sorts the pods, and moves the finished ones through the stages of being counted. Pods that are ending count as
    /// failed, so that those whose agent never answers do too.
    fn count(&mut self, pods: &[Arc<Pod>], plan: &mut Plan) {
        let uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let (mut good, mut bad) =
            (uncounted.succeeded.unwrap_or_default(), uncounted.failed.unwrap_or_default());
        let mut releases = Vec::new();
        let mut noted = false;
        let waits = self.replaces_failed_alone();
        self.completed = index::parse(self.status.completed_indexes.as_deref().unwrap_or_default());
        for pod in pods {
            let uid = uid_of(pod.as_ref()).to_string();
            let phase = pod_phase(pod);
            if phase == "Succeeded" && self.indexed() {
                self.completed.extend(index::of(pod));
            }
            let ended = phase == "Succeeded" || phase == "Failed";
            let leaving = !ended && is_deleting(pod.as_ref());
            // A pod that was never bound has no agent to say that it ended.
            let given_up = leaving && (!waits || node_name(pod).is_empty());
            if (ended && phase != "Succeeded") || leaving {
                let at = finished_at(pod).or_else(|| pod.metadata.deletion_timestamp.clone());
                self.last_failure = self.last_failure.take().max(at);
            }
            if is_tracked(pod) && (ended || given_up) {
                let list = if phase == "Succeeded" { &mut good } else { &mut bad };
                // What a pause ends has not failed.
                let counts = ended || self.spec.suspend != Some(true);
                if counts && !list.contains(&uid) {
                    list.push(uid);
                    noted = true;
                }
                releases.push(release(pod));
            }
            if leaving {
                self.terminating += 1;
            } else if !ended {
                self.active.push(pod.clone());
            }
        }
        if noted {
            let mut status = self.status.clone();
            status.uncounted_terminated_pods =
                Some(UncountedTerminatedPods { succeeded: some(good.clone()), failed: some(bad.clone()) });
            plan.push(self.write(status));
        }
        plan.actions.append(&mut releases);
        self.succeeded = if self.indexed() {
            self.completed.len()
        } else {
            usize::try_from(self.status.succeeded.unwrap_or(0)).unwrap_or(0) + good.len()
        };
        self.failed = usize::try_from(self.status.failed.unwrap_or(0)).unwrap_or(0) + bad.len();
        self.status.uncounted_terminated_pods = Some(UncountedTerminatedPods::default());
    }

    fn write(&self, status: JobStatus) -> Action {
        Action::update_status(&Job { status: Some(status), ..self.job.clone() })
    }

    fn event(&self, severity: Severity, reason: &str, message: String) -> EventSpec {
        EventSpec {
            regarding: reference(self.job),
            severity,
            component: COMPONENT,
            reason: reason.into(),
            message,
        }
    }

    fn condition(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let conditions = self.status.conditions.get_or_insert_default();
        if conditions
            .iter()
            .any(|c| c.type_ == kind && c.status == status && c.reason.as_deref() == Some(reason))
        {
            return;
        }
        conditions.retain(|condition| condition.type_ != kind);
        conditions.push(JobCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_probe_time: Some(self.now.stamp()),
            last_transition_time: Some(self.now.stamp()),
        });
    }

    fn has(&self, kind: &str) -> bool {
        self.status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True")
    }

    /// Why the job cannot succeed any more.
    fn failure(&self, plan: &mut Plan) -> Option<Failure> {
        let known = self
            .status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "FailureTarget" && c.status == "True");
        if let Some(known) = known {
            let reason = match known.reason.as_deref() {
                Some("DeadlineExceeded") => "DeadlineExceeded",
                _ => "BackoffLimitExceeded",
            };
            return Some(Failure { reason, message: known.message.clone().unwrap_or_default() });
        }
        let limit = usize::try_from(self.spec.backoff_limit.unwrap_or(6)).unwrap_or(0);
        if self.failed > limit || (self.retries() > limit && self.restarts_in_place()) {
            let message = "Job has reached the specified backoff limit".to_string();
            return Some(Failure { reason: "BackoffLimitExceeded", message });
        }
        let deadline = self.spec.active_deadline_seconds.and_then(|seconds| u64::try_from(seconds).ok())?;
        let running = self.now.since(self.status.start_time.as_ref()?);
        let deadline = Duration::from_secs(deadline);
        if running >= deadline {
            let message = "Job was active longer than specified deadline".to_string();
            return Some(Failure { reason: "DeadlineExceeded", message });
        }
        plan.again_after(deadline - running);
        None
    }

    fn restarts_in_place(&self) -> bool {
        self.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("OnFailure")
    }

    /// Container restarts within running pods.
    fn retries(&self) -> usize {
        let containers =
            self.active.iter().filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref());
        let restarts = containers.flatten().map(|status| usize::try_from(status.restart_count).unwrap_or(0));
        restarts.sum()
    }

    fn is_complete(&self) -> bool {
        match self.spec.completions {
            Some(wanted) => self.succeeded >= usize::try_from(wanted).unwrap_or(0),
            None => self.succeeded > 0 && self.active.is_empty(),
        }
    }

    fn proceed(&mut self, plan: &mut Plan) {
        let suspended = self.spec.suspend == Some(true);
        if self.status.start_time.is_none() && !suspended {
            self.status.start_time = Some(self.now.stamp());
        }
        let mut events = Vec::new();
        let failure = self.failure(plan);
        if let Some(failure) = failure {
            self.condition("FailureTarget", "True", failure.reason, &failure.message);
            self.end_active(plan);
            // The verdict comes when the last pod has ended.
            if self.active.is_empty() && self.terminating == 0 {
                self.condition("Failed", "True", failure.reason, &failure.message);
                events.push(self.event(Severity::Warning, failure.reason, failure.message));
            }
        } else if self.has("SuccessCriteriaMet") || self.is_complete() {
            let message = "Reached expected number of succeeded pods";
            self.condition("SuccessCriteriaMet", "True", "CompletionsReached", message);
            self.end_active(plan);
            if self.active.is_empty() && self.terminating == 0 {
                self.condition("Complete", "True", "CompletionsReached", message);
                self.status.completion_time = Some(self.now.stamp());
                events.push(self.event(Severity::Normal, "Completed", "Job completed".into()));
            }
        } else if suspended {
            self.end_active(plan);
            if !self.has("Suspended") {
                self.condition("Suspended", "True", "JobSuspended", "Job suspended");
                events.push(self.event(Severity::Normal, "Suspended", "Job suspended".into()));
            }
            self.status.start_time = None;
        } else {
            if self.has("Suspended") {
                self.condition("Suspended", "False", "JobResumed", "Job resumed");
                self.status.start_time = Some(self.now.stamp());
                events.push(self.event(Severity::Normal, "Resumed", "Job resumed".into()));
            }
            self.adjust(plan);
        }

        self.status.active = nonzero(self.active.len());
        self.status.ready =
            Some(nonzero(self.active.iter().filter(|pod| is_ready(pod)).count()).unwrap_or(0));
        self.status.terminating = Some(nonzero(self.terminating).unwrap_or(0));
        self.status.succeeded = nonzero(self.succeeded);
        self.status.failed = nonzero(self.failed);
        if self.indexed() {
            self.status.completed_indexes =
                Some(index::show(&self.completed)).filter(|text| !text.is_empty());
        }
        if self.job.status.as_ref() != Some(&self.status) {
            let mut events = events.into_iter();
            let mut update = self.write(self.status.clone());
            update.on_success = events.next();
            plan.push(update);
            events.for_each(|event| plan.push(Action::report(event)));
        }
    }

    fn end_active(&mut self, plan: &mut Plan) {
        for pod in std::mem::take(&mut self.active) {
            let message = format!("Deleted pod: {}", name_of(pod.as_ref()));
            let event = self.event(Severity::Normal, "SuccessfulDelete", message);
            plan.push(Action::delete(pod.as_ref()).saying(event));
            self.terminating += 1;
        }
    }

    /// Starts or ends pods until as many run as may.
    fn adjust(&mut self, plan: &mut Plan) {
        let mut wanted = self.parallelism();
        if let Some(completions) = self.spec.completions {
            let left = usize::try_from(completions).unwrap_or(0).saturating_sub(self.succeeded);
            wanted = wanted.min(left);
        } else if self.succeeded > 0 {
            // A work queue that is empty for one is empty for all.
            wanted = wanted.min(self.active.len());
        }
        if self.active.len() > wanted {
            self.active.sort_by_key(|pod| (is_ready(pod), pod_phase(pod) == "Running"));
            for pod in self.active.drain(..self.active.len() - wanted).collect::<Vec<_>>() {
                plan.push(Action::delete(pod.as_ref()));
                self.terminating += 1;
            }
            return;
        }
        // Pods that are on their way out still hold their place where replacements wait for failure.
        let waits = self.replaces_failed_alone();
        let held = self.active.len() + if waits { self.terminating } else { 0 };
        let missing = wanted.saturating_sub(held).min(BURST);
        if missing == 0 {
            return;
        }
        if let Some(last) = &self.last_failure
            && self.failed > 0
        {
            let pause = FIRST_PAUSE.saturating_mul(1 << (self.failed - 1).min(10)).min(LONGEST_PAUSE);
            let passed = self.now.since(last);
            if passed < pause {
                return plan.again_after(pause - passed);
            }
        }
        let mut indexes = Vec::new();
        if self.indexed() {
            let running: BTreeSet<i32> = self.active.iter().filter_map(|pod| index::of(pod)).collect();
            let all = 0..self.spec.completions.unwrap_or(0);
            indexes =
                all.filter(|i| !self.completed.contains(i) && !running.contains(i)).take(missing).collect();
        }
        let count = if self.indexed() { indexes.len() } else { missing };
        for number in 0..count {
            let pod = self.pod(indexes.get(number).copied());
            plan.push(
                Action::create(&pod)
                    .saying(self.event(Severity::Normal, "SuccessfulCreate", "Created pod: {name}".into()))
                    .complaining(self.event(
                        Severity::Warning,
                        "FailedCreate",
                        "Error creating: {error}".into(),
                    )),
            );
            self.active.push(Arc::new(pod));
        }
    }

    fn pod(&self, number: Option<i32>) -> Pod {
        let mut pod = pod_from_template(self.job, &self.spec.template);
        pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
        let labels = pod.metadata.labels.get_or_insert_default();
        for key in ["batch.kubernetes.io/job-name", "job-name"] {
            labels.entry(key.into()).or_insert_with(|| name_of(self.job).into());
        }
        for key in ["batch.kubernetes.io/controller-uid", "controller-uid"] {
            labels.entry(key.into()).or_insert_with(|| uid_of(self.job).into());
        }
        let Some(number) = number else { return pod };
        labels.insert(INDEX.into(), number.to_string());
        pod.metadata.annotations.get_or_insert_default().insert(INDEX.into(), number.to_string());
        pod.metadata.generate_name = Some(format!("{}-{number}-", name_of(self.job)));
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(format!("{}-{number}", name_of(self.job)));
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            let env = container.env.get_or_insert_default();
            if !env.iter().any(|variable| variable.name == "JOB_COMPLETION_INDEX") {
                env.push(EnvVar {
                    name: "JOB_COMPLETION_INDEX".into(),
                    value: None,
                    value_from: Some(EnvVarSource {
                        field_ref: Some(ObjectFieldSelector {
                            api_version: None,
                            field_path: format!("metadata.annotations['{INDEX}']"),
                        }),
                        ..EnvVarSource::default()
                    }),
                });
            }
        }
        pod
    }
}

fn some(list: Vec<String>) -> Option<Vec<String>> {
    (!list.is_empty()).then_some(list)
}
