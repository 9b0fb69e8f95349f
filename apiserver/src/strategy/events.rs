//! Events, under both of their groups.

use kontiki_proto::status::FieldError;
use serde_json::Value;

use super::check::{Errors, required};
use super::value::{has, text};
use super::{Entry, PLAIN, Strategy};
use crate::schema::Path;

pub(super) static KINDS: &[Entry] = &[
    (
        "",
        "events",
        Strategy {
            validate: |event, errors| about(event, "involvedObject", errors),
            create_on_update: true,
            ..PLAIN
        },
    ),
    ("events.k8s.io", "events", Strategy { validate: validate_new, create_on_update: true, ..PLAIN }),
];

/// An event lives in the namespace of what it is about; what has none is told of in `default`.
fn about(event: &Value, field: &str, errors: &mut Errors) {
    let namespace = text(&event["metadata"], "namespace");
    let other = text(&event[field], "namespace");
    let fits = if other.is_empty() {
        namespace.is_empty() || matches!(namespace, "default" | "kube-system")
    } else {
        namespace == other
    };
    if !fits {
        let why = "does not match event.namespace";
        errors.push(FieldError::invalid("involvedObject.namespace", other, why));
    }
}

fn validate_new(event: &Value, errors: &mut Errors) {
    about(event, "regarding", errors);
    let root = Path::Root;
    if !has(event, "eventTime") {
        // Events of the old kind are seen under the new group too.
        return;
    }
    for key in ["reportingController", "reportingInstance", "action", "reason"] {
        required(event, key, &root, errors);
    }
    if !matches!(text(event, "type"), "Normal" | "Warning") {
        errors.push(FieldError::invalid("type", text(event, "type"), "has invalid value"));
    }
    if text(event, "note").len() > 1024 {
        errors.push(FieldError::invalid("message", "", "can have at most 1024 characters"));
    }
}
