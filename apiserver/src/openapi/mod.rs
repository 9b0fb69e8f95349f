//! OpenAPI documents, made from the resource table and the kinds' schemas.
//!
//! | module | holds |
//! |---|---|
//! | [`schema`] | a type of the schema table as a component, with merge keys and list types |
//! | [`prose`] | what the fields mean: the descriptions that come with `k8s-openapi` |
//! | [`paths`] | the operations of each row, with the parameters clients look for |
//! | [`v2`] | the older form of the same, one document for all kinds |
//!
//! Documents are made on request (some ten milliseconds for the largest) and a few are kept, for a client asks for
//! the same ones again within seconds and never needs many.

mod paths;
mod prose;
mod schema;
mod v2;

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use kontiki_proto::{Registry, Resource};
use parking_lot::{Mutex, RwLock};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::discovery::Reply;

/// Documents kept at one time.
const KEPT: usize = 3;

/// What definitions declare of their kinds, by group, version and kind.
pub type Declared = HashMap<(String, String, String), Value>;

/// Makes the documents on request and keeps a bounded number of them.
#[derive(Default)]
pub struct OpenApi {
    recent: Mutex<VecDeque<(String, Bytes)>>,
    declared: RwLock<Declared>,
}

impl OpenApi {
    pub fn new() -> OpenApi {
        OpenApi::default()
    }

    /// Replaces the schemas of custom resources.
    pub fn set_declared(&self, declared: Declared) {
        *self.declared.write() = declared;
    }

    /// `/openapi/v3` and `/openapi/v3/<path of a group version>`; `None` for every other path.
    pub fn answer(&self, registry: &Registry, path: &str) -> Option<Reply> {
        let rest = path.trim_end_matches('/').strip_prefix("/openapi/v3")?;
        if rest.is_empty() {
            return Some(index(registry, &self.declared.read()));
        }
        let segments: Vec<&str> = rest.strip_prefix('/')?.split('/').collect();
        let (group, version) = match segments.as_slice() {
            ["api", version] => ("", *version),
            ["apis", group, version] if !group.is_empty() => (*group, *version),
            _ => return None,
        };
        let rows: Vec<&Resource> = rows(registry, group, version).collect();
        if rows.is_empty() {
            return None;
        }
        let declared = self.declared.read();
        let hash = hash(&rows, &declared);
        let body = self.kept(&hash, || Bytes::from(document(group, version, &rows, &declared).to_string()));
        Some(Reply { content_type: "application/json", etag: Some(format!("\"{hash}\"")), body })
    }

    /// The document of this hash, made where it is not among those that are kept.
    fn kept(&self, hash: &str, make: impl FnOnce() -> Bytes) -> Bytes {
        let kept = self.recent.lock().iter().find(|(known, _)| known == hash).map(|(_, body)| body.clone());
        kept.unwrap_or_else(|| {
            let body = make();
            let mut recent = self.recent.lock();
            recent.truncate(KEPT - 1);
            recent.push_front((hash.to_string(), body.clone()));
            body
        })
    }
}

fn rows<'a>(registry: &'a Registry, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Resource> {
    let rows = registry.rows().iter().filter(move |row| row.group == group && row.version == version);
    rows.map(AsRef::as_ref)
}

/// Changes with everything a document is made from: the rows and this program.
fn hash(rows: &[&Resource], declared: &Declared) -> String {
    let mut digest = Sha256::new();
    digest.update(env!("CARGO_PKG_VERSION"));
    digest.update(format!("{rows:?}"));
    for row in rows.iter().filter(|row| row.custom) {
        digest.update(declaration(row, declared).map(Value::to_string).unwrap_or_default());
    }
    hex::encode_upper(digest.finalize())
}

fn declaration<'a>(row: &Resource, declared: &'a Declared) -> Option<&'a Value> {
    declared.get(&(row.group.to_string(), row.version.to_string(), row.kind.to_string()))
}

fn index(registry: &Registry, declared: &Declared) -> Reply {
    let mut paths = Map::new();
    for row in registry.rows() {
        let path = match row.group.as_str() {
            "" => format!("api/{}", row.version),
            group => format!("apis/{group}/{}", row.version),
        };
        if !paths.contains_key(&path) {
            let rows: Vec<&Resource> = rows(registry, &row.group, &row.version).collect();
            let url = format!("/openapi/v3/{path}?hash={}", hash(&rows, declared));
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    let body = Bytes::from(json!({"paths": paths}).to_string());
    let etag = Some(crate::discovery::etag(&body));
    Reply { content_type: "application/json", etag, body }
}

fn document(group: &str, version: &str, rows: &[&Resource], declared: &Declared) -> Value {
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths::of(rows),
        "components": {
            "schemas": schema::components(rows, &prose::of(group, version), |row| declaration(row, declared)),
            "securitySchemes": {
                "BearerToken": {
                    "type": "apiKey", "in": "header", "name": "authorization",
                    "description": "Bearer token authentication",
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> Value {
        let reply = OpenApi::new().answer(Registry::builtin(), path).unwrap_or_else(|| panic!("{path}"));
        serde_json::from_slice(&reply.body).expect("JSON")
    }

    fn documents() -> impl Iterator<Item = (String, Value)> {
        let index = get("/openapi/v3");
        let paths = index["paths"].as_object().expect("paths").clone();
        paths.into_iter().map(|(path, _)| (path.clone(), get(&format!("/openapi/v3/{path}"))))
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        found.push(reference.clone());
                    }
                    map.values().for_each(|value| walk(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
                _ => {}
            }
        }
        for (path, document) in documents() {
            let mut references = Vec::new();
            walk(&document, &mut references);
            for reference in references {
                let name = reference.strip_prefix("#/components/schemas/").expect("a component");
                assert!(document["components"]["schemas"][name].is_object(), "{path}: {name}");
            }
        }
    }

    #[test]
    fn every_kind_has_a_described_component_and_a_patch_with_the_parameters_kubectl_looks_for() {
        for (path, document) in documents() {
            let (group, version) = match path.split('/').collect::<Vec<_>>()[..] {
                ["api", version] => (String::new(), version.to_string()),
                ["apis", group, version] => (group.to_string(), version.to_string()),
                _ => panic!("{path}"),
            };
            for row in rows(Registry::builtin(), &group, &version) {
                let gvk = json!({"group": group, "version": version, "kind": row.kind});
                let schemas = document["components"]["schemas"].as_object().expect("schemas");
                let component = schemas.values().find(|schema| {
                    schema["x-kubernetes-group-version-kind"]
                        .as_array()
                        .is_some_and(|list| list.contains(&gvk))
                });
                let component = component.unwrap_or_else(|| panic!("{path}: {}", row.kind));
                assert!(component["description"].as_str().is_some_and(|text| !text.is_empty()), "{gvk}");
                if !row.stored() {
                    continue;
                }
                let paths = document["paths"].as_object().expect("paths");
                let patch = paths.values().map(|item| &item["patch"]).find(|patch| {
                    patch["x-kubernetes-group-version-kind"] == gvk && patch["x-kubernetes-action"] == "patch"
                });
                let parameters = patch.expect("a patch")["parameters"].as_array().expect("parameters");
                for name in ["fieldValidation", "dryRun", "fieldManager", "force"] {
                    assert!(parameters.iter().any(|p| p["name"] == name), "{gvk} {name}");
                }
            }
        }
    }

    #[test]
    fn fields_carry_types_keys_and_meaning() {
        let core = get("/openapi/v3/api/v1");
        let schemas = &core["components"]["schemas"];
        let pod = &schemas["io.k8s.api.core.v1.PodSpec"];
        assert_eq!(pod["required"], json!(["containers"]));
        let containers = &pod["properties"]["containers"];
        assert_eq!(containers["type"], "array");
        assert_eq!(containers["items"]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Container");
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(containers["x-kubernetes-list-type"], "map");
        assert!(
            containers["description"].as_str().is_some_and(|text| text.starts_with("List of containers"))
        );
        let volumes = &pod["properties"]["volumes"];
        assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
        let name = &schemas["io.k8s.api.core.v1.Container"]["properties"]["name"];
        assert_eq!(name["type"], "string");
        let metadata = &schemas["io.k8s.api.core.v1.Pod"]["properties"]["metadata"];
        assert_eq!(
            metadata["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        );
    }

    #[test]
    fn the_index_names_every_group_version_and_changes_with_its_rows() {
        let none = Declared::new();
        let builtin = index(Registry::builtin(), &none);
        let custom = Resource::new(
            "apps",
            "v1",
            "Toy",
            "toys",
            kontiki_proto::resource::Scope::Cluster,
            kontiki_proto::resource::Verbs::ALL,
        );
        let more = Registry::builtin().with([std::sync::Arc::new(custom)]);
        let read = |reply: &Reply| serde_json::from_slice::<Value>(&reply.body).expect("JSON");
        let (before, after) = (read(&builtin), read(&index(&more, &none)));
        assert_ne!(before["paths"]["apis/apps/v1"], after["paths"]["apis/apps/v1"]);
        assert_eq!(before["paths"]["api/v1"], after["paths"]["api/v1"]);
        assert_ne!(builtin.etag, index(&more, &none).etag);
    }

    #[test]
    fn a_custom_resource_is_described_as_it_was_declared() {
        let mut toy = Resource::new(
            "example.com",
            "v1",
            "Toy",
            "toys",
            kontiki_proto::resource::Scope::Cluster,
            kontiki_proto::resource::Verbs::ALL,
        );
        toy.custom = true;
        let registry = Registry::builtin().with([std::sync::Arc::new(toy)]);
        let api = OpenApi::new();
        let path = "/openapi/v3/apis/example.com/v1";
        let before = api.answer(&registry, path).expect("a document");
        let schema =
            json!({"type": "object", "properties": {"spec": {"type": "object", "description": "Its size."}}});
        api.set_declared([(("example.com".into(), "v1".into(), "Toy".into()), schema)].into());
        let after = api.answer(&registry, path).expect("a document");
        assert_ne!(before.etag, after.etag);
        let document: Value = serde_json::from_slice(&after.body).expect("JSON");
        let component = &document["components"]["schemas"]["com.example.v1.Toy"];
        assert_eq!(component["properties"]["spec"]["description"], "Its size.");
        assert!(component["properties"]["metadata"].is_object());
        assert_eq!(component["x-kubernetes-group-version-kind"][0]["kind"], "Toy");
        let patch = &document["paths"]["/apis/example.com/v1/toys/{name}"]["patch"]["requestBody"]["content"];
        assert!(patch["application/merge-patch+json"].is_object());
        assert!(patch["application/strategic-merge-patch+json"].is_null());
    }

    #[test]
    fn other_paths_are_not_ours() {
        for path in
            ["/openapi/v2", "/openapi/v3/api/v9", "/openapi/v3/apis/none/v1", "/openapi", "/openapi/v3x"]
        {
            assert!(OpenApi::new().answer(Registry::builtin(), path).is_none(), "{path}");
        }
    }
}
