//! Volumes, claims on them, and the drivers that make them.

use kontiki_proto::status::FieldError;
use serde_json::{Value, json};

use super::check::{Errors, all, immutable, label_selector, one_of, required};
use super::names;
use super::value::quantity;
use super::value::{default, entries, has, list, object, same, set, text};
use super::{Entry, PLAIN, Strategy, pod};
use crate::schema::Path;

const CSI: &str = "storage.k8s.io";

pub(super) static KINDS: &[Entry] = &[
    (
        "",
        "persistentvolumes",
        Strategy {
            default: volume,
            prepare_create: pending,
            validate: validate_volume,
            validate_update: update_volume,
            ..PLAIN
        },
    ),
    (
        "",
        "persistentvolumeclaims",
        Strategy {
            default: default_claim,
            prepare_create: pending,
            validate: validate_claim,
            validate_update: update_claim,
            ..PLAIN
        },
    ),
    (
        CSI,
        "storageclasses",
        Strategy { default: class, validate: validate_class, validate_update: update_class, ..PLAIN },
    ),
    (CSI, "csidrivers", Strategy { default: driver, validate: validate_driver, generation: true, ..PLAIN }),
    (CSI, "csinodes", Strategy { required: true, ..PLAIN }),
    (CSI, "csistoragecapacities", Strategy { validate: validate_capacity, ..PLAIN }),
    (
        CSI,
        "volumeattachments",
        Strategy {
            required: true,
            validate_update: |new, old, errors| immutable(new, old, "spec", &Path::Root, errors),
            ..PLAIN
        },
    ),
    (
        CSI,
        "volumeattributesclasses",
        Strategy {
            required: true,
            validate_update: |new, old, errors| {
                for key in ["driverName", "parameters"] {
                    immutable(new, old, key, &Path::Root, errors);
                }
            },
            ..PLAIN
        },
    ),
];

fn pending(object: &mut Value) {
    set(object, "status", json!({"phase": "Pending"}));
}

fn volume(volume: &mut Value) {
    let spec = object(volume, "spec");
    default(spec, "persistentVolumeReclaimPolicy", "Retain");
    default(spec, "volumeMode", "Filesystem");
    if has(spec, "hostPath") && !has(&spec["hostPath"], "type") {
        set(&mut spec["hostPath"], "type", "");
    }
    if has(spec, "claimRef") {
        default(&mut spec["claimRef"], "kind", "PersistentVolumeClaim");
        default(&mut spec["claimRef"], "apiVersion", "v1");
    }
    default(object(volume, "status"), "phase", "Pending");
}

/// A claim, also inside a StatefulSet.
pub(super) fn default_claim(claim: &mut Value) {
    let spec = object(claim, "spec");
    default(spec, "volumeMode", "Filesystem");
    if has(spec, "dataSource") && !has(spec, "dataSourceRef") {
        let source = spec["dataSource"].clone();
        set(spec, "dataSourceRef", source);
    }
    default(object(claim, "status"), "phase", "Pending");
}

fn class(class: &mut Value) {
    default(class, "reclaimPolicy", "Delete");
    default(class, "volumeBindingMode", "Immediate");
}

fn driver(driver: &mut Value) {
    let spec = object(driver, "spec");
    default(spec, "attachRequired", true);
    default(spec, "podInfoOnMount", false);
    default(spec, "storageCapacity", false);
    default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    default(spec, "requiresRepublish", false);
    default(spec, "seLinuxMount", false);
    default(spec, "volumeLifecycleModes", json!(["Persistent"]));
}

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn access_modes(spec: &Value, path: &Path, errors: &mut Errors) {
    let here = path.key("accessModes");
    let modes = list(spec, "accessModes");
    for mode in modes {
        let mode = mode.as_str().unwrap_or_default();
        if !MODES.contains(&mode) {
            errors.push(FieldError::not_supported(here, mode, &MODES));
        }
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let why = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(here, why));
    }
    one_of(spec, "volumeMode", path, &["Block", "Filesystem"], errors);
}

fn positive(amount: &Value, path: &Path, errors: &mut Errors) {
    if quantity(amount).is_some_and(|amount| amount.sign() <= 0) {
        let shown = amount.as_str().unwrap_or_default();
        errors.push(FieldError::invalid(path, shown, "must be greater than zero"));
    }
}

/// Fields of a volume that are not where its data is.
const NO_SOURCE: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn validate_volume(volume: &Value, errors: &mut Errors) {
    let (spec, path) = (&volume["spec"], Path::of("spec"));
    if list(spec, "accessModes").is_empty() {
        errors.push(FieldError::required(path.key("accessModes"), ""));
    }
    access_modes(spec, &path, errors);
    let capacity = path.key("capacity");
    if entries(spec, "capacity").next().is_none() {
        errors.push(FieldError::required(capacity, ""));
    } else if entries(spec, "capacity").count() > 1 || !has(&spec["capacity"], "storage") {
        errors.push(FieldError::not_supported(capacity, &spec["capacity"], &["storage"]));
    }
    for (name, amount) in entries(spec, "capacity") {
        positive(amount, &capacity.entry(name), errors);
    }
    one_of(spec, "persistentVolumeReclaimPolicy", &path, &["Delete", "Recycle", "Retain"], errors);
    let sources = spec.as_object().into_iter().flatten();
    let mut sources = sources
        .filter(|(key, value)| !NO_SOURCE.contains(&key.as_str()) && !value.is_null())
        .map(|(key, _)| key);
    match sources.next().map(String::as_str) {
        None => errors.push(FieldError::required(path, "must specify a volume type")),
        Some("hostPath") => pod::host_path(&spec["hostPath"], &path.key("hostPath"), errors),
        Some("local") => {
            if required(&spec["local"], "path", &path.key("local"), errors) && !has(spec, "nodeAffinity") {
                let why = "Local volume requires node affinity";
                errors.push(FieldError::required("metadata.annotations", why));
            }
        }
        Some(_) => (),
    }
    for more in sources {
        errors.push(FieldError::forbidden(path.key(more), "may not specify more than 1 volume type"));
    }
    if has(&spec["nodeAffinity"], "required") {
        let affinity = path.key("nodeAffinity");
        pod::node_selector(&spec["nodeAffinity"]["required"], &affinity.key("required"), errors);
    }
    storage_class(spec, &path, errors);
}

fn storage_class(spec: &Value, path: &Path, errors: &mut Errors) {
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        all(path.key("storageClassName"), class, names::subdomain(class), errors);
    }
}

fn update_volume(new: &Value, old: &Value, errors: &mut Errors) {
    let sources = |volume: &Value| -> Value {
        let fields = volume["spec"].as_object().into_iter().flatten();
        fields
            .filter(|(key, _)| !NO_SOURCE.contains(&key.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    let (now, before) = (sources(new), sources(old));
    if !same(&now, &before) {
        let why = "spec.persistentvolumesource is immutable after creation";
        errors.push(FieldError::forbidden("spec.persistentvolumesource", why));
    }
    immutable(&new["spec"], &old["spec"], "volumeMode", &Path::of("spec"), errors);
}

/// A claim, of its own or inside a template.
fn validate_claim(claim: &Value, errors: &mut Errors) {
    let (spec, path) = (&claim["spec"], Path::of("spec"));
    if list(spec, "accessModes").is_empty() {
        errors.push(FieldError::required(path.key("accessModes"), "at least 1 access mode is required"));
    }
    if has(spec, "selector") {
        label_selector(&spec["selector"], &path.key("selector"), errors);
    }
    access_modes(spec, &path, errors);
    let (resources, requests) = (path.key("resources"), "requests");
    let requests = resources.key(requests);
    let storage = &spec["resources"]["requests"]["storage"];
    if storage.is_null() {
        errors.push(FieldError::required(requests.entry("storage"), ""));
    } else {
        positive(storage, &requests.entry("storage"), errors);
    }
    storage_class(spec, &path, errors);
}

fn update_claim(new: &Value, old: &Value, errors: &mut Errors) {
    let (now, before, path) = (&new["spec"], &old["spec"], Path::of("spec"));
    let bound = text(&old["status"], "phase") == "Bound";
    let unbound = text(before, "volumeName").is_empty();
    let fixed = |spec: &Value| -> Value {
        let mut spec = spec.clone();
        // Binding is what the controller does, growing and another class what a bound claim may do.
        if unbound {
            super::value::remove(&mut spec, "volumeName");
        }
        if bound {
            super::value::remove(&mut spec, "volumeAttributesClassName");
            super::value::remove(object(object(&mut spec, "resources"), "requests"), "storage");
        }
        if !has(before, "storageClassName") {
            super::value::remove(&mut spec, "storageClassName");
        }
        spec
    };
    if !same(&fixed(now), &fixed(before)) {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.push(FieldError::forbidden(path, why));
        return;
    }
    let amount = |spec: &Value| quantity(&spec["resources"]["requests"]["storage"]);
    if let (Some(now), Some(before)) = (amount(now), amount(before))
        && now < before
    {
        let (resources, requests) = (path.key("resources"), "requests");
        let requests = resources.key(requests);
        let why = "field can not be less than status.capacity";
        errors.push(FieldError::forbidden(requests.key("storage"), why));
    }
}

fn validate_class(class: &Value, errors: &mut Errors) {
    let root = Path::Root;
    let provisioner = text(class, "provisioner");
    if required(class, "provisioner", &root, errors) {
        all("provisioner", provisioner, names::qualified(&provisioner.to_lowercase()), errors);
    }
    one_of(class, "reclaimPolicy", &root, &["Delete", "Retain"], errors);
    one_of(class, "volumeBindingMode", &root, &["Immediate", "WaitForFirstConsumer"], errors);
}

fn update_class(new: &Value, old: &Value, errors: &mut Errors) {
    if !same(&new["parameters"], &old["parameters"]) {
        errors.push(FieldError::forbidden("parameters", "updates to parameters are forbidden."));
    }
    if new["provisioner"] != old["provisioner"] {
        errors.push(FieldError::forbidden("provisioner", "updates to provisioner are forbidden."));
    }
    if new["reclaimPolicy"] != old["reclaimPolicy"] {
        errors.push(FieldError::forbidden("reclaimPolicy", "updates to reclaimPolicy are forbidden."));
    }
    immutable(new, old, "volumeBindingMode", &Path::Root, errors);
}

fn validate_driver(driver: &Value, errors: &mut Errors) {
    let (spec, path) = (&driver["spec"], Path::of("spec"));
    let known = ["ReadWriteOnceWithFSType", "File", "None"];
    one_of(spec, "fsGroupPolicy", &path, &known, errors);
    let here = path.key("volumeLifecycleModes");
    for mode in list(spec, "volumeLifecycleModes") {
        if mode != "Persistent" && mode != "Ephemeral" {
            errors.push(FieldError::not_supported(here, mode, &["Persistent", "Ephemeral"]));
        }
    }
}

fn validate_capacity(capacity: &Value, errors: &mut Errors) {
    let class = text(capacity, "storageClassName");
    if required(capacity, "storageClassName", &Path::Root, errors) {
        all("storageClassName", class, names::subdomain(class), errors);
    }
    if has(capacity, "nodeTopology") {
        label_selector(&capacity["nodeTopology"], &Path::of("nodeTopology"), errors);
    }
}
