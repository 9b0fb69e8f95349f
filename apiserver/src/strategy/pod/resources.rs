//! What a container asks for and may use at most.

use kontiki_proto::quantity::Quantity;
use kontiki_proto::status::FieldError;
use serde_json::Value;

use crate::schema::Path;
use crate::strategy::check::{Errors, NOT_NEGATIVE, all, required};
use crate::strategy::names;
use crate::strategy::value::quantity;
use crate::strategy::value::{entries, text};

/// Names without a domain that a container may ask for.
fn standard(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

/// Names without a domain that mean something somewhere else, as in a quota.
fn standard_elsewhere(name: &str) -> bool {
    matches!(
        name,
        "pods"
            | "services"
            | "replicationcontrollers"
            | "resourcequotas"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
            | "storage"
            | "services.nodeports"
            | "services.loadbalancers"
    ) || name.starts_with("requests.")
        || name.starts_with("limits.")
}

fn extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

pub(super) fn check(resources: &Value, path: &Path, errors: &mut Errors) {
    for part in ["limits", "requests"] {
        let here = path.key(part);
        for (name, amount) in entries(resources, part) {
            let place = here.entry(name);
            self::name(name, &place, errors);
            self::amount(name, amount, &place, errors);
        }
    }
    let requests_path = path.key("requests");
    for (name, requested) in entries(resources, "requests") {
        let limit = &resources["limits"][name];
        let shown = requested.as_str().unwrap_or_default();
        match (quantity(requested), quantity(limit)) {
            (Some(want), Some(most)) => {
                let bound = limit.as_str().unwrap_or_default();
                if (extended(name) || name.starts_with("hugepages-")) && want != most {
                    let why = format!("must be equal to {name} limit of {bound}");
                    errors.push(FieldError::invalid(requests_path, shown, &why));
                } else if want > most {
                    let why = format!("must be less than or equal to {name} limit of {bound}");
                    errors.push(FieldError::invalid(requests_path, shown, &why));
                }
            }
            (Some(_), None) if extended(name) || name.starts_with("hugepages-") => {
                let why = "Limit must be set for non overcommitable resources";
                errors.push(FieldError::required(path.key("limits"), why));
            }
            _ => (),
        }
    }
}

fn name(name: &str, path: &Path, errors: &mut Errors) {
    let form = names::qualified(name);
    let fits = form.is_empty();
    all(path, name, form, errors);
    if !fits {
        return;
    }
    if !name.contains('/') {
        if !standard(name) {
            if !standard_elsewhere(name) {
                let why = "must be a standard resource type or fully qualified";
                errors.push(FieldError::invalid(path, name, why));
            }
            errors.push(FieldError::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !name.contains("kubernetes.io/") && !extended(name) {
        errors.push(FieldError::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

fn amount(name: &str, amount: &Value, path: &Path, errors: &mut Errors) {
    let Some(parsed) = quantity(amount) else { return };
    let shown = amount.as_str().unwrap_or_default();
    if parsed.sign() < 0 {
        errors.push(FieldError::invalid(path, shown, NOT_NEGATIVE));
    }
    if (extended(name) || name == "pods") && Quantity::new(parsed.value()) != parsed {
        errors.push(FieldError::invalid(path, shown, "must be an integer"));
    }
}

/// A resource of a container that a variable or a file shows.
pub(super) fn field_ref(reference: &Value, path: &Path, errors: &mut Errors) {
    const KNOWN: [&str; 6] = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    if !required(reference, "resource", path, errors) {
        return;
    }
    let resource = text(reference, "resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if !huge && !KNOWN.contains(&resource) {
        errors.push(FieldError::not_supported(path.key("resource"), resource, &KNOWN));
    }
    let Some(divisor) = quantity(&reference["divisor"]).filter(|divisor| !divisor.is_zero()) else {
        return;
    };
    let divisor = divisor.to_string();
    let kind = resource.split_once('.').map_or("", |(_, kind)| kind);
    let (fits, what) = match kind {
        "cpu" => (matches!(divisor.as_str(), "1" | "1m"), "1m and 1 are supported with the cpu resource"),
        "memory" => (BYTES.contains(&divisor.as_str()), MEMORY_DIVISORS),
        "ephemeral-storage" => (BYTES.contains(&divisor.as_str()), STORAGE_DIVISORS),
        _ => (BYTES.contains(&divisor.as_str()), HUGE_DIVISORS),
    };
    if !fits {
        let why = format!("only divisor's values {what}");
        errors.push(FieldError::invalid(path.key("divisor"), resource, &why));
    }
}

/// Units in which bytes may be shown.
const BYTES: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
const MEMORY_DIVISORS: &str =
    "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource";
const STORAGE_DIVISORS: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the local ephemeral storage resource";
const HUGE_DIVISORS: &str =
    "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the hugepages resource";
