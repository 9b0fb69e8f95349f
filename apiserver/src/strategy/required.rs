//! What the schema calls required, for kinds with little validation of their own.

use kontiki_proto::status::FieldError;
use serde_json::Value;

use crate::schema::{Path, Shape, TypeRef};

/// Reports every required field that is missing, outside `metadata` and `status`.
pub(super) fn check(of: TypeRef, object: &Value, errors: &mut Vec<FieldError>) {
    for field in of.fields().iter().filter(|f| !matches!(f.name, "metadata" | "status")) {
        one(field, object, &Path::Root, errors);
    }
}

fn one(field: &crate::schema::Field, owner: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let here = path.key(field.name);
    match owner.get(field.name) {
        Some(value) if !value.is_null() => inside(field.shape, value, &here, errors),
        _ if field.required() => errors.push(FieldError::required(here, "")),
        _ => (),
    }
}

fn inside(shape: Shape, value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    match (shape, value) {
        (Shape::Struct(of), Value::Object(_)) => {
            of.fields().iter().for_each(|field| one(field, value, path, errors));
        }
        (Shape::List(item), Value::Array(items)) => {
            let item = item.shape();
            items.iter().enumerate().for_each(|(at, one)| inside(item, one, &path.item(at), errors));
        }
        (Shape::Map(inner), Value::Object(map)) => {
            let inner = inner.shape();
            map.iter().for_each(|(key, one)| inside(inner, one, &path.entry(key), errors));
        }
        _ => (),
    }
}
