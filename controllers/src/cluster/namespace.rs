//! Namespace deletion: empties a terminating namespace, then lets go of it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kontiki_proto::api::{ApiExt, DynApi, ListOptions};
use kontiki_proto::resource::Verbs;
use kontiki_proto::{Registry, Status, Target};
use serde::Deserialize;

use crate::objects::is_deleting;
use crate::runtime::{Action, Controller, Key, Now, Observed, Plan, World};

const FINALIZER: &str = "kubernetes";
/// Pause before looking again whether what was deleted is gone.
const AGAIN: Duration = Duration::from_millis(500);
/// Collections listed at once.
const PARALLEL: usize = 8;
/// Objects looked at for finalizers in one collection; the rest is only counted.
const SAMPLE: u64 = 500;

/// What one collection of the namespace still holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The collection, within the namespace.
    pub target: Target,
    pub count: u64,
    /// How many of the objects carry each finalizer.
    pub finalizers: BTreeMap<String, u64>,
}

pub fn controller() -> Controller {
    Controller::new("namespace", reconcile).of::<Namespace>().observing(observe)
}

fn finalizing(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
    is_deleting(namespace) && finalizers.is_some_and(|list| list.iter().any(|f| f == FINALIZER))
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    finalizers: Vec<String>,
}

/// Lists every namespaced collection. The API accepts nothing new in a terminating namespace, so that what is found
/// empty stays empty.
fn observe(api: DynApi, world: Arc<World>, key: Key) -> BoxFuture<'static, Result<Observed, Status>> {
    Box::pin(async move {
        if !world.namespaces.get(&key).is_some_and(|namespace| finalizing(namespace)) {
            return Ok(Observed::Nothing);
        }
        let mut targets = namespaced_collections();
        targets.extend(custom_collections(&api).await?);
        let contents: Vec<Option<Contents>> = futures::stream::iter(targets)
            .map(|target| look_into(api.clone(), target.within(&key.name)))
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        Ok(Observed::Contents(contents.into_iter().flatten().collect()))
    })
}

fn namespaced_collections() -> Vec<Target> {
    let mut seen = HashSet::new();
    let rows = Registry::builtin().rows().iter();
    rows.filter(|row| row.namespaced() && row.stored() && row.verbs.contains(Verbs::DELETECOLLECTION))
        .filter(|row| seen.insert((row.storage_group().to_string(), row.plural.clone())))
        .map(|row| Target::of(row))
        .collect()
}

/// Collections of namespaced custom resources.
async fn custom_collections(api: &DynApi) -> Result<Vec<Target>, Status> {
    let (definitions, _) = api.list_as::<CustomResourceDefinition>("", &ListOptions::default()).await?;
    let target = |definition: &CustomResourceDefinition| {
        let spec = &definition.spec;
        let version = spec.versions.iter().find(|version| version.served)?;
        (spec.scope == "Namespaced").then(|| Target {
            group: spec.group.as_str().into(),
            version: version.name.as_str().into(),
            resource: spec.names.plural.as_str().into(),
            ..Target::default()
        })
    };
    Ok(definitions.iter().filter_map(target).collect())
}

async fn look_into(api: DynApi, target: Target) -> Result<Option<Contents>, Status> {
    let list = match api.list(&target, &ListOptions { limit: SAMPLE, ..ListOptions::default() }).await {
        // A custom resource whose definition is going or not served yet.
        Err(status) if status.is_not_found() => return Ok(None),
        list => list?,
    };
    if list.items.is_empty() {
        return Ok(None);
    }
    let mut finalizers = BTreeMap::new();
    for item in &list.items {
        let document: Document = kontiki_proto::api::decode(item)?;
        for finalizer in document.metadata.finalizers {
            *finalizers.entry(finalizer).or_default() += 1;
        }
    }
    let count = list.items.len() as u64 + list.remaining.unwrap_or(0);
    Ok(Some(Contents { target, count, finalizers }))
}

pub fn reconcile(world: &World, key: &Key, now: &Now) -> Plan {
    let mut plan = Plan::none();
    let Some(namespace) = world.namespaces.get(key).filter(|namespace| finalizing(namespace)) else {
        return plan;
    };
    let Observed::Contents(contents) = &now.observed else { return plan };
    for part in contents {
        plan.push(Action::delete_collection(part.target.clone()));
    }

    let mut updated = (**namespace).clone();
    let status = updated.status.get_or_insert_default();
    status.phase = Some("Terminating".into());
    let conditions = status.conditions.get_or_insert_default();
    for condition in conditions_of(contents, now) {
        match conditions.iter_mut().find(|present| present.type_ == condition.type_) {
            Some(present) => {
                let kept = (present.status == condition.status).then(|| present.last_transition_time.clone());
                let since = kept.flatten().or(condition.last_transition_time.clone());
                *present = NamespaceCondition { last_transition_time: since, ..condition };
            }
            None => conditions.push(condition),
        }
    }
    if updated.status != namespace.status {
        plan.push(Action::update_status(&updated));
    }
    if contents.is_empty() {
        if let Some(finalizers) = updated.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        plan.push(Action::update_sub(&updated, "finalize"));
    } else {
        plan.again_after(AGAIN);
    }
    plan
}

fn conditions_of(contents: &[Contents], now: &Now) -> Vec<NamespaceCondition> {
    let condition = |kind: &str, status: bool, reason: &str, message: String| NamespaceCondition {
        type_: kind.into(),
        status: if status { "True" } else { "False" }.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: Some(now.stamp()),
    };
    let good = |kind: &str, reason: &str, message: &str| condition(kind, false, reason, message.into());
    let mut finalizers: BTreeMap<&str, u64> = BTreeMap::new();
    for part in contents {
        for (name, count) in &part.finalizers {
            *finalizers.entry(name).or_default() += count;
        }
    }
    let list = |parts: Vec<String>| parts.join(", ");
    vec![
        good(
            "NamespaceDeletionDiscoveryFailure",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        good(
            "NamespaceDeletionGroupVersionParsingFailure",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        match &now.failure {
            None => good(
                "NamespaceDeletionContentFailure",
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
            Some(failure) => condition(
                "NamespaceDeletionContentFailure",
                true,
                "ContentDeletionFailed",
                format!("Failed to delete all resource types: {failure}"),
            ),
        },
        if contents.is_empty() {
            good("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed")
        } else {
            let parts = contents.iter().map(|part| {
                let resource = format!("{}.{}", part.target.resource, part.target.group);
                format!("{resource} has {} resource instances", part.count)
            });
            let message = format!("Some resources are remaining: {}", list(parts.collect()));
            condition("NamespaceContentRemaining", true, "SomeResourcesRemain", message)
        },
        if finalizers.is_empty() {
            good(
                "NamespaceFinalizersRemaining",
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            )
        } else {
            let parts =
                finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances"));
            let message =
                format!("Some content in the namespace has finalizers remaining: {}", list(parts.collect()));
            condition("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", message)
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn world() -> World {
        let mut world = World::default();
        let namespace: Namespace = serde_json::from_value(json!({
            "metadata": {"name": "old", "uid": "u", "resourceVersion": "7",
                         "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"finalizers": ["kubernetes"]},
        }))
        .expect("a namespace");
        world.namespaces.insert(Arc::new(namespace));
        world
    }

    fn plan(contents: Vec<Contents>) -> Plan {
        let mut now = Now::at("2026-01-01T00:00:01Z".parse().expect("a time"));
        now.observed = Observed::Contents(contents);
        reconcile(&world(), &Key::new("", "old"), &now)
    }

    #[test]
    fn a_namespace_with_content_is_emptied_and_looked_at_again() {
        let pods = Contents {
            target: Target { version: "v1".into(), resource: "pods".into(), ..Target::default() }
                .within("old"),
            count: 2,
            finalizers: [("example.com/hold".to_string(), 1)].into(),
        };
        let plan = plan(vec![pods.clone()]);
        assert_eq!(plan.requeue_after, Some(AGAIN));
        assert_eq!(plan.actions[0], Action::delete_collection(pods.target));
        let text = format!("{:?}", plan.actions[1]);
        assert!(text.contains("Some resources are remaining: pods. has 2 resource instances"), "{text}");
        assert!(text.contains("example.com/hold in 1 resource instances"), "{text}");
        assert_eq!(plan.actions.len(), 2);
    }

    #[test]
    fn an_empty_namespace_is_let_go() {
        let plan = plan(Vec::new());
        let last = plan.actions.last().expect("an action");
        assert_eq!(last.target.subresource, "finalize");
        assert_eq!(plan.requeue_after, None);
    }

    #[test]
    fn every_collection_of_a_namespace_is_emptied_once() {
        let targets = namespaced_collections();
        let names: HashSet<_> = targets.iter().map(|t| (t.group.clone(), t.resource.clone())).collect();
        assert_eq!(names.len(), targets.len());
        assert!(names.contains(&("apps".into(), "deployments".into())));
        assert_eq!(targets.iter().filter(|t| t.resource == "events").count(), 1);
    }
}
