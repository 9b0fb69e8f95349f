//! Volumes, claims, classes and drivers.

use serde_json::Value;

use super::Entry;
use super::columns::{AGE, Cx, NAME, UNSET, boolean, integer, join, or, string, strings};
use crate::strategy::value::{flag, has, list, text};

const CSI: &str = "storage.k8s.io";

pub(super) static TABLES: &[Entry] = &[
    (
        "",
        "persistentvolumes",
        &[
            NAME,
            string("Capacity", |c| text(&c.spec()["capacity"], "storage").into()),
            string("Access Modes", |c| modes(c.spec()).into()),
            string("Reclaim Policy", |c| text(c.spec(), "persistentVolumeReclaimPolicy").into()),
            string("Status", phase),
            string("Claim", |c| match has(c.spec(), "claimRef") {
                true => {
                    let claim = &c.spec()["claimRef"];
                    format!("{}/{}", text(claim, "namespace"), text(claim, "name")).into()
                }
                false => "".into(),
            }),
            string("StorageClass", storage_class),
            string("VolumeAttributesClass", |c| or(text(c.spec(), "volumeAttributesClassName"), UNSET)),
            string("Reason", |c| text(c.status(), "reason").into()),
            AGE,
            string("VolumeMode", |c| or(text(c.spec(), "volumeMode"), UNSET)).wide(),
        ],
    ),
    (
        "",
        "persistentvolumeclaims",
        &[
            NAME,
            string("Status", phase),
            string("Volume", |c| text(c.spec(), "volumeName").into()),
            string("Capacity", |c| match bound(c) {
                true => text(&c.status()["capacity"], "storage").into(),
                false => "".into(),
            }),
            string("Access Modes", |c| if bound(c) { modes(c.status()).into() } else { "".into() }),
            string("StorageClass", storage_class),
            string("VolumeAttributesClass", |c| or(text(c.spec(), "volumeAttributesClassName"), UNSET)),
            AGE,
            string("VolumeMode", |c| or(text(c.spec(), "volumeMode"), UNSET)).wide(),
        ],
    ),
    (
        CSI,
        "storageclasses",
        &[
            NAME_WITH_DEFAULT,
            string("Provisioner", |c| text(c.object, "provisioner").into()),
            string("ReclaimPolicy", |c| or(text(c.object, "reclaimPolicy"), "Delete")),
            string("VolumeBindingMode", |c| or(text(c.object, "volumeBindingMode"), UNSET)),
            boolean("AllowVolumeExpansion", |c| flag(c.object, "allowVolumeExpansion").into()),
            AGE,
        ],
    ),
    (
        CSI,
        "volumeattributesclasses",
        &[NAME, string("DriverName", |c| text(c.object, "driverName").into()), AGE],
    ),
    (
        CSI,
        "volumeattachments",
        &[
            NAME,
            string("Attacher", |c| text(c.spec(), "attacher").into()),
            string("PV", |c| text(&c.spec()["source"], "persistentVolumeName").into()),
            string("Node", |c| text(c.spec(), "nodeName").into()),
            boolean("Attached", |c| flag(c.status(), "attached").into()),
            AGE,
        ],
    ),
    (CSI, "csinodes", &[NAME, integer("Drivers", |c| list(c.spec(), "drivers").len().into()), AGE]),
    (
        CSI,
        "csidrivers",
        &[
            NAME,
            boolean("AttachRequired", |c| c.spec().get("attachRequired").cloned().unwrap_or(true.into())),
            boolean("PodInfoOnMount", |c| flag(c.spec(), "podInfoOnMount").into()),
            boolean("StorageCapacity", |c| flag(c.spec(), "storageCapacity").into()),
            string("TokenRequests", |c| {
                let audiences = list(c.spec(), "tokenRequests").iter().map(|r| text(r, "audience"));
                or(&join(audiences, ","), UNSET)
            }),
            boolean("RequiresRepublish", |c| flag(c.spec(), "requiresRepublish").into()),
            string("Modes", |c| or(&join(strings(c.spec(), "volumeLifecycleModes"), ","), UNSET)),
            AGE,
        ],
    ),
    (
        CSI,
        "csistoragecapacities",
        &[
            NAME,
            string("StorageClassName", |c| text(c.object, "storageClassName").into()),
            string("Capacity", |c| or(text(c.object, "capacity"), UNSET)),
        ],
    ),
];

const NAME_WITH_DEFAULT: super::Col = string("Name", |c| {
    let name = text(c.meta(), "name");
    let annotation = |key: &str| text(&c.meta()["annotations"], key) == "true";
    let default = annotation("storageclass.kubernetes.io/is-default-class")
        || annotation("storageclass.beta.kubernetes.io/is-default-class");
    if default { format!("{name} (default)").into() } else { name.into() }
})
.named();

fn phase(c: &Cx) -> Value {
    match has(c.meta(), "deletionTimestamp") {
        true => "Terminating".into(),
        false => text(c.status(), "phase").into(),
    }
}

fn bound(c: &Cx) -> bool {
    !text(c.spec(), "volumeName").is_empty()
}

fn storage_class(c: &Cx) -> Value {
    match text(&c.meta()["annotations"], "volume.beta.kubernetes.io/storage-class") {
        "" => text(c.spec(), "storageClassName").into(),
        class => class.into(),
    }
}

/// `RWO,ROX,RWX,RWOP`, each once and in this order.
fn modes(owner: &Value) -> String {
    let given: Vec<&str> = strings(owner, "accessModes").collect();
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    join(short.iter().filter(|(long, _)| given.contains(long)).map(|(_, short)| *short), ",")
}
