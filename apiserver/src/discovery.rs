//! Discovery documents, made from the resource table.
//!
//! Two forms: the old one, a document for each group version, and the aggregated one, everything in two documents.
//! They are made anew for each request: it takes a fraction of a millisecond, and the table may change.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kontiki_proto::Registry;
use kontiki_proto::resource::{Resource, Scope, Subresource};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A document ready to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub content_type: &'static str,
    /// Quoted, where the document has one; the front answers 304 to the same `If-None-Match`.
    pub etag: Option<String>,
    pub body: Bytes,
}

const JSON: &str = "application/json";
const AGGREGATED: [(&str, &str); 2] = [
    ("v2", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
    ("v2beta1", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"),
];

/// `/api`, `/apis`, `/api/v1`, `/apis/<group>`, `/apis/<group>/<version>`; `None` where the path is none of these or
/// names no group of the table. `accept` chooses between the legacy and the aggregated form of the first two.
/// `address` is the `host:port` clients are told for `/api`.
pub fn answer(registry: &Registry, path: &str, accept: &str, address: &str) -> Option<Reply> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (document, content_type) = match (segments.as_slice(), aggregated_version(accept)) {
        (["api"], Some((version, content_type))) => (aggregated(registry, version, true), content_type),
        (["apis"], Some((version, content_type))) => (aggregated(registry, version, false), content_type),
        (["api"], None) => (core_versions(registry, address), JSON),
        (["apis"], None) => (group_list(registry), JSON),
        (["api", version], _) => (resource_list(registry, "", version)?, JSON),
        (["apis", name], _) => (group(registry, name)?, JSON),
        (["apis", name, version], _) if !name.is_empty() => (resource_list(registry, name, version)?, JSON),
        _ => return None,
    };
    let body = Bytes::from(document.to_string());
    let etag = (content_type != JSON).then(|| etag(&body));
    Some(Reply { content_type, etag, body })
}

/// A strong entity tag of the bytes.
pub(crate) fn etag(body: &[u8]) -> String {
    format!("\"{}\"", hex::encode_upper(Sha256::digest(body)))
}

/// The first media type of the list that this server knows decides.
fn aggregated_version(accept: &str) -> Option<(&'static str, &'static str)> {
    for media in accept.split(',') {
        let mut parts = media.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        if !matches!(kind, "application/json" | "application/*" | "*/*") {
            continue;
        }
        let parameter = |name: &str| {
            let mut all = media.split(';').skip(1).filter_map(|part| part.trim().split_once('='));
            all.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        match (parameter("g"), parameter("as"), parameter("v")) {
            (Some("apidiscovery.k8s.io"), Some("APIGroupDiscoveryList"), Some(version)) => {
                if let Some(known) = AGGREGATED.iter().find(|(name, _)| *name == version) {
                    return Some(*known);
                }
            }
            (None, None, None) => return None,
            _ => {}
        }
    }
    None
}

/// Groups in the table's order, each with its versions in theirs: the preferred one first.
fn groups(registry: &Registry) -> Vec<(&str, Vec<&str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in registry.rows() {
        match groups.iter_mut().find(|(group, _)| *group == row.group) {
            None => groups.push((&row.group, vec![&row.version])),
            Some((_, versions)) if !versions.contains(&row.version.as_str()) => versions.push(&row.version),
            Some(_) => {}
        }
    }
    groups
}

fn rows<'a>(registry: &'a Registry, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Resource> {
    let rows = registry.rows().iter().filter(move |row| row.group == group && row.version == version);
    rows.map(AsRef::as_ref)
}

fn core_versions(registry: &Registry, address: &str) -> Value {
    let versions: Vec<_> = groups(registry).into_iter().filter(|(group, _)| group.is_empty()).collect();
    json!({
        "kind": "APIVersions",
        "versions": versions.into_iter().flat_map(|(_, versions)| versions).collect::<Vec<_>>(),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

fn group_document(name: &str, versions: &[&str]) -> Value {
    let versions: Vec<_> =
        versions.iter().map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v})).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

fn group_list(registry: &Registry) -> Value {
    let groups = groups(registry);
    let named = groups.iter().filter(|(name, _)| !name.is_empty());
    let documents: Vec<_> = named.map(|(name, versions)| group_document(name, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": documents})
}

fn group(registry: &Registry, name: &str) -> Option<Value> {
    let groups = groups(registry);
    let (name, versions) = groups.iter().find(|(group, _)| *group == name && !name.is_empty())?;
    let mut document = group_document(name, versions);
    document["kind"] = "APIGroup".into();
    document["apiVersion"] = "v1".into();
    Some(document)
}

fn resource_list(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for row in rows(registry, group, version) {
        let mut resource = json!({
            "name": row.plural, "singularName": row.singular, "namespaced": row.namespaced(), "kind": row.kind,
            "verbs": row.verbs.names().collect::<Vec<_>>(),
        });
        if !row.short_names.is_empty() {
            resource["shortNames"] = json!(row.short_names);
        }
        if !row.categories.is_empty() {
            resource["categories"] = json!(row.categories);
        }
        if row.stored() {
            resource["storageVersionHash"] = storage_hash(row).into();
        }
        resources.push(resource);
        for sub in &row.subresources {
            let mut resource = json!({
                "name": format!("{}/{}", row.plural, sub.name), "singularName": "", "namespaced": row.namespaced(),
                "kind": sub.kind, "verbs": sub.verbs.names().collect::<Vec<_>>(),
            });
            if foreign(row, sub) {
                resource["group"] = json!(sub.group);
                resource["version"] = json!(sub.version);
            }
            resources.push(resource);
        }
    }
    if resources.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_string() } else { format!("{group}/{version}") };
    let mut list = json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": resources});
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    Some(list)
}

/// Whether the subresource's documents are of another group version than the resource itself.
fn foreign(row: &Resource, sub: &Subresource) -> bool {
    sub.group != row.group || sub.version != row.version
}

/// Changes when the kind is stored at another version.
fn storage_hash(row: &Resource) -> String {
    let version = match (row.group.as_str(), row.plural.as_str()) {
        ("autoscaling", "horizontalpodautoscalers") => "v2",
        _ => &row.version,
    };
    let stored = format!("{}/{version}/{}", row.storage_group(), row.kind);
    STANDARD.encode(&Sha256::digest(stored)[..8])
}

fn aggregated(registry: &Registry, api_version: &str, core: bool) -> Value {
    let groups = groups(registry).into_iter().filter(|(group, _)| group.is_empty() == core);
    let items: Vec<_> = groups
        .map(|(group, versions)| {
            let versions: Vec<_> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<_> = rows(registry, group, version).map(aggregated_resource).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            let metadata = if core { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{api_version}"),
        "metadata": {}, "items": items,
    })
}

fn aggregated_resource(row: &Resource) -> Value {
    // An empty group and version stand for those the resource is listed under.
    let own = |kind: &str| json!({"group": "", "version": "", "kind": kind});
    let mut resource = json!({
        "resource": row.plural,
        "responseKind": own(&row.kind),
        "scope": match row.scope { Scope::Namespaced => "Namespaced", Scope::Cluster => "Cluster" },
        "singularResource": row.singular,
        "verbs": row.verbs.names().collect::<Vec<_>>(),
    });
    if !row.short_names.is_empty() {
        resource["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        resource["categories"] = json!(row.categories);
    }
    if !row.subresources.is_empty() {
        let subresources = row.subresources.iter().map(|sub| {
            let kind = if foreign(row, sub) {
                json!({"group": sub.group, "version": sub.version, "kind": sub.kind})
            } else {
                own(&sub.kind)
            };
            json!({"subresource": sub.name, "responseKind": kind, "verbs": sub.verbs.names().collect::<Vec<_>>()})
        });
        resource["subresources"] = subresources.collect();
    }
    resource
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

    fn get(path: &str, accept: &str) -> Option<(Reply, Value)> {
        let reply = answer(Registry::builtin(), path, accept, "10.0.0.1:6443")?;
        let document = serde_json::from_slice(&reply.body).expect("JSON");
        Some((reply, document))
    }

    #[test]
    fn the_accept_header_chooses_the_form() {
        for (accept, kind, api_version, tagged) in [
            ("", "APIGroupList", "v1", false),
            ("application/json", "APIGroupList", "v1", false),
            ("application/json,*/*", "APIGroupList", "v1", false),
            (NEW, "APIGroupDiscoveryList", "apidiscovery.k8s.io/v2", true),
            (AGGREGATED[1].1, "APIGroupDiscoveryList", "apidiscovery.k8s.io/v2beta1", true),
            (
                "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/json",
                "APIGroupList",
                "v1",
                false,
            ),
        ] {
            let (reply, document) = get("/apis", accept).expect("a document");
            assert_eq!(
                (&document["kind"], &document["apiVersion"]),
                (&json!(kind), &json!(api_version)),
                "{accept}"
            );
            assert_eq!(reply.etag.is_some(), tagged);
        }
    }

    #[test]
    fn every_row_stands_in_its_group_versions_list() {
        for row in Registry::builtin().rows() {
            let path = match row.group.as_str() {
                "" => format!("/api/{}", row.version),
                group => format!("/apis/{group}/{}", row.version),
            };
            let (_, list) = get(&path, "").unwrap_or_else(|| panic!("{path}"));
            assert_eq!(list["groupVersion"], row.api_version().as_str());
            let resources = list["resources"].as_array().expect("a list");
            let found = resources.iter().find(|r| r["name"] == row.plural.as_str()).expect("listed");
            assert_eq!(found["kind"], row.kind.as_str());
            assert_eq!(found["namespaced"], row.namespaced());
            for sub in &row.subresources {
                let name = format!("{}/{}", row.plural, sub.name);
                let found = resources.iter().find(|r| r["name"] == name.as_str()).expect("listed");
                assert_eq!(found["kind"], sub.kind.as_str());
                assert_eq!(
                    found.get("group").is_some(),
                    sub.group != row.group || sub.version != row.version
                );
            }
        }
    }

    #[test]
    fn the_aggregated_form_says_the_same() {
        let (_, core) = get("/api", NEW).expect("core");
        let (_, named) = get("/apis", NEW).expect("groups");
        let items = core["items"].as_array().into_iter().chain(named["items"].as_array()).flatten();
        let mut seen = 0;
        for item in items {
            let group = item["metadata"]["name"].as_str().unwrap_or_default();
            for version in item["versions"].as_array().expect("versions") {
                for resource in version["resources"].as_array().expect("resources") {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
                    let row = Registry::builtin()
                        .find(group, &text(&version["version"]), &text(&resource["resource"]))
                        .expect("a row");
                    assert_eq!(resource["singularResource"], row.singular.as_str());
                    assert_eq!(resource["verbs"], json!(row.verbs.names().collect::<Vec<_>>()));
                    let subresources = resource["subresources"].as_array().map_or(0, Vec::len);
                    assert_eq!(subresources, row.subresources.len());
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, Registry::builtin().rows().len());
    }

    #[test]
    fn groups_come_in_upstreams_order_with_the_preferred_version_first() {
        let (_, list) = get("/apis", "").expect("groups");
        let groups = list["groups"].as_array().expect("groups");
        assert_eq!(groups[0]["name"], "apiregistration.k8s.io");
        assert_eq!(groups[1]["name"], "apps");
        let scaling = groups.iter().find(|group| group["name"] == "autoscaling").expect("autoscaling");
        assert_eq!(scaling["preferredVersion"]["version"], "v2");
        assert_eq!(scaling["versions"][1]["groupVersion"], "autoscaling/v1");
        let (_, apps) = get("/apis/apps", "").expect("apps");
        assert_eq!((&apps["kind"], &apps["name"]), (&json!("APIGroup"), &json!("apps")));
    }

    #[test]
    fn the_storage_hash_is_upstreams() {
        let (_, core) = get("/api/v1", "").expect("core");
        let resources = core["resources"].as_array().expect("resources");
        let maps = resources.iter().find(|r| r["name"] == "configmaps").expect("config maps");
        assert_eq!(maps["storageVersionHash"], "qFsyl6wFWjQ=");
    }

    #[test]
    fn other_paths_are_not_ours() {
        for path in ["/", "/version", "/api/v2", "/apis/none", "/apis/apps/v9", "/api/v1/pods", "/apis/"] {
            let found = get(path, "").map(|(_, document)| document["kind"].clone());
            assert!(found.is_none() || path == "/apis/", "{path}: {found:?}");
        }
    }
}
