//! Pruning, defaulting and validation by the schema a definition declares (OpenAPI v3, structural).

use kontiki_proto::status::FieldError;
use regex::Regex;
use serde_json::{Map, Value, json};

/// Problems reported of one object at most.
const MOST: usize = 100;

fn flag(schema: &Value, name: &str) -> bool {
    schema[name] == true
}

/// Removes what the schema does not name and fills in its defaults. `root` objects keep the fields every object has.
pub fn complete(schema: &Value, object: &mut Value, root: bool) {
    match object {
        Value::Object(map) => {
            let embedded = root || flag(schema, "x-kubernetes-embedded-resource");
            let kept = |key: &str| embedded && matches!(key, "apiVersion" | "kind" | "metadata");
            let properties = schema["properties"].as_object();
            let additional = &schema["additionalProperties"];
            if !flag(schema, "x-kubernetes-preserve-unknown-fields")
                && !additional.is_object()
                && *additional != true
            {
                map.retain(|key, _| kept(key) || properties.is_some_and(|known| known.contains_key(key)));
            }
            for (key, property) in properties.into_iter().flatten() {
                if let Some(default) = property.get("default")
                    && map.get(key).is_none_or(|value| value.is_null() && !flag(property, "nullable"))
                    && !kept(key)
                {
                    map.insert(key.clone(), default.clone());
                }
            }
            for (key, value) in map.iter_mut() {
                match properties.and_then(|known| known.get(key)) {
                    Some(property) if !kept(key) => complete(property, value, false),
                    None if additional.is_object() => complete(additional, value, false),
                    _ => {}
                }
            }
        }
        Value::Array(list) if schema["items"].is_object() => {
            list.iter_mut().for_each(|item| complete(&schema["items"], item, false));
        }
        _ => {}
    }
}

/// Every problem of the object, at most a hundred; empty means valid.
pub fn validate(schema: &Value, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(schema, object, "", &mut errors);
    errors.truncate(MOST);
    errors
}

fn child(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() && number.as_f64().is_none_or(|n| n.fract() != 0.0) => {
            "number"
        }
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if errors.len() >= MOST || (value.is_null() && flag(schema, "nullable")) {
        return;
    }
    let kind = kind_of(value);
    if flag(schema, "x-kubernetes-int-or-string") {
        if !matches!(kind, "integer" | "string") {
            wrong_type(path, "integer,string", kind, errors);
            return;
        }
    } else if let Some(wanted) = schema["type"].as_str().filter(|wanted| !wanted.is_empty())
        && kind != wanted
        && !(wanted == "number" && kind == "integer")
    {
        wrong_type(path, wanted, kind, errors);
        return;
    }
    if let Some(known) = schema["enum"].as_array()
        && !known.contains(value)
    {
        let words: Vec<String> =
            known.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), Into::into)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        errors.push(FieldError::not_supported(path, value, &words));
    }
    match value {
        Value::String(text) => check_string(schema, text, path, errors),
        Value::Number(number) => {
            check_number(schema, number.as_f64().unwrap_or_default(), value, path, errors)
        }
        Value::Array(list) => {
            bounds(schema, ("minItems", "maxItems"), list.len(), "items", path, errors);
            if schema["items"].is_object() {
                for (at, item) in list.iter().enumerate() {
                    check(&schema["items"], item, &format!("{path}[{at}]"), errors);
                }
            }
            check_list_type(schema, list, path, errors);
        }
        Value::Object(map) => check_object(schema, map, path, errors),
        _ => {}
    }
    combine(schema, value, path, errors);
}

fn wrong_type(path: &str, wanted: &str, kind: &str, errors: &mut Vec<FieldError>) {
    let why = format!("{path} in body must be of type {wanted}: {kind:?}");
    errors.push(FieldError::invalid(path, kind, &why));
}

fn check_string(schema: &Value, text: &str, path: &str, errors: &mut Vec<FieldError>) {
    bounds(schema, ("minLength", "maxLength"), text.chars().count(), "chars long", path, errors);
    if let Some(pattern) = schema["pattern"].as_str()
        // A pattern this engine cannot read has been refused with its definition.
        && let Ok(regex) = Regex::new(pattern)
        && !regex.is_match(text)
    {
        errors.push(FieldError::invalid(path, text, &format!("{path} in body should match '{pattern}'")));
    }
    let good = match schema["format"].as_str() {
        Some("date-time") => text.parse::<jiff::Timestamp>().is_ok(),
        Some("date") => text.parse::<jiff::civil::Date>().is_ok(),
        Some("ipv4") => text.parse::<std::net::Ipv4Addr>().is_ok(),
        Some("ipv6") => text.parse::<std::net::Ipv6Addr>().is_ok(),
        Some("uuid") => uuid::Uuid::parse_str(text).is_ok(),
        _ => true,
    };
    if !good {
        let format = schema["format"].as_str().unwrap_or_default();
        let why = format!("{path} in body must be of type {format}: {text:?}");
        errors.push(FieldError::invalid(path, text, &why));
    }
}

fn check_number(schema: &Value, number: f64, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut say = |why: String| errors.push(FieldError::invalid(path, value, &why));
    if let Some(least) = schema["minimum"].as_f64() {
        let exclusive = flag(schema, "exclusiveMinimum");
        if number < least || (exclusive && number <= least) {
            let equal = if exclusive { "" } else { " or equal to" };
            say(format!("{path} in body should be greater than{equal} {}", schema["minimum"]));
        }
    }
    if let Some(most) = schema["maximum"].as_f64() {
        let exclusive = flag(schema, "exclusiveMaximum");
        if number > most || (exclusive && number >= most) {
            let equal = if exclusive { "" } else { " or equal to" };
            say(format!("{path} in body should be less than{equal} {}", schema["maximum"]));
        }
    }
    if let Some(step) = schema["multipleOf"].as_f64().filter(|step| *step > 0.0)
        && (number / step).fract().abs() > f64::EPSILON
    {
        say(format!("{path} in body should be a multiple of {}", schema["multipleOf"]));
    }
}

fn bounds(
    schema: &Value,
    names: (&str, &str),
    size: usize,
    what: &str,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let size = size as u64;
    if let Some(least) = schema[names.0].as_u64().filter(|least| size < *least) {
        let why = format!("{path} in body should have at least {least} {what}");
        errors.push(FieldError::invalid(path, size, &why));
    }
    if let Some(most) = schema[names.1].as_u64().filter(|most| size > *most) {
        let why = format!("{path} in body should have at most {most} {what}");
        errors.push(FieldError::invalid(path, size, &why));
    }
}

fn check_list_type(schema: &Value, list: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let keys: Vec<&str> = match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => Vec::new(),
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            keys.filter_map(Value::as_str).collect()
        }
        _ => return,
    };
    let identity = |item: &Value| match keys.as_slice() {
        [] => item.clone(),
        keys => keys.iter().map(|key| (key.to_string(), item[*key].clone())).collect::<Map<_, _>>().into(),
    };
    let mut known = std::collections::HashSet::new();
    for (at, item) in list.iter().enumerate() {
        let identity = identity(item);
        if !known.insert(identity.to_string()) {
            errors.push(FieldError::duplicate(format!("{path}[{at}]"), identity));
        }
    }
}

fn check_object(schema: &Value, map: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !map.contains_key(name) {
            errors.push(FieldError::required(child(path, name), ""));
        }
    }
    bounds(schema, ("minProperties", "maxProperties"), map.len(), "properties", path, errors);
    let properties = schema["properties"].as_object();
    for (key, value) in map {
        // The metadata of an object is checked as that of every kind.
        if path.is_empty() && key == "metadata" {
            continue;
        }
        match properties.and_then(|known| known.get(key)) {
            Some(property) => check(property, value, &child(path, key), errors),
            None if schema["additionalProperties"].is_object() => {
                check(&schema["additionalProperties"], value, &child(path, key), errors);
            }
            None => {}
        }
    }
}

fn combine(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let fits = |schema: &Value| {
        let mut errors = Vec::new();
        check(schema, value, path, &mut errors);
        errors.is_empty()
    };
    for schema in schema["allOf"].as_array().into_iter().flatten() {
        check(schema, value, path, errors);
    }
    let shown = || json!(kind_of(value));
    if let Some(any) = schema["anyOf"].as_array().filter(|any| !any.is_empty())
        && !any.iter().any(fits)
    {
        let why = format!("{path} in body must validate at least one schema (anyOf)");
        errors.push(FieldError::invalid(path, shown(), &why));
    }
    if let Some(one) = schema["oneOf"].as_array().filter(|one| !one.is_empty())
        && one.iter().filter(|schema| fits(schema)).count() != 1
    {
        let why = format!("{path} in body must validate one and only one schema (oneOf)");
        errors.push(FieldError::invalid(path, shown(), &why));
    }
    if schema["not"].is_object() && fits(&schema["not"]) {
        let why = format!("{path} in body must not validate the schema (not)");
        errors.push(FieldError::invalid(path, shown(), &why));
    }
}

/// Patterns of the schema that cannot be read, with the path to the first one.
pub fn bad_pattern(schema: &Value, path: &str) -> Option<(String, String)> {
    match schema {
        Value::Object(map) => map.iter().find_map(|(key, value)| {
            let here = format!("{path}.{key}");
            match value.as_str() {
                Some(pattern) if key == "pattern" => {
                    Regex::new(pattern).err().map(|error| (here, error.to_string()))
                }
                _ => bad_pattern(value, &here),
            }
        }),
        Value::Array(list) => {
            list.iter().enumerate().find_map(|(at, value)| bad_pattern(value, &format!("{path}[{at}]")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Value {
        json!({
            "type": "object",
            "required": ["spec"],
            "properties": {"spec": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2},
                    "replicas": {"type": "integer", "minimum": 1, "maximum": 5, "default": 1},
                    "mode": {"type": "string", "enum": ["fast", "slow"], "default": "fast"},
                    "port": {"x-kubernetes-int-or-string": true},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "list": {
                        "type": "array", "maxItems": 2, "x-kubernetes-list-type": "set",
                        "items": {"type": "string"},
                    },
                },
            }},
        })
    }

    #[test]
    fn unknown_fields_go_and_defaults_come() {
        let mut object = json!({
            "apiVersion": "example.com/v1", "kind": "Toy", "metadata": {"name": "a"}, "junk": 1,
            "spec": {"image": "ab", "junk": 2, "free": {"kept": 1}, "labels": {"any": "kept"}},
        });
        complete(&schema(), &mut object, true);
        assert_eq!(
            object,
            json!({
                "apiVersion": "example.com/v1", "kind": "Toy", "metadata": {"name": "a"},
                "spec": {
                    "image": "ab", "free": {"kept": 1}, "labels": {"any": "kept"}, "replicas": 1, "mode": "fast",
                },
            })
        );
    }

    #[test]
    fn each_rule_is_checked_and_words_its_problem() {
        let good = json!({"image": "ab"});
        for (field, value, problem) in [
            ("image", json!("ab"), None),
            (
                "image",
                json!("A1"),
                Some("spec.image: Invalid value: \"A1\": spec.image in body should match '^[a-z]+$'"),
            ),
            (
                "image",
                json!("a"),
                Some("spec.image: Invalid value: 1: spec.image in body should have at least 2 chars long"),
            ),
            (
                "image",
                json!(1),
                Some(
                    "spec.image: Invalid value: \"integer\": spec.image in body must be of type string: \"integer\"",
                ),
            ),
            (
                "replicas",
                json!(0),
                Some(
                    "spec.replicas: Invalid value: 0: spec.replicas in body should be greater than or equal to 1",
                ),
            ),
            (
                "replicas",
                json!(9),
                Some(
                    "spec.replicas: Invalid value: 9: spec.replicas in body should be less than or equal to 5",
                ),
            ),
            (
                "mode",
                json!("x"),
                Some("spec.mode: Unsupported value: \"x\": supported values: \"fast\", \"slow\""),
            ),
            ("port", json!("http"), None),
            (
                "port",
                json!(true),
                Some(
                    "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
                ),
            ),
            (
                "labels",
                json!({"a": 1}),
                Some(
                    "spec.labels.a: Invalid value: \"integer\": spec.labels.a in body must be of type string: \"integer\"",
                ),
            ),
            (
                "list",
                json!(["a", "b", "c"]),
                Some("spec.list: Invalid value: 3: spec.list in body should have at most 2 items"),
            ),
            ("list", json!(["a", "a"]), Some("spec.list[1]: Duplicate value: \"a\"")),
        ] {
            let mut spec = good.clone();
            spec[field] = value.clone();
            let errors: Vec<_> =
                validate(&schema(), &json!({"spec": spec})).iter().map(ToString::to_string).collect();
            assert_eq!(errors, problem.into_iter().collect::<Vec<_>>(), "{field}: {value}");
        }
        let missing = validate(&schema(), &json!({"spec": {}}));
        assert_eq!(missing[0].to_string(), "spec.image: Required value");
    }

    #[test]
    fn combinations_hold_together() {
        let schema = json!({
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
            "oneOf": [{"required": ["a"]}, {"required": ["c"]}],
            "not": {"required": ["d"]},
        });
        for (object, problems) in [
            (json!({"a": 1}), 0),
            (json!({"b": 1, "c": 1}), 0),
            (json!({"a": 1, "c": 1}), 1),
            (json!({"a": 1, "d": 1}), 1),
            (json!({}), 2),
        ] {
            assert_eq!(validate(&schema, &object).len(), problems, "{object}");
        }
    }

    #[test]
    fn a_pattern_nobody_can_read_is_found() {
        assert_eq!(bad_pattern(&schema(), "s"), None);
        let bad = json!({"properties": {"a": {"pattern": "("}}});
        assert_eq!(bad_pattern(&bad, "s").expect("found").0, "s.properties.a.pattern");
    }
}
