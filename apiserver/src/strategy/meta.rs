//! `ObjectMeta`: the rules that hold for every kind.

use kontiki_proto::resource::Resource;
use kontiki_proto::status::FieldError;
use serde_json::Value;

use super::names::{self, NameRule};
use super::value::{carry, entries, flag, has, int, list, same, set, text};
use crate::schema::Path;

type Errors = Vec<FieldError>;

/// All annotations of an object together, keys and values, in bytes.
pub const MOST_ANNOTATION_BYTES: usize = 256 * 1024;

/// The finalizers upstream gives a meaning without a domain.
const FINALIZERS: [&str; 4] = ["kubernetes", "orphan", "foregroundDeletion", crate::custom::FINALIZER];

/// Carries over what an update leaves as it is: identity, age, marks of deletion.
pub(super) fn prepare_update(new: &mut Value, old: &Value) {
    let old = &old["metadata"];
    let new = super::value::object(new, "metadata");
    for key in ["name", "namespace", "uid"] {
        if text(new, key).is_empty() && has(old, key) {
            carry(new, old, key);
        }
    }
    for key in ["creationTimestamp", "selfLink", "generation"] {
        carry(new, old, key);
    }
    if has(old, "deletionTimestamp") {
        carry(new, old, "deletionTimestamp");
    }
    if has(old, "deletionGracePeriodSeconds") && !has(new, "deletionGracePeriodSeconds") {
        carry(new, old, "deletionGracePeriodSeconds");
    }
}

/// A write to a subresource changes no more of the metadata than upstream lets it.
pub(super) fn prepare_status_update(new: &mut Value, old: &Value) {
    prepare_update(new, old);
}

pub(super) fn count_up(new: &mut Value, old: &Value) {
    let generation = int(&old["metadata"], "generation").unwrap_or(0) + 1;
    set(super::value::object(new, "metadata"), "generation", generation);
}

pub(super) fn validate(row: &Resource, rule: NameRule, object: &Value, errors: &mut Errors) {
    let meta = &object["metadata"];
    let path = Path::of("metadata");
    let generate = text(meta, "generateName");
    if !generate.is_empty() {
        for message in rule.check(generate, true) {
            errors.push(FieldError::invalid(path.key("generateName"), generate, &message));
        }
    }
    let name = text(meta, "name");
    if name.is_empty() {
        errors.push(FieldError::required(path.key("name"), "name or generateName is required"));
    } else {
        for message in rule.check(name, false) {
            errors.push(FieldError::invalid(path.key("name"), name, &message));
        }
    }
    let namespace = text(meta, "namespace");
    if row.namespaced() {
        if namespace.is_empty() {
            errors.push(FieldError::required(path.key("namespace"), ""));
        } else {
            for message in names::label(namespace) {
                errors.push(FieldError::invalid(path.key("namespace"), namespace, &message));
            }
        }
    } else if !namespace.is_empty() {
        errors.push(FieldError::forbidden(path.key("namespace"), "not allowed on this type"));
    }
    if let Some(generation) = int(meta, "generation").filter(|g| *g < 0) {
        errors.push(FieldError::invalid(
            path.key("generation"),
            generation,
            "must be greater than or equal to 0",
        ));
    }
    labels(&meta["labels"], &path.key("labels"), errors);
    annotations(meta, &path.key("annotations"), errors);
    owners(meta, &path.key("ownerReferences"), errors);
    finalizers(meta, &path.key("finalizers"), errors);
}

/// A map of labels, wherever it stands.
pub(super) fn labels(labels: &Value, path: &Path, errors: &mut Errors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        for message in names::qualified(key) {
            errors.push(FieldError::invalid(path, key, &message));
        }
        let value = value.as_str().unwrap_or_default();
        for message in names::label_value(value) {
            errors.push(FieldError::invalid(path, value, &message));
        }
    }
}

/// The annotations of a metadata object, wherever it stands.
pub(super) fn annotations(meta: &Value, path: &Path, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in entries(meta, "annotations") {
        for message in names::qualified(&key.to_lowercase()) {
            errors.push(FieldError::invalid(path, key, &message));
        }
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > MOST_ANNOTATION_BYTES {
        errors.push(FieldError::too_long(path, MOST_ANNOTATION_BYTES));
    }
}

fn owners(meta: &Value, path: &Path, errors: &mut Errors) {
    let mut controller: Option<&str> = None;
    for (at, owner) in list(meta, "ownerReferences").iter().enumerate() {
        let here = path.item(at);
        if text(owner, "apiVersion").is_empty() {
            errors.push(FieldError::invalid(here.key("apiVersion"), "", "version must not be empty"));
        }
        for key in ["kind", "name", "uid"] {
            if text(owner, key).is_empty() {
                errors.push(FieldError::invalid(here.key(key), "", "must not be empty"));
            }
        }
        if text(owner, "kind") == "Event" && matches!(text(owner, "apiVersion"), "v1" | "events.k8s.io/v1") {
            let message = format!("{}, Kind=Event is disallowed from being an owner", go_version(owner));
            errors.push(FieldError::invalid(path, owner, &message));
        }
        if flag(owner, "controller") {
            match controller {
                Some(first) => {
                    let message = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                        text(owner, "name")
                    );
                    errors.push(FieldError::invalid(path, &meta["ownerReferences"], &message));
                }
                None => controller = Some(text(owner, "name")),
            }
        }
    }
}

fn go_version(owner: &Value) -> String {
    match text(owner, "apiVersion").split_once('/') {
        Some((group, version)) => format!("{group}/{version}"),
        None => format!("/{}", text(owner, "apiVersion")),
    }
}

fn finalizers(meta: &Value, path: &Path, errors: &mut Errors) {
    let mut policies = Vec::new();
    for (at, finalizer) in list(meta, "finalizers").iter().enumerate() {
        let finalizer = finalizer.as_str().unwrap_or_default();
        self::finalizer(finalizer, path, &path.item(at), errors);
        if matches!(finalizer, "orphan" | "foregroundDeletion") {
            policies.push(finalizer);
        }
    }
    if policies.contains(&"orphan") && policies.contains(&"foregroundDeletion") {
        errors.push(FieldError::invalid(
            path,
            &meta["finalizers"],
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
}

/// One finalizer's name; `list` is what upstream blames for its form, `item` for its domain.
pub(super) fn finalizer(name: &str, list: &Path, item: &Path, errors: &mut Errors) {
    let form = names::qualified(name);
    for message in &form {
        errors.push(FieldError::invalid(list, name, message));
    }
    if form.is_empty() && !name.contains('/') && !FINALIZERS.contains(&name) {
        errors.push(FieldError::invalid(
            item,
            name,
            "name is neither a standard finalizer name nor is it fully qualified",
        ));
    }
}

pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old) = (&new["metadata"], &old["metadata"]);
    let path = Path::of("metadata");
    for key in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        if !same(&new[key], &old[key]) {
            errors.push(FieldError::invalid(path.key(key), &new[key], IMMUTABLE));
        }
    }
    if has(old, "deletionTimestamp") {
        let known = list(old, "finalizers");
        let added: Vec<&Value> = list(new, "finalizers").iter().filter(|one| !known.contains(one)).collect();
        if !added.is_empty() {
            let names: Vec<String> =
                added.iter().map(|one| one.as_str().unwrap_or_default().to_owned()).collect();
            let message = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {}",
                go_strings(&names)
            );
            errors.push(FieldError::forbidden(path.key("finalizers"), &message));
        }
    }
    let (now, before) = (int(new, "generation").unwrap_or(0), int(old, "generation").unwrap_or(0));
    if now < before {
        errors.push(FieldError::invalid(path.key("generation"), now, "must not be decremented"));
    }
}

pub(super) const IMMUTABLE: &str = "field is immutable";

/// `[]string{"a", "b"}`, as Go's `%#v` prints it.
pub(super) fn go_strings(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
    format!("[]string{{{}}}", quoted.join(", "))
}
