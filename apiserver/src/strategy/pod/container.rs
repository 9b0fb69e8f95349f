//! One container of a pod.

use std::collections::BTreeSet;

use kontiki_proto::status::FieldError;
use serde_json::Value;

use super::{resources, validate, volume};
use crate::schema::Path;
use crate::strategy::check::{
    Errors, all, not_negative, one_of, port, port_number, required, required_one_of,
};
use crate::strategy::names;
use crate::strategy::value::{flag, has, int, list, text};

/// Which fields of its pod a variable of the environment may show.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

pub(super) fn check(
    container: &Value,
    spec: &Value,
    volumes: &BTreeSet<String>,
    path: &Path,
    errors: &mut Errors,
) {
    let image = text(container, "image");
    if image.is_empty() {
        errors.push(FieldError::required(path.key("image"), ""));
    }
    one_of(container, "terminationMessagePolicy", path, &["File", "FallbackToLogsOnError"], errors);
    required_one_of(container, "imagePullPolicy", path, &["Always", "IfNotPresent", "Never"], errors);
    ports(container, &path.key("ports"), errors);
    environment(container, path, errors);
    volume::mounts(container, volumes, path, errors);
    let grace = int(spec, "terminationGracePeriodSeconds").unwrap_or(30);
    probes(container, grace, path, errors);
    let lifecycle = path.key("lifecycle");
    for hook in ["postStart", "preStop"] {
        if has(&container["lifecycle"], hook) {
            handler(&container["lifecycle"][hook], grace, &lifecycle.key(hook), errors);
        }
    }
    resources::check(&container["resources"], &path.key("resources"), errors);
    security(container, spec, path, errors);
}

/// An init container that is no sidecar runs to its end: there is nothing to probe.
pub(super) fn check_init(container: &Value, path: &Path, errors: &mut Errors) {
    one_of(container, "restartPolicy", path, &["Always", "Never", "OnFailure"], errors);
    if text(container, "restartPolicy") == "Always" {
        return;
    }
    for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if has(container, key) {
            let why = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(path.key(key), why));
        }
    }
}

pub(super) fn check_ephemeral(container: &Value, path: &Path, errors: &mut Errors) {
    for key in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
        if has(container, key) {
            let why = "cannot be set for an Ephemeral Container";
            errors.push(FieldError::forbidden(path.key(key), why));
        }
    }
}

fn ports(container: &Value, path: &Path, errors: &mut Errors) {
    let mut known = BTreeSet::new();
    for (at, one) in list(container, "ports").iter().enumerate() {
        let here = path.item(at);
        let name = text(one, "name");
        if !name.is_empty() {
            let problems = names::port_name(name);
            if problems.is_empty() && !known.insert(name) {
                errors.push(FieldError::duplicate(here.key("name"), name));
            }
            all(here.key("name"), name, problems, errors);
        }
        if int(one, "containerPort").unwrap_or(0) == 0 {
            errors.push(FieldError::required(here.key("containerPort"), ""));
        } else {
            port_number(&one["containerPort"], &here.key("containerPort"), errors);
        }
        if int(one, "hostPort").unwrap_or(0) != 0 {
            port_number(&one["hostPort"], &here.key("hostPort"), errors);
        }
        required_one_of(one, "protocol", &here, &["SCTP", "TCP", "UDP"], errors);
        let ip = text(one, "hostIP");
        if !ip.is_empty()
            && let Some(message) = names::ip(ip)
        {
            errors.push(FieldError::invalid(here.key("hostIP"), ip, &message));
        }
    }
}

fn environment(container: &Value, path: &Path, errors: &mut Errors) {
    let env = path.key("env");
    for (at, variable) in list(container, "env").iter().enumerate() {
        let here = env.item(at);
        let name = text(variable, "name");
        if required(variable, "name", &here, errors) {
            all(here.key("name"), name, names::env_var(name), errors);
        }
        if has(variable, "valueFrom") {
            value_from(variable, &here.key("valueFrom"), errors);
        }
    }
    let env_from = path.key("envFrom");
    for (at, source) in list(container, "envFrom").iter().enumerate() {
        let here = env_from.item(at);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            all(here.key("prefix"), prefix, names::env_var(prefix), errors);
        }
        let given: Vec<&str> =
            ["configMapRef", "secretRef"].into_iter().filter(|key| has(source, key)).collect();
        for key in &given {
            required(&source[*key], "name", &here.key(key), errors);
        }
        // Upstream names the list here, not the item.
        match given.len() {
            0 => {
                let why = "must specify one of: `configMapRef` or `secretRef`";
                errors.push(FieldError::invalid(env_from, "", why));
            }
            1 => (),
            _ => {
                let why = "may not have more than one field specified at a time";
                errors.push(FieldError::invalid(env_from, "", why));
            }
        }
    }
}

fn value_from(variable: &Value, path: &Path, errors: &mut Errors) {
    let source = &variable["valueFrom"];
    let kinds = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let given: Vec<&str> = kinds.into_iter().filter(|key| has(source, key)).collect();
    if has(source, "fieldRef") {
        field_ref(&source["fieldRef"], &ENV_FIELDS, &path.key("fieldRef"), errors);
    }
    if has(source, "resourceFieldRef") {
        resources::field_ref(&source["resourceFieldRef"], &path.key("resourceFieldRef"), errors);
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        if has(source, key) {
            let here = path.key(key);
            let owner = text(&source[key], "name");
            all(here.key("name"), owner, names::subdomain(owner), errors);
            if required(&source[key], "key", &here, errors) {
                let name = text(&source[key], "key");
                all(here.key("key"), name, names::config_key(name), errors);
            }
        }
    }
    match given.len() {
        0 => errors.push(FieldError::invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        )),
        1 if !text(variable, "value").is_empty() => {
            errors.push(FieldError::invalid(path, "", "may not be specified when `value` is not empty"));
        }
        1 => (),
        _ => {
            errors.push(FieldError::invalid(path, "", "may not have more than one field specified at a time"))
        }
    }
}

/// Fields of a pod that have a name for those who show them, wherever that is.
const NAMED_FIELDS: [&str; 3] = ["spec.restartPolicy", "spec.schedulerName", "status.phase"];

/// A field of the pod that a variable or a file shows.
pub(super) fn field_ref(reference: &Value, fields: &[&str], path: &Path, errors: &mut Errors) {
    if !required(reference, "apiVersion", path, errors) || !required(reference, "fieldPath", path, errors) {
        return;
    }
    let field = text(reference, "fieldPath");
    let subscript = |map: &str| {
        let rest = field.strip_prefix(map).and_then(|rest| rest.strip_prefix("['"));
        rest.and_then(|rest| rest.strip_suffix("']"))
    };
    if let Some(key) = subscript("metadata.labels") {
        all(path, key, names::qualified(key), errors);
    } else if let Some(key) = subscript("metadata.annotations") {
        all(path, key, names::qualified(&key.to_lowercase()), errors);
    } else if !fields.contains(&field) {
        let known = ENV_FIELDS.contains(&field)
            || NAMED_FIELDS.contains(&field)
            || matches!(field, "metadata.labels" | "metadata.annotations");
        errors.push(if known {
            FieldError::not_supported(path.key("fieldPath"), field, fields)
        } else {
            let why = format!("error converting fieldPath: field label not supported: {field}");
            FieldError::invalid(path.key("fieldPath"), field, &why)
        });
    }
}

fn probes(container: &Value, pod_grace: i64, path: &Path, errors: &mut Errors) {
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if !has(container, key) {
            continue;
        }
        let (probe, here) = (&container[key], path.key(key));
        handler(probe, pod_grace, &here, errors);
        not_negative(
            probe,
            &[
                "initialDelaySeconds",
                "timeoutSeconds",
                "periodSeconds",
                "successThreshold",
                "failureThreshold",
            ],
            &here,
            errors,
        );
        let grace = int(probe, "terminationGracePeriodSeconds");
        if key == "readinessProbe" {
            if let Some(seconds) = grace {
                let why = "must not be set for readinessProbes";
                errors.push(FieldError::invalid(here.key("terminationGracePeriodSeconds"), seconds, why));
            }
            continue;
        }
        if let Some(seconds) = grace.filter(|seconds| *seconds <= 0) {
            let why = "must be greater than 0";
            errors.push(FieldError::invalid(here.key("terminationGracePeriodSeconds"), seconds, why));
        }
        if let Some(wanted) = int(probe, "successThreshold").filter(|wanted| *wanted != 1) {
            errors.push(FieldError::invalid(here.key("successThreshold"), wanted, "must be 1"));
        }
    }
}

/// What a probe or hook does: exactly one thing.
fn handler(handler: &Value, grace: i64, path: &Path, errors: &mut Errors) {
    let mut first = true;
    for kind in HANDLERS.into_iter().filter(|kind| has(handler, kind)) {
        let (action, here) = (&handler[kind], path.key(kind));
        if !std::mem::replace(&mut first, false) {
            errors.push(FieldError::forbidden(here, "may not specify more than 1 handler type"));
            continue;
        }
        match kind {
            "exec" => {
                if list(action, "command").is_empty() {
                    errors.push(FieldError::required(here.key("command"), ""));
                }
            }
            "httpGet" => http_get(action, &here, errors),
            "tcpSocket" => port(&action["port"], &here.key("port"), errors),
            "grpc" => port_number(&action["port"], &here.key("port"), errors),
            _ => {
                let seconds = int(action, "seconds").unwrap_or(0);
                if !(0..=grace).contains(&seconds) {
                    let why =
                        format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    errors.push(FieldError::invalid(here, seconds, &why));
                }
            }
        }
    }
    if first {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
}

fn http_get(action: &Value, path: &Path, errors: &mut Errors) {
    required(action, "path", path, errors);
    port(&action["port"], &path.key("port"), errors);
    one_of(action, "scheme", path, &["HTTP", "HTTPS"], errors);
    for header in list(action, "httpHeaders") {
        let name = text(header, "name");
        all(path.key("httpHeaders"), name, names::http_header(name), errors);
    }
}

fn security(container: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    if !has(container, "securityContext") {
        return;
    }
    let (context, here) = (&container["securityContext"], path.key("securityContext"));
    for key in ["runAsUser", "runAsGroup"] {
        validate::id(context, key, &here, errors);
    }
    one_of(context, "procMount", &here, &["Default", "Unmasked"], errors);
    if text(context, "procMount") == "Unmasked" && spec.get("hostUsers") != Some(&Value::Bool(false)) {
        let why = "`hostUsers` must be false to use `Unmasked`";
        errors.push(FieldError::invalid(here.key("procMount"), "Unmasked", why));
    }
    validate::seccomp(context, &here, errors);
    if context.get("allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
        if flag(context, "privileged") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(here, context, why));
        }
        if list(&context["capabilities"], "add").iter().any(|one| one == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(here, context, why));
        }
    }
}
