//! ControllerRevisions: the templates a DaemonSet or StatefulSet has had, for rolling updates and undoing them.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kontiki_proto::api::PatchType;
use serde_json::{Value, json};

use super::template::safe_hash;
use crate::objects::{controlling_reference, is_deleting, name_of, namespace_of, uid_of};
use crate::runtime::{Action, Kind, World};

/// The label of pods and revisions that says which template they are of.
pub const REVISION_HASH: &str = "controller-revision-hash";

pub struct History {
    /// Oldest first; the one to be reached may not be among them yet.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// Name of the revision of the present template.
    pub update: String,
    pub actions: Vec<Action>,
}

/// What a revision keeps: a patch that puts the template back.
fn data(template: &PodTemplateSpec) -> Value {
    // Templates always have a JSON form.
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

impl History {
    /// Finds the revision of the present template, or plans to make it.
    pub fn of<O: Kind>(world: &World, owner: &O, template: &PodTemplateSpec) -> History {
        let data = data(template);
        let mut revisions: Vec<_> =
            world.controller_revisions.controlled_by(uid_of(owner)).cloned().collect();
        revisions.sort_by_key(|revision| (revision.revision, revision.metadata.name.clone()));
        let last = revisions.last().map_or(0, |revision| revision.revision);
        let mut actions = Vec::new();
        let equal = |r: &&Arc<ControllerRevision>| r.data.as_ref().is_some_and(|present| present.0 == data);
        let update = match revisions.iter().rev().find(equal) {
            Some(present) => {
                if present.revision != last {
                    // Going back makes an old template the newest.
                    let body = json!({"revision": last + 1});
                    actions.push(Action::patch(present.as_ref(), "", PatchType::Merge, body));
                }
                name_of(present.as_ref()).to_string()
            }
            None => {
                let mut collisions = 0;
                let (name, hash) = loop {
                    let hash = safe_hash(&data, collisions);
                    let name = format!("{}-{hash}", name_of(owner));
                    if world.controller_revisions.find(namespace_of(owner), &name).is_none() {
                        break (name, hash);
                    }
                    collisions += 1;
                };
                let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone());
                let mut labels = labels.unwrap_or_default();
                labels.insert(REVISION_HASH.into(), hash);
                actions.push(Action::create(&ControllerRevision {
                    metadata: ObjectMeta {
                        name: Some(name.clone()),
                        namespace: owner.metadata().namespace.clone(),
                        labels: Some(labels),
                        owner_references: Some(vec![controlling_reference(owner)]),
                        ..ObjectMeta::default()
                    },
                    data: Some(RawExtension(data)),
                    revision: last + 1,
                }));
                name
            }
        };
        History { revisions, update, actions }
    }

    /// The template of a revision, if it is still there.
    pub fn template(&self, name: &str) -> Option<PodTemplateSpec> {
        let revision = self.revisions.iter().find(|revision| name_of(revision.as_ref()) == name)?;
        let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
        template.as_object_mut()?.remove("$patch");
        serde_json::from_value(template).ok()
    }

    /// The value of [`REVISION_HASH`] for a revision made for `owner`.
    pub fn hash<'a>(owner: &str, revision: &'a str) -> &'a str {
        revision.strip_prefix(owner).and_then(|rest| rest.strip_prefix('-')).unwrap_or(revision)
    }

    /// Deletes the oldest revisions beyond the limit that are not in use.
    pub fn truncate(&self, limit: Option<i32>, in_use: impl Fn(&str) -> bool) -> Vec<Action> {
        let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
        let unused = self.revisions.iter().filter(|revision| {
            let name = name_of(revision.as_ref());
            name != self.update && !in_use(name) && !is_deleting(revision.as_ref())
        });
        let unused: Vec<_> = unused.collect();
        let surplus = unused.len().saturating_sub(limit);
        unused.into_iter().take(surplus).map(|revision| Action::delete(revision.as_ref())).collect()
    }
}
