//! What differs between kinds: defaults, what an update may change, validation.
//!
//! A verb calls the functions of this module with the kind's row; they run the parts common to every kind
//! (metadata, generation, status) around the hooks of the kind's [`Strategy`]. A plain kind has no hooks.
//!
//! Order on create: [`default`], (name, uid, creation time), [`prepare_create`], (admission), [`validate_create`].
//! Order on update: [`default`], [`prepare_update`], (admission), [`validate_update`]; for the `status`
//! subresource [`prepare_status_update`] and [`validate_status_update`].
//!
//! **Invariant:** everything here is a pure function of its arguments; objects come in checked by [`crate::schema`].

mod access;
mod apps;
mod batch;
mod check;
mod cluster;
mod config;
mod events;
mod extend;
pub(crate) mod labels;
pub mod meta;
pub mod names;
mod network;
mod pod;
mod policy;
mod required;
pub mod scale;
mod service;
mod storage;
#[cfg(test)]
mod tests;
pub(crate) mod value;

use kontiki_proto::resource::Resource;
use kontiki_proto::status::FieldError;
use serde_json::Value;

use crate::schema;
use names::NameRule;
use value::{carry, has, object, remove, same, set};

/// The hooks of one kind. Every hook has a default that does nothing.
#[derive(Clone, Copy)]
pub struct Strategy {
    /// Which rule names follow.
    pub names: NameRule,
    /// Fills in what the client left out, after the defaults that the schema declares.
    pub default: fn(&mut Value),
    /// Sets what the server alone decides on a new object, which has its name and uid by now.
    pub prepare_create: fn(&mut Value),
    /// The same on a changed one: `(new, old)`.
    pub prepare_update: fn(&mut Value, &Value),
    /// What a write to the status subresource must not touch beyond the common rule: `(new, old)`.
    pub prepare_status_update: fn(&mut Value, &Value),
    pub validate: fn(&Value, &mut Vec<FieldError>),
    /// Only what holds for a new object: [`Strategy::validate`] has run on it.
    pub validate_create: fn(&Value, &mut Vec<FieldError>),
    /// Only what depends on both: [`Strategy::validate`] has run on the new object. `(new, old)`.
    pub validate_update: fn(&Value, &Value, &mut Vec<FieldError>),
    /// `(object, seconds asked for)` to the seconds its deletion has to wait, 0 for none.
    pub grace: fn(&Value, Option<i64>) -> i64,
    /// Whether a change of the specification counts up `metadata.generation`.
    pub generation: bool,
    /// Whether the client's status survives a create, as a node's does.
    pub keeps_status: bool,
    /// Whether a PUT to a name that does not exist creates the object.
    pub create_on_update: bool,
    /// Whether every field that the schema calls required has to be there, outside metadata and status.
    pub required: bool,
}

/// A kind with nothing of its own.
pub const PLAIN: Strategy = Strategy {
    names: NameRule::Subdomain,
    default: |_| (),
    prepare_create: |_| (),
    prepare_update: |_, _| (),
    prepare_status_update: |_, _| (),
    validate: |_, _| (),
    validate_create: |_, _| (),
    validate_update: |_, _, _| (),
    grace: |_, _| 0,
    generation: false,
    keeps_status: false,
    create_on_update: false,
    required: false,
};

static CUSTOM: Strategy = Strategy { generation: true, ..PLAIN };
static OTHER: Strategy = PLAIN;

/// One line of a family's list: group, plural, strategy.
type Entry = (&'static str, &'static str, Strategy);

/// Every family of kinds, one file each.
static FAMILIES: &[&[Entry]] = &[
    pod::KINDS,
    apps::KINDS,
    batch::KINDS,
    service::KINDS,
    config::KINDS,
    cluster::KINDS,
    events::KINDS,
    network::KINDS,
    storage::KINDS,
    policy::KINDS,
    access::KINDS,
    extend::KINDS,
];

/// The strategy of a row; kinds without one of their own get the plain one.
pub fn for_row(row: &Resource) -> &'static Strategy {
    if row.custom {
        return &CUSTOM;
    }
    FAMILIES
        .iter()
        .flat_map(|family| family.iter())
        .find(|(group, plural, _)| row.group == *group && row.plural == *plural)
        .map_or(&OTHER, |(_, _, strategy)| strategy)
}

fn has_status(row: &Resource) -> bool {
    row.subresource("status").is_some()
}

/// Fills in the fields the client left out.
pub fn default(row: &Resource, object: &mut Value) {
    if let Some(of) = schema::type_of(row) {
        schema::fill(of, object);
    }
    (for_row(row).default)(object);
}

/// Readies a new object: no status from the client where the kind has a status subresource, first generation.
/// Name, uid and creation time have been set by the verb.
pub fn prepare_create(row: &Resource, object: &mut Value) {
    let strategy = for_row(row);
    if has_status(row) && !strategy.keeps_status {
        remove(object, "status");
        if let Some(of) = schema::type_of(row) {
            schema::fill(of, object);
        }
    }
    if strategy.generation {
        set(value::object(object, "metadata"), "generation", 1);
    } else {
        remove(value::object(object, "metadata"), "generation");
    }
    (strategy.prepare_create)(object);
}

/// Readies a changed object: keeps what an update may not change silently (status, creation time, deletion marks),
/// and counts up the generation when the specification changed.
pub fn prepare_update(row: &Resource, new: &mut Value, old: &Value) {
    let strategy = for_row(row);
    meta::prepare_update(new, old);
    if has_status(row) {
        carry(new, old, "status");
    }
    (strategy.prepare_update)(new, old);
    if strategy.generation && specification_changed(row, new, old) {
        meta::count_up(new, old);
    }
}

/// Readies a write to the `status` subresource: all but status comes from the old object. Labels, annotations and
/// finalizers of a built-in kind may be written along, as upstream has it.
pub fn prepare_status_update(row: &Resource, new: &mut Value, old: &Value) {
    let status = new.get_mut("status").map(Value::take).unwrap_or_default();
    let metadata = new.get_mut("metadata").map(Value::take).unwrap_or_default();
    let mut whole = old.clone();
    for key in ["apiVersion", "kind"] {
        carry(&mut whole, new, key);
    }
    if status.is_null() {
        remove(&mut whole, "status");
    } else {
        set(&mut whole, "status", status);
    }
    if row.custom {
        // Only the precondition of the write survives.
        carry(object(&mut whole, "metadata"), &metadata, "resourceVersion");
    } else {
        set(&mut whole, "metadata", metadata);
    }
    *new = whole;
    meta::prepare_status_update(new, old);
    (for_row(row).prepare_status_update)(new, old);
}

/// Whether anything changed that counts up the generation: `spec` where the kind has one, otherwise all but
/// metadata and status.
fn specification_changed(row: &Resource, new: &Value, old: &Value) -> bool {
    let status_apart = !row.custom || has_status(row);
    if !row.custom && (has(new, "spec") || has(old, "spec")) {
        return !same(&new["spec"], &old["spec"]);
    }
    let counts =
        |key: &str| !(matches!(key, "metadata" | "apiVersion" | "kind") || (status_apart && key == "status"));
    let part = |value: &Value| -> Value {
        value
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| counts(key))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    !same(&part(new), &part(old))
}

/// Every problem of a new object, metadata first. Empty means valid.
pub fn validate_create(row: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let strategy = for_row(row);
    meta::validate(row, strategy.names, object, &mut errors);
    validate_kind(row, strategy, object, &mut errors);
    (strategy.validate_create)(object, &mut errors);
    errors
}

/// Every problem of a changed object. Empty means valid.
pub fn validate_update(row: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let strategy = for_row(row);
    meta::validate(row, strategy.names, new, &mut errors);
    meta::validate_update(new, old, &mut errors);
    validate_kind(row, strategy, new, &mut errors);
    (strategy.validate_update)(new, old, &mut errors);
    errors
}

fn validate_kind(row: &Resource, strategy: &Strategy, object: &Value, errors: &mut Vec<FieldError>) {
    if strategy.required
        && let Some(of) = schema::type_of(row)
    {
        required::check(of, object, errors);
    }
    (strategy.validate)(object, errors);
}

/// Every problem of a write to the `status` subresource. Empty means valid.
pub fn validate_status_update(row: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    meta::validate(row, for_row(row).names, new, &mut errors);
    meta::validate_update(new, old, &mut errors);
    errors
}

/// How many seconds a delete has to wait for the object, with the seconds the client asked for. 0: none.
pub fn grace_seconds(row: &Resource, object: &Value, asked: Option<i64>) -> i64 {
    (for_row(row).grace)(object, asked)
}
