//! Volumes, claims on them, and the drivers that make them.

use serde_json::{Value, json};

use super::value::{default, has, object, set};
use super::{Entry, PLAIN, Strategy};

pub(super) static KINDS: &[Entry] = &[
    ("", "persistentvolumes", Strategy { default: volume, prepare_create: pending, ..PLAIN }),
    ("", "persistentvolumeclaims", Strategy { default: default_claim, prepare_create: pending, ..PLAIN }),
    ("storage.k8s.io", "storageclasses", Strategy { default: class, required: true, ..PLAIN }),
    ("storage.k8s.io", "csidrivers", Strategy { default: driver, generation: true, ..PLAIN }),
    ("storage.k8s.io", "csinodes", Strategy { required: true, ..PLAIN }),
    ("storage.k8s.io", "csistoragecapacities", Strategy { required: true, ..PLAIN }),
    ("storage.k8s.io", "volumeattachments", Strategy { required: true, ..PLAIN }),
    ("storage.k8s.io", "volumeattributesclasses", Strategy { required: true, ..PLAIN }),
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
