//! One pod's worker: observes, plans, acts, and tells the API, again and again. A task of its own for each pod; all state
//! it cannot do without is on disk or in containerd.

mod report;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::dirs::PodDir;
use super::model::{
    Busy, Containers, Health, Observed, Trouble, container, members, name, namespace, next_backoff, uid,
};
use super::observe;
use super::plan::{Step, View, deleting, plan};
use super::probe::{self, Judged, Probing, Verdict};
use super::start::{self, StartError, Starting};
use super::status::whole_seconds;
use super::writer::{self, Whose, Wish, Written};
use super::{hooks, lifecycle, stop};
use crate::ctx::Ctx;
use crate::runtime::RuntimeError;

/// containerd's events are hints; without any, the pod is looked at this often.
const LOOK: Duration = Duration::from_secs(20);
/// ConfigMaps, Secrets and tokens in volumes are brought up to date this often.
const REFRESH: Duration = Duration::from_secs(45);

/// What a worker is told.
#[derive(Debug)]
pub enum Message {
    /// The object as it is now.
    Pod(Box<Pod>),
    /// The object is gone: end without the API.
    Removed,
}

/// The way to a worker. It ends when its pod has left the node.
#[derive(Clone)]
pub struct Handle {
    pub messages: mpsc::Sender<Message>,
    /// Something may have happened to its containers.
    pub look: Arc<Notify>,
}

enum Done {
    Started { container: String, result: Result<(), StartError> },
    Stopped { container: String, result: Result<(), RuntimeError> },
}

/// Starts the worker of a pod; `finished` runs when nothing is left of the pod on the node.
pub fn spawn(
    ctx: Arc<Ctx>,
    pod: Pod,
    shutdown: CancellationToken,
    finished: impl FnOnce() + Send + 'static,
) -> Handle {
    let (messages, inbox) = mpsc::channel(64);
    let look = Arc::new(Notify::new());
    let handle = Handle { messages, look: look.clone() };
    tokio::spawn(async move {
        let mut worker = Worker::new(ctx, pod, shutdown.clone());
        tokio::select! {
            () = worker.run(inbox, look) => finished(),
            () = shutdown.cancelled() => worker.leave(),
        }
    });
    handle
}

pub(super) struct Worker {
    pub(super) ctx: Arc<Ctx>,
    pub(super) dir: PodDir,
    pub(super) pod: Arc<Pod>,
    removed: bool,
    pub(super) prepared: bool,
    pub(super) torn_down: bool,
    pub(super) trouble: Option<Trouble>,
    pub(super) volumes: BTreeMap<String, PathBuf>,
    pub(super) ips: Vec<IpAddr>,
    /// Inputs of containers that read, held open.
    pub(super) inputs: HashMap<String, std::os::fd::OwnedFd>,
    started_at: Timestamp,
    troubles: HashMap<String, Trouble>,
    busy: HashMap<String, Busy>,
    health: HashMap<String, Health>,
    probes: HashMap<String, CancellationToken>,
    /// What was observed last; stands while containerd does not answer.
    containers: Containers,
    /// Ends what a deletion need not wait for.
    cancel: CancellationToken,
    done: (mpsc::Sender<Done>, mpsc::Receiver<Done>),
    verdicts: (mpsc::Sender<Judged>, mpsc::Receiver<Judged>),
    wishes: watch::Sender<Option<Wish>>,
    written: mpsc::Receiver<Written>,
    /// The status we want the API to show, as it was made last.
    shown: Option<PodStatus>,
    /// What the API holds, as far as we know, and the revision it did so at.
    known: (PodStatus, u64),
    /// The writer has a wish that it has not fulfilled yet.
    writing: bool,
    swept: bool,
    gone: bool,
}

impl Worker {
    fn new(ctx: Arc<Ctx>, pod: Pod, shutdown: CancellationToken) -> Worker {
        let dir = PodDir::new(&ctx.options.root_dir, uid(&pod));
        let whose =
            Whose { namespace: namespace(&pod).into(), name: name(&pod).into(), uid: uid(&pod).into() };
        let (wishes, written) = writer::start(ctx.api.clone(), whose, shutdown);
        let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
        Worker {
            ctx,
            dir,
            known: (pod.status.clone().unwrap_or_default(), writer::revision(&pod)),
            writing: false,
            pod: Arc::new(pod),
            removed: false,
            prepared: false,
            torn_down: false,
            trouble: None,
            volumes: BTreeMap::new(),
            ips: Vec::new(),
            inputs: HashMap::new(),
            started_at: started.unwrap_or_else(|| whole_seconds(Timestamp::now())),
            troubles: HashMap::new(),
            busy: HashMap::new(),
            health: HashMap::new(),
            probes: HashMap::new(),
            containers: Containers::new(),
            cancel: CancellationToken::new(),
            done: mpsc::channel(64),
            verdicts: mpsc::channel(64),
            wishes,
            written,
            shown: None,
            swept: false,
            gone: false,
        }
    }

    /// The agent ends; the pod goes on.
    fn leave(&mut self) {
        self.cancel.cancel();
        self.probes.values().for_each(CancellationToken::cancel);
    }

    async fn run(&mut self, mut inbox: mpsc::Receiver<Message>, look: Arc<Notify>) {
        self.remember();
        let mut refresh = tokio::time::interval_at(tokio::time::Instant::now() + REFRESH, REFRESH);
        refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wake = self.turn().await;
            if self.gone {
                self.forget();
                return;
            }
            let pause = wake
                .map(|at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default())
                .map_or(LOOK, |pause| pause.clamp(Duration::from_millis(20), LOOK));
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(Message::Pod(pod)) => self.update(*pod),
                    Some(Message::Removed) => self.removed = true,
                    // The manager is gone, and so is the agent.
                    None => return,
                },
                Some(done) = self.done.1.recv() => self.finish(done),
                Some((id, verdict)) = self.verdicts.1.recv() => self.judge(&id, verdict),
                Some(written) = self.written.recv() => match written {
                    Written::Status(status, revision) => {
                        self.writing = false;
                        self.learn(*status, revision);
                    }
                    Written::Gone => self.removed = true,
                },
                () = look.notified() => {}
                _ = refresh.tick() => self.refresh().await,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Observes, plans, acts and reports; returns when to do so again at the latest.
    async fn turn(&mut self) -> Option<Timestamp> {
        // Each round makes at least one step towards a pod that needs none; the bound is only for the unforeseen.
        for _ in 0..8 {
            let retry = self.observe().await;
            self.tend_probes();
            let now = Timestamp::now();
            let steps = {
                let view = self.view(now);
                let mut plan = plan(&view);
                if deleting(&view) {
                    self.cancel.cancel();
                }
                if let Some(at) = retry {
                    // Nothing is decided on what may not be true any more.
                    plan.steps.clear();
                    plan.wake = Some(at);
                }
                plan
            };
            let mut again = false;
            for step in steps.steps {
                again |= self.act(step).await;
            }
            let soon = self.report(Timestamp::now());
            if self.gone || !again {
                return [steps.wake, soon].into_iter().flatten().min();
            }
        }
        Some(Timestamp::now() + SignedDuration::from_secs(1))
    }

    fn view(&self, now: Timestamp) -> View<'_> {
        View {
            pod: &self.pod,
            containers: &self.containers,
            removed: self.removed,
            prepared: self.prepared,
            torn_down: self.torn_down,
            trouble: self.trouble.as_ref(),
            started_at: self.started_at,
            now,
        }
    }

    /// Fills `containers`. Where containerd does not answer, says when to ask again.
    async fn observe(&mut self) -> Option<Timestamp> {
        let pod = self.pod.clone();
        let Some(spec) = &pod.spec else { return None };
        let retry = Some(Timestamp::now() + SignedDuration::from_millis(500));
        if !self.swept {
            let names = members(spec).map(|(_, c)| c.name.as_str()).collect::<Vec<_>>();
            match observe::sweep(&self.ctx, &self.dir, uid(&pod), &names).await {
                Ok(()) => self.swept = true,
                Err(error) => {
                    tracing::debug!(%error, pod = name(&pod), "containerd does not answer");
                    return retry;
                }
            }
        }
        let mut all = Containers::new();
        for (_, c) in members(spec) {
            let busy = self.busy.get(&c.name).copied();
            let (last, previous) = match observe::observe(&self.ctx, &self.dir, uid(&pod), c, busy).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(%error, pod = name(&pod), "containerd does not answer");
                    return retry;
                }
            };
            let mut observed = Observed {
                last,
                previous,
                health: Health::default(),
                trouble: self.troubles.get(&c.name).cloned(),
                busy,
            };
            if let Some(ended) = observed.last.as_ref().filter(|a| a.exit.is_some()) {
                self.ctx.owners.lock().remove(&ended.container_id);
            }
            if let (true, Some(attempt)) = (observed.running(), &observed.last) {
                let id = attempt.container_id.clone();
                self.ctx.owners.lock().entry(id.clone()).or_insert_with(|| uid(&pod).into());
                let was_ready = || was_ready(&pod, &c.name, &id);
                let health =
                    self.health.entry(id.clone()).or_insert_with(|| observe::initial_health(c, was_ready()));
                observed.health = health.clone();
                // Until its postStart hook is done, a container has not started.
                observed.health.started &= busy != Some(Busy::Starting);
            }
            all.insert(c.name.clone(), observed);
        }
        self.containers = all;
        None
    }

    /// Probes run for the containers that run, and for no others.
    fn tend_probes(&mut self) {
        let pod = self.pod.clone();
        let Some(spec) = &pod.spec else { return };
        let stopping = deleting(&self.view(Timestamp::now()));
        let mut live = Vec::new();
        for (_, c) in members(spec) {
            let Some(observed) = self.containers.get(&c.name) else { continue };
            let Some(attempt) = observed.last.as_ref().filter(|_| observed.running()) else { continue };
            let id = &attempt.container_id;
            live.push(id.clone());
            if stopping || observed.busy.is_some() || !observe::probed(c) || self.probes.contains_key(id) {
                continue;
            }
            let cancel = CancellationToken::new();
            self.probes.insert(id.clone(), cancel.clone());
            probe::start(Probing {
                ctx: self.ctx.clone(),
                pod: pod.clone(),
                container: c.clone(),
                place: hooks::place(&self.ctx, id, self.ips.first().copied()),
                started_at: attempt.started_at.unwrap_or(attempt.created_at),
                verdicts: self.verdicts.0.clone(),
                cancel,
            });
        }
        self.probes.retain(|id, cancel| {
            let keep = live.contains(id) && !stopping;
            if !keep {
                cancel.cancel();
            }
            keep
        });
        self.health.retain(|id, _| live.contains(id));
    }

    fn judge(&mut self, id: &str, verdict: Verdict) {
        let Some(health) = self.health.get_mut(id) else { return };
        match verdict {
            Verdict::Started => health.started = true,
            Verdict::Ready(ready) => health.ready = ready,
            Verdict::Failed(why) => health.failed = Some(why),
        }
    }

    /// Carries out a step, or begins to. Returns whether to plan again at once.
    async fn act(&mut self, step: Step) -> bool {
        match step {
            Step::Prepare => {
                let outcome = lifecycle::prepare(self).await;
                self.settle(outcome);
                true
            }
            Step::TearDown => {
                let outcome = lifecycle::tear_down(self).await;
                if outcome.is_ok() {
                    self.prepared = false;
                    self.torn_down = true;
                }
                self.settle(outcome);
                true
            }
            Step::Remove => {
                if self.removed {
                    self.gone = true;
                }
                // Otherwise the report carries the wish, until the API says that the object is gone.
                false
            }
            Step::Start { container } => {
                self.start(&container);
                false
            }
            Step::Stop { container, grace_seconds, why } => {
                self.stop(&container, Duration::from_secs(grace_seconds.into()), why);
                false
            }
        }
    }

    fn settle(&mut self, outcome: Result<(), (&'static str, String)>) {
        self.trouble = match outcome {
            Ok(()) => None,
            Err((reason, message)) => {
                let told = self.trouble.as_ref().is_some_and(|t| t.message == message);
                if !told {
                    self.ctx.events.pod(&self.pod, None, "Warning", reason, message.clone());
                }
                Some(next_trouble(self.trouble.as_ref(), reason, message, 1, 60))
            }
        };
    }

    fn start(&mut self, container_name: &str) {
        let pod = self.pod.clone();
        let Some((_, c)) = pod.spec.as_ref().and_then(|s| container(s, container_name)) else { return };
        let none = Observed::default();
        let observed = self.containers.get(container_name).unwrap_or(&none);
        let (number, id) = observe::next(uid(&pod), container_name, observed);
        self.ctx.owners.lock().insert(id, uid(&pod).into());
        let starting = Starting {
            ctx: self.ctx.clone(),
            pod: pod.clone(),
            dir: self.dir.clone(),
            container: c.clone(),
            number,
            backoff: next_backoff(observed.last.as_ref()),
            volumes: self.volumes.clone(),
            ips: self.ips.clone(),
            cancel: self.cancel.clone(),
        };
        self.busy.insert(container_name.into(), Busy::Starting);
        let done = self.done.0.clone();
        tokio::spawn(async move {
            let result = start::start(&starting).await;
            // A worker that has ended needs no answer: the record says what there is.
            let _ = done.send(Done::Started { container: starting.container.name, result }).await;
        });
    }

    fn stop(&mut self, container_name: &str, grace: Duration, why: String) {
        let pod = self.pod.clone();
        let Some((_, c)) = pod.spec.as_ref().and_then(|s| container(s, container_name)) else { return };
        let last = self.containers.get(container_name).and_then(|o| o.last.as_ref());
        let Some(id) = last.map(|a| a.container_id.clone()) else { return };
        self.busy.insert(container_name.into(), Busy::Stopping);
        let (ctx, c, done) = (self.ctx.clone(), c.clone(), self.done.0.clone());
        let place = hooks::place(&ctx, &id, self.ips.first().copied());
        tokio::spawn(async move {
            let result = stop::stop(&ctx, &pod, &c, &place, grace, &why).await;
            let _ = done.send(Done::Stopped { container: c.name, result }).await;
        });
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Started { container, result } => {
                self.busy.remove(&container);
                match result {
                    Ok(()) => {
                        self.troubles.remove(&container);
                    }
                    Err(error) => {
                        let image = error.reason.contains("Image");
                        let (first, longest) = if image { (10, 300) } else { (2, 60) };
                        if !image {
                            let message = format!("Error: {}", error.message);
                            self.ctx.events.pod(&self.pod, Some(&container), "Warning", "Failed", message);
                        }
                        let before = self.troubles.get(&container);
                        let trouble = next_trouble(before, error.reason, error.message, first, longest);
                        self.troubles.insert(container, trouble);
                    }
                }
            }
            Done::Stopped { container, result } => {
                self.busy.remove(&container);
                if let Err(error) = result {
                    tracing::warn!(%error, container, pod = name(&self.pod), "a container was not stopped; trying again");
                }
            }
        }
    }

    /// The object has changed.
    fn update(&mut self, pod: Pod) {
        let old = &self.pod;
        let changed = old.spec != pod.spec
            || old.metadata.labels != pod.metadata.labels
            || old.metadata.annotations != pod.metadata.annotations
            || old.metadata.deletion_timestamp != pod.metadata.deletion_timestamp;
        let (status, revision) = (pod.status.clone().unwrap_or_default(), writer::revision(&pod));
        self.pod = Arc::new(pod);
        self.learn(status, revision);
        if changed {
            self.remember();
        }
    }

    fn remember(&self) {
        if let Err(error) = self.dir.save_pod(&self.pod) {
            tracing::warn!(%error, pod = name(&self.pod), "a pod was not written to disk; a restart will need the API");
        }
    }

    fn forget(&self) {
        self.ctx.tokens.forget(uid(&self.pod));
        self.ctx.owners.lock().retain(|_, owner| owner != uid(&self.pod));
        if let Err(error) = std::fs::remove_dir_all(self.dir.path()) {
            tracing::warn!(%error, pod = name(&self.pod), "a pod's directory was not removed; the next start does it");
        }
    }

    async fn refresh(&mut self) {
        if !self.prepared || deleting(&self.view(Timestamp::now())) {
            return;
        }
        if let Err((reason, message)) = lifecycle::volumes(self).await {
            self.ctx.events.pod(&self.pod, None, "Warning", reason, message);
        }
    }
}

fn was_ready(pod: &Pod, name: &str, id: &str) -> bool {
    let status = pod.status.as_ref();
    let lists = status.into_iter().flat_map(|s| [&s.container_statuses, &s.init_container_statuses]);
    lists.flat_map(|l| l.iter().flatten()).any(|s| {
        s.name == name && s.ready && s.container_id.as_deref() == Some(&format!("containerd://{id}"))
    })
}

fn next_trouble(
    before: Option<&Trouble>,
    reason: &str,
    message: String,
    first: u32,
    longest: u32,
) -> Trouble {
    let delay = before.map_or(first, |t| (t.delay * 2).clamp(first, longest));
    Trouble {
        reason: reason.into(),
        message,
        retry_at: Timestamp::now() + SignedDuration::from_secs(delay.into()),
        delay,
    }
}
