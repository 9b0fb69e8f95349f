//! Holding a document against its type, in the words of upstream's decoder.

use base64::Engine;
use kontiki_proto::quantity::{Quantity, QuantityError};
use kontiki_proto::status::Status;
use serde_json::{Map, Value};

use super::decode::MOST_FINDINGS;
use super::types::{Shape, TypeRef};
use super::{FieldValidation, Path, type_of_kind};

pub(super) fn canonicalize(
    (group, version, kind): (&str, &str, &str),
    object: &mut Value,
    validation: FieldValidation,
    duplicates: Vec<String>,
) -> Result<Vec<String>, Status> {
    let given_kind = object.get("kind").and_then(Value::as_str).unwrap_or(kind).to_owned();
    let refuse = |error: String| {
        Status::bad_request(format!(
            "{given_kind} in version \"{version}\" cannot be handled as a {kind}: {error}"
        ))
    };
    let mut findings: Vec<String> =
        duplicates.into_iter().map(|path| format!("duplicate field \"{path}\"")).collect();
    let custom_type = Shape::Any;
    let shape = type_of_kind(group, version, kind).map_or(custom_type, Shape::Struct);
    let mut walk = Walk { unknown: Vec::new() };
    if object.is_object() {
        walk.value(shape, object, &Path::Root, kind).map_err(refuse)?;
    } else {
        let error =
            format!("json: cannot unmarshal {} into Go value of type {}", json_type(object), go_type(shape));
        return Err(refuse(error));
    }
    findings.extend(walk.unknown.into_iter().map(|path| format!("unknown field \"{path}\"")));
    match validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Strict if !findings.is_empty() => {
            Err(refuse(format!("strict decoding error: {}", findings.join(", "))))
        }
        FieldValidation::Warn | FieldValidation::Strict => Ok(findings),
    }
}

struct Walk {
    unknown: Vec<String>,
}

impl Walk {
    /// `owner` is the struct whose field the value belongs to, however deep in lists and maps.
    fn value(&mut self, shape: Shape, value: &mut Value, place: &Path, owner: &str) -> Result<(), String> {
        match shape {
            Shape::Any => Ok(()),
            Shape::Struct(of) => match value {
                Value::Object(map) => self.object(of, map, place),
                _ => Err(mismatch(shape, value, place, owner)),
            },
            Shape::List(item) => {
                let item = item.shape();
                let Value::Array(items) = value else {
                    return Err(mismatch(shape, value, place, owner));
                };
                for (at, one) in items.iter_mut().enumerate() {
                    if one.is_null() {
                        *one = zero(item);
                    }
                    self.value(item, one, &Path::Item(place, at), owner)?;
                }
                Ok(())
            }
            Shape::Map(inner) => {
                let inner = inner.shape();
                let Value::Object(map) = value else {
                    return Err(mismatch(shape, value, place, owner));
                };
                for (key, one) in map.iter_mut() {
                    if one.is_null() {
                        *one = zero(inner);
                    }
                    // Go's message names the field that is the map, not the key in it.
                    self.value(inner, one, &Path::Key(place, key), owner)
                        .map_err(|error| error.replace(&in_map(place, key), &go_path(place)))?;
                }
                Ok(())
            }
            _ => scalar(shape, value, place, owner),
        }
    }

    fn object(&mut self, of: TypeRef, map: &mut Map<String, Value>, place: &Path) -> Result<(), String> {
        let mut failure = None;
        map.retain(|key, value| {
            if failure.is_some() {
                return true;
            }
            let here = Path::Key(place, key);
            let Some(field) = of.field(key) else {
                if self.unknown.len() < MOST_FINDINGS {
                    self.unknown.push(here.to_string());
                }
                return false;
            };
            if value.is_null() {
                return false;
            }
            if let Err(error) = self.value(field.shape, value, &here, of.short_name()) {
                failure = Some(error);
                return true;
            }
            let empty = match (field.shape, &*value) {
                (Shape::List(_), Value::Array(items)) => items.is_empty(),
                (Shape::Map(_), Value::Object(map)) => map.is_empty(),
                _ => false,
            };
            !empty || field.required()
        });
        failure.map_or(Ok(()), Err)
    }
}

/// What Go leaves in a list or map for a `null`.
fn zero(shape: Shape) -> Value {
    match shape {
        Shape::String | Shape::Bytes => Value::String(String::new()),
        Shape::Int32 | Shape::Int64 | Shape::IntOrString => 0.into(),
        Shape::Double => 0.0.into(),
        Shape::Bool => false.into(),
        Shape::Quantity => Value::String("0".into()),
        Shape::Struct(_) | Shape::Map(_) => Value::Object(Map::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Time | Shape::MicroTime | Shape::Any => Value::Null,
    }
}

fn scalar(shape: Shape, value: &mut Value, place: &Path, owner: &str) -> Result<(), String> {
    let fits = match (shape, &*value) {
        (Shape::String, Value::String(_)) | (Shape::Bool, Value::Bool(_)) => true,
        (Shape::Int32, Value::Number(number)) => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        (Shape::Int64, Value::Number(number)) => number.as_i64().is_some(),
        (Shape::Double, Value::Number(_)) => true,
        (Shape::Bytes, Value::String(text)) => return base64_text(text),
        (Shape::IntOrString, Value::String(_)) => true,
        (Shape::IntOrString, Value::Number(number))
            if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) =>
        {
            true
        }
        (Shape::IntOrString, other) => {
            return Err(format!("json: cannot unmarshal {} into Go value of type int32", json_value(other)));
        }
        (Shape::Time | Shape::MicroTime, Value::Null) => true,
        (Shape::Time | Shape::MicroTime, Value::String(text)) => {
            let canonical = time(text, shape == Shape::MicroTime)?;
            *value = Value::String(canonical);
            true
        }
        (Shape::Time | Shape::MicroTime, other) => {
            return Err(format!("json: cannot unmarshal {} into Go value of type string", json_value(other)));
        }
        (Shape::Quantity, _) => {
            let canonical = quantity(value)?;
            *value = Value::String(canonical);
            true
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(mismatch(shape, value, place, owner)) }
}

fn quantity(value: &Value) -> Result<String, String> {
    let parsed = match value {
        Value::String(text) => Quantity::parse(text.trim()),
        Value::Number(number) => Quantity::parse(&number.to_string()),
        _ => Err(QuantityError::Format),
    };
    parsed.map(|quantity| quantity.to_string()).map_err(|error| error.to_string())
}

fn time(text: &str, micro: bool) -> Result<String, String> {
    let stamp: jiff::Timestamp = text.parse().map_err(|_| {
        let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
        format!("parsing time \"{text}\" as \"{layout}\": cannot parse \"{text}\" as \"2006\"")
    })?;
    let format = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(stamp.strftime(format).to_string())
}

fn base64_text(text: &str) -> Result<(), String> {
    match base64::engine::general_purpose::STANDARD.decode(text) {
        Ok(_) => Ok(()),
        Err(base64::DecodeError::InvalidByte(at, _)) => {
            Err(format!("illegal base64 data at input byte {at}"))
        }
        Err(_) => Err(format!("illegal base64 data at input byte {}", text.len() / 4 * 4)),
    }
}

fn mismatch(shape: Shape, value: &Value, place: &Path, owner: &str) -> String {
    let got = if matches!(shape, Shape::Int32 | Shape::Int64) {
        json_value(value)
    } else {
        json_type(value).into()
    };
    format!(
        "json: cannot unmarshal {got} into Go struct field {owner}.{} of type {}",
        go_path(place),
        go_type(shape)
    )
}

fn in_map(place: &Path, key: &str) -> String {
    go_path(&Path::Key(place, key))
}

/// The path as Go's decoder writes it: without the positions in lists.
fn go_path(place: &Path) -> String {
    match place {
        Path::Root => String::new(),
        Path::Key(Path::Root, key) => (*key).to_owned(),
        Path::Key(parent, key) => format!("{}.{key}", go_path(parent)),
        Path::Item(parent, _) | Path::Entry(parent, _) => go_path(parent),
    }
}

fn go_type(shape: Shape) -> String {
    match shape {
        Shape::String => "string".into(),
        Shape::Int32 => "int32".into(),
        Shape::Int64 => "int64".into(),
        Shape::Double => "float64".into(),
        Shape::Bool => "bool".into(),
        Shape::Bytes => "[]uint8".into(),
        Shape::Time => "v1.Time".into(),
        Shape::MicroTime => "v1.MicroTime".into(),
        Shape::Quantity => "resource.Quantity".into(),
        Shape::IntOrString => "intstr.IntOrString".into(),
        Shape::Any => "map[string]interface {}".into(),
        Shape::Struct(of) => of.go_name().into(),
        Shape::List(item) => format!("[]{}", go_type(item.shape())),
        Shape::Map(value) => format!("map[string]{}", go_type(value.shape())),
    }
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// As [`json_type`], with the number itself: a number that is no integer, or too large, is shown.
fn json_value(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("number {number}"),
        other => json_type(other).into(),
    }
}
