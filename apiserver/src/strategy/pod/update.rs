//! What may change in a pod that exists.

use kontiki_proto::status::FieldError;
use serde_json::Value;

use crate::schema::Path;
use crate::strategy::check::Errors;
use crate::strategy::value::{carry, int, list, list_mut, same, set, text};

const ALLOWED: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn validate(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::of("spec");
    let (new, old) = (&new["spec"], &old["spec"]);
    for key in ["containers", "initContainers"] {
        if list(new, key).len() != list(old, key).len() {
            let why = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(path.key(key), why));
            return;
        }
    }
    match (int(new, "activeDeadlineSeconds"), int(old, "activeDeadlineSeconds")) {
        (Some(now), Some(before)) if now > before => {
            let why = "must be less than or equal to previous value";
            errors.push(FieldError::invalid(path.key("activeDeadlineSeconds"), now, why));
        }
        (None, Some(before)) => {
            let why = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(path.key("activeDeadlineSeconds"), before, why));
        }
        _ => (),
    }
    tolerations(new, old, &path, errors);
    let gated = !list(old, "schedulingGates").is_empty();
    let gates = path.key("schedulingGates");
    for (at, gate) in list(new, "schedulingGates").iter().enumerate() {
        if !list(old, "schedulingGates").contains(gate) {
            let why =
                format!("only deletion is allowed, but found new scheduling gate '{}'", text(gate, "name"));
            errors.push(FieldError::forbidden(gates.item(at).key("name"), &why));
        }
    }

    // What may change is made equal; anything else that differs may not.
    let mut mended = new.clone();
    for key in ["containers", "initContainers"] {
        for (mine, theirs) in list_mut(&mut mended, key).zip(list(old, key)) {
            let image = theirs.get("image").cloned().unwrap_or_default();
            set(mine, "image", image);
        }
    }
    for key in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        carry(&mut mended, old, key);
    }
    if gated {
        for key in ["nodeSelector", "affinity"] {
            carry(&mut mended, old, key);
        }
    }
    if int(old, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0)
        && int(new, "terminationGracePeriodSeconds") == Some(1)
    {
        carry(&mut mended, old, "terminationGracePeriodSeconds");
    }
    if !same(&mended, old) {
        let changed = differences(&mended, old);
        errors.push(FieldError::forbidden(path, &format!("{ALLOWED}\n{}", changed.join("\n"))));
    }
}

fn tolerations(new: &Value, old: &Value, path: &Path, errors: &mut Errors) {
    let kept = |wanted: &Value| {
        list(new, "tolerations").iter().any(|one| {
            ["key", "operator", "value", "effect"].iter().all(|part| text(one, part) == text(wanted, part))
        })
    };
    if !list(old, "tolerations").iter().all(kept) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(path.key("tolerations"), why));
    }
}

/// The fields that differ, each with what it was and what it would be.
fn differences(new: &Value, old: &Value) -> Vec<String> {
    let keys: std::collections::BTreeSet<&String> =
        [new, old].into_iter().filter_map(Value::as_object).flat_map(|map| map.keys()).collect();
    keys.into_iter()
        .filter(|key| !same(&new[key.as_str()], &old[key.as_str()]))
        .map(|key| format!("  {key}: {} -> {}", old[key.as_str()], new[key.as_str()]))
        .collect()
}
