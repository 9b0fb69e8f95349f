//! The volumes of a pod, and where its containers mount them.

use std::collections::BTreeSet;

use kontiki_proto::status::FieldError;
use serde_json::Value;

use super::container::field_ref;
use super::resources;
use crate::schema::Path;
use crate::strategy::check::{self, Errors, one_of, required};
use crate::strategy::names;
use crate::strategy::value::quantity;
use crate::strategy::value::{flag, has, int, list, text};

/// Which fields of its pod a file may show.
const FILE_FIELDS: [&str; 5] =
    ["metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations"];

/// Checks the volumes of a pod's specification and gives the names that containers may mount.
pub(super) fn all(spec: &Value, path: &Path, errors: &mut Errors) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for (at, volume) in list(spec, "volumes").iter().enumerate() {
        let here = path.item(at);
        let name = text(volume, "name");
        if name.is_empty() {
            errors.push(FieldError::required(here.key("name"), ""));
        } else {
            check::all(here.key("name"), name, names::label(name), errors);
            if !known.insert(name.to_owned()) {
                errors.push(FieldError::duplicate(here.key("name"), name));
            }
        }
        source(volume, &here, errors);
    }
    known
}

fn source(volume: &Value, path: &Path, errors: &mut Errors) {
    let kinds =
        volume.as_object().into_iter().flatten().filter(|(key, value)| *key != "name" && !value.is_null());
    let mut first = true;
    for (kind, source) in kinds {
        let here = path.key(kind);
        if !std::mem::replace(&mut first, false) {
            errors.push(FieldError::forbidden(here, "may not specify more than 1 volume type"));
            continue;
        }
        one(kind, source, &here, errors);
    }
    if first {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
}

fn one(kind: &str, source: &Value, path: &Path, errors: &mut Errors) {
    match kind {
        "hostPath" => host_path(source, path, errors),
        "emptyDir" if quantity(&source["sizeLimit"]).is_some_and(|amount| amount.sign() < 0) => {
            let why = "SizeLimit field must be a valid resource quantity";
            errors.push(FieldError::forbidden(path.key("sizeLimit"), why));
        }
        "secret" => {
            required(source, "secretName", path, errors);
            items(source, path, errors);
        }
        "configMap" => {
            required(source, "name", path, errors);
            items(source, path, errors);
        }
        "persistentVolumeClaim" => {
            required(source, "claimName", path, errors);
        }
        "nfs" => {
            required(source, "server", path, errors);
            if required(source, "path", path, errors) && !text(source, "path").starts_with('/') {
                let why = "must be an absolute path";
                errors.push(FieldError::invalid(path.key("path"), text(source, "path"), why));
            }
        }
        "csi" => {
            required(source, "driver", path, errors);
        }
        "downwardAPI" => downward(source, path, errors),
        "projected" => projected(source, path, errors),
        "ephemeral" if !has(source, "volumeClaimTemplate") => {
            errors.push(FieldError::required(path.key("volumeClaimTemplate"), ""));
        }
        _ => (),
    }
}

/// A host path, of a pod or of a persistent volume.
pub(crate) fn host_path(source: &Value, path: &Path, errors: &mut Errors) {
    if required(source, "path", path, errors) && text(source, "path").split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path.key("path"), text(source, "path"), "must not contain '..'"));
    }
    one_of(
        source,
        "type",
        path,
        &["BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"],
        errors,
    );
}

fn mode(owner: &Value, key: &str, path: &Path, errors: &mut Errors) {
    if let Some(mode) = int(owner, key).filter(|mode| !(0..=0o777).contains(mode)) {
        let why = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(path.key(key), mode, why));
    }
}

fn items(source: &Value, path: &Path, errors: &mut Errors) {
    mode(source, "defaultMode", path, errors);
    let items = path.key("items");
    for (at, item) in list(source, "items").iter().enumerate() {
        let here = items.item(at);
        required(item, "key", &here, errors);
        if required(item, "path", &here, errors) {
            relative(text(item, "path"), true, &here.key("path"), errors);
        }
        mode(item, "mode", &here, errors);
    }
}

/// A path that stays below where it starts; `visible` ones may not begin with two dots either.
pub(super) fn relative(text: &str, visible: bool, path: &Path, errors: &mut Errors) {
    if text.starts_with('/') {
        errors.push(FieldError::invalid(path, text, "must be a relative path"));
    }
    if text.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, text, "must not contain '..'"));
    } else if visible && text.starts_with("..") {
        errors.push(FieldError::invalid(path, text, "must not start with '..'"));
    }
}

fn downward(source: &Value, path: &Path, errors: &mut Errors) {
    mode(source, "defaultMode", path, errors);
    let items = path.key("items");
    for (at, item) in list(source, "items").iter().enumerate() {
        let here = items.item(at);
        if required(item, "path", &here, errors) {
            relative(text(item, "path"), true, &here.key("path"), errors);
        }
        match (has(item, "fieldRef"), has(item, "resourceFieldRef")) {
            (true, true) => errors.push(FieldError::invalid(
                here,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            )),
            (true, false) => field_ref(&item["fieldRef"], &FILE_FIELDS, &here.key("fieldRef"), errors),
            (false, true) => {
                resources::field_ref(&item["resourceFieldRef"], &here.key("resourceFieldRef"), errors);
            }
            (false, false) => errors.push(FieldError::required(
                here.key("fieldRef"),
                "one of fieldRef and resourceFieldRef is required",
            )),
        }
        mode(item, "mode", &here, errors);
    }
}

fn projected(source: &Value, path: &Path, errors: &mut Errors) {
    mode(source, "defaultMode", path, errors);
    let sources = path.key("sources");
    for (at, one) in list(source, "sources").iter().enumerate() {
        let here = sources.item(at);
        let mut first = true;
        for kind in ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle"] {
            if !has(one, kind) {
                continue;
            }
            let (part, place) = (&one[kind], here.key(kind));
            if !std::mem::replace(&mut first, false) {
                errors.push(FieldError::forbidden(place, "may not specify more than 1 volume type"));
                continue;
            }
            match kind {
                "secret" | "configMap" => {
                    required(part, "name", &place, errors);
                    items(part, &place, errors);
                }
                "downwardAPI" => downward(part, &place, errors),
                "serviceAccountToken" => {
                    if int(part, "expirationSeconds").is_some_and(|seconds| seconds < 600) {
                        errors.push(FieldError::invalid(
                            place.key("expirationSeconds"),
                            &part["expirationSeconds"],
                            "may not specify a duration less than 10 minutes",
                        ));
                    }
                    if required(part, "path", &place, errors) {
                        relative(text(part, "path"), true, &place.key("path"), errors);
                    }
                }
                _ => (),
            }
        }
        if first {
            let why = "must specify a volume type";
            errors.push(FieldError::required(here, why));
        }
    }
}

/// Where a container mounts volumes, and which devices it gets.
pub(super) fn mounts(container: &Value, volumes: &BTreeSet<String>, path: &Path, errors: &mut Errors) {
    let mounts = path.key("volumeMounts");
    let mut taken = BTreeSet::new();
    let privileged = flag(&container["securityContext"], "privileged");
    for (at, mount) in list(container, "volumeMounts").iter().enumerate() {
        let here = mounts.item(at);
        let name = text(mount, "name");
        required(mount, "name", &here, errors);
        if !volumes.contains(name) {
            errors.push(FieldError::not_found(here.key("name"), name));
        }
        let target = text(mount, "mountPath");
        if required(mount, "mountPath", &here, errors) && !taken.insert(target) {
            errors.push(FieldError::invalid(here.key("mountPath"), target, "must be unique"));
        }
        for key in ["subPath", "subPathExpr"] {
            if !text(mount, key).is_empty() {
                // Upstream names the list here, not the item.
                relative(text(mount, key), false, &mounts.key(key), errors);
            }
        }
        if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
            errors.push(FieldError::invalid(
                here.key("subPathExpr"),
                text(mount, "subPathExpr"),
                "subPathExpr and subPath are mutually exclusive",
            ));
        }
        one_of(mount, "mountPropagation", &mounts, &["Bidirectional", "HostToContainer", "None"], errors);
        if text(mount, "mountPropagation") == "Bidirectional" && !privileged {
            let why = "Bidirectional mount propagation is available only to privileged containers";
            errors.push(FieldError::forbidden(mounts.key("mountPropagation"), why));
        }
    }
    let devices = path.key("volumeDevices");
    for (at, device) in list(container, "volumeDevices").iter().enumerate() {
        let here = devices.item(at);
        if required(device, "name", &here, errors) && !volumes.contains(text(device, "name")) {
            errors.push(FieldError::not_found(here.key("name"), text(device, "name")));
        }
        required(device, "devicePath", &here, errors);
    }
}
