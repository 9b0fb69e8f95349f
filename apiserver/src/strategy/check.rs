//! Checks that many kinds share, in upstream's words.

use kontiki_proto::status::FieldError;
use serde_json::Value;

use super::value::{has, int, list, text};
use super::{meta, names};
use crate::schema::Path;

pub(super) type Errors = Vec<FieldError>;

/// Adds an `Invalid value` for each message about a text.
pub(super) fn all(path: impl Into<String>, bad: &str, messages: Vec<String>, errors: &mut Errors) {
    if messages.is_empty() {
        return;
    }
    let path: String = path.into();
    errors.extend(messages.into_iter().map(|message| FieldError::invalid(path.clone(), bad, &message)));
}

/// A text that has to be there, and returns whether it is.
pub(super) fn required(owner: &Value, key: &str, path: &Path, errors: &mut Errors) -> bool {
    let there = match owner.get(key) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    };
    if !there {
        errors.push(FieldError::required(path.key(key), ""));
    }
    there
}

/// One of a few words; what is empty is not judged.
pub(super) fn one_of(owner: &Value, key: &str, path: &Path, words: &[&str], errors: &mut Errors) {
    let word = text(owner, key);
    if !word.is_empty() && !words.contains(&word) {
        errors.push(FieldError::not_supported(path.key(key), word, words));
    }
}

/// One of a few words, and not left out.
pub(super) fn required_one_of(owner: &Value, key: &str, path: &Path, words: &[&str], errors: &mut Errors) {
    if required(owner, key, path, errors) {
        one_of(owner, key, path, words, errors);
    }
}

pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

pub(super) fn not_negative(owner: &Value, keys: &[&str], path: &Path, errors: &mut Errors) {
    for key in keys {
        if let Some(number) = int(owner, key).filter(|number| *number < 0) {
            errors.push(FieldError::invalid(path.key(key), number, NOT_NEGATIVE));
        }
    }
}

pub(super) fn immutable(new: &Value, old: &Value, key: &str, path: &Path, errors: &mut Errors) {
    if !super::value::same(&new[key], &old[key]) {
        errors.push(FieldError::invalid(path.key(key), &new[key], meta::IMMUTABLE));
    }
}

/// A name or number of a port.
pub(super) fn port(value: &Value, path: &Path, errors: &mut Errors) {
    match value {
        Value::String(name) => all(path, name, names::port_name(name), errors),
        Value::Number(_) => port_number(value, path, errors),
        _ => errors.push(FieldError::required(path, "")),
    }
}

pub(super) fn port_number(value: &Value, path: &Path, errors: &mut Errors) {
    let number = value.as_i64().unwrap_or(0);
    if let Some(message) = names::port_number(number) {
        errors.push(FieldError::invalid(path, number, &message));
    }
}

const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// A count that is not negative, or a percentage.
pub(super) fn count_or_percent(owner: &Value, key: &str, path: &Path, errors: &mut Errors) {
    match owner.get(key) {
        Some(Value::Number(_)) => not_negative(owner, &[key], path, errors),
        Some(Value::String(text)) if percent(text).is_none() => {
            errors.push(FieldError::invalid(path.key(key), text, PERCENT));
        }
        _ => (),
    }
}

/// As [`count_or_percent`], of a whole: more than all of it is too much.
pub(super) fn share(owner: &Value, key: &str, path: &Path, errors: &mut Errors) {
    count_or_percent(owner, key, path, errors);
    if let Some(text) = owner.get(key).and_then(Value::as_str)
        && percent(text).is_some_and(|part| part > 100)
    {
        errors.push(FieldError::invalid(path.key(key), text, "must not be greater than 100%"));
    }
}

fn percent(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    // What does not fit is more than all of it anyway.
    Some(digits.parse().unwrap_or(u64::MAX))
}

/// Whether a count or percentage is nothing at all.
pub(super) fn is_zero(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => percent(text) == Some(0),
        _ => false,
    }
}

/// A `LabelSelector`.
pub(super) fn label_selector(selector: &Value, path: &Path, errors: &mut Errors) {
    meta::labels(&selector["matchLabels"], &path.key("matchLabels"), errors);
    let expressions = path.key("matchExpressions");
    for (at, expression) in list(selector, "matchExpressions").iter().enumerate() {
        let here = expressions.item(at);
        let values = list(expression, "values");
        match text(expression, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(here.key("values"), why));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(here.key("values"), why));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => (),
            other => {
                errors.push(FieldError::invalid(
                    here.key("operator"),
                    other,
                    "not a valid selector operator",
                ));
            }
        }
        let key = text(expression, "key");
        all(here.key("key"), key, names::qualified(key), errors);
        let values_path = here.key("values");
        for (nth, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            all(values_path.item(nth), value, names::label_value(value), errors);
        }
    }
}

/// A workload's selector: there, not empty, and taking the template's own pods.
pub(super) fn workload_selector(spec: &Value, what: &str, errors: &mut Errors) {
    let path = Path::of("spec");
    let here = path.key("selector");
    if !has(spec, "selector") {
        errors.push(FieldError::required(here, ""));
        return;
    }
    let selector = &spec["selector"];
    label_selector(selector, &here, errors);
    let empty = super::value::entries(selector, "matchLabels").next().is_none()
        && list(selector, "matchExpressions").is_empty();
    if empty {
        let why = format!("empty selector is invalid for {what}");
        errors.push(FieldError::invalid(here, selector, &why));
        return;
    }
    let labels = &spec["template"]["metadata"]["labels"];
    if !super::labels::matches(selector, labels) {
        let (template, metadata) = (path.key("template"), "metadata");
        let metadata = template.key(metadata);
        let why = "`selector` does not match template `labels`";
        let labels = if labels.is_null() { &serde_json::json!({}) } else { labels };
        errors.push(FieldError::invalid(metadata.key("labels"), labels, why));
    }
}
