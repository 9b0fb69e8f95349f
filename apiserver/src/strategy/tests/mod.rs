//! Defaults and validation as upstream has them, kind by kind.

mod bad;
mod bad_pods;
mod minimal;
mod updates;

use std::sync::Arc;

use kontiki_proto::Registry;
use kontiki_proto::resource::Resource;
use serde_json::{Value, json};

use super::*;
use crate::schema::{FieldValidation, canonicalize};

fn row(name: &str) -> Arc<Resource> {
    Registry::builtin()
        .rows()
        .iter()
        .find(|row| name.eq_ignore_ascii_case(&row.kind) || name == row.qualified())
        .unwrap_or_else(|| panic!("{name} is a kind"))
        .clone()
}

/// An object as a create leaves it, and what is wrong with it.
fn created(kind: &str, mut object: Value) -> (Value, Vec<String>) {
    let row = row(kind);
    object["apiVersion"] = row.api_version().as_str().into();
    object["kind"] = row.kind.as_str().into();
    let meta = value::object(&mut object, "metadata");
    value::default(meta, "name", "x");
    if row.namespaced() {
        value::default(meta, "namespace", "default");
    }
    canonicalize(&row, &mut object, FieldValidation::Strict).expect("the schema knows every field");
    default(&row, &mut object);
    let meta = value::object(&mut object, "metadata");
    set(meta, "uid", "u");
    set(meta, "creationTimestamp", "2026-01-01T00:00:00Z");
    prepare_create(&row, &mut object);
    let errors = validate_create(&row, &object).iter().map(ToString::to_string).collect();
    (object, errors)
}

/// A valid object as a create leaves it.
fn stored(kind: &str, object: Value) -> Value {
    let (object, errors) = created(kind, object);
    assert_eq!(errors, Vec::<String>::new(), "{kind}: {object}");
    object
}

/// The stored object with a merge patch put on it, as an update leaves it, and what is wrong with that.
fn updated(kind: &str, old: &Value, patch: &Value) -> (Value, Vec<String>) {
    let row = row(kind);
    let mut new = old.clone();
    json_patch::merge(&mut new, patch);
    canonicalize(&row, &mut new, FieldValidation::Strict).expect("the schema knows every field");
    default(&row, &mut new);
    prepare_update(&row, &mut new, old);
    let errors = validate_update(&row, &new, old).iter().map(ToString::to_string).collect();
    (new, errors)
}
