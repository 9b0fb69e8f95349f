//! ConfigMaps, Secrets, service accounts, and the limits of a namespace.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kontiki_proto::status::FieldError;
use serde_json::Value;

use super::check::{Errors, all, immutable, required};
use super::names;

use super::value::quantity;
use super::value::{default, entries, flag, list, list_mut, object, remove, same, set, text};
use super::{Entry, PLAIN, Strategy};
use crate::schema::Path;

pub(super) static KINDS: &[Entry] = &[
    ("", "configmaps", Strategy { validate: validate_config, validate_update: update_config, ..PLAIN }),
    (
        "",
        "secrets",
        Strategy { default: secret, validate: validate_secret, validate_update: update_secret, ..PLAIN },
    ),
    ("", "serviceaccounts", PLAIN),
    ("", "limitranges", Strategy { default: limit_range, validate: validate_limits, ..PLAIN }),
    ("", "resourcequotas", Strategy { validate: validate_quota, ..PLAIN }),
];

/// What the values of a ConfigMap or Secret may add up to, in bytes.
const MOST_BYTES: usize = 1024 * 1024;

/// `stringData` is written for people and never read: it goes into `data`.
fn secret(secret: &mut Value) {
    default(secret, "type", "Opaque");
    let Some(Value::Object(plain)) = secret.get_mut("stringData").map(Value::take) else {
        return;
    };
    remove(secret, "stringData");
    let data = object(secret, "data");
    for (key, value) in plain {
        set(data, &key, STANDARD.encode(value.as_str().unwrap_or_default()));
    }
}

fn limit_range(range: &mut Value) {
    for limit in list_mut(object(range, "spec"), "limits") {
        if limit["type"] != "Container" {
            continue;
        }
        for (target, sources) in [("default", ["max", "max"]), ("defaultRequest", ["default", "min"])] {
            for source in sources {
                let Some(Value::Object(amounts)) = limit.get(source).cloned() else { continue };
                let filled = object(limit, target);
                for (name, amount) in amounts {
                    default(filled, &name, amount);
                }
            }
        }
    }
}

fn keys(owner: &Value, field: &str, errors: &mut Errors) -> usize {
    let path = Path::of(field);
    let mut size = 0;
    for (key, value) in entries(owner, field) {
        all(path.entry(key), key, names::config_key(key), errors);
        size += value.as_str().map_or(0, str::len);
    }
    size
}

/// How many bytes base64 text stands for.
fn decoded(owner: &Value, field: &str) -> usize {
    entries(owner, field)
        .filter_map(|(_, value)| value.as_str())
        .map(|text| text.len() / 4 * 3 - text.bytes().rev().take(2).filter(|c| *c == b'=').count())
        .sum()
}

fn validate_config(config: &Value, errors: &mut Errors) {
    let mut size = keys(config, "data", errors);
    for (key, _) in entries(config, "data") {
        if config["binaryData"].get(key).is_some() {
            let why = "duplicate of key present in binaryData";
            errors.push(FieldError::invalid(Path::of("data").entry(key), key, why));
        }
    }
    keys(config, "binaryData", errors);
    size += decoded(config, "binaryData");
    if size > MOST_BYTES {
        errors.push(FieldError::too_long("", MOST_BYTES));
    }
}

/// An object that has been sealed stays as it is, and sealed.
fn sealed(new: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    if !flag(old, "immutable") {
        return;
    }
    let why = "field is immutable when `immutable` is set";
    if !flag(new, "immutable") {
        errors.push(FieldError::forbidden("immutable", why));
    }
    for field in fields {
        if !same(&new[*field], &old[*field]) {
            errors.push(FieldError::forbidden(*field, why));
        }
    }
}

fn update_config(new: &Value, old: &Value, errors: &mut Errors) {
    sealed(new, old, &["data", "binaryData"], errors);
}

fn validate_secret(secret: &Value, errors: &mut Errors) {
    keys(secret, "data", errors);
    if decoded(secret, "data") > MOST_BYTES {
        errors.push(FieldError::too_long("data", MOST_BYTES));
    }
    let data = &secret["data"];
    let path = Path::of("data");
    let mut needs = |keys: &[&str]| {
        for key in keys.iter().filter(|key| data.get(**key).is_none()) {
            errors.push(FieldError::required(path.entry(key), ""));
        }
    };
    match text(secret, "type") {
        "kubernetes.io/service-account-token" => {
            let annotation = "kubernetes.io/service-account.name";
            if text(&secret["metadata"]["annotations"], annotation).is_empty() {
                let metadata = Path::of("metadata");
                let annotations = metadata.key("annotations");
                errors.push(FieldError::required(annotations.entry(annotation), ""));
            }
        }
        "kubernetes.io/dockercfg" => json_value(data, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => json_value(data, ".dockerconfigjson", errors),
        "kubernetes.io/basic-auth" if data.get("username").is_none() && data.get("password").is_none() => {
            needs(&["username", "password"]);
        }
        "kubernetes.io/ssh-auth" => needs(&["ssh-privatekey"]),
        "kubernetes.io/tls" => needs(&["tls.crt", "tls.key"]),
        _ => (),
    }
}

/// A value that has to be there and be JSON. What it is stays secret.
fn json_value(data: &Value, key: &str, errors: &mut Errors) {
    let path = Path::of("data");
    let Some(value) = data.get(key).and_then(Value::as_str) else {
        errors.push(FieldError::required(path.entry(key), ""));
        return;
    };
    let bytes = STANDARD.decode(value).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
        errors.push(FieldError::invalid(path.entry(key), "<secret contents redacted>", &error.to_string()));
    }
}

fn update_secret(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(new, old, "type", &Path::Root, errors);
    sealed(new, old, &["data"], errors);
}

fn amounts(owner: &Value, field: &str, path: &Path, errors: &mut Errors) {
    let here = path.key(field);
    for (name, amount) in entries(owner, field) {
        all(here.entry(name), name, names::qualified(name), errors);
        if quantity(amount).is_some_and(|amount| amount.sign() < 0) {
            let shown = amount.as_str().unwrap_or_default();
            errors.push(FieldError::invalid(here.entry(name), shown, super::check::NOT_NEGATIVE));
        }
    }
}

fn validate_limits(range: &Value, errors: &mut Errors) {
    let path = Path::of("spec");
    let limits = path.key("limits");
    for (at, limit) in list(&range["spec"], "limits").iter().enumerate() {
        let here = limits.item(at);
        required(limit, "type", &here, errors);
        for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            amounts(limit, field, &here, errors);
        }
        if text(limit, "type") == "Pod" {
            for field in ["default", "defaultRequest"] {
                if entries(limit, field).next().is_some() {
                    let why = "may not be specified when `type` is 'Pod'";
                    errors.push(FieldError::forbidden(here.key(field), why));
                }
            }
        }
        for (low, high, what) in [
            ("min", "max", "min value"),
            ("min", "default", "min value"),
            ("min", "defaultRequest", "min value"),
            ("defaultRequest", "max", "default request value"),
            ("default", "max", "default value"),
            ("defaultRequest", "default", "default request value"),
        ] {
            for (name, amount) in entries(limit, low) {
                let bound = &limit[high][name];
                if let (Some(small), Some(large)) = (quantity(amount), quantity(bound))
                    && small > large
                {
                    let (shown, bound) =
                        (amount.as_str().unwrap_or_default(), bound.as_str().unwrap_or_default());
                    let other = match high {
                        "defaultRequest" => "default request value",
                        "default" => "default value",
                        _ => "max value",
                    };
                    let blamed = if low == "min" && high != "max" { (high, bound) } else { (low, shown) };
                    let why = if low == "min" && high != "max" {
                        format!("min value {shown} is greater than {other} {bound}")
                    } else {
                        format!("{what} {shown} is greater than {other} {bound}")
                    };
                    let place = here.key(blamed.0);
                    errors.push(FieldError::invalid(place.entry(name), blamed.1, &why));
                }
            }
        }
    }
}

fn validate_quota(quota: &Value, errors: &mut Errors) {
    amounts(&quota["spec"], "hard", &Path::of("spec"), errors);
}
