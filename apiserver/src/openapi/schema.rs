//! Types of the schema table as OpenAPI components.

use std::collections::BTreeSet;

use kontiki_proto::resource::{Resource, Verbs};
use serde_json::{Map, Value, json};

use super::prose::Prose;
use crate::schema::{self, Field, ListType, Shape, TypeRef};

const PREFIX: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Types with a component of their own that the table has as a shape.
const SCALARS: &[(&str, &str)] = &[
    ("Time", "io.k8s.apimachinery.pkg.apis.meta.v1.Time"),
    ("MicroTime", "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime"),
    ("Quantity", "io.k8s.apimachinery.pkg.api.resource.Quantity"),
    ("IntOrString", "io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
];

fn reference(name: &str) -> Value {
    json!({"$ref": format!("{PREFIX}{name}")})
}

/// A reference to a kind's component; custom resources have one of their own name.
pub(super) fn kind_reference(group: &str, version: &str, kind: &str) -> Value {
    reference(&kind_name(group, version, kind))
}

fn kind_name(group: &str, version: &str, kind: &str) -> String {
    match schema::type_of_kind(group, version, kind) {
        Some(of) => of.openapi_name(),
        None => custom_name(group, version, kind),
    }
}

/// Such as `com.example.v1.Toy` for a `Toy` of `example.com/v1`. Options of the core group's subresources come only as
/// query parameters and have no type in the table.
fn custom_name(group: &str, version: &str, kind: &str) -> String {
    if group.is_empty() {
        return format!("io.k8s.api.core.{version}.{kind}");
    }
    let mut parts: Vec<&str> = group.split('.').filter(|part| !part.is_empty()).collect();
    parts.reverse();
    parts.extend([version, kind]);
    parts.join(".")
}

/// Everything the rows' operations refer to, directly or not.
pub(super) fn components<'a>(
    rows: &[&Resource],
    prose: &Prose,
    declaration: impl Fn(&Resource) -> Option<&'a Value>,
) -> Value {
    let mut wanted: BTreeSet<&'static str> = BTreeSet::new();
    let mut components = Map::new();
    let mut queue: Vec<TypeRef> = ["DeleteOptions", "ListMeta", "ObjectMeta", "Status"]
        .iter()
        .filter_map(|kind| {
            schema::type_of_kind("", "v1", kind).or_else(|| schema::type_named(&format!("meta.v1.{kind}")))
        })
        .collect();
    for name in ["DeleteOptions", "Status", "Patch"] {
        let name = format!("{META}{name}");
        let fallback = json!({"type": "object", "description": prose.of_type(&name)});
        components.insert(name, fallback);
    }
    for (_, name) in SCALARS {
        components.insert((*name).to_string(), scalar(name, prose));
    }
    for row in rows {
        let subresources = row.subresources.iter().map(|sub| (&sub.group, &sub.version, &sub.kind));
        let own = [(&row.group, &row.version, &row.kind), (&row.group, &row.version, &row.list_kind)];
        let own = own.into_iter().take(if row.verbs.contains(Verbs::LIST) { 2 } else { 1 });
        for (group, version, kind) in own.chain(subresources) {
            match schema::type_of_kind(group, version, kind) {
                Some(of) => queue.push(of),
                None => {
                    let name = custom_name(group, version, kind);
                    if let Some(declared) = declaration(row).filter(|_| *kind == row.kind) {
                        components.insert(name, declared_component(group, version, kind, declared));
                        continue;
                    }
                    components
                        .entry(name)
                        .or_insert_with(|| custom(group, version, kind, kind == &row.list_kind));
                }
            }
        }
    }
    while let Some(of) = queue.pop() {
        if !wanted.insert(of.name()) {
            continue;
        }
        for field in of.fields() {
            let mut shape = field.shape;
            loop {
                match shape {
                    Shape::List(nested) | Shape::Map(nested) => shape = nested.shape(),
                    Shape::Struct(other) => break queue.push(other),
                    _ => break,
                }
            }
        }
        components.insert(of.openapi_name(), component(of, prose));
    }
    Value::Object(components)
}

fn custom(group: &str, version: &str, kind: &str, list: bool) -> Value {
    let what = match (group, list) {
        ("", _) => "Options",
        (_, true) => "A list of a custom resource",
        (_, false) => "A custom resource",
    };
    let metadata = if list { "ListMeta" } else { "ObjectMeta" };
    let mut component = json!({
        "type": "object",
        "description": format!("{what}: {kind} of {group}/{version}."),
        "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-group-version-kind": [{"group": group, "version": version, "kind": kind}],
    });
    if !group.is_empty() {
        component["properties"] = json!({
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": reference(&format!("{META}{metadata}")),
        });
    }
    component
}

/// What a definition declares, with the fields that every object has.
fn declared_component(group: &str, version: &str, kind: &str, declared: &Value) -> Value {
    let mut component = custom(group, version, kind, false);
    let Some(fields) = declared.as_object() else { return component };
    if declared["x-kubernetes-preserve-unknown-fields"] != true
        && let Some(component) = component.as_object_mut()
    {
        component.remove("x-kubernetes-preserve-unknown-fields");
    }
    let own = component["properties"].take();
    for (name, value) in fields {
        component[name] = value.clone();
    }
    let mut properties = declared["properties"].as_object().cloned().unwrap_or_default();
    properties.extend(own.as_object().cloned().unwrap_or_default());
    component["properties"] = Value::Object(properties);
    component
}

fn scalar(name: &str, prose: &Prose) -> Value {
    let mut of = match name.rsplit('.').next() {
        Some("Time" | "MicroTime") => json!({"type": "string", "format": "date-time"}),
        Some("IntOrString") => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        _ => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
    };
    let text = prose.of_type(name);
    if !text.is_empty() {
        of["description"] = text.into();
    }
    of
}

fn component(of: TypeRef, prose: &Prose) -> Value {
    let name = of.openapi_name();
    let kind = of.kind();
    let list_of =
        kind.and_then(|(_, _, kind)| kind.strip_suffix("List")).filter(|_| of.field("items").is_some());
    let mut text = prose.of_type(&name).to_string();
    if let (Some(item), true) = (list_of, text.is_empty()) {
        text = format!("{item}List is a list of {item}.");
    }
    let describe = |field: &str| match (prose.of_field(&name, field), list_of, field) {
        ("", Some(_), "items") => "The objects of this page.",
        ("", Some(_), "metadata") => "The revision of the list, and where its next page begins.",
        // What a kind and its version are is the same everywhere.
        ("", Some(_), field) => prose.of_field(&format!("{META}DeleteOptions"), field),
        (text, ..) => text,
    };
    let mut component = json!({"type": "object"});
    if !text.is_empty() {
        component["description"] = text.into();
    }
    let mut properties = Map::new();
    for field in of.fields() {
        properties.insert(field.name.into(), property(field, describe(field.name)));
    }
    if !properties.is_empty() {
        component["properties"] = Value::Object(properties);
    }
    let required: Vec<_> =
        of.fields().iter().filter(|field| field.required()).map(|field| field.name).collect();
    if !required.is_empty() {
        component["required"] = json!(required);
    }
    if let Some((group, version, kind)) = kind {
        component["x-kubernetes-group-version-kind"] =
            json!([{"group": group, "version": version, "kind": kind}]);
    }
    component
}

fn property(field: &Field, text: &str) -> Value {
    let mut property = shape(field.shape);
    let default = field.default().and_then(|default| serde_json::from_str::<Value>(default).ok());
    if property.get("$ref").is_some() && (!text.is_empty() || default.is_some()) {
        // Nothing may stand beside a reference.
        property = json!({"allOf": [property]});
    }
    let mut set = |name: &str, value: Value| property[name] = value;
    if !text.is_empty() {
        set("description", text.into());
    }
    if let Some(default) = default {
        set("default", default);
    }
    match field.list_type() {
        Some(ListType::Atomic) => set("x-kubernetes-list-type", "atomic".into()),
        Some(ListType::Set) => set("x-kubernetes-list-type", "set".into()),
        Some(ListType::Map) => {
            set("x-kubernetes-list-type", "map".into());
            set("x-kubernetes-list-map-keys", json!(field.list_keys().collect::<Vec<_>>()));
        }
        None => {}
    }
    if field.atomic() {
        set("x-kubernetes-map-type", "atomic".into());
    }
    let strategy: Vec<_> = [(field.merges(), "merge"), (field.retains_keys(), "retainKeys")]
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect();
    if !strategy.is_empty() {
        set("x-kubernetes-patch-strategy", strategy.join(",").into());
    }
    if let Some(key) = field.merge_key() {
        set("x-kubernetes-patch-merge-key", key.into());
    }
    property
}

fn shape(shape: Shape) -> Value {
    let named = |kind: &str| {
        SCALARS.iter().find(|(name, _)| *name == kind).map_or(Value::Null, |(_, name)| reference(name))
    };
    match shape {
        Shape::String => json!({"type": "string"}),
        Shape::Int32 => json!({"type": "integer", "format": "int32"}),
        Shape::Int64 => json!({"type": "integer", "format": "int64"}),
        Shape::Double => json!({"type": "number", "format": "double"}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Bytes => json!({"type": "string", "format": "byte"}),
        Shape::Time => named("Time"),
        Shape::MicroTime => named("MicroTime"),
        Shape::Quantity => named("Quantity"),
        Shape::IntOrString => named("IntOrString"),
        Shape::Any => json!({"x-kubernetes-preserve-unknown-fields": true}),
        Shape::Struct(of) => reference(&of.openapi_name()),
        Shape::List(of) => json!({"type": "array", "items": self::shape(of.shape())}),
        Shape::Map(of) => json!({"type": "object", "additionalProperties": self::shape(of.shape())}),
    }
}
