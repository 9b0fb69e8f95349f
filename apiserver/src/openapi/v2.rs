//! `/openapi/v2`: one Swagger 2.0 document of every kind, as JSON or as gnostic's protobuf.
//!
//! kubectl reads it where version 3 does not help it: to validate a file of `kind: List` before it is sent, and, in
//! releases before 1.27, to learn what a patch takes. The document is for that: the definitions are complete but not
//! described, and of the paths it holds the patches alone. Version 3 has the rest.
//!
//! Swagger 2.0 says less than OpenAPI v3, and kubectl refuses a document that uses what it cannot read, so schemas
//! are reduced the way upstream does it: junctors go, and a value that may be null or hold unknown fields goes
//! unchecked.

mod gnostic;

use bytes::Bytes;
use kontiki_proto::{Registry, Resource};
use prost::Message;
use serde_json::{Map, Value, json};

use super::{Declared, OpenApi, paths, prose, schema};
use crate::discovery::Reply;

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What clients ask for; `@` is not allowed in a media type, so the answer has a dot in its place.
const PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const JSON: &str = "application/json";

const COMPONENTS: &str = "#/components/schemas/";

/// Keywords that mean the same in both versions.
const SHARED: &[&str] = &[
    "default",
    "description",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "pattern",
    "required",
    "title",
    "type",
    "uniqueItems",
];

impl OpenApi {
    /// `/openapi/v2` in the first form of `accept` that exists, JSON where none does; `None` for other paths.
    pub fn answer_v2(&self, registry: &Registry, path: &str, accept: &str) -> Option<Reply> {
        if path.trim_end_matches('/') != "/openapi/v2" {
            return None;
        }
        let rows: Vec<&Resource> = registry.rows().iter().map(AsRef::as_ref).collect();
        let declared = self.declared.read();
        let protobuf = wants_protobuf(accept);
        let form = if protobuf { "protobuf" } else { "json" };
        let hash = format!("{}.{form}", super::hash(&rows, &declared));
        let body = self.kept(&hash, || {
            let document = document(&rows, &declared);
            if protobuf {
                gnostic::Document::from(&document).encode_to_vec().into()
            } else {
                Bytes::from(document.to_string())
            }
        });
        let content_type = if protobuf { PROTOBUF } else { JSON };
        Some(Reply { content_type, etag: Some(format!("\"{hash}\"")), body })
    }
}

fn wants_protobuf(accept: &str) -> bool {
    let media = accept.split(',').map(|media| media.split(';').next().unwrap_or_default().trim());
    media
        .filter_map(|media| match media {
            PROTOBUF | PROTOBUF_ASKED => Some(true),
            JSON | "*/*" | "application/*" => Some(false),
            _ => None,
        })
        .next()
        .unwrap_or(false)
}

fn document(rows: &[&Resource], declared: &Declared) -> Value {
    let components = schema::components(rows, &prose::none(), |row| super::declaration(row, declared));
    let mut definitions = Map::new();
    for (name, component) in components.as_object().into_iter().flatten() {
        definitions.insert(name.clone(), reduce(component));
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": patches(&paths::of(rows)),
        "definitions": definitions,
    })
}

/// A version 3 schema in version 2.
fn reduce(from: &Value) -> Value {
    let mut to = Map::new();
    let Some(fields) = from.as_object() else { return Value::Object(to) };
    for (name, value) in fields {
        if name.starts_with("x-") || SHARED.contains(&name.as_str()) {
            to.insert(name.clone(), value.clone());
        }
    }
    if let Some(name) = reference(from) {
        to.insert("$ref".into(), format!("#/definitions/{name}").into());
        return Value::Object(to);
    }
    if !to.contains_key("type") && from["oneOf"].as_array().is_some_and(|of| of.iter().any(is_string)) {
        // To kubectl's validation a number is a string too, but not the other way round.
        to.insert("type".into(), "string".into());
    }
    let is_set = |name: &str| from[name] == true;
    if is_set("nullable") {
        to.remove("type");
    }
    let open = ["nullable", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"];
    if !open.into_iter().any(is_set) {
        if let Some(properties) = from["properties"].as_object().filter(|properties| !properties.is_empty()) {
            let reduced = properties.iter().map(|(name, value)| (name.clone(), reduce(value)));
            to.insert("properties".into(), Value::Object(reduced.collect()));
        }
        if from["items"].is_object() {
            to.insert("items".into(), reduce(&from["items"]));
        }
        match &from["additionalProperties"] {
            Value::Bool(any) => drop(to.insert("additionalProperties".into(), (*any).into())),
            values @ Value::Object(_) => drop(to.insert("additionalProperties".into(), reduce(values))),
            _ => {}
        }
    }
    if from["type"] == "array" && !to.contains_key("items") {
        to.remove("type");
    }
    let may_be_null =
        |field: &Value| field.as_str().is_some_and(|f| from["properties"][f]["nullable"] == true);
    if let Some(Value::Array(required)) = to.get_mut("required") {
        required.retain(|field| !may_be_null(field));
        if required.is_empty() {
            to.remove("required");
        }
    }
    Value::Object(to)
}

/// What the schema refers to, also where it stands in an `allOf` for the sake of its neighbours.
fn reference(schema: &Value) -> Option<&str> {
    let direct = schema["$ref"].as_str();
    let only = || schema["allOf"].as_array().filter(|all| all.len() == 1)?[0]["$ref"].as_str();
    direct.or_else(only)?.strip_prefix(COMPONENTS)
}

fn is_string(schema: &Value) -> bool {
    schema["type"] == "string"
}

/// Of every path that can be patched, the patch: media types, query parameters, kind.
fn patches(paths: &Value) -> Value {
    let mut to = Map::new();
    for (path, item) in paths.as_object().into_iter().flatten() {
        let patch = &item["patch"];
        if !patch.is_object() {
            continue;
        }
        let consumes: Vec<&String> = patch["requestBody"]["content"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(media, _)| media)
            .collect();
        let parameters: Vec<Value> = [&patch["parameters"], &item["parameters"]]
            .into_iter()
            .filter_map(Value::as_array)
            .flatten()
            .map(|of| {
                json!({
                    "name": of["name"], "in": of["in"], "required": of["in"] == "path",
                    "type": of["schema"]["type"], "uniqueItems": true,
                })
            })
            .chain([json!({"name": "body", "in": "body", "required": true, "schema": {"type": "object"}})])
            .collect();
        let operation = json!({
            "operationId": patch["operationId"],
            "consumes": consumes,
            "produces": [JSON],
            "parameters": parameters,
            "responses": {"200": {"description": "The object as it is now."}},
            "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind": patch["x-kubernetes-group-version-kind"],
        });
        to.insert(path.clone(), json!({"patch": operation}));
    }
    Value::Object(to)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use kontiki_proto::resource::{Scope, Verbs};

    use super::gnostic::{NamedAny, Schema};
    use super::*;

    fn reply(api: &OpenApi, registry: &Registry, accept: &str) -> Reply {
        api.answer_v2(registry, "/openapi/v2", accept).expect("a document")
    }

    fn decoded(api: &OpenApi, registry: &Registry) -> gnostic::Document {
        let reply = reply(api, registry, PROTOBUF_ASKED);
        assert_eq!(reply.content_type, PROTOBUF);
        gnostic::Document::decode(reply.body).expect("a gnostic document")
    }

    fn definitions(document: gnostic::Document) -> HashMap<String, Schema> {
        let named = document.definitions.expect("definitions").additional_properties;
        named.into_iter().map(|named| (named.name, named.value.expect("a schema"))).collect()
    }

    fn extension(list: &[NamedAny], name: &str) -> Value {
        let found = list.iter().find(|any| any.name == name).and_then(|any| any.value.as_ref());
        found.map_or(Value::Null, |any| serde_saphyr::from_str(&any.yaml).expect("YAML"))
    }

    fn property<'a>(of: &'a Schema, name: &str) -> &'a Schema {
        let properties = of.properties.as_ref().expect("properties");
        let found = properties.additional_properties.iter().find(|named| named.name == name);
        found.unwrap_or_else(|| panic!("{name}")).value.as_ref().expect("a schema")
    }

    const GVK: &str = "x-kubernetes-group-version-kind";

    #[test]
    fn every_row_has_a_definition_and_the_patch_kubectl_looks_for() {
        let document = decoded(&OpenApi::new(), Registry::builtin());
        assert_eq!(document.swagger, "2.0");
        let patches: Vec<_> = document.paths.clone().expect("paths").path;
        let definitions = definitions(document);
        for row in Registry::builtin().rows() {
            let gvk = json!({"group": row.group, "version": row.version, "kind": row.kind});
            let known = definitions.values().filter(|schema| {
                extension(&schema.vendor_extension, GVK).as_array().is_some_and(|l| l.contains(&gvk))
            });
            assert_eq!(known.count(), 1, "{gvk}");
            if !row.stored() {
                continue;
            }
            let mut operations = patches.iter().filter_map(|named| named.value.as_ref()?.patch.as_ref());
            let patch =
                operations.find(|patch| extension(&patch.vendor_extension, GVK) == gvk).expect("a patch");
            assert!(patch.consumes.iter().any(|media| media.contains("strategic")), "{gvk}");
            for name in ["fieldValidation", "dryRun"] {
                assert!(patch.query_parameters().any(|parameter| parameter == name), "{gvk} {name}");
            }
        }
    }

    /// What kubectl's reader insists on; it refuses the whole document otherwise.
    #[test]
    fn every_schema_is_one_that_kubectl_reads() {
        fn check(schema: &Schema, names: &HashSet<String>, at: &str) {
            let types: Vec<&str> =
                schema.r#type.iter().flat_map(|of| &of.value).map(String::as_str).collect();
            if !schema.r#ref.is_empty() {
                let name = schema.r#ref.strip_prefix("#/definitions/").expect("a definition");
                assert!(names.contains(name), "{at}: {name}");
                assert!(types.is_empty() && schema.properties.is_none(), "{at}: fields beside a reference");
            }
            assert!(types.len() <= 1, "{at}");
            if types == ["array"] {
                assert_eq!(schema.items.as_ref().map(|items| items.schema.len()), Some(1), "{at}: items");
            } else {
                assert!(schema.items.is_none(), "{at}: items");
            }
            if let Some(properties) = &schema.properties {
                assert_eq!(types, ["object"], "{at}");
                for named in &properties.additional_properties {
                    check(named.value.as_ref().expect("a schema"), names, &format!("{at}.{}", named.name));
                }
            }
            for item in schema.items.iter().flat_map(|items| &items.schema).chain(schema.values()) {
                check(item, names, at);
            }
        }
        let definitions = definitions(decoded(&OpenApi::new(), Registry::builtin()));
        let names: HashSet<String> = definitions.keys().cloned().collect();
        for (name, schema) in &definitions {
            check(schema, &names, name);
        }
    }

    #[test]
    fn fields_carry_types_and_keys() {
        let definitions = definitions(decoded(&OpenApi::new(), Registry::builtin()));
        let types = |schema: &Schema| schema.r#type.clone().unwrap_or_default().value;
        let pod = &definitions["io.k8s.api.core.v1.PodSpec"];
        assert_eq!(pod.required, ["containers"]);
        let containers = property(pod, "containers");
        assert_eq!(types(containers), ["array"]);
        let item = &containers.items.as_ref().expect("items").schema[0];
        assert_eq!(item.r#ref, "#/definitions/io.k8s.api.core.v1.Container");
        assert_eq!(extension(&containers.vendor_extension, "x-kubernetes-patch-merge-key"), "name");
        assert_eq!(extension(&containers.vendor_extension, "x-kubernetes-patch-strategy"), "merge");
        let labels = property(pod, "nodeSelector");
        assert_eq!(types(labels), ["object"]);
        assert_eq!(types(labels.values().next().expect("values")), ["string"]);
        let quantity = &definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"];
        assert_eq!(types(quantity), ["string"]);
        let port = &definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
        assert_eq!((types(port), port.format.as_str()), (vec!["string".to_string()], "int-or-string"));
        let fields =
            property(&definitions["io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry"], "fieldsV1");
        assert!(fields.properties.is_none());
    }

    #[test]
    fn both_forms_name_the_same_definitions_and_have_tags_of_their_own() {
        let api = OpenApi::new();
        let (json, protobuf) =
            (reply(&api, Registry::builtin(), "*/*"), reply(&api, Registry::builtin(), PROTOBUF));
        assert_eq!(json.content_type, JSON);
        assert_ne!(json.etag, protobuf.etag);
        assert_eq!(reply(&api, Registry::builtin(), "text/plain, application/json;q=0.5"), json);
        let document: Value = serde_json::from_slice(&json.body).expect("JSON");
        let names: HashSet<String> =
            document["definitions"].as_object().expect("definitions").keys().cloned().collect();
        let other = definitions(decoded(&api, Registry::builtin()));
        assert_eq!(names, other.into_keys().collect());
        assert!(api.answer_v2(Registry::builtin(), "/openapi/v2x", JSON).is_none());
    }

    #[test]
    fn a_custom_resource_is_reduced_to_what_version_2_can_say() {
        let mut toy = Resource::new("example.com", "v1", "Toy", "toys", Scope::Cluster, Verbs::ALL);
        toy.custom = true;
        let registry = Registry::builtin().with([std::sync::Arc::new(toy)]);
        let schema = json!({"type": "object", "required": ["spec"], "properties": {"spec": {
            "type": "object",
            "required": ["size", "maybe"],
            "properties": {
                "size": {"type": "integer", "minimum": 1},
                "maybe": {"type": "object", "nullable": true, "properties": {"a": {"type": "string"}}},
                "free": {"type": "array", "x-kubernetes-preserve-unknown-fields": true, "items": {}},
                "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            },
            "oneOf": [{"required": ["size"]}, {"required": ["port"]}],
        }}});
        let api = OpenApi::new();
        let before = reply(&api, &registry, JSON);
        api.set_declared([(("example.com".into(), "v1".into(), "Toy".into()), schema)].into());
        let after = reply(&api, &registry, JSON);
        assert_ne!(before.etag, after.etag);
        let document: Value = serde_json::from_slice(&after.body).expect("JSON");
        let toy = &document["definitions"]["com.example.v1.Toy"];
        assert_eq!(
            toy["properties"]["spec"],
            json!({
                "type": "object",
                "required": ["size"],
                "properties": {
                    "size": {"type": "integer", "minimum": 1},
                    "maybe": {},
                    "free": {"x-kubernetes-preserve-unknown-fields": true},
                    "port": {"x-kubernetes-int-or-string": true},
                },
            })
        );
        assert_eq!(
            toy["properties"]["metadata"]["$ref"],
            "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        );
        let patch = &document["paths"]["/apis/example.com/v1/toys/{name}"]["patch"];
        assert!(patch["consumes"].as_array().is_some_and(|media| !media.is_empty()));
        assert!(!patch["consumes"].to_string().contains("strategic"));
        let spec = definitions(decoded(&api, &registry)).remove("com.example.v1.Toy").expect("the toy");
        assert_eq!(
            property(property(&spec, "spec"), "size").r#type.clone().expect("a type").value,
            ["integer"]
        );
    }
}
