//! Admission: what is changed in a document or refused after authorization and before validation.
//!
//! The plug-ins are a plain list of functions, one file each, run in order on every write of both fronts. Each decides
//! from the call and the objects there are; waiting for what may be just being made is done here.

mod certificate_requester;
mod custom_resource;
mod limit_ranger;
mod namespace_label;
mod namespace_lifecycle;
mod node_restriction;
mod priority;
mod role_escalation;
mod service_account;
mod storage_class;
mod taint_node;
mod toleration_seconds;

use std::sync::Arc;
use std::time::Duration;

use kontiki_proto::{Resource, Status, Target};
use serde_json::{Map, Value, json};

use crate::auth::{Authorizer, Objects, User};

/// What is about to happen to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// exec, attach, port-forward and proxy.
    Connect,
}

/// One write, as the plug-ins see it.
struct Call<'a> {
    operation: Operation,
    row: &'a Resource,
    target: &'a Target,
    user: &'a User,
    object: &'a mut Value,
    old: Option<&'a Value>,
}

/// Why a plug-in says no.
#[derive(Debug)]
enum Refusal {
    Final(Status),
    /// Something is missing that may exist on another server, or is just being made: worth waiting for so long.
    Missing(Status, Duration),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        Refusal::Final(status)
    }
}

type Plugin = fn(&Admission, &mut Call<'_>) -> Result<(), Refusal>;

/// In the order they run: those that refuse cheaply first, those that read what others set last.
static PLUGINS: &[Plugin] = &[
    namespace_lifecycle::admit,
    namespace_label::admit,
    node_restriction::admit,
    taint_node::admit,
    limit_ranger::admit,
    service_account::admit,
    priority::admit,
    toleration_seconds::admit,
    storage_class::admit,
    role_escalation::admit,
    certificate_requester::admit,
    custom_resource::admit,
];

/// How often to look again for something that is missing.
const PAUSE: Duration = Duration::from_millis(20);

/// The plug-ins with what they read.
pub struct Admission {
    objects: Arc<dyn Objects>,
    authorizer: Arc<Authorizer>,
}

impl Admission {
    pub fn new(objects: Arc<dyn Objects>, authorizer: Arc<Authorizer>) -> Admission {
        Admission { objects, authorizer }
    }

    /// Runs after defaults and before validation, on the new document (`Null` for a delete). `old` is the stored
    /// object for updates and deletes. `target.name` may be empty for a create with `generateName`. Waits at most
    /// two seconds, for a service account of a new namespace.
    pub async fn admit(
        &self,
        operation: Operation,
        row: &Resource,
        target: &Target,
        user: &User,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let mut call = Call { operation, row, target, user, object, old };
        for plugin in PLUGINS {
            let patience = match plugin(self, &mut call) {
                Ok(()) => continue,
                Err(Refusal::Final(status)) => return Err(status),
                Err(Refusal::Missing(_, patience)) => patience,
            };
            self.objects.catch_up().await?;
            let end = tokio::time::Instant::now() + patience;
            loop {
                let late = tokio::time::Instant::now() >= end;
                match plugin(self, &mut call) {
                    Ok(()) => break,
                    Err(Refusal::Missing(..)) if !late => tokio::time::sleep(PAUSE).await,
                    Err(Refusal::Missing(status, _) | Refusal::Final(status)) => return Err(status),
                }
            }
        }
        Ok(())
    }
}

impl Call<'_> {
    /// Whether the call does one of the operations to objects (not a subresource) of the resource.
    fn is(&self, group: &str, plural: &str, operations: &[Operation]) -> bool {
        self.row.group == group
            && self.row.plural == plural
            && self.target.subresource.is_empty()
            && operations.contains(&self.operation)
    }

    /// The object's name; empty where it is still to be generated.
    fn name(&self) -> &str {
        match self.target.name.as_str() {
            "" => self.object["metadata"]["name"].as_str().unwrap_or_default(),
            name => name,
        }
    }

    fn namespace(&self) -> &str {
        match self.target.namespace.as_str() {
            "" if self.row.namespaced() => self.object["metadata"]["namespace"].as_str().unwrap_or_default(),
            namespace => namespace,
        }
    }

    fn forbidden(&self, why: &str) -> Status {
        Status::forbidden(self.row, self.name(), why)
    }

    /// A mirror pod shows a pod that a node runs by itself.
    fn is_mirror_pod(&self) -> bool {
        self.object["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string()
    }
}

/// The object at a key, made where it is missing. A value that is no object gives `None`: validation refuses it.
fn map_at<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Map<String, Value>> {
    let at = object.as_object_mut()?.entry(key).or_insert_with(|| json!({}));
    if at.is_null() {
        *at = json!({});
    }
    at.as_object_mut()
}

/// The list at a key, made where it is missing.
fn list_at<'a>(map: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Vec<Value>> {
    let at = map.entry(key).or_insert_with(|| json!([]));
    if at.is_null() {
        *at = json!([]);
    }
    at.as_array_mut()
}

fn items<'a>(value: &'a Value) -> impl Iterator<Item = &'a Value> + 'a {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests;
