//! One rule of a role.

use serde_json::{Map, Value, json};
use smol_str::SmolStr;

use crate::auth::Access;

/// `rbac.authorization.k8s.io/v1` `PolicyRule`. A rule speaks of resources or of URLs, never of both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<SmolStr>,
    pub groups: Vec<SmolStr>,
    pub resources: Vec<SmolStr>,
    /// Empty: every name, and requests without one.
    pub names: Vec<SmolStr>,
    pub urls: Vec<SmolStr>,
}

fn strings(value: &Value) -> Vec<SmolStr> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(SmolStr::from).collect()
}

fn any(list: &[SmolStr], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    /// Missing fields are empty lists.
    pub fn read(rule: &Value) -> Rule {
        Rule {
            verbs: strings(&rule["verbs"]),
            groups: strings(&rule["apiGroups"]),
            resources: strings(&rule["resources"]),
            names: strings(&rule["resourceNames"]),
            urls: strings(&rule["nonResourceURLs"]),
        }
    }

    /// The `rules` of a role; `null` is an empty list.
    pub fn read_all(rules: &Value) -> Vec<Rule> {
        rules.as_array().into_iter().flatten().map(Rule::read).collect()
    }

    /// The rule as the API writes it, without empty fields.
    pub fn write(&self) -> Value {
        let mut rule = Map::new();
        rule.insert("verbs".into(), json!(self.verbs));
        for (name, list) in [
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ] {
            if !list.is_empty() {
                rule.insert(name.into(), json!(list));
            }
        }
        Value::Object(rule)
    }

    pub fn allows(&self, access: &Access<'_>) -> bool {
        if !any(&self.verbs, access.verb) {
            return false;
        }
        match access.path {
            Some(path) => self.urls.iter().any(|url| url_matches(url, path)),
            None => {
                any(&self.groups, access.group)
                    && self
                        .resources
                        .iter()
                        .any(|resource| resource_matches(resource, access.resource, access.subresource))
                    && (self.names.is_empty() || self.names.iter().any(|name| name == access.name))
            }
        }
    }
}

/// `*` is everything, a star at the end stands for any rest.
pub(super) fn url_matches(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(_) => path.starts_with(rule.trim_end_matches('*')),
        None => rule == path,
    }
}

/// `*`, `pods`, `pods/log`, `*/scale`.
pub(super) fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((of, sub)) => !subresource.is_empty() && sub == subresource && (of == "*" || of == resource),
    }
}
