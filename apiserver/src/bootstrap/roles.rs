//! Upstream's default roles and bindings, from the table in `roles.txt`.
//!
//! ```text
//! role [<namespace>/]<name> [><label>]… [<<label>]…     `>x` is aggregated into x, `<x` aggregates what is labelled x
//!   <verbs> <groups> <resources> [<names>]              lists with commas; `core` is the group without a name
//!   <verbs> url <paths>
//! bind [<namespace>/]<name> <role> <subject>…           u:<user> g:<group> s:<namespace>/<service account>
//! ```

use serde_json::{Map, Value, json};

use crate::auth::rbac::index::{Change, Index};
use crate::auth::rbac::{GROUP, Rule};

const TABLE: &str = include_str!("roles.txt");
const API_VERSION: &str = "rbac.authorization.k8s.io/v1";
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";
/// Objects so marked are completed again at each start of a server.
pub(super) const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// All roles, then all bindings. Aggregating roles hold the union of what they select.
pub(super) fn objects() -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if line.starts_with(' ') {
            if let Some(rules) = objects.last_mut().and_then(|role| role["rules"].as_array_mut()) {
                rules.extend(rule(line));
            }
            continue;
        }
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("role"), Some(name)) => objects.push(role(name, words)),
            (Some("bind"), Some(name)) => objects.push(binding(name, words)),
            _ => {}
        }
    }
    aggregate(&mut objects);
    objects
}

fn split(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or(("", name))
}

fn object(kind: &str, name: &str) -> Value {
    let (namespace, name) = split(name);
    let prefix = if namespace.is_empty() { "Cluster" } else { "" };
    let mut metadata = json!({
        "name": name,
        "annotations": {AUTOUPDATE: "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    json!({"apiVersion": API_VERSION, "kind": format!("{prefix}{kind}"), "metadata": metadata})
}

fn role<'a>(name: &str, labels: impl Iterator<Item = &'a str>) -> Value {
    let mut role = object("Role", name);
    role["rules"] = json!([]);
    let mut selectors = Vec::new();
    for label in labels {
        if let Some(to) = label.strip_prefix('>') {
            role["metadata"]["labels"][format!("{AGGREGATE}{to}")] = "true".into();
        } else if let Some(from) = label.strip_prefix('<') {
            selectors.push(json!({"matchLabels": {format!("{AGGREGATE}{from}"): "true"}}));
        }
    }
    if !selectors.is_empty() {
        role["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
    }
    role
}

fn rule(line: &str) -> Option<Value> {
    let mut words = line.split_whitespace();
    let list = |word: &str| -> Value {
        word.split(',').map(|item| if item == "core" { "" } else { item }).collect()
    };
    let mut rule = Map::new();
    rule.insert("verbs".into(), list(words.next()?));
    match (words.next()?, words.next()?) {
        ("url", paths) => {
            rule.insert("nonResourceURLs".into(), list(paths));
        }
        (groups, resources) => {
            rule.insert("apiGroups".into(), list(groups));
            rule.insert("resources".into(), list(resources));
        }
    }
    if let Some(names) = words.next() {
        rule.insert("resourceNames".into(), list(names));
    }
    Some(Value::Object(rule))
}

fn binding<'a>(name: &str, mut words: impl Iterator<Item = &'a str>) -> Value {
    let mut binding = object("RoleBinding", name);
    let kind = if name.contains('/') { "Role" } else { "ClusterRole" };
    let role = words.next().unwrap_or_default();
    binding["roleRef"] = json!({"apiGroup": GROUP, "kind": kind, "name": role});
    let subjects: Vec<Value> = words
        .filter_map(|word| {
            let (kind, name) = word.split_once(':')?;
            Some(match kind {
                "u" => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
                "g" => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
                _ => {
                    let (namespace, name) = split(name);
                    json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
                }
            })
        })
        .collect();
    if !subjects.is_empty() {
        binding["subjects"] = subjects.into();
    }
    binding
}

/// Writes into each aggregating ClusterRole the rules it stands for; tells which of them changed.
pub(super) fn aggregate(objects: &mut [Value]) -> Vec<usize> {
    let index = Index::default();
    index.replace(objects.iter().filter(|object| object["kind"] == "ClusterRole").map(|object| {
        Change::Put {
            plural: "clusterroles",
            namespace: "",
            name: object["metadata"]["name"].as_str().unwrap_or_default(),
            object,
        }
    }));
    let mut changed = Vec::new();
    for (at, object) in objects.iter_mut().enumerate() {
        if object["kind"] != "ClusterRole" || !object["aggregationRule"].is_object() {
            continue;
        }
        let rules =
            index.role("", object["metadata"]["name"].as_str().unwrap_or_default()).unwrap_or_default();
        if rules != Rule::read_all(&object["rules"]) {
            object["rules"] = rules.iter().map(Rule::write).collect();
            changed.push(at);
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Access, User};

    fn index() -> Index {
        let objects = objects();
        let index = Index::default();
        index.replace(objects.iter().map(|object| {
            let kind = object["kind"].as_str().expect("a kind");
            let plural = match kind {
                "ClusterRole" => "clusterroles",
                "Role" => "roles",
                "ClusterRoleBinding" => "clusterrolebindings",
                _ => "rolebindings",
            };
            let text = |value: &'static str| object["metadata"][value].as_str().unwrap_or_default();
            Change::Put { plural, namespace: text("namespace"), name: text("name"), object }
        }));
        index
    }

    #[test]
    fn every_binding_names_a_role_of_the_table() {
        let objects = objects();
        let named = |kind: &str, namespace: &Value, name: &Value| {
            objects.iter().any(|o| {
                o["kind"] == kind
                    && o["metadata"]["namespace"] == *namespace
                    && o["metadata"]["name"] == *name
            })
        };
        let identity = |o: &Value| {
            (
                o["kind"].to_string(),
                o["metadata"].get("namespace").cloned(),
                o["metadata"]["name"].to_string(),
            )
        };
        for (at, object) in objects.iter().enumerate() {
            assert!(objects[..at].iter().all(|other| identity(other) != identity(object)), "twice: {object}");
        }
        let mut bindings = 0;
        for binding in objects.iter().filter(|o| o["roleRef"].is_object()) {
            let reference = &binding["roleRef"];
            let namespace =
                if reference["kind"] == "Role" { &binding["metadata"]["namespace"] } else { &Value::Null };
            assert!(
                named(reference["kind"].as_str().expect("a kind"), namespace, &reference["name"]),
                "{binding}"
            );
            bindings += 1;
        }
        assert_eq!((objects.len(), bindings), (135, 58));
    }

    #[test]
    fn the_defaults_allow_what_upstreams_do() {
        let index = index();
        // The usual roles are bound by people: bind them here.
        for (name, role) in [("jane", "view"), ("ed", "edit"), ("ann", "admin")] {
            let binding = json!({
                "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "User", "name": name}],
            });
            index.apply([Change::Put { plural: "rolebindings", namespace: "shop", name, object: &binding }]);
        }
        let check = |user: &User, verb: &str, group: &str, resource: &str, namespace: &str, allowed: bool| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let access = Access {
                user,
                verb,
                group,
                version: "v1",
                resource,
                subresource,
                namespace,
                name: "x",
                path: None,
            };
            assert_eq!(
                index.authorize(&access).allowed(),
                allowed,
                "{} {verb} {resource}/{subresource}",
                user.name
            );
        };
        let user = |name: &str| User::new(name, ["system:authenticated"]);
        let (jane, ed, ann) = (user("jane"), user("ed"), user("ann"));
        check(&jane, "get", "", "pods", "shop", true);
        check(&jane, "get", "", "pods/log", "shop", true);
        check(&jane, "get", "", "secrets", "shop", false);
        check(&jane, "delete", "", "pods", "shop", false);
        check(&jane, "get", "", "pods", "other", false);
        check(&ed, "get", "", "pods", "shop", true);
        check(&ed, "create", "apps", "deployments", "shop", true);
        check(&ed, "create", "rbac.authorization.k8s.io", "roles", "shop", false);
        check(&ann, "create", "rbac.authorization.k8s.io", "roles", "shop", true);
        check(&ann, "get", "", "secrets", "shop", true);
        let scheduler = user("system:kube-scheduler");
        check(&scheduler, "create", "", "pods/binding", "any", true);
        check(&scheduler, "create", "", "secrets", "any", false);
        check(&user("system:kube-proxy"), "watch", "discovery.k8s.io", "endpointslices", "", true);
        let path = |user: &User, path: &str| index.authorize(&Access::path(user, "get", path)).allowed();
        assert!(path(&jane, "/api/v1") && path(&jane, "/openapi/v3/api/v1") && path(&jane, "/version"));
        assert!(!path(&jane, "/metrics"));
        let anonymous = User::anonymous();
        assert!(path(&anonymous, "/healthz") && path(&anonymous, "/version") && !path(&anonymous, "/api"));
        let masters = User::new("root", ["system:masters"]);
        check(&masters, "anything", "any.group", "anything", "", true);
    }

    #[test]
    fn aggregated_roles_hold_what_they_select_through_each_other() {
        let objects = objects();
        let rules = |name: &str| {
            let role = objects.iter().find(|o| o["kind"] == "ClusterRole" && o["metadata"]["name"] == name);
            Rule::read_all(&role.expect("a role")["rules"])
        };
        let (view, edit, admin) = (rules("view"), rules("edit"), rules("admin"));
        assert!(view.iter().all(|rule| edit.contains(rule)), "edit holds all of view");
        assert!(edit.iter().all(|rule| admin.contains(rule)), "admin holds all of edit");
        assert!(rules("system:aggregate-to-admin").iter().all(|rule| admin.contains(rule)));
        assert!(aggregate(&mut objects.clone()).is_empty(), "nothing is left to fill in");
    }
}
