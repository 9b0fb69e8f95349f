//! Rules, bindings and aggregation as tables.

use serde_json::{Value, json};

use super::index::Change;
use super::{Index, Rule, cover};
use crate::auth::{Access, User};

/// `group/resource/subresource@namespace#name`, of which all but the resource may be missing; or a path.
fn allows(index: &Index, user: &User, verb: &str, what: &str) -> bool {
    if what.starts_with('/') {
        return index.authorize(&Access::path(user, verb, what)).allowed();
    }
    let (what, name) = what.split_once('#').unwrap_or((what, ""));
    let (what, namespace) = what.split_once('@').unwrap_or((what, ""));
    let (group, what) = what.split_once(':').unwrap_or(("", what));
    let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
    let access =
        Access { user, verb, group, version: "v1", resource, subresource, namespace, name, path: None };
    index.authorize(&access).allowed()
}

fn put<'a>(plural: &'a str, namespace: &'a str, name: &'a str, object: &'a Value) -> Change<'a> {
    Change::Put { plural, namespace, name, object }
}

fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": groups, "resources": resources})
}

fn bind(role_kind: &str, role: &str, subjects: Value) -> Value {
    json!({"roleRef": {"kind": role_kind, "name": role}, "subjects": subjects})
}

fn one_rule(rule: Value) -> Index {
    let index = Index::default();
    let role = json!({"rules": [rule]});
    let binding = bind("ClusterRole", "r", json!([{"kind": "User", "name": "u"}]));
    index.apply([put("clusterroles", "", "r", &role), put("clusterrolebindings", "", "b", &binding)]);
    index
}

#[test]
fn a_rule_allows_what_it_names() {
    let user = User::new("u", ["g"]);
    let names = |mut rule: Value, names: &[&str]| {
        rule["resourceNames"] = json!(names);
        rule
    };
    for (rule, verb, what, allowed) in [
        (rule(&["get"], &[""], &["pods"]), "get", "pods@n#x", true),
        (rule(&["get"], &[""], &["pods"]), "get", "pods", true),
        (rule(&["get"], &[""], &["pods"]), "list", "pods@n", false),
        (rule(&["get"], &[""], &["pods"]), "get", "apps:pods", false),
        (rule(&["get"], &[""], &["pods"]), "get", "pods/log", false),
        (rule(&["get"], &[""], &["pods/log"]), "get", "pods/log", true),
        (rule(&["get"], &[""], &["pods/log"]), "get", "pods", false),
        (rule(&["get"], &[""], &["pods/*"]), "get", "pods/log", false),
        (rule(&["update"], &["*"], &["*/scale"]), "update", "apps:deployments/scale", true),
        (rule(&["update"], &["*"], &["*/scale"]), "update", "apps:deployments/status", false),
        (rule(&["update"], &["*"], &["*/scale"]), "update", "apps:deployments", false),
        (rule(&["*"], &["*"], &["*"]), "anything", "any.group:things/sub@n#x", true),
        (rule(&["*"], &["*"], &["*"]), "get", "/healthz", false),
        (names(rule(&["get"], &[""], &["pods"]), &["a"]), "get", "pods@n#a", true),
        (names(rule(&["get"], &[""], &["pods"]), &["a"]), "get", "pods@n#b", false),
        (names(rule(&["list"], &[""], &["pods"]), &["a"]), "list", "pods@n", false),
        (names(rule(&["create"], &[""], &["pods"]), &["a"]), "create", "pods@n", false),
    ] {
        let shown = rule.to_string();
        assert_eq!(allows(&one_rule(rule), &user, verb, what), allowed, "{shown}: {verb} {what}");
    }
}

#[test]
fn urls_match_exactly_or_by_a_star_at_the_end() {
    let user = User::new("u", ["g"]);
    for (url, path, allowed) in [
        ("/healthz", "/healthz", true),
        ("/healthz", "/healthz/store", false),
        ("/healthz/*", "/healthz/store", true),
        ("/healthz*", "/healthz", true),
        ("/openapi/*", "/openapi", false),
        ("*", "/anything", true),
    ] {
        let index = one_rule(json!({"verbs": ["get"], "nonResourceURLs": [url]}));
        assert_eq!(allows(&index, &user, "get", path), allowed, "{url}: {path}");
        assert!(!allows(&index, &user, "post", path));
        assert!(!allows(&index, &user, "get", "pods@n"));
    }
}

#[test]
fn bindings_reach_users_groups_and_accounts_where_they_stand() {
    let index = Index::default();
    let reader = json!({"rules": [rule(&["get"], &[""], &["pods"])]});
    let url = json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]});
    let group = bind("ClusterRole", "reader", json!([{"kind": "Group", "name": "dev"}]));
    let accounts = bind(
        "Role",
        "local",
        json!([{"kind": "ServiceAccount", "name": "bot"}, {"kind": "ServiceAccount", "name": "far", "namespace": "b"}]),
    );
    let urls = bind("ClusterRole", "urls", json!([{"kind": "Group", "name": "dev"}]));
    let wrong = bind("Role", "local", json!([{"kind": "User", "name": "jane"}]));
    index.apply([
        put("clusterroles", "", "reader", &reader),
        put("clusterroles", "", "urls", &url),
        put("roles", "a", "local", &reader),
        put("rolebindings", "a", "group", &group),
        put("rolebindings", "a", "accounts", &accounts),
        put("rolebindings", "a", "urls", &urls),
        put("clusterrolebindings", "", "wrong", &wrong),
    ]);
    let jane = User::new("jane", ["dev"]);
    assert!(allows(&index, &jane, "get", "pods@a#x"));
    assert!(!allows(&index, &jane, "get", "pods@b#x"), "a RoleBinding reaches its own namespace");
    assert!(!allows(&index, &jane, "get", "pods"), "and not all of them at once");
    assert!(!allows(&index, &jane, "get", "/metrics"), "nor URLs");
    for (account, allowed) in [("a:bot", true), ("b:far", true), ("b:bot", false), ("a:far", false)] {
        let user = User::new(format!("system:serviceaccount:{account}"), ["x"]);
        assert_eq!(allows(&index, &user, "get", "pods@a"), allowed, "{account}");
    }

    index.apply([Change::Delete { plural: "rolebindings", namespace: "a", name: "group" }]);
    assert!(!allows(&index, &jane, "get", "pods@a#x"), "a binding that is gone allows nothing");
    index.apply([put("rolebindings", "a", "group", &group)]);
    index.apply([Change::Delete { plural: "clusterroles", namespace: "", name: "reader" }]);
    assert!(!allows(&index, &jane, "get", "pods@a#x"), "nor does one without its role");
}

#[test]
fn aggregation_follows_labels_as_they_come_and_go() {
    let index = Index::default();
    let user = User::new("u", ["g"]);
    let aggregating = json!({
        "rules": [rule(&["delete"], &[""], &["nodes"])],
        "aggregationRule": {"clusterRoleSelectors": [
            {"matchLabels": {"to": "x"}}, {"matchExpressions": [{"key": "also", "operator": "Exists"}]},
        ]},
    });
    let part = |labels: Value, resource: &str| json!({"metadata": {"labels": labels}, "rules": [rule(&["get"], &[""], &[resource])]});
    let (first, second, other) = (
        part(json!({"to": "x"}), "pods"),
        part(json!({"also": "1"}), "secrets"),
        part(json!({"to": "y"}), "nodes"),
    );
    let binding = bind("ClusterRole", "all", json!([{"kind": "User", "name": "u"}]));
    index.apply([
        put("clusterroles", "", "all", &aggregating),
        put("clusterroles", "", "first", &first),
        put("clusterroles", "", "other", &other),
        put("clusterrolebindings", "", "b", &binding),
    ]);
    assert!(allows(&index, &user, "get", "pods"));
    assert!(!allows(&index, &user, "get", "secrets"));
    assert!(!allows(&index, &user, "get", "nodes"));
    assert!(!allows(&index, &user, "delete", "nodes"), "rules of its own are replaced");
    index.apply([put("clusterroles", "", "second", &second)]);
    assert!(allows(&index, &user, "get", "secrets"));
    index.apply([Change::Delete { plural: "clusterroles", namespace: "", name: "first" }]);
    assert!(!allows(&index, &user, "get", "pods"));
}

#[test]
fn rules_cover_what_they_allow_part_by_part() {
    let held = [
        Rule::read(&rule(&["get", "list"], &["", "apps"], &["pods", "deployments"])),
        Rule::read(&rule(&["update"], &["apps"], &["*/scale"])),
        Rule::read(
            &json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]}),
        ),
        Rule::read(&json!({"verbs": ["get"], "nonResourceURLs": ["/healthz*"]})),
    ];
    for (wanted, covered) in [
        (rule(&["get"], &["apps"], &["deployments"]), true),
        (rule(&["get", "watch"], &[""], &["pods"]), false),
        (rule(&["update"], &["apps"], &["statefulsets/scale"]), true),
        (rule(&["update"], &["apps"], &["statefulsets"]), false),
        (rule(&["get"], &["*"], &["pods"]), false),
        (rule(&["*"], &[""], &["pods"]), false),
        (rule(&["get"], &[""], &["secrets"]), false),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]}),
            true,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"]}),
            false,
        ),
        (json!({"verbs": ["get"], "nonResourceURLs": ["/healthz/store"]}), true),
        (json!({"verbs": ["get"], "nonResourceURLs": ["*"]}), false),
    ] {
        assert_eq!(cover::missing(&held, &[Rule::read(&wanted)]).is_empty(), covered, "{wanted}");
    }
}
