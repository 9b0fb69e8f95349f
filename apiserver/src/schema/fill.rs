//! The defaults that the schema itself declares.

use serde_json::{Map, Value};

use super::types::{Shape, TypeRef};

/// Puts in what the schema declares: objects that are always there (such as a container's `resources`) and literal
/// defaults (such as a port's protocol). Goes into what is there; creates no optional object.
pub fn fill(of: TypeRef, object: &mut Value) {
    if let Value::Object(map) = object {
        fill_map(of, map);
    }
}

fn fill_map(of: TypeRef, map: &mut Map<String, Value>) {
    let status = of.short_name().ends_with("Status");
    for field in of.fields() {
        // Go writes the counters of a status that has none yet.
        if status && field.required() && !map.contains_key(field.name) {
            let zero = match field.shape {
                Shape::Int32 | Shape::Int64 => Value::from(0),
                Shape::Bool => Value::from(false),
                _ => Value::Null,
            };
            if !zero.is_null() {
                map.insert(field.name.to_owned(), zero);
            }
        }
        if let Some(default) = field.default() {
            let unset = match map.get(field.name) {
                None | Some(Value::Null) => true,
                Some(Value::String(text)) => text.is_empty(),
                Some(_) => false,
            };
            if unset && let Ok(value) = serde_json::from_str(default) {
                map.insert(field.name.to_owned(), value);
            }
        }
        if let Some(value) = map.get_mut(field.name) {
            fill_shape(field.shape, value);
        }
    }
}

fn fill_shape(shape: Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Struct(of), Value::Object(map)) => fill_map(of, map),
        (Shape::List(item), Value::Array(items)) => {
            let item = item.shape();
            if holds_struct(item) {
                items.iter_mut().for_each(|one| fill_shape(item, one));
            }
        }
        (Shape::Map(inner), Value::Object(map)) => {
            let inner = inner.shape();
            if holds_struct(inner) {
                map.values_mut().for_each(|one| fill_shape(inner, one));
            }
        }
        _ => (),
    }
}

fn holds_struct(shape: Shape) -> bool {
    matches!(shape, Shape::Struct(_) | Shape::List(_) | Shape::Map(_))
}
