//! DaemonSet: one pod on each node that fits.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::history::{History, REVISION_HASH};
use super::{claim, nonzero, owners_of, pod_from_template};
use crate::objects::{
    is_deleting, is_empty_selector, is_ready, min_ready, name_of, node_name, pod_phase, reference, scaled,
    until_available,
};
use crate::runtime::{Action, Controller, EventSpec, Key, Now, Plan, Severity, World};
use crate::scheduler::{NodeInfo, PodInfo, node_fits, untolerated};

const COMPONENT: &str = "daemonset-controller";

pub fn controller() -> Controller {
    Controller::new("daemonset", reconcile)
        .of::<DaemonSet>()
        .watching::<Pod>(|world, old, new| owners_of::<DaemonSet, Pod>(world, old, new, selector))
        .watching::<Node>(|world, old, new| {
            let view = |node: &Node| (node.metadata.labels.clone(), node.spec.clone());
            match (old, new) {
                (Some(old), Some(new)) if view(old) == view(new) => Vec::new(),
                _ => world.daemon_sets.keys().cloned().collect(),
            }
        })
}

fn selector(set: &DaemonSet) -> Option<&LabelSelector> {
    set.spec.as_ref().map(|spec| &spec.selector)
}

/// Daemons stay through what drives other pods away.
fn add_tolerations(spec: &mut PodSpec) {
    let condition = |name: &str, effect: &str| Toleration {
        key: Some(format!("node.kubernetes.io/{name}")),
        operator: Some("Exists".into()),
        effect: Some(effect.into()),
        ..Toleration::default()
    };
    let mut wanted = vec![
        condition("not-ready", "NoExecute"),
        condition("unreachable", "NoExecute"),
        condition("disk-pressure", "NoSchedule"),
        condition("memory-pressure", "NoSchedule"),
        condition("pid-pressure", "NoSchedule"),
        condition("unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        wanted.push(condition("network-unavailable", "NoSchedule"));
    }
    let tolerations = spec.tolerations.get_or_insert_default();
    wanted.retain(|toleration| !tolerations.contains(toleration));
    tolerations.extend(wanted);
}

/// Makes the scheduler put the pod on this node and no other.
fn pin(spec: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.into()]),
    };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_with(NodeSelector::default);
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![field.clone()]);
    }
}

/// The node a daemon pod is on, or is made for.
fn home(pod: &Pod) -> &str {
    if !node_name(pod).is_empty() {
        return node_name(pod);
    }
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let fields = required
        .into_iter()
        .flat_map(|r| &r.node_selector_terms)
        .flat_map(|t| t.match_fields.iter().flatten());
    let named = fields.filter(|field| field.key == "metadata.name" && field.operator == "In");
    named.filter_map(|field| field.values.as_ref()?.first()).map(String::as_str).next().unwrap_or_default()
}

/// Whether a daemon shall be started on the node, and whether one that is there may stay.
fn fits(template: &PodInfo, node: &Node) -> (bool, bool) {
    let info = NodeInfo::of(node);
    if !node_fits(template, &info) {
        return (false, false);
    }
    match untolerated(template, &info) {
        None => (true, true),
        Some(taint) => {
            let expels = info.taints.iter().any(|t| t.effect == "NoExecute" && !tolerated(template, t));
            let _ = taint;
            (false, !expels)
        }
    }
}

fn tolerated(pod: &PodInfo, taint: &k8s_openapi::api::core::v1::Taint) -> bool {
    pod.tolerations.iter().any(|toleration| crate::cluster::taint_eviction::tolerates(toleration, taint))
}

/// The daemons of one set on one node.
#[derive(Default)]
struct Place {
    pods: Vec<Arc<Pod>>,
    start: bool,
    stay: bool,
}

pub fn reconcile(world: &World, key: &Key, now: &Now) -> Plan {
    let mut plan = Plan::none();
    let Some(set) = world.daemon_sets.get(key) else { return plan };
    let Some(spec) = set.spec.as_ref().filter(|spec| !is_empty_selector(&spec.selector)) else { return plan };
    let name = name_of(set.as_ref());
    let claimed = claim::<DaemonSet, Pod>(world, set.as_ref(), &spec.selector);
    plan.actions = claimed.actions;
    let history = History::of(world, set.as_ref(), &spec.template);
    let hash = History::hash(name, &history.update).to_string();

    let mut pod = pod_from_template(set.as_ref(), &spec.template);
    pod.metadata.labels.get_or_insert_default().insert(REVISION_HASH.into(), hash.clone());
    add_tolerations(pod.spec.get_or_insert_default());
    let template = PodInfo::of(&pod);

    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    for node in world.nodes.iter() {
        let (start, stay) = fits(&template, node);
        places.insert(name_of(node.as_ref()).into(), Place { start, stay, pods: Vec::new() });
    }
    for pod in claimed.owned {
        places.entry(home(&pod).into()).or_default().pods.push(pod);
    }

    let mut work = Work { set, pod: &pod, now, creates: Vec::new(), deletes: Vec::new() };
    if !is_deleting(set.as_ref()) {
        plan.actions.extend(history.actions.iter().cloned());
        let is_new = |pod: &Pod| {
            pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_HASH)) == Some(&hash)
        };
        let surge = max_surge(set, &places);
        for (node, place) in &places {
            work.keep(node, place, surge > 0, &is_new);
        }
        let rolling = spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete");
        if rolling {
            work.roll(&places, is_new, surge, max_unavailable(set, &places));
        }
    }

    let status = status(set, &places, &work, &hash, now);
    plan.actions.append(&mut work.creates);
    plan.actions.append(&mut work.deletes);
    if !is_deleting(set.as_ref()) {
        let used = |revision: &str| {
            let hash = History::hash(name, revision);
            let labels =
                |pod: &Arc<Pod>| pod.metadata.labels.as_ref().and_then(|l| l.get(REVISION_HASH)).cloned();
            places.values().flat_map(|place| &place.pods).any(|pod| labels(pod).as_deref() == Some(hash))
        };
        plan.actions.extend(history.truncate(spec.revision_history_limit, used));
    }
    if set.status.as_ref() != Some(&status) {
        plan.push(Action::update_status(&DaemonSet { status: Some(status), ..(**set).clone() }));
    }
    let patience = min_ready(spec.min_ready_seconds);
    for pod in places.values().flat_map(|place| &place.pods) {
        if let Some(left) = until_available(pod, patience, now).filter(|left| !left.is_zero()) {
            plan.again_after(left);
        }
    }
    plan
}

fn desired(places: &BTreeMap<String, Place>) -> i32 {
    i32::try_from(places.values().filter(|place| place.start).count()).unwrap_or(i32::MAX)
}

fn rolling(set: &DaemonSet) -> Option<&k8s_openapi::api::apps::v1::RollingUpdateDaemonSet> {
    set.spec.as_ref()?.update_strategy.as_ref()?.rolling_update.as_ref()
}

fn max_surge(set: &DaemonSet, places: &BTreeMap<String, Place>) -> usize {
    let surge = rolling(set).and_then(|rolling| rolling.max_surge.as_ref());
    let surge = surge.and_then(|surge| scaled(surge, desired(places), true)).unwrap_or(0);
    usize::try_from(surge).unwrap_or(0)
}

fn max_unavailable(set: &DaemonSet, places: &BTreeMap<String, Place>) -> usize {
    let one = IntOrString::Int(1);
    let unavailable = rolling(set).and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&one);
    let unavailable = scaled(unavailable, desired(places), true).unwrap_or(1);
    let unavailable = usize::try_from(unavailable).unwrap_or(0);
    if unavailable == 0 && max_surge(set, places) == 0 { 1 } else { unavailable }
}

/// The pods to be started and ended.
struct Work<'a> {
    set: &'a DaemonSet,
    pod: &'a Pod,
    now: &'a Now,
    creates: Vec<Action>,
    deletes: Vec<Action>,
}

impl Work<'_> {
    fn event(&self, severity: Severity, reason: &str, message: String) -> EventSpec {
        EventSpec {
            regarding: reference(self.set),
            severity,
            component: COMPONENT,
            reason: reason.into(),
            message,
        }
    }

    fn create(&mut self, node: &str) {
        let mut pod = self.pod.clone();
        pin(pod.spec.get_or_insert_default(), node);
        self.creates.push(
            Action::create(&pod)
                .saying(self.event(Severity::Normal, "SuccessfulCreate", "Created pod: {name}".into()))
                .complaining(self.event(Severity::Warning, "FailedCreate", "Error creating: {error}".into())),
        );
    }

    fn is_ending(&self, pod: &Pod) -> bool {
        is_deleting(pod) || self.deletes.iter().any(|action| action.target.name == name_of(pod))
    }

    fn delete(&mut self, pod: &Pod) {
        if !self.is_ending(pod) {
            let message = format!("Deleted pod: {}", name_of(pod));
            let event = self.event(Severity::Normal, "SuccessfulDelete", message);
            self.deletes.push(Action::delete(pod).saying(event));
        }
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let patience = min_ready(self.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds));
        !self.is_ending(pod) && until_available(pod, patience, self.now).is_some_and(|left| left.is_zero())
    }

    /// One daemon where there shall be one, none where there may be none; with surge one of each template.
    fn keep(&mut self, node: &str, place: &Place, surges: bool, is_new: &impl Fn(&Pod) -> bool) {
        if !place.stay {
            place.pods.iter().for_each(|pod| self.delete(pod));
            return;
        }
        let mut running: Vec<_> = place.pods.iter().filter(|pod| !is_deleting(pod.as_ref())).collect();
        for failed in running.extract_if(.., |pod| ["Failed", "Succeeded"].contains(&pod_phase(pod))) {
            let message = format!(
                "Found failed daemon pod {} on node {node}, will try to kill it",
                name_of(failed.as_ref())
            );
            self.deletes.push(Action::delete(failed.as_ref()).saying(self.event(
                Severity::Warning,
                "FailedDaemonPod",
                message,
            )));
        }
        // The next one starts when the last is gone.
        if place.pods.is_empty() && place.start {
            self.create(node);
        }
        // The one that has been there longest stays.
        running.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (node_name(pod).is_empty(), created, pod.metadata.name.clone())
        });
        let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| !surges || is_new(pod));
        new.iter().skip(1).chain(old.iter().skip(1)).for_each(|pod| self.delete(pod));
    }

    /// Replaces daemons of old templates, a few at a time.
    fn roll(
        &mut self,
        places: &BTreeMap<String, Place>,
        is_new: impl Fn(&Pod) -> bool,
        surge: usize,
        most: usize,
    ) {
        let mut unavailable = 0;
        let mut surging = 0;
        let mut candidates = Vec::new();
        for (node, place) in places.iter().filter(|(_, place)| place.stay) {
            let lives = |pod: &&Arc<Pod>| !self.is_ending(pod);
            let old = place.pods.iter().filter(lives).find(|pod| !is_new(pod)).cloned();
            let new = place.pods.iter().filter(lives).find(|pod| is_new(pod)).cloned();
            let available = |pod: &Option<Arc<Pod>>| pod.as_ref().is_some_and(|pod| self.is_available(pod));
            if surge > 0 {
                match (&old, &new) {
                    (Some(old), Some(_)) if available(&new) || !self.is_available(old) => {
                        self.delete(&old.clone())
                    }
                    (Some(_), Some(_)) => surging += 1,
                    (Some(_), None) if place.start => candidates.push((node.clone(), old)),
                    _ => {}
                }
                continue;
            }
            match (&old, &new) {
                (Some(old), None) if !self.is_available(old) => {
                    unavailable += usize::from(place.start);
                    self.delete(&old.clone());
                }
                (Some(_), None) => candidates.push((node.clone(), old)),
                _ if !available(&new) && place.start => unavailable += 1,
                _ => {}
            }
        }
        let room = if surge > 0 { surge.saturating_sub(surging) } else { most.saturating_sub(unavailable) };
        for (node, old) in candidates.into_iter().take(room) {
            match old {
                Some(old) if surge == 0 => self.delete(&old),
                _ => self.create(&node),
            }
        }
    }
}

fn status(
    set: &DaemonSet,
    places: &BTreeMap<String, Place>,
    work: &Work,
    hash: &str,
    now: &Now,
) -> DaemonSetStatus {
    let patience = min_ready(set.spec.as_ref().and_then(|spec| spec.min_ready_seconds));
    let (mut wanted, mut current, mut stray, mut ready, mut available, mut updated) = (0, 0, 0, 0, 0, 0);
    for place in places.values() {
        let live: Vec<_> = place.pods.iter().filter(|pod| !work.is_ending(pod)).collect();
        if !place.start {
            stray += usize::from(!live.is_empty());
            continue;
        }
        wanted += 1;
        current += usize::from(!live.is_empty());
        // Of several the newest template counts.
        let labelled = |pod: &&&Arc<Pod>| {
            pod.metadata.labels.as_ref().and_then(|l| l.get(REVISION_HASH)).is_some_and(|label| label == hash)
        };
        let Some(pod) = live.iter().find(labelled).or(live.first()) else { continue };
        ready += usize::from(is_ready(pod));
        available += usize::from(until_available(pod, patience, now).is_some_and(|left| left.is_zero()));
        updated += usize::from(labelled(&pod));
    }
    let created = work.creates.len();
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    DaemonSetStatus {
        desired_number_scheduled: number(wanted),
        current_number_scheduled: number((current + created).min(wanted)),
        number_misscheduled: number(stray),
        number_ready: number(ready),
        number_available: nonzero(available),
        number_unavailable: nonzero(wanted - available),
        updated_number_scheduled: nonzero((updated + created).min(wanted)),
        observed_generation: set.metadata.generation,
        collision_count: set.status.as_ref().and_then(|status| status.collision_count),
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    }
}
