//! StatefulSet: pods with names, an order, and claims of their own.
//!
//! In `OrderedReady` management every step waits until the pods before it are well; in `Parallel` nothing waits but
//! updates.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::history::{History, REVISION_HASH};
use super::{claim, nonzero, owners_of, pod_from_template};
use crate::objects::{
    is_deleting, is_empty_selector, is_finished, is_ready, min_ready, name_of, namespace_of, pod_phase,
    reference, scaled, until_available,
};
use crate::runtime::{Action, Controller, EventSpec, Key, Now, Plan, Severity, World};

const COMPONENT: &str = "statefulset-controller";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub fn controller() -> Controller {
    Controller::new("statefulset", reconcile)
        .of::<StatefulSet>()
        .watching::<Pod>(|world, old, new| owners_of::<StatefulSet, Pod>(world, old, new, selector))
}

fn selector(set: &StatefulSet) -> Option<&LabelSelector> {
    set.spec.as_ref().map(|spec| &spec.selector)
}

/// The number at the end of a pod's name.
fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    name_of(pod).strip_prefix(name_of(set))?.strip_prefix('-')?.parse().ok().filter(|number| *number >= 0)
}

/// A pod as the plan leaves it.
#[derive(Clone)]
enum Slot {
    Empty,
    /// Being created by this plan, of the revision with this name.
    Created(String),
    There(Arc<Pod>),
    /// Being deleted, by this plan or before.
    Ending(Arc<Pod>),
}

struct Rollout<'a> {
    world: &'a World,
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    now: &'a Now,
    history: History,
    current: String,
    slots: BTreeMap<i32, Slot>,
    actions: Vec<Action>,
}

pub fn reconcile(world: &World, key: &Key, now: &Now) -> Plan {
    let mut plan = Plan::none();
    let Some(set) = world.stateful_sets.get(key) else { return plan };
    let Some(spec) = set.spec.as_ref().filter(|spec| !is_empty_selector(&spec.selector)) else { return plan };
    let claimed = claim::<StatefulSet, Pod>(world, set.as_ref(), &spec.selector);
    plan.actions = claimed.actions;
    let history = History::of(world, set.as_ref(), &spec.template);
    let known = |name: &String| history.revisions.iter().any(|revision| name_of(revision.as_ref()) == name);
    let current = set.status.as_ref().and_then(|status| status.current_revision.clone()).filter(known);
    let current = current.unwrap_or_else(|| history.update.clone());

    let mut slots: BTreeMap<i32, Slot> = BTreeMap::new();
    for pod in claimed.owned {
        if let Some(ordinal) = ordinal(set, &pod) {
            let slot = if is_deleting(pod.as_ref()) { Slot::Ending(pod) } else { Slot::There(pod) };
            slots.insert(ordinal, slot);
        }
    }
    let mut rollout = Rollout { world, set, spec, now, history, current, slots, actions: Vec::new() };
    if !is_deleting(set.as_ref()) {
        plan.actions.extend(rollout.history.actions.iter().cloned());
        rollout.go();
    }
    plan.actions.append(&mut rollout.actions);
    let status = rollout.status();
    if !is_deleting(set.as_ref()) {
        let in_use = |name: &str| {
            [&status.current_revision, &status.update_revision].iter().any(|r| r.as_deref() == Some(name))
                || rollout.slots.values().any(|slot| rollout.revision(slot).is_some_and(|r| r == name))
        };
        plan.actions.extend(rollout.history.truncate(spec.revision_history_limit, in_use));
    }
    if set.status.as_ref() != Some(&status) {
        plan.push(Action::update_status(&StatefulSet { status: Some(status), ..(**set).clone() }));
    }
    for slot in rollout.slots.values() {
        if let Slot::There(pod) = slot
            && let Some(left) = until_available(pod, min_ready(spec.min_ready_seconds), now)
            && !left.is_zero()
        {
            plan.again_after(left);
        }
    }
    plan
}

impl Rollout<'_> {
    fn range(&self) -> std::ops::Range<i32> {
        let start = self.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
        start..start.saturating_add(self.spec.replicas.unwrap_or(1))
    }

    fn ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn partition(&self) -> Option<i32> {
        self.spec.update_strategy.as_ref()?.rolling_update.as_ref()?.partition
    }

    fn on_delete(&self) -> bool {
        self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("OnDelete")
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let patience = min_ready(self.spec.min_ready_seconds);
        pod_phase(pod) == "Running"
            && until_available(pod, patience, self.now).is_some_and(|left| left.is_zero())
    }

    /// Running, ready long enough, and staying.
    fn is_well(&self, slot: &Slot) -> bool {
        matches!(slot, Slot::There(pod) if self.is_available(pod))
    }

    /// The revision a slot's pod is of, by name.
    fn revision(&self, slot: &Slot) -> Option<String> {
        match slot {
            Slot::Empty => None,
            Slot::Created(revision) => Some(revision.clone()),
            Slot::There(pod) | Slot::Ending(pod) => {
                let label = pod.metadata.labels.as_ref()?.get(REVISION_HASH)?;
                // Upstream's label holds the revision's whole name; both forms are read.
                Some(if label.starts_with(name_of(self.set)) {
                    label.clone()
                } else {
                    format!("{}-{label}", name_of(self.set))
                })
            }
        }
    }

    fn slot(&self, ordinal: i32) -> Slot {
        self.slots.get(&ordinal).cloned().unwrap_or(Slot::Empty)
    }

    fn go(&mut self) {
        let range = self.range();
        for ordinal in range.clone() {
            match self.slot(ordinal) {
                Slot::There(pod) if is_finished(&pod) => {
                    self.delete(ordinal, &pod);
                    if self.ordered() {
                        return;
                    }
                }
                Slot::Empty => {
                    self.create(ordinal);
                    if self.ordered() {
                        return;
                    }
                }
                slot if self.ordered() && !self.is_well(&slot) => return,
                _ => {}
            }
        }
        let condemned: Vec<i32> = self.slots.keys().rev().copied().filter(|o| !range.contains(o)).collect();
        for ordinal in condemned {
            let slot = self.slot(ordinal);
            if let Slot::There(pod) = &slot {
                // Those that are not well may go too, but only the last of all while others are unwell.
                let others_well = self.slots.iter().all(|(o, slot)| *o == ordinal || self.is_well(slot));
                if self.ordered() && !self.is_well(&slot) && !others_well {
                    return;
                }
                self.delete(ordinal, &pod.clone());
            }
            if self.ordered() {
                return;
            }
        }
        if self.on_delete() {
            return;
        }
        self.update(range);
    }

    /// Replaces pods of other revisions, the last first, waiting for each to be well.
    fn update(&mut self, range: std::ops::Range<i32>) {
        let first = range.start.saturating_add(self.partition().unwrap_or(0));
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let most = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let most =
            most.and_then(|most| scaled(most, self.spec.replicas.unwrap_or(1), true)).unwrap_or(1).max(1);
        let mut unwell = range.clone().filter(|ordinal| !self.is_well(&self.slot(*ordinal))).count() as i32;
        for ordinal in (first..range.end).rev() {
            let slot = self.slot(ordinal);
            let outdated = self.revision(&slot).is_some_and(|revision| revision != self.history.update);
            if let Slot::There(pod) = &slot
                && outdated
            {
                let well = self.is_well(&slot);
                if well && unwell >= most {
                    return;
                }
                self.delete(ordinal, &pod.clone());
                unwell += i32::from(well);
            } else if !self.is_well(&slot) && most == 1 {
                return;
            }
        }
    }

    fn event(&self, severity: Severity, reason: &str, message: String) -> EventSpec {
        EventSpec {
            regarding: reference(self.set),
            severity,
            component: COMPONENT,
            reason: reason.into(),
            message,
        }
    }

    fn delete(&mut self, ordinal: i32, pod: &Arc<Pod>) {
        let (pod_name, name) = (name_of(pod.as_ref()), name_of(self.set));
        let message = format!("delete Pod {pod_name} in StatefulSet {name} successful");
        let event = self.event(Severity::Normal, "SuccessfulDelete", message);
        self.actions.push(Action::delete(pod.as_ref()).saying(event));
        self.slots.insert(ordinal, Slot::Ending(pod.clone()));
    }

    /// Which revision a pod that is missing is made of: pods the rollout has not reached come back as they were.
    fn revision_for(&self, ordinal: i32) -> String {
        let start = self.range().start;
        let old = match self.partition() {
            _ if self.on_delete() => false,
            Some(partition) if partition > 0 => ordinal < start + partition,
            _ => {
                let count = self.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0);
                ordinal < start + count
            }
        };
        if old { self.current.clone() } else { self.history.update.clone() }
    }

    fn create(&mut self, ordinal: i32) {
        let revision = self.revision_for(ordinal);
        let template = match revision == self.history.update {
            true => self.spec.template.clone(),
            false => self.history.template(&revision).unwrap_or_else(|| self.spec.template.clone()),
        };
        let pod = self.pod(ordinal, &template, &revision);
        for claim in self.claims(ordinal) {
            if self.world.volume_claims.get(&Key::of(&claim)).is_none() {
                let (claim_name, pod, name) = (name_of(&claim), name_of(&pod), name_of(self.set));
                let message = format!("create Claim {claim_name} Pod {pod} in StatefulSet {name} success");
                let event = self.event(Severity::Normal, "SuccessfulCreate", message);
                self.actions.push(Action::create(&claim).saying(event));
            }
        }
        let (pod_name, name) = (name_of(&pod), name_of(self.set));
        let message = format!("create Pod {pod_name} in StatefulSet {name} successful");
        let failed = format!("create Pod {pod_name} in StatefulSet {name} failed error: {{error}}");
        let create = Action::create(&pod)
            .saying(self.event(Severity::Normal, "SuccessfulCreate", message))
            .complaining(self.event(Severity::Warning, "FailedCreate", failed));
        self.actions.push(create);
        self.slots.insert(ordinal, Slot::Created(revision));
    }

    fn pod(&self, ordinal: i32, template: &PodTemplateSpec, revision: &str) -> Pod {
        let name = format!("{}-{ordinal}", name_of(self.set));
        let mut pod = pod_from_template(self.set, template);
        pod.metadata.generate_name = None;
        pod.metadata.name = Some(name.clone());
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(POD_NAME.into(), name.clone());
        labels.insert(POD_INDEX.into(), ordinal.to_string());
        labels.insert(REVISION_HASH.into(), revision.into());
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(name.clone());
        spec.subdomain = self.spec.service_name.clone().filter(|service| !service.is_empty());
        let volumes = spec.volumes.get_or_insert_default();
        for template in self.spec.volume_claim_templates.iter().flatten() {
            let volume = name_of(template);
            volumes.retain(|present| present.name != volume);
            volumes.push(Volume {
                name: volume.into(),
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: format!("{volume}-{name}"),
                    read_only: Some(false),
                }),
                ..Volume::default()
            });
        }
        if volumes.is_empty() {
            spec.volumes = None;
        }
        pod
    }

    fn claims(&self, ordinal: i32) -> Vec<PersistentVolumeClaim> {
        let templates = self.spec.volume_claim_templates.iter().flatten();
        templates
            .map(|template| {
                let mut claim = template.clone();
                claim.metadata.name = Some(format!("{}-{}-{ordinal}", name_of(template), name_of(self.set)));
                claim.metadata.namespace = Some(namespace_of(self.set).into());
                let labels = claim.metadata.labels.get_or_insert_default();
                labels.extend(self.spec.selector.match_labels.clone().unwrap_or_default());
                claim.status = None;
                claim
            })
            .collect()
    }

    fn status(&self) -> StatefulSetStatus {
        let update = &self.history.update;
        let (mut replicas, mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0, 0);
        for slot in self.slots.values() {
            let revision = self.revision(slot);
            let ends = match slot {
                Slot::Empty => continue,
                Slot::Created(_) => false,
                Slot::There(pod) => {
                    ready += usize::from(pod_phase(pod) == "Running" && is_ready(pod));
                    available += usize::from(self.is_available(pod));
                    false
                }
                Slot::Ending(_) => true,
            };
            replicas += 1;
            current += usize::from(!ends && revision.as_ref() == Some(&self.current));
            updated += usize::from(!ends && revision.as_ref() == Some(update));
        }
        let wanted = usize::try_from(self.spec.replicas.unwrap_or(1)).unwrap_or(0);
        // The rollout is over when all pods are of the new revision and well: it is the current one then.
        let done = !self.on_delete() && updated == wanted && replicas == wanted && ready == wanted;
        let (current_revision, current) =
            if done { (update.clone(), updated) } else { (self.current.clone(), current) };
        let before = self.set.status.as_ref();
        StatefulSetStatus {
            replicas: i32::try_from(replicas).unwrap_or(i32::MAX),
            ready_replicas: nonzero(ready),
            available_replicas: Some(i32::try_from(available).unwrap_or(i32::MAX)),
            current_replicas: nonzero(current),
            updated_replicas: nonzero(updated),
            current_revision: Some(current_revision),
            update_revision: Some(update.clone()),
            observed_generation: self.set.metadata.generation,
            collision_count: before.and_then(|status| status.collision_count).or(Some(0)),
            conditions: before.and_then(|status| status.conditions.clone()),
        }
    }
}
