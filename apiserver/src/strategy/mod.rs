//! What differs between kinds: defaults, what an update may change, validation.
//!
//! A verb calls the functions of this module with the kind's row; they run the parts common to every kind
//! (metadata, generation, status) around the hooks of the kind's [`Strategy`]. A plain kind has no hooks.
//!
//! Order on create: [`default`], [`prepare_create`], (admission), [`validate_create`].
//! Order on update: [`default`], [`prepare_update`], (admission), [`validate_update`]; for the `status`
//! subresource [`prepare_status_update`] and [`validate_status_update`].

pub mod scale;

use kontiki_proto::resource::Resource;
use kontiki_proto::status::FieldError;
use serde_json::Value;

/// The hooks of one kind. Every hook has a default that does nothing.
#[derive(Clone, Copy)]
pub struct Strategy {
    /// Fills in what the client left out.
    pub default: fn(&mut Value),
    /// Sets what the server alone decides on a new object.
    pub prepare_create: fn(&mut Value),
    /// The same on a changed one: `(new, old)`.
    pub prepare_update: fn(&mut Value, &Value),
    /// What a write to the status subresource must not touch beyond the common rule: `(new, old)`.
    pub prepare_status_update: fn(&mut Value, &Value),
    pub validate: fn(&Value, &mut Vec<FieldError>),
    /// Only what depends on both: [`Strategy::validate`] has run on the new object. `(new, old)`.
    pub validate_update: fn(&Value, &Value, &mut Vec<FieldError>),
    /// `(object, seconds asked for)` to the seconds its deletion has to wait, 0 for none.
    pub grace: fn(&Value, Option<i64>) -> i64,
    /// Whether a change of `spec` counts up `metadata.generation`.
    pub generation: bool,
}

static PLAIN: Strategy = Strategy {
    default: |_| (),
    prepare_create: |_| (),
    prepare_update: |_, _| (),
    prepare_status_update: |_, _| (),
    validate: |_, _| (),
    validate_update: |_, _, _| (),
    grace: |_, _| 0,
    generation: false,
};

/// The strategy of a row; kinds without one of their own, custom resources too, get the plain one.
pub fn for_row(row: &Resource) -> &'static Strategy {
    let _ = row;
    &PLAIN
}

/// Fills in the fields the client left out.
pub fn default(row: &Resource, object: &mut Value) {
    (for_row(row).default)(object);
}

/// Readies a new object: no status from the client where the kind has a status subresource, first generation.
/// Name, uid and creation time are the verb's.
pub fn prepare_create(row: &Resource, object: &mut Value) {
    (for_row(row).prepare_create)(object);
}

/// Readies a changed object: keeps what an update may not change silently (status, creation time, deletion marks),
/// and counts up the generation when the specification changed.
pub fn prepare_update(row: &Resource, new: &mut Value, old: &Value) {
    (for_row(row).prepare_update)(new, old);
}

/// Readies a write to the `status` subresource: all but status comes from the old object.
pub fn prepare_status_update(row: &Resource, new: &mut Value, old: &Value) {
    (for_row(row).prepare_status_update)(new, old);
}

/// Every problem of a new object, metadata first. Empty means valid.
pub fn validate_create(row: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    (for_row(row).validate)(object, &mut errors);
    errors
}

/// Every problem of a changed object. Empty means valid.
pub fn validate_update(row: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    (for_row(row).validate)(new, &mut errors);
    (for_row(row).validate_update)(new, old, &mut errors);
    errors
}

/// Every problem of a write to the `status` subresource. Empty means valid.
pub fn validate_status_update(row: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let _ = (row, new, old);
    Vec::new()
}

/// How many seconds a delete has to wait for the object, with the seconds the client asked for. 0: none.
pub fn grace_seconds(row: &Resource, object: &Value, asked: Option<i64>) -> i64 {
    (for_row(row).grace)(object, asked)
}
