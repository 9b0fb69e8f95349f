//! What a reconcile decides: a list of guarded actions, and when to look again.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kontiki_proto::Target;
use kontiki_proto::api::{DeleteOptions, Object, PatchType};
use serde_json::Value;

/// The moment a decision is made at, and what the last attempt left behind.
#[derive(Clone, Debug)]
pub struct Now {
    pub time: Timestamp,
    /// Why the last plan for this key could not be executed to its end.
    pub failure: Option<String>,
    /// What the controller's own look at the API found, for controllers that have one.
    pub observed: Observed,
}

/// What a controller asked the API before it decided, where the world does not hold it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Observed {
    #[default]
    Nothing,
    /// The objects of a terminating namespace.
    Contents(Vec<crate::cluster::namespace::Contents>),
}

impl Now {
    pub fn at(time: Timestamp) -> Now {
        Now { time, failure: None, observed: Observed::Nothing }
    }

    /// The time as objects carry it, in whole seconds.
    pub fn stamp(&self) -> Time {
        Time(seconds(self.time))
    }

    /// How long ago `then` was; zero where it lies ahead.
    pub fn since(&self, then: &Time) -> Duration {
        Duration::try_from(self.time.duration_since(then.0)).unwrap_or_default()
    }
}

/// Drops what is below a second, as API times do.
pub fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    Normal,
    Warning,
}

/// An event to be recorded. `{name}` in the message stands for the object the action made, `{error}` for what the
/// API said.
#[derive(Clone, Debug, PartialEq)]
pub struct EventSpec {
    pub regarding: ObjectReference,
    pub severity: Severity,
    /// Who says so, such as `replicaset-controller`.
    pub component: &'static str,
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    Create {
        body: Value,
    },
    /// The body's resource version is the precondition; the target may name a subresource.
    Update {
        body: Value,
    },
    Patch {
        patch_type: PatchType,
        body: Value,
    },
    Delete {
        options: DeleteOptions,
    },
    DeleteCollection,
    /// Nothing but the event.
    Report,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    pub target: Target,
    pub operation: Operation,
    pub on_success: Option<EventSpec>,
    pub on_failure: Option<EventSpec>,
}

impl Action {
    fn new(target: Target, operation: Operation) -> Action {
        Action { target, operation, on_success: None, on_failure: None }
    }

    pub fn create<K: Object>(object: &K) -> Action {
        Action::new(collection_of(object), Operation::Create { body: document(object) })
    }

    /// Replaces the object, if it still has the resource version it was read at.
    pub fn update<K: Object>(object: &K) -> Action {
        Action::new(target_of(object), Operation::Update { body: document(object) })
    }

    /// Replaces the object's status, if it still has the resource version it was read at.
    pub fn update_status<K: Object>(object: &K) -> Action {
        Action::update_sub(object, "status")
    }

    pub fn update_sub<K: Object>(object: &K, subresource: &str) -> Action {
        Action::new(target_of(object).sub(subresource), Operation::Update { body: document(object) })
    }

    /// A merge patch that applies to this very object alone: its uid goes into the body.
    pub fn patch<K: Object>(object: &K, subresource: &str, patch_type: PatchType, mut body: Value) -> Action {
        if patch_type != PatchType::Json {
            body["metadata"]["uid"] = Value::from(object.metadata().uid.clone().unwrap_or_default());
        }
        Action::new(target_of(object).sub(subresource), Operation::Patch { patch_type, body })
    }

    /// Deletes this very object: its uid is the precondition.
    pub fn delete<K: Object>(object: &K) -> Action {
        let uid = object.metadata().uid.as_deref().unwrap_or_default();
        let options = DeleteOptions::default().only(uid);
        Action::new(target_of(object), Operation::Delete { options })
    }

    pub fn delete_with<K: Object>(object: &K, change: impl FnOnce(DeleteOptions) -> DeleteOptions) -> Action {
        let mut action = Action::delete(object);
        if let Operation::Delete { options } = &mut action.operation {
            *options = change(std::mem::take(options));
        }
        action
    }

    /// Deletes everything of a kind in a namespace.
    pub fn delete_collection(target: Target) -> Action {
        Action::new(target, Operation::DeleteCollection)
    }

    pub fn raw(target: Target, operation: Operation) -> Action {
        Action::new(target, operation)
    }

    pub fn report(event: EventSpec) -> Action {
        let mut action = Action::new(Target::default(), Operation::Report);
        action.on_success = Some(event);
        action
    }

    #[must_use]
    pub fn saying(mut self, event: EventSpec) -> Action {
        self.on_success = Some(event);
        self
    }

    #[must_use]
    pub fn complaining(mut self, event: EventSpec) -> Action {
        self.on_failure = Some(event);
        self
    }
}

fn document<K: Object>(object: &K) -> Value {
    // Types of the API always have a JSON form; a null document would be refused by the API.
    serde_json::to_value(object).unwrap_or_default()
}

fn collection_of<K: Object>(object: &K) -> Target {
    Target::kind::<K>().within(object.metadata().namespace.as_deref().unwrap_or_default())
}

fn target_of<K: Object>(object: &K) -> Target {
    collection_of(object).named(object.metadata().name.as_deref().unwrap_or_default())
}

/// Actions are executed in order, neighbours of the same operation side by side; the first that fails ends the plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub requeue_after: Option<Duration>,
}

impl Plan {
    /// Nothing to do.
    pub fn none() -> Plan {
        Plan::default()
    }

    pub fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Asks to look again after `delay` at the latest.
    pub fn again_after(&mut self, delay: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(delay, |other| other.min(delay)));
    }
}
