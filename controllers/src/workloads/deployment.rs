//! Deployment: moves pods from one template to the next through ReplicaSets.
//!
//! The plan is made on a copy of the ReplicaSets: each decision changes the copy, the next decision sees it, and what
//! differs from the world at the end becomes actions.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kontiki_proto::api::PatchType;
use serde_json::json;

use super::deployment_status::{self as status, Progress};
use super::template::{HASH, template_hash, without_hash};
use super::{claim, owners_of};
use crate::objects::{
    Labels, controller_of, controlling_reference, is_deleting, is_empty_selector, is_finished, name_of,
    namespace_of, reference, scaled,
};
use crate::runtime::{Action, Controller, EventSpec, Key, Now, Plan, Severity, World};

const COMPONENT: &str = "deployment-controller";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that its ReplicaSets do not take over.
const OWN_ANNOTATIONS: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAXIMUM,
    "deprecated.deployment.rollback.to",
];

pub fn controller() -> Controller {
    Controller::new("deployment", reconcile)
        .of::<Deployment>()
        .watching::<ReplicaSet>(|world, old, new| {
            owners_of::<Deployment, ReplicaSet>(world, old, new, selector)
        })
        // A Recreate rollout waits for the last old pod to be gone.
        .watching::<Pod>(|world, old, new| match (old, new) {
            (Some(pod), None) => {
                let set = controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet");
                let set = set.and_then(|owner| world.replica_sets.find(namespace_of(pod), &owner.name));
                let owner = set.and_then(|set| controller_of(&set.metadata));
                owner.map(|owner| Key::new(namespace_of(pod), &owner.name)).into_iter().collect()
            }
            _ => Vec::new(),
        })
}

fn selector(deployment: &Deployment) -> Option<&LabelSelector> {
    deployment.spec.as_ref().map(|spec| &spec.selector)
}

fn event(deployment: &Deployment, severity: Severity, reason: &str, message: String) -> EventSpec {
    EventSpec {
        regarding: reference(deployment),
        severity,
        component: COMPONENT,
        reason: reason.into(),
        message,
    }
}

/// The numbers of a Deployment's spec with upstream's defaults.
pub(super) struct Wanted<'a> {
    pub spec: &'a DeploymentSpec,
    pub replicas: i32,
    pub max_surge: i32,
    pub max_unavailable: i32,
    pub recreate: bool,
}

impl<'a> Wanted<'a> {
    fn of(spec: &'a DeploymentSpec) -> Wanted<'a> {
        let replicas = spec.replicas.unwrap_or(1);
        let strategy = spec.strategy.as_ref();
        let recreate = strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate");
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let quarter = k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String("25%".into());
        let surge = rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter);
        let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter);
        let (mut max_surge, mut max_unavailable) =
            (scaled(surge, replicas, true).unwrap_or(0), scaled(unavailable, replicas, false).unwrap_or(0));
        if max_surge == 0 && max_unavailable == 0 {
            // Nothing could ever move.
            max_unavailable = 1;
        }
        if recreate {
            (max_surge, max_unavailable) = (0, 0);
        }
        Wanted { spec, replicas, max_surge, max_unavailable: max_unavailable.min(replicas), recreate }
    }

    /// How many pods there may be at once.
    fn most(&self) -> i32 {
        if self.replicas > 0 { self.replicas + self.max_surge } else { 0 }
    }

    fn least_available(&self) -> i32 {
        self.replicas - self.max_unavailable
    }
}

/// A ReplicaSet as it is in the world, and as it shall be.
pub(super) struct Set {
    before: Option<Arc<ReplicaSet>>,
    pub now: ReplicaSet,
}

impl Set {
    pub fn replicas(&self) -> i32 {
        self.now.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn available(&self) -> i32 {
        self.now.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.now.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> Option<i32> {
        self.annotation(name)?.parse().ok()
    }

    fn revision(&self) -> i64 {
        self.annotation(REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
    }

    fn created(&self) -> (Option<jiff::Timestamp>, &str) {
        (self.now.metadata.creation_timestamp.as_ref().map(|time| time.0), name_of(&self.now))
    }

    fn annotate(&mut self, name: &str, value: String) {
        self.now.metadata.annotations.get_or_insert_default().insert(name.into(), value);
    }

    fn scale(&mut self, replicas: i32, wanted: &Wanted) {
        self.now.spec.get_or_insert_default().replicas = Some(replicas.max(0));
        self.annotate(DESIRED, wanted.replicas.to_string());
        self.annotate(MAXIMUM, (wanted.replicas + wanted.max_surge).to_string());
    }

    fn template_matches(&self, template: &PodTemplateSpec, hash: &str) -> bool {
        let labelled = self.now.metadata.labels.as_ref().and_then(|labels| labels.get(HASH));
        let own = self.now.spec.as_ref().and_then(|spec| spec.template.clone()).map(without_hash);
        own.as_ref() == Some(&without_hash(template.clone())) || labelled.is_some_and(|label| label == hash)
    }
}

/// The ReplicaSets of one Deployment while a plan is made.
struct Rollout<'a> {
    deployment: &'a Deployment,
    wanted: Wanted<'a>,
    sets: Vec<Set>,
    /// Which of the sets has the Deployment's template.
    newest: Option<usize>,
    collisions: i32,
    progress: Vec<Progress>,
}

pub fn reconcile(world: &World, key: &Key, now: &Now) -> Plan {
    let Some(deployment) = world.deployments.get(key) else { return Plan::none() };
    let Some(spec) = &deployment.spec else { return Plan::none() };
    let mut plan = Plan::none();
    if is_empty_selector(&spec.selector) {
        let message = "This deployment is selecting all pods. A non-empty selector is required.".into();
        let seen = deployment.status.as_ref().and_then(|status| status.observed_generation);
        if seen < deployment.metadata.generation {
            let mut deployment = (**deployment).clone();
            deployment.status.get_or_insert_default().observed_generation = deployment.metadata.generation;
            let warning = event(&deployment, Severity::Warning, "SelectingAll", message);
            plan.push(Action::update_status(&deployment).saying(warning));
        }
        return plan;
    }

    let claimed = claim::<Deployment, ReplicaSet>(world, deployment.as_ref(), &spec.selector);
    plan.actions = claimed.actions;
    let sets = claimed.owned.into_iter();
    let sets = sets.map(|set| Set { now: (*set).clone(), before: Some(set) }).collect();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let mut rollout = Rollout {
        deployment,
        wanted: Wanted::of(spec),
        sets,
        newest: None,
        collisions,
        progress: Vec::new(),
    };
    rollout.sets.sort_by(|a, b| a.created().cmp(&b.created()));
    rollout.find_newest();

    let mut rolls = false;
    if !is_deleting(deployment.as_ref()) {
        rollout.note_pause();
        if spec.paused == Some(true) {
            rollout.number_newest();
            rollout.scale_all();
        } else if rollout.is_scaled_by_hand() {
            rollout.number_newest();
            rollout.scale_all();
            // Whoever was scaled carries the new size now, so that rolling may go on at once.
            rolls = true;
        } else {
            rolls = true;
        }
        if rolls {
            if rollout.wanted.recreate {
                rollout.recreate(world);
            } else {
                rollout.ensure_newest(world);
                rollout.roll();
            }
        }
    }

    let new_status = status::compute(
        rollout.deployment,
        &rollout.wanted,
        &rollout.sets,
        rollout.newest,
        rollout.collisions,
        &rollout.progress,
        rolls,
        now,
    );
    let complete = status::is_complete(deployment, &rollout.wanted, &new_status);
    rollout.act(&mut plan);
    if !is_deleting(deployment.as_ref()) && (complete || spec.paused == Some(true)) {
        rollout.clean_up(&mut plan);
    }
    if rolls && let Some(left) = status::until_deadline(spec, &new_status, now) {
        plan.again_after(left);
    }
    if deployment.status.as_ref() != Some(&new_status) {
        let updated = Deployment { status: Some(new_status), ..(**deployment).clone() };
        plan.push(Action::update_status(&updated));
    }
    rollout.show_revision(&mut plan);
    plan
}

impl Rollout<'_> {
    fn template(&self) -> &PodTemplateSpec {
        &self.wanted.spec.template
    }

    fn find_newest(&mut self) {
        let hash = template_hash(self.template(), self.collisions);
        self.newest = self.sets.iter().position(|set| set.template_matches(self.template(), &hash));
    }

    fn old(&self) -> impl Iterator<Item = usize> + use<> {
        let newest = self.newest;
        (0..self.sets.len()).filter(move |&index| Some(index) != newest)
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(Set::replicas).sum()
    }

    fn note_pause(&mut self) {
        let paused = self.wanted.spec.paused == Some(true);
        self.progress.push(if paused { Progress::Paused } else { Progress::Resumed });
    }

    /// Someone changed `spec.replicas` since the active sets were last sized.
    fn is_scaled_by_hand(&self) -> bool {
        self.sets
            .iter()
            .filter(|set| set.replicas() > 0)
            .any(|set| set.number(DESIRED).is_some_and(|desired| desired != self.wanted.replicas))
    }

    /// Keeps revision and copied annotations of the newest set in order.
    fn number_newest(&mut self) {
        let Some(newest) = self.newest else { return };
        let highest = self.old().map(|index| self.sets[index].revision()).max().unwrap_or(0);
        let copied: Labels = copied_annotations(self.deployment);
        let min_ready = self.wanted.spec.min_ready_seconds;
        let set = &mut self.sets[newest];
        for (name, value) in copied {
            set.annotate(&name, value);
        }
        if set.revision() < highest + 1 {
            if set.revision() > 0 {
                let past = set.annotation(REVISION_HISTORY).unwrap_or_default();
                let past = if past.is_empty() {
                    set.revision().to_string()
                } else {
                    format!("{past},{}", set.revision())
                };
                set.annotate(REVISION_HISTORY, past);
            }
            set.annotate(REVISION, (highest + 1).to_string());
        }
        if min_ready.unwrap_or(0)
            != set.now.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
        {
            set.now.spec.get_or_insert_default().min_ready_seconds = min_ready;
        }
        let name = name_of(&set.now).to_string();
        self.progress.push(Progress::Found(name));
    }

    /// Finds or makes the set with the Deployment's template.
    fn ensure_newest(&mut self, world: &World) {
        if self.newest.is_some() {
            return self.number_newest();
        }
        let (name, hash) = loop {
            let hash = template_hash(self.template(), self.collisions);
            let name = format!("{}-{hash}", name_of(self.deployment));
            if world.replica_sets.find(namespace_of(self.deployment), &name).is_none() {
                break (name, hash);
            }
            self.collisions += 1;
        };
        let mut template = self.template().clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH.into(), hash.clone());
        let labels = labels.clone();
        let mut selector = self.wanted.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH.into(), hash);
        let highest = self.old().map(|index| self.sets[index].revision()).max().unwrap_or(0);
        let mut annotations: BTreeMap<_, _> = copied_annotations(self.deployment);
        annotations.insert(REVISION.into(), (highest + 1).to_string());
        let now = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: self.deployment.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: Some(annotations),
                owner_references: Some(vec![controlling_reference(self.deployment)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(0),
                min_ready_seconds: self.wanted.spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        self.sets.push(Set { before: None, now });
        let newest = self.sets.len() - 1;
        self.newest = Some(newest);
        let size = self.newest_size();
        self.sets[newest].scale(size, &self.wanted);
        self.progress.push(Progress::Created(name));
    }

    /// How large the newest set may be now.
    fn newest_size(&self) -> i32 {
        let Some(newest) = self.newest else { return 0 };
        let (size, wanted) = (self.sets[newest].replicas(), self.wanted.replicas);
        if self.wanted.recreate || size >= wanted {
            return wanted;
        }
        let room = self.wanted.replicas + self.wanted.max_surge - self.total();
        size + room.max(0).min(wanted - size)
    }

    /// Grows the newest set and shrinks the others as far as surge and unavailability let it.
    fn roll(&mut self) {
        // Shrinking makes room to grow; both only ever move one way, so this ends.
        for _ in 0..=self.wanted.replicas.max(0) {
            let before: Vec<i32> = self.sets.iter().map(Set::replicas).collect();
            if let Some(newest) = self.newest {
                let size = self.newest_size();
                if size != self.sets[newest].replicas() {
                    self.sets[newest].scale(size, &self.wanted);
                }
            }
            self.shrink_old();
            if before.iter().copied().eq(self.sets.iter().map(Set::replicas)) {
                break;
            }
        }
    }

    fn shrink_old(&mut self) {
        let unready_new = self
            .newest
            .map_or(0, |newest| self.sets[newest].replicas() - self.sets[newest].available())
            .max(0);
        let mut left = self.total() - self.wanted.least_available() - unready_new;
        // First what does not work anyway, oldest set first.
        for index in self.old() {
            let set = &mut self.sets[index];
            let broken = (set.replicas() - set.available()).clamp(0, left.max(0));
            if broken > 0 {
                let size = set.replicas() - broken;
                set.scale(size, &self.wanted);
                left -= broken;
            }
        }
        let available: i32 = self.sets.iter().map(|set| set.available().min(set.replicas())).sum();
        let mut spare = (available - self.wanted.least_available()).min(left);
        for index in self.old() {
            let set = &mut self.sets[index];
            let fewer = set.replicas().clamp(0, spare.max(0));
            if fewer > 0 {
                let size = set.replicas() - fewer;
                set.scale(size, &self.wanted);
                spare -= fewer;
            }
        }
    }

    /// All old pods go before the first new one comes.
    fn recreate(&mut self, world: &World) {
        self.number_newest();
        for index in self.old() {
            if self.sets[index].replicas() > 0 {
                self.sets[index].scale(0, &self.wanted);
            }
        }
        let waits = self.old().any(|index| {
            let uid = self.sets[index].now.metadata.uid.as_deref().unwrap_or_default();
            world.pods.controlled_by(uid).any(|pod| !is_finished(pod))
        });
        if waits {
            return;
        }
        self.ensure_newest(world);
        if let Some(newest) = self.newest
            && self.sets[newest].replicas() != self.wanted.replicas
        {
            self.sets[newest].scale(self.wanted.replicas, &self.wanted);
        }
    }

    /// Brings all sets to the Deployment's size: in proportion, while a rollout is under way.
    fn scale_all(&mut self) {
        let mut active: Vec<usize> =
            (0..self.sets.len()).filter(|&index| self.sets[index].replicas() > 0).collect();
        let only = match active.as_slice() {
            [] => self.newest.or(self.sets.len().checked_sub(1)),
            &[one] => Some(one),
            _ => None,
        };
        if let Some(only) = only {
            let size = self.wanted.replicas;
            let set = &mut self.sets[only];
            if set.replicas() != size || set.number(DESIRED) != Some(size) {
                set.scale(size, &self.wanted);
            }
            return;
        }
        if let Some(newest) = self.newest {
            let set = &self.sets[newest];
            let size = self.wanted.replicas;
            if set.replicas() == size && set.number(DESIRED) == Some(size) && set.available() == size {
                for index in self.old() {
                    if self.sets[index].replicas() > 0 {
                        self.sets[index].scale(0, &self.wanted);
                    }
                }
                return;
            }
        }
        if self.wanted.recreate {
            return;
        }
        let difference = self.wanted.most() - self.total();
        // Large sets first; among equals the newer grows first, the older shrinks first.
        active.sort_by_key(|&index| {
            let age = if difference > 0 { self.sets.len() - index } else { index };
            (std::cmp::Reverse(self.sets[index].replicas()), age)
        });
        let mut sizes: Vec<(usize, i32)> = Vec::new();
        let mut done = 0;
        for &index in &active {
            let share = if difference == 0 { 0 } else { self.share(index) };
            let left = difference - done;
            let change =
                if difference > 0 { share.clamp(0, left.max(0)) } else { share.clamp(left.min(0), 0) };
            sizes.push((index, self.sets[index].replicas() + change));
            done += change;
        }
        if let Some((_, first)) = sizes.first_mut() {
            *first = (*first + difference - done).max(0);
        }
        for (index, size) in sizes {
            self.sets[index].scale(size, &self.wanted);
        }
    }

    /// How much one set has to change to keep its part of the whole.
    fn share(&self, index: usize) -> i32 {
        let set = &self.sets[index];
        if self.wanted.replicas == 0 {
            return -set.replicas();
        }
        let total = self.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        let whole = set.number(MAXIMUM).unwrap_or(total).max(1);
        let exact = f64::from(set.replicas()) * f64::from(self.wanted.most()) / f64::from(whole);
        exact.round() as i32 - set.replicas()
    }

    /// Turns what changed into actions.
    fn act(&self, plan: &mut Plan) {
        for set in &self.sets {
            let name = name_of(&set.now);
            let size = set.replicas();
            let scaled = |from: i32| {
                let direction = if size > from { "up" } else { "down" };
                let message = format!("Scaled {direction} replica set {name} from {from} to {size}");
                event(self.deployment, Severity::Normal, "ScalingReplicaSet", message)
            };
            match &set.before {
                None => {
                    let failed = format!("Failed to create new replica set \"{name}\": {{error}}");
                    let mut create = Action::create(&set.now).complaining(event(
                        self.deployment,
                        Severity::Warning,
                        "ReplicaSetCreateError",
                        failed,
                    ));
                    if size > 0 {
                        create = create.saying(scaled(0));
                    }
                    plan.push(create);
                }
                Some(before) if **before != set.now => {
                    let from = before.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
                    let body = json!({
                        "metadata": {
                            "resourceVersion": before.metadata.resource_version,
                            "annotations": set.now.metadata.annotations,
                        },
                        "spec": {
                            "replicas": size,
                            "minReadySeconds": set.now.spec.as_ref().and_then(|spec| spec.min_ready_seconds),
                        },
                    });
                    let mut update = Action::patch(before.as_ref(), "", PatchType::Merge, body);
                    if size != from {
                        update = update.saying(scaled(from));
                    }
                    plan.push(update);
                }
                Some(_) => {}
            }
        }
    }

    /// Deletes the oldest empty sets beyond the history limit.
    fn clean_up(&self, plan: &mut Plan) {
        let Some(limit) = self.wanted.spec.revision_history_limit.or(Some(10)).filter(|&l| l != i32::MAX)
        else {
            return;
        };
        let mut old: Vec<&Set> =
            self.old().map(|index| &self.sets[index]).filter(|set| !is_deleting(&set.now)).collect();
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|set| set.revision());
        for set in old.into_iter().take(surplus) {
            let status = set.now.status.clone().unwrap_or_default();
            let settled = set.now.metadata.generation.unwrap_or(0) <= status.observed_generation.unwrap_or(0);
            if settled && status.replicas == 0 && set.replicas() == 0 {
                plan.push(Action::delete(&set.now));
            }
        }
    }

    /// The Deployment shows the revision of its newest set. Comes last: it needs no particular version.
    fn show_revision(&self, plan: &mut Plan) {
        let Some(revision) = self.newest.and_then(|newest| self.sets[newest].annotation(REVISION)) else {
            return;
        };
        let shown = self.deployment.metadata.annotations.as_ref().and_then(|a| a.get(REVISION));
        if shown.map(String::as_str) != Some(revision) && !is_deleting(self.deployment) {
            let body = json!({"metadata": {"annotations": {REVISION: revision}}});
            plan.push(Action::patch(self.deployment, "", PatchType::Merge, body));
        }
    }
}

fn copied_annotations(deployment: &Deployment) -> Labels {
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| !OWN_ANNOTATIONS.contains(&name.as_str()));
    annotations
}
