//! The three-way merge of `apply`, over the schema table.
//!
//! What was applied last, what is wanted and what is live become one patch: it makes live what is wanted, takes away
//! what was applied last and is wanted no more, and leaves alone what others have set. For kinds of the table it is a
//! strategic merge patch, as kubectl computes it; for others an RFC 7386 patch, in which lists are values.

use kontiki_apiserver::schema::{Field, Shape, TypeRef};
use kontiki_proto::quantity::Quantity;
use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

/// What is known of an object's fields.
#[derive(Clone, Copy)]
enum Known {
    Fields(TypeRef),
    /// A map, whose values all have one shape.
    Values(Shape),
    Nothing,
}

impl Known {
    fn of(shape: Shape) -> Known {
        match shape {
            Shape::Struct(of) => Known::Fields(of),
            Shape::Map(values) => Known::Values(values.shape()),
            _ => Known::Nothing,
        }
    }

    fn field(self, name: &str) -> Option<&'static Field> {
        match self {
            Known::Fields(of) => of.field(name),
            Known::Values(_) | Known::Nothing => None,
        }
    }

    fn shape(self, name: &str) -> Option<Shape> {
        match self {
            Known::Fields(of) => of.field(name).map(|field| field.shape),
            Known::Values(shape) => Some(shape),
            Known::Nothing => None,
        }
    }
}

/// The patch that applies `wanted` to `live`; an empty object when there is nothing to do. `last` is `Null` where
/// nothing was applied before.
pub fn three_way(of: Option<TypeRef>, last: &Value, wanted: &Value, live: &Value) -> Value {
    let empty = Object::new();
    let object = |value| Value::as_object(value).unwrap_or(&empty);
    let known = of.map_or(Known::Nothing, Known::Fields);
    objects(known, object(last), object(wanted), object(live)).into()
}

fn objects(known: Known, last: &Object, wanted: &Object, live: &Object) -> Object {
    let mut patch = Object::new();
    for (name, value) in wanted {
        let (before, now) = (last.get(name), live.get(name));
        match (value, now) {
            (Value::Null, None) => {}
            (Value::Null, Some(_)) => {
                patch.insert(name.clone(), Value::Null);
            }
            (Value::Object(value), Some(Value::Object(now))) => {
                let inner = known.shape(name).map_or(Known::Nothing, Known::of);
                let empty = Object::new();
                let before = before.and_then(Value::as_object).unwrap_or(&empty);
                let mut inner = objects(inner, before, value, now);
                if !inner.is_empty() {
                    if known.field(name).is_some_and(Field::retains_keys) {
                        inner.insert("$retainKeys".into(), value.keys().cloned().collect());
                    }
                    patch.insert(name.clone(), inner.into());
                }
            }
            (Value::Array(value), Some(Value::Array(now))) => {
                let before = before.and_then(Value::as_array).map(Vec::as_slice);
                lists(known.field(name), name, before, value, now, &mut patch);
            }
            (value, Some(now)) if same(known.shape(name), value, now) => {}
            (value, _) => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    for name in last.keys() {
        if !wanted.contains_key(name) && live.contains_key(name) {
            patch.insert(name.clone(), Value::Null);
        }
    }
    patch
}

/// Quantities are equal when their amounts are; the server writes them in another form than people do.
fn same(shape: Option<Shape>, wanted: &Value, live: &Value) -> bool {
    let amount = |value: &Value| match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    };
    wanted == live
        || shape == Some(Shape::Quantity) && amount(wanted).is_some() && amount(wanted) == amount(live)
}

fn lists(
    field: Option<&Field>,
    name: &str,
    last: Option<&[Value]>,
    wanted: &[Value],
    live: &[Value],
    patch: &mut Object,
) {
    let merging = field.filter(|field| field.merges());
    let are_objects = wanted.iter().chain(live).all(Value::is_object);
    match (merging, merging.and_then(Field::merge_key)) {
        (Some(field), Some(key)) if are_objects => keyed(field, key, last, wanted, live, patch),
        (Some(_), None) if !wanted.iter().chain(live).any(|item| item.is_object() || item.is_array()) => {
            sets(name, last.unwrap_or_default(), wanted, live, patch);
        }
        _ => {
            // What the server filled in is no difference, but what was taken out since the last time is.
            let is_changed = last.is_some_and(|last| last != wanted);
            if is_changed && wanted != live || !covered(wanted, live) {
                patch.insert(name.into(), wanted.into());
            }
        }
    }
}

/// Lists of plain values that several writers share, such as finalizers.
fn sets(name: &str, last: &[Value], wanted: &[Value], live: &[Value], patch: &mut Object) {
    let added: Vec<Value> = wanted.iter().filter(|item| !live.contains(item)).cloned().collect();
    let gone: Vec<Value> =
        last.iter().filter(|item| !wanted.contains(item) && live.contains(item)).cloned().collect();
    if added.is_empty() && gone.is_empty() {
        return;
    }
    patch.insert(format!("$setElementOrder/{name}"), wanted.into());
    if !gone.is_empty() {
        patch.insert(format!("$deleteFromPrimitiveList/{name}"), gone.into());
    }
    if !added.is_empty() {
        patch.insert(name.into(), added.into());
    }
}

fn keyed(
    field: &Field,
    key: &str,
    last: Option<&[Value]>,
    wanted: &[Value],
    live: &[Value],
    patch: &mut Object,
) {
    let last = last.unwrap_or_default();
    if !distinct(wanted, key) || !distinct(live, key) {
        // Items that share a key cannot be told apart: the list goes as a whole.
        if !covered(wanted, live) || !last.is_empty() && last != wanted {
            let whole = [json!({ "$patch": "replace" })].into_iter().chain(wanted.iter().cloned());
            patch.insert(field.name.into(), whole.collect());
        }
        return;
    }
    let item_type = match field.shape {
        Shape::List(item) => Known::of(item.shape()),
        _ => Known::Nothing,
    };
    let find = |items: &[Value], id: &Value| items.iter().find(|item| &item[key] == id).cloned();
    let mut items = Vec::new();
    for item in wanted {
        let Some(now) = find(live, &item[key]) else {
            items.push(item.clone());
            continue;
        };
        let before = find(last, &item[key]).unwrap_or_default();
        let empty = Object::new();
        let object = |value| Value::as_object(value).unwrap_or(&empty);
        let mut changes = objects(item_type, object(&before), object(item), object(&now));
        if !changes.is_empty() {
            if field.retains_keys() {
                changes.insert("$retainKeys".into(), object(item).keys().cloned().collect());
            }
            changes.insert(key.into(), item[key].clone());
            items.push(changes.into());
        }
    }
    for item in last {
        let id = &item[key];
        if find(wanted, id).is_none() && find(live, id).is_some() {
            items.push(json!({ "$patch": "delete", key: id }));
        }
    }
    let order = |items: &[Value]| -> Vec<Value> {
        items.iter().filter(|item| find(wanted, &item[key]).is_some()).map(|item| item[key].clone()).collect()
    };
    if items.is_empty() && order(live) == order(wanted) {
        return;
    }
    let ids: Vec<Value> = wanted.iter().map(|item| json!({ key: item[key] })).collect();
    patch.insert(format!("$setElementOrder/{}", field.name), ids.into());
    if !items.is_empty() {
        patch.insert(field.name.into(), items.into());
    }
}

fn distinct(items: &[Value], key: &str) -> bool {
    let ids: Vec<&Value> = items.iter().map(|item| &item[key]).collect();
    ids.iter().enumerate().all(|(at, id)| !id.is_null() && !ids[..at].contains(id))
}

/// Whether the live list has the wanted items in order, each with at least the wanted fields.
fn covered(wanted: &[Value], live: &[Value]) -> bool {
    wanted.len() == live.len() && wanted.iter().zip(live).all(|(wanted, live)| contains(wanted, live))
}

fn contains(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => wanted
            .iter()
            .all(|(key, value)| live.get(key).map_or(value.is_null(), |current| contains(value, current))),
        (Value::Array(wanted), Value::Array(live)) => covered(wanted, live),
        (wanted, live) => wanted == live,
    }
}

#[cfg(test)]
mod tests {
    use kontiki_apiserver::{patch, schema};
    use kontiki_proto::Registry;
    use kontiki_proto::api::PatchType;

    use super::*;

    fn kind(name: &str) -> &'static kontiki_proto::Resource {
        Registry::builtin().find_name(name).unwrap()
    }

    /// Custom resources: last, wanted, live, and the patch.
    fn check_plain(last: Value, wanted: Value, live: Value, expected: Value) {
        assert_eq!(
            three_way(None, &last, &wanted, &live),
            expected,
            "last {last} wanted {wanted} live {live}"
        );
    }

    /// The server's own patch code makes of live and the patch what is expected, and a second apply has nothing to do.
    fn check(name: &str, last: Value, wanted: Value, live: Value, expected: Value) {
        let row = kind(name);
        let of = schema::type_of(row);
        let patch = three_way(of, &last, &wanted, &live);
        let body = serde_json::to_vec(&patch).unwrap();
        let after = patch::apply(PatchType::StrategicMerge, row, &live, &body)
            .unwrap_or_else(|error| panic!("{patch}: {error}"));
        assert_eq!(after, expected, "{patch}");
        assert_eq!(three_way(of, &wanted, &wanted, &after), json!({}), "after {patch}");
    }

    fn deployment(spec: Value) -> Value {
        json!({ "spec": { "template": { "spec": spec } } })
    }

    #[test]
    fn only_what_differs_is_sent_and_others_fields_stay() {
        check_plain(json!({ "a": 1 }), json!({ "a": 1 }), json!({ "a": 1, "other": 2 }), json!({}));
        check_plain(json!({ "a": 1 }), json!({ "a": 2 }), json!({ "a": 1, "other": 2 }), json!({ "a": 2 }));
        check_plain(
            json!({ "a": 1, "b": 1 }),
            json!({ "a": 1 }),
            json!({ "a": 1, "b": 1 }),
            json!({ "b": null }),
        );
        check_plain(json!({ "a": 1, "b": 1 }), json!({ "a": 1 }), json!({ "a": 1 }), json!({}));
        check_plain(Value::Null, json!({ "a": null }), json!({ "a": 1 }), json!({ "a": null }));
        check_plain(
            json!({ "s": { "x": 1, "y": 1 } }),
            json!({ "s": { "x": 2 } }),
            json!({ "s": { "x": 1, "y": 1, "z": 1 } }),
            json!({ "s": { "x": 2, "y": null } }),
        );
        check_plain(json!({ "l": [1] }), json!({ "l": [2] }), json!({ "l": [1] }), json!({ "l": [2] }));
    }

    #[test]
    fn containers_are_merged_by_name() {
        let last = deployment(json!({ "containers": [
            { "name": "a", "image": "1", "env": [{ "name": "X", "value": "1" }, { "name": "Y", "value": "1" }] },
            { "name": "gone", "image": "1" } ] }));
        let live = deployment(json!({ "restartPolicy": "Always", "containers": [
            { "name": "a", "image": "1", "imagePullPolicy": "Always",
              "env": [{ "name": "X", "value": "1" }, { "name": "Y", "value": "1" }, { "name": "Z", "value": "other" }] },
            { "name": "gone", "image": "1" },
            { "name": "injected", "image": "side" } ] }));
        let wanted = deployment(json!({ "containers": [
            { "name": "a", "image": "2", "env": [{ "name": "X", "value": "2" }] },
            { "name": "new", "image": "1" } ] }));
        let expected = deployment(json!({ "restartPolicy": "Always", "containers": [
            { "name": "a", "image": "2", "imagePullPolicy": "Always",
              "env": [{ "name": "X", "value": "2" }, { "name": "Z", "value": "other" }] },
            { "name": "new", "image": "1" },
            { "name": "injected", "image": "side" } ] }));
        check("deployments", last, wanted, live, expected);
    }

    #[test]
    fn one_of_several_alternatives_takes_the_place_of_the_other() {
        let rolling = json!({ "spec": { "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1 } } } });
        let recreate = json!({ "spec": { "strategy": { "type": "Recreate" } } });
        // The defaulted alternative was never applied, and still has to go.
        check("deployments", json!({ "spec": {} }), recreate.clone(), rolling, recreate);

        let empty = deployment(json!({ "volumes": [{ "name": "v", "emptyDir": {} }] }));
        let config = deployment(json!({ "volumes": [{ "name": "v", "configMap": { "name": "c" } }] }));
        check("deployments", empty.clone(), config.clone(), empty, config);
    }

    #[test]
    fn the_order_of_a_list_can_change() {
        let list = |names: [&str; 2]| {
            deployment(json!({ "initContainers": names.map(|name| json!({ "name": name })) }))
        };
        check("deployments", list(["a", "b"]), list(["b", "a"]), list(["a", "b"]), list(["b", "a"]));
    }

    #[test]
    fn items_that_share_a_merge_key_are_replaced_as_a_whole() {
        let ports = |list: Value| json!({ "spec": { "ports": list } });
        let both = ports(json!([{ "port": 53, "protocol": "UDP" }, { "port": 53, "protocol": "TCP" }]));
        let one = ports(json!([{ "port": 53, "protocol": "UDP" }]));
        check("services", one.clone(), both.clone(), one.clone(), both.clone());
        check("services", both.clone(), one.clone(), both, one);
    }

    #[test]
    fn finalizers_of_others_stay() {
        let with = |list: &[&str]| json!({ "metadata": { "finalizers": list } });
        check(
            "configmaps",
            with(&["a", "b"]),
            with(&["b", "c"]),
            with(&["a", "b", "x"]),
            with(&["b", "c", "x"]),
        );
    }

    #[test]
    fn a_quantity_in_another_notation_is_no_difference() {
        let of = |cpu: Value| {
            deployment(json!({ "containers": [{ "name": "a", "resources": { "limits": { "cpu": cpu } } }] }))
        };
        let typed = schema::type_of(kind("deployments"));
        for wanted in [json!("1000m"), json!(1), json!("1.0")] {
            assert_eq!(three_way(typed, &of(wanted.clone()), &of(wanted), &of(json!("1"))), json!({}));
        }
        assert_ne!(three_way(typed, &Value::Null, &of(json!("2")), &of(json!("1"))), json!({}));
    }

    #[test]
    fn labels_that_were_applied_and_are_no_more_wanted_go() {
        let with = |labels: Value| json!({ "metadata": { "labels": labels } });
        check(
            "configmaps",
            with(json!({ "a": "1", "b": "1" })),
            with(json!({ "a": "2" })),
            with(json!({ "a": "1", "b": "1", "theirs": "1" })),
            with(json!({ "a": "2", "theirs": "1" })),
        );
    }
}
