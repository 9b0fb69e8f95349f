//! The `scale` subresource: one document in front of the kinds that have replicas.

use kontiki_proto::resource::Resource;
use kontiki_proto::status::{FieldError, Status};
use serde_json::{Value, json};

use super::labels::selector_text;
use super::value::{entries, int, object, set};

/// The `autoscaling/v1` `Scale` of an object. 404 where the kind has none.
pub fn read(row: &Resource, object: &Value) -> Result<Value, Status> {
    check(row)?;
    let meta = &object["metadata"];
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = meta.get(key) {
            set(&mut metadata, key, value.clone());
        }
    }
    let mut status = json!({"replicas": int(&object["status"], "replicas").unwrap_or(0)});
    let selector = selector(row, &object["spec"]["selector"]);
    if !selector.is_empty() {
        set(&mut status, "selector", selector);
    }
    let mut spec = json!({});
    if let Some(replicas) = int(&object["spec"], "replicas").filter(|count| *count != 0) {
        set(&mut spec, "replicas", replicas);
    }
    Ok(json!({
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": metadata,
        "spec": spec,
        "status": status,
    }))
}

/// Writes the wanted replicas of a `Scale` into the object; 422 where they are not a count.
pub fn write(row: &Resource, target: &mut Value, scale: &Value) -> Result<(), Status> {
    check(row)?;
    let replicas = int(&scale["spec"], "replicas").unwrap_or(0);
    if replicas < 0 {
        let mut kind = row.clone();
        (kind.group, kind.kind) = ("autoscaling".into(), "Scale".into());
        let name = target["metadata"]["name"].as_str().unwrap_or_default();
        let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(Status::invalid(&kind, name, &[error]));
    }
    set(object(target, "spec"), "replicas", replicas);
    Ok(())
}

fn check(row: &Resource) -> Result<(), Status> {
    match row.subresource("scale") {
        Some(_) => Ok(()),
        None => Err(Status::no_such_path()),
    }
}

/// A replication controller's selector is a plain map.
fn selector(row: &Resource, selector: &Value) -> String {
    if row.plural == "replicationcontrollers" {
        let wrapped = json!({"matchLabels": selector});
        return selector_text(&wrapped);
    }
    debug_assert!(entries(selector, "matchLabels").all(|(_, value)| value.is_string()));
    selector_text(selector)
}
