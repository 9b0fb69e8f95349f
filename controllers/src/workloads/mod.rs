//! Controllers that keep pods running, and the questions they share: who owns what, and which pod goes first.

pub mod cron_job;
pub mod daemon_set;
pub mod deployment;
mod deployment_status;
pub mod disruption_budget;
pub mod finished;
mod history;
pub mod job;
mod job_index;
pub mod ranking;
pub mod replica_set;
pub mod replicas;
pub mod replication_controller;
mod schedule;
pub mod stateful_set;
mod template;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kontiki_proto::api::{Object, PatchType};
use serde_json::json;

use crate::objects::{
    controller_of, controlling_reference, is_controlled_by, is_deleting, name_of, namespace_of, selects,
    uid_of,
};
use crate::runtime::{Action, Key, Kind, World};

/// What an owner has after adoption and release are carried out.
pub struct Claim<K> {
    pub owned: Vec<Arc<K>>,
    pub actions: Vec<Action>,
}

/// Sorts out which objects of the owner's namespace are its own: those it controls and selects. Objects it selects
/// that nobody controls are adopted, objects it controls and no longer selects are released.
pub fn claim<O: Object, K: Kind>(world: &World, owner: &O, selector: &LabelSelector) -> Claim<K> {
    let mut claim = Claim { owned: Vec::new(), actions: Vec::new() };
    let owner_lives = !is_deleting(owner);
    for object in K::store(world).within(namespace_of(owner)) {
        let matches = selects(selector, object.metadata().labels.as_ref());
        match controller_of(object.metadata()) {
            Some(controller) if controller.uid != uid_of(owner) => {}
            Some(_) if matches => claim.owned.push(object.clone()),
            Some(_) if owner_lives && !is_deleting(object.as_ref()) => {
                claim.actions.push(release(owner, object.as_ref()));
            }
            None if matches && owner_lives && !is_deleting(object.as_ref()) => {
                claim.actions.push(adopt(owner, object.as_ref()));
                claim.owned.push(object.clone());
            }
            _ => {}
        }
    }
    claim
}

fn adopt<O: Object, K: Object>(owner: &O, object: &K) -> Action {
    let mut owners = object.metadata().owner_references.clone().unwrap_or_default();
    owners.retain(|reference| reference.uid != uid_of(owner));
    owners.push(controlling_reference(owner));
    let body = json!({"metadata": {
        "resourceVersion": object.metadata().resource_version,
        "ownerReferences": owners,
    }});
    Action::patch(object, "", PatchType::Merge, body)
}

fn release<O: Object, K: Object>(owner: &O, object: &K) -> Action {
    let mut owners = object.metadata().owner_references.clone().unwrap_or_default();
    owners.retain(|reference| reference.uid != uid_of(owner));
    let body = json!({"metadata": {
        "resourceVersion": object.metadata().resource_version,
        "ownerReferences": owners,
    }});
    Action::patch(object, "", PatchType::Merge, body)
}

/// A pod as the template says, controlled by the owner. Its name is left to the caller, or to `generateName`.
pub fn pod_from_template<O: Object>(owner: &O, template: &PodTemplateSpec) -> Pod {
    let metadata = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name_of(owner))),
            namespace: owner.metadata().namespace.clone(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![controlling_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The keys a change of a child concerns: its controllers before and after, and for an orphan everybody who might
/// adopt it.
pub fn owners_of<O: Kind, K: Object>(
    world: &World,
    old: Option<&K>,
    new: Option<&K>,
    selector: fn(&O) -> Option<&LabelSelector>,
) -> Vec<Key> {
    let mut keys = Vec::new();
    for object in [old, new].into_iter().flatten() {
        match controller_of(object.metadata()) {
            Some(owner) if owner.kind == O::KIND => {
                let key = Key::new(namespace_of(object), &owner.name);
                let known = O::store(world).get(&key).is_some_and(|o| is_controlled_by(object, o.as_ref()));
                if known && !keys.contains(&key) {
                    keys.push(key);
                }
            }
            Some(_) => {}
            None => {
                let labels = object.metadata().labels.as_ref();
                for candidate in O::store(world).within(namespace_of(object)) {
                    let key = Key::of(candidate.as_ref());
                    if selector(candidate).is_some_and(|s| selects(s, labels)) && !keys.contains(&key) {
                        keys.push(key);
                    }
                }
            }
        }
    }
    keys
}

/// Counts in a status are left out when they are zero, as upstream does.
pub fn nonzero(count: usize) -> Option<i32> {
    i32::try_from(count).ok().filter(|&count| count != 0)
}
