//! Every pod runs as a service account, and finds its token where client libraries look for it.

use std::time::Duration;

use rand::Rng;
use serde_json::{Value, json};

use super::{Admission, Call, Operation, Refusal, items, list_at, map_at};

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and a little: kubelets renew at four fifths of it.
const TOKEN_SECONDS: i64 = 3607;
/// The controller makes a new namespace's account; a pod may come first.
const PATIENCE: Duration = Duration::from_secs(2);
/// Names without vowels and look-alikes, as generated names have.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

pub(super) fn admit(admission: &Admission, call: &mut Call<'_>) -> Result<(), Refusal> {
    if !call.is("", "pods", &[Operation::Create]) {
        return Ok(());
    }
    if call.is_mirror_pod() {
        return mirror(call);
    }
    let name = match call.object["spec"]["serviceAccountName"].as_str() {
        None | Some("") => "default".to_string(),
        Some(name) => name.to_string(),
    };
    let namespace = call.namespace();
    let Some(account) = admission.objects.get("", "serviceaccounts", namespace, &name) else {
        let why = format!(
            "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
        );
        return Err(Refusal::Missing(call.forbidden(&why), PATIENCE));
    };
    let Some(spec) = map_at(call.object, "spec") else { return Ok(()) };
    spec.insert("serviceAccountName".into(), name.as_str().into());
    spec.insert("serviceAccount".into(), name.into());
    if items(spec.get("imagePullSecrets").unwrap_or(&Value::Null)).next().is_none()
        && items(&account["imagePullSecrets"]).next().is_some()
    {
        spec.insert("imagePullSecrets".into(), account["imagePullSecrets"].clone());
    }
    let automount = spec
        .get("automountServiceAccountToken")
        .and_then(Value::as_bool)
        .or(account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if automount {
        mount(spec, &generated_name());
    }
    Ok(())
}

/// A mirror pod has no access of its own, for nobody but its node decides what it is.
fn mirror(call: &mut Call<'_>) -> Result<(), Refusal> {
    let spec = &call.object["spec"];
    if spec["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Err(call.forbidden("a mirror pod may not reference service accounts").into());
    }
    let secret = |volume: &Value| {
        volume["secret"].is_object()
            || items(&volume["projected"]["sources"]).any(|s| s["serviceAccountToken"].is_object())
    };
    if items(&spec["volumes"]).any(secret) {
        return Err(call.forbidden("a mirror pod may not reference secrets or tokens").into());
    }
    Ok(())
}

fn generated_name() -> String {
    let mut rng = rand::rng();
    let suffix = (0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]));
    VOLUME_PREFIX.chars().chain(suffix).collect()
}

/// Mounts the token into every container that has nothing at its place.
fn mount(spec: &mut serde_json::Map<String, Value>, fresh: &str) {
    let volumes = spec.get("volumes").unwrap_or(&Value::Null);
    let mut names = items(volumes).filter_map(|volume| volume["name"].as_str());
    let existing = names.find(|name| name.starts_with(VOLUME_PREFIX)).map(str::to_string);
    drop(names);
    let volume = existing.clone().unwrap_or_else(|| fresh.to_string());
    let mut mounted = false;
    for kind in ["initContainers", "containers"] {
        let containers = spec.get_mut(kind).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            let Some(mounts) = list_at(container, "volumeMounts") else { continue };
            if !mounts.iter().any(|mount| mount["mountPath"] == TOKEN_PATH) {
                mounts.push(json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH}));
                mounted = true;
            }
        }
    }
    if mounted
        && existing.is_none()
        && let Some(volumes) = list_at(spec, "volumes")
    {
        volumes.push(json!({
            "name": volume,
            "projected": {
                "sources": [
                    {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {"downwardAPI": {"items": [{
                        "path": "namespace",
                        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                    }]}},
                ],
                "defaultMode": 420,
            },
        }));
    }
}
