//! Strategic merge: a merge patch that knows which lists are keyed.
//!
//! | directive | in | does |
//! |---|---|---|
//! | `$patch: replace` | object | the rest of the patch is the new object |
//! | `$patch: delete` | object | the object becomes empty |
//! | `$patch: replace` | item of a list | the other items of the patch are the new list |
//! | `$patch: delete` | item of a list | the item with this key goes |
//! | `$retainKeys: [k]` | object | fields not named go |
//! | `$deleteFromPrimitiveList/f: [v]` | object | these values leave the list `f` |
//! | `$setElementOrder/f: [v]` | object | the list `f` gets this order, unnamed items keep their neighbours |

use serde_json::{Map, Value};

use crate::schema::{Field, Shape, TypeRef};

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

/// What is known of an object's fields: all, for a type; nothing, inside maps and free JSON.
type Known = Option<TypeRef>;

/// The patched object. The error says what is wrong with the patch.
pub(super) fn apply(of: TypeRef, current: Value, patch: Value) -> Result<Value, String> {
    match (current, patch) {
        (Value::Object(current), Value::Object(patch)) => {
            merge_object(Some(of), current, patch).map(Value::Object)
        }
        _ => Err("invalid JSON document".into()),
    }
}

fn merge_object(known: Known, mut current: Object, mut patch: Object) -> Result<Object, String> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(clean_object(patch)),
            Some("delete") => Ok(Object::new()),
            Some("merge") => merge_object(known, current, patch),
            _ => Err(unknown_directive(&directive, patch)),
        };
    }
    if let Some(keep) = patch.remove(RETAIN) {
        retain(&mut current, &patch, &keep)?;
    }
    let orders = take_prefixed(&mut patch, SET_ORDER)?;
    for (name, gone) in take_prefixed(&mut patch, DELETE_FROM)? {
        if let Some(Value::Array(items)) = current.get_mut(&name) {
            items.retain(|item| !gone.contains(item));
        }
    }
    let before: Vec<(String, Vec<Value>)> =
        orders.iter().map(|(name, _)| (name.clone(), array(current.get(name)))).collect();
    for (name, value) in patch {
        let field = known.and_then(|of| of.field(&name));
        merge_field(field, &mut current, name, value)?;
    }
    for ((name, order), (_, before)) in orders.into_iter().zip(before) {
        let key = known.and_then(|of| of.field(&name)).and_then(Field::merge_key);
        if let Some(Value::Array(items)) = current.get_mut(&name) {
            let merged = std::mem::take(items);
            *items = arrange(merged, &order, &before, key);
        }
    }
    Ok(current)
}

fn merge_field(
    field: Option<&Field>,
    current: &mut Object,
    name: String,
    patch: Value,
) -> Result<(), String> {
    let merged = match (current.remove(&name), patch) {
        (_, Value::Null) => return Ok(()),
        (Some(Value::Object(mine)), Value::Object(theirs)) => {
            Value::Object(merge_object(field.and_then(|f| object_type(f.shape)), mine, theirs)?)
        }
        (mine, Value::Array(theirs)) => match field.filter(|f| f.merges()) {
            Some(field) => {
                let mine = array(mine.as_ref());
                Value::Array(merge_list(field, mine, theirs)?)
            }
            None => Value::Array(theirs.into_iter().map(clean).collect()),
        },
        (_, theirs) => clean(theirs),
    };
    current.insert(name, merged);
    Ok(())
}

/// The type of an object in a field; of the values, where the field is a map.
fn object_type(shape: Shape) -> Known {
    match shape {
        Shape::Struct(of) => Some(of),
        _ => None,
    }
}

fn merge_list(field: &Field, mine: Vec<Value>, theirs: Vec<Value>) -> Result<Vec<Value>, String> {
    if theirs.iter().any(Value::is_array) {
        return Err("lists of lists are not supported".into());
    }
    if theirs.iter().any(Value::is_object) {
        let Some(key) = field.merge_key() else {
            return Err(format!("cannot merge lists without merge key for {}", field.name));
        };
        let of = match field.shape {
            Shape::List(item) => object_type(item.shape()),
            _ => None,
        };
        return merge_keyed(of, key, mine, theirs);
    }
    let mut merged = mine.clone();
    for item in &theirs {
        if !merged.contains(item) {
            merged.push(item.clone());
        }
    }
    Ok(arrange(merged, &theirs, &mine, None))
}

fn merge_keyed(of: Known, key: &str, mine: Vec<Value>, theirs: Vec<Value>) -> Result<Vec<Value>, String> {
    let mut replace = false;
    let mut wanted = Vec::new();
    let mut merged = mine.clone();
    for item in theirs {
        let Value::Object(mut item) = item else {
            return Err("invalid list: objects and other values are mixed".into());
        };
        match item.remove(PATCH) {
            None => wanted.push(item),
            Some(directive) => match directive.as_str() {
                Some("replace") => replace = true,
                Some("delete") => {
                    let wanted = key_of(&item, key)?;
                    merged.retain(|one| one.get(key) != Some(&wanted));
                }
                Some("merge") => return Err("merging list cannot yet be specified in the patch".into()),
                _ => return Err(unknown_directive(&directive, item)),
            },
        }
    }
    if replace {
        return Ok(wanted.into_iter().map(|item| Value::Object(clean_object(item))).collect());
    }
    let order: Vec<Value> = wanted.iter().cloned().map(Value::Object).collect();
    for item in wanted {
        let wanted = key_of(&item, key)?;
        match merged.iter_mut().find(|one| one.get(key) == Some(&wanted)) {
            Some(slot) => {
                let Value::Object(mine) = slot.take() else { continue };
                *slot = Value::Object(merge_object(of, mine, item)?);
            }
            None => merged.push(Value::Object(merge_object(of, Object::new(), item)?)),
        }
    }
    Ok(arrange(merged, &order, &mine, Some(key)))
}

fn key_of(item: &Object, key: &str) -> Result<Value, String> {
    item.get(key).cloned().ok_or_else(|| {
        format!("map: {} does not contain declared merge key: {key}", go_print(&Value::Object(item.clone())))
    })
}

/// Drops what `keep` does not name. Everything the patch sets has to be named.
fn retain(current: &mut Object, patch: &Object, keep: &Value) -> Result<(), String> {
    let malformed = || "invalid patch format of retainKeys".to_owned();
    let keep = keep.as_array().ok_or_else(malformed)?;
    let kept = |name: &String| keep.iter().any(|one| one == name);
    if !patch
        .iter()
        .filter(|(name, value)| !name.starts_with('$') && !value.is_null())
        .all(|(name, _)| kept(name))
    {
        return Err(malformed());
    }
    current.retain(|name, _| kept(name));
    Ok(())
}

fn take_prefixed(patch: &mut Object, prefix: &str) -> Result<Vec<(String, Vec<Value>)>, String> {
    let names: Vec<String> = patch.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
    names
        .into_iter()
        .map(|name| match patch.remove(&name) {
            Some(Value::Array(items)) => Ok((name[prefix.len()..].to_owned(), items)),
            _ => Err(format!(
                "invalid patch format of {}",
                prefix.trim_end_matches('/').trim_start_matches('$')
            )),
        })
        .collect()
}

/// Puts the items that `order` names in that order; the others keep their place from `before` relative to them.
fn arrange(items: Vec<Value>, order: &[Value], before: &[Value], key: Option<&str>) -> Vec<Value> {
    let position = |list: &[Value], item: &Value| {
        list.iter().position(|other| match key {
            Some(key) => other.get(key) == item.get(key),
            None => other == item,
        })
    };
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| position(order, item).is_some());
    named.sort_by_key(|item| position(order, item));
    others.sort_by_key(|item| position(before, item).unwrap_or(usize::MAX));
    let mut arranged = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(a), Some(b)) = (others.peek(), named.peek()) {
        let first = matches!((position(before, a), position(before, b)), (Some(a), Some(b)) if a < b);
        arranged.extend(if first { others.next() } else { named.next() });
    }
    arranged.extend(others);
    arranged.extend(named);
    arranged
}

fn array(value: Option<&Value>) -> Vec<Value> {
    value.and_then(Value::as_array).cloned().unwrap_or_default()
}

/// A value of the patch that meets nothing: without its directives and nulls.
fn clean(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(clean_object(map)),
        Value::Array(items) => {
            let deleted = |item: &Value| item.get(PATCH).is_some();
            Value::Array(items.into_iter().filter(|item| !deleted(item)).map(clean).collect())
        }
        other => other,
    }
}

fn clean_object(map: Object) -> Object {
    if map.get(PATCH).is_some_and(|directive| directive == "delete") {
        return Object::new();
    }
    map.into_iter()
        .filter(|(name, value)| {
            let directive = name == PATCH
                || name == RETAIN
                || name.starts_with(DELETE_FROM)
                || name.starts_with(SET_ORDER);
            !directive && !value.is_null()
        })
        .map(|(name, value)| (name, clean(value)))
        .collect()
}

fn unknown_directive(directive: &Value, patch: Object) -> String {
    let word = directive.as_str().map_or_else(|| directive.to_string(), str::to_owned);
    format!("unknown patch type: {word} in map: {}", go_print(&Value::Object(patch)))
}

/// A value as Go's `%v` prints it.
fn go_print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(go_print).collect::<Vec<_>>().join(" "))
        }
        Value::Object(map) => {
            let entries: Vec<String> =
                map.iter().map(|(key, value)| format!("{key}:{}", go_print(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
        other => other.to_string(),
    }
}
