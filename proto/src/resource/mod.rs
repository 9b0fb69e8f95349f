//! Kinds are data: one row for each resource the API serves.
//!
//! Router, discovery, OpenAPI, RBAC, tables, garbage collection and namespace deletion read these rows. A custom
//! resource is a row made at run time.

mod table;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use smol_str::SmolStr;

/// Whether objects of a kind live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// A set of API verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verbs(u16);

impl Verbs {
    pub const NONE: Verbs = Verbs(0);
    pub const CREATE: Verbs = Verbs(1);
    pub const DELETE: Verbs = Verbs(1 << 1);
    pub const DELETECOLLECTION: Verbs = Verbs(1 << 2);
    pub const GET: Verbs = Verbs(1 << 3);
    pub const LIST: Verbs = Verbs(1 << 4);
    pub const PATCH: Verbs = Verbs(1 << 5);
    pub const UPDATE: Verbs = Verbs(1 << 6);
    pub const WATCH: Verbs = Verbs(1 << 7);
    pub const ALL: Verbs = Verbs(0xff);

    const NAMES: [(&'static str, Verbs); 8] = [
        ("create", Verbs::CREATE),
        ("delete", Verbs::DELETE),
        ("deletecollection", Verbs::DELETECOLLECTION),
        ("get", Verbs::GET),
        ("list", Verbs::LIST),
        ("patch", Verbs::PATCH),
        ("update", Verbs::UPDATE),
        ("watch", Verbs::WATCH),
    ];

    pub const fn contains(self, other: Verbs) -> bool {
        self.0 & other.0 == other.0
    }

    pub const fn with(self, other: Verbs) -> Verbs {
        Verbs(self.0 | other.0)
    }

    pub const fn without(self, other: Verbs) -> Verbs {
        Verbs(self.0 & !other.0)
    }

    /// The verb of this name; no verb at all for a name that is none.
    pub fn named(name: &str) -> Verbs {
        Self::NAMES.into_iter().find(|(n, _)| *n == name).map_or(Verbs::NONE, |(_, verb)| verb)
    }

    /// The names in discovery's order, which is alphabetical.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(_, verb)| self.contains(*verb)).map(|(name, _)| name)
    }
}

/// A part of an object served under a path of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    pub name: SmolStr,
    pub verbs: Verbs,
    /// Group, version and kind of the documents exchanged.
    pub group: SmolStr,
    pub version: SmolStr,
    pub kind: SmolStr,
}

/// A column a custom resource declares for `kubectl get`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    pub format: String,
    pub description: String,
    /// 0 is shown always, more only with `-o wide`.
    pub priority: i32,
    pub json_path: String,
}

/// One row: a resource at one of its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Empty for the core group.
    pub group: SmolStr,
    pub version: SmolStr,
    pub kind: SmolStr,
    pub list_kind: SmolStr,
    pub plural: SmolStr,
    pub singular: SmolStr,
    pub scope: Scope,
    pub verbs: Verbs,
    pub short_names: Vec<SmolStr>,
    pub categories: Vec<SmolStr>,
    pub subresources: Vec<Subresource>,
    /// Paths a field selector may name beside `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<SmolStr>,
    /// Columns a custom resource declares; built-in kinds have code of their own in the server.
    pub columns: Vec<Column>,
    /// Whether the row was made from a CustomResourceDefinition.
    pub custom: bool,
}

/// Which documents the built-in subresources exchange, where it is not the object itself.
static SUBRESOURCE_KINDS: &[(&str, &str, &str, &str, Verbs)] = &[
    ("attach", "", "v1", "PodAttachOptions", Verbs::CREATE.with(Verbs::GET)),
    ("binding", "", "v1", "Binding", Verbs::CREATE),
    ("eviction", "policy", "v1", "Eviction", Verbs::CREATE),
    ("exec", "", "v1", "PodExecOptions", Verbs::CREATE.with(Verbs::GET)),
    ("portforward", "", "v1", "PodPortForwardOptions", Verbs::CREATE.with(Verbs::GET)),
    ("scale", "autoscaling", "v1", "Scale", RW),
    ("token", "authentication.k8s.io", "v1", "TokenRequest", Verbs::CREATE),
];

const RW: Verbs = Verbs::GET.with(Verbs::PATCH).with(Verbs::UPDATE);
const PROXY: Verbs =
    Verbs::CREATE.with(Verbs::DELETE).with(Verbs::GET).with(Verbs::PATCH).with(Verbs::UPDATE);

static SELECTABLE: &[(&str, &str, &str)] = &[
    (
        "",
        "pods",
        "spec.nodeName spec.restartPolicy spec.schedulerName spec.serviceAccountName spec.hostNetwork status.phase status.podIP status.podIPs status.nominatedNodeName",
    ),
    (
        "",
        "events",
        "involvedObject.kind involvedObject.namespace involvedObject.name involvedObject.uid involvedObject.apiVersion involvedObject.resourceVersion involvedObject.fieldPath reason reportingComponent source type",
    ),
    ("", "namespaces", "status.phase"),
    ("", "nodes", "spec.unschedulable"),
    ("", "replicationcontrollers", "status.replicas"),
    ("", "secrets", "type"),
    ("", "services", "spec.clusterIP spec.type"),
    ("apps", "replicasets", "status.replicas"),
    ("batch", "jobs", "status.successful"),
    ("certificates.k8s.io", "certificatesigningrequests", "spec.signerName"),
    ("resource.k8s.io", "resourceslices", "spec.nodeName spec.driver"),
];

impl Resource {
    pub fn new(group: &str, version: &str, kind: &str, plural: &str, scope: Scope, verbs: Verbs) -> Resource {
        let selected_group = if group == "events.k8s.io" { "" } else { group };
        Resource {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            list_kind: format!("{kind}List").into(),
            plural: plural.into(),
            singular: kind.to_lowercase().into(),
            scope,
            verbs,
            short_names: Vec::new(),
            categories: Vec::new(),
            subresources: Vec::new(),
            selectable_fields: SELECTABLE
                .iter()
                .filter(|(g, p, _)| *g == selected_group && *p == plural)
                .flat_map(|(_, _, fields)| fields.split_whitespace())
                .map(SmolStr::from)
                .collect(),
            columns: Vec::new(),
            custom: false,
        }
    }

    pub fn with_short_names<'a>(mut self, names: impl Iterator<Item = &'a str>) -> Resource {
        self.short_names = names.map(SmolStr::from).collect();
        self
    }

    pub fn with_categories<'a>(mut self, names: impl Iterator<Item = &'a str>) -> Resource {
        self.categories = names.map(SmolStr::from).collect();
        self
    }

    pub fn with_subresources<'a>(mut self, names: impl Iterator<Item = &'a str>) -> Resource {
        self.subresources = names
            .map(|name| {
                let known = SUBRESOURCE_KINDS.iter().find(|(n, ..)| *n == name);
                let (group, version, kind, verbs) = match (known, name) {
                    (Some(&(_, g, v, k, verbs)), _) => (g.into(), v.into(), k.into(), verbs),
                    (None, "proxy") => (
                        self.group.clone(),
                        self.version.clone(),
                        format!("{}ProxyOptions", self.kind).into(),
                        PROXY,
                    ),
                    (None, "log") => {
                        (self.group.clone(), self.version.clone(), self.kind.clone(), Verbs::GET)
                    }
                    (None, "finalize") => {
                        (self.group.clone(), self.version.clone(), self.kind.clone(), Verbs::UPDATE)
                    }
                    (None, _) => (self.group.clone(), self.version.clone(), self.kind.clone(), RW),
                };
                Subresource { name: name.into(), verbs, group, version, kind }
            })
            .collect();
        self
    }

    /// `v1`, or `apps/v1`.
    pub fn api_version(&self) -> SmolStr {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version).into()
        }
    }

    /// `pods`, or `deployments.apps`, as error messages name a resource.
    pub fn qualified(&self) -> SmolStr {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group).into()
        }
    }

    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether objects of this kind are kept; reviews and bindings are only answered.
    pub fn stored(&self) -> bool {
        self.verbs.contains(Verbs::WATCH)
    }

    /// The group under which the objects are stored: events have two groups and one store.
    pub fn storage_group(&self) -> &str {
        if self.group == "events.k8s.io" { "" } else { &self.group }
    }
}

/// All rows served at one time. Cheap to clone; replaced as a whole when custom resources change.
#[derive(Clone, Debug)]
pub struct Registry {
    rows: Arc<Vec<Arc<Resource>>>,
    by_path: Arc<HashMap<(SmolStr, SmolStr, SmolStr), usize>>,
}

impl Registry {
    /// The built-in rows alone, in discovery's order: within a group the preferred version first.
    pub fn builtin() -> &'static Registry {
        static BUILTIN: OnceLock<Registry> = OnceLock::new();
        BUILTIN.get_or_init(|| Registry::new(table::rows().map(Arc::new).collect()))
    }

    /// A later row of the same group, version and plural is dropped.
    pub fn new(mut rows: Vec<Arc<Resource>>) -> Registry {
        let mut by_path = HashMap::new();
        rows.retain(|row| {
            let path = (row.group.clone(), row.version.clone(), row.plural.clone());
            let at = by_path.len();
            match by_path.entry(path) {
                std::collections::hash_map::Entry::Occupied(_) => false,
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(at);
                    true
                }
            }
        });
        Registry { rows: Arc::new(rows), by_path: Arc::new(by_path) }
    }

    pub fn with(&self, more: impl IntoIterator<Item = Arc<Resource>>) -> Registry {
        Registry::new(self.rows.iter().cloned().chain(more).collect())
    }

    pub fn rows(&self) -> &[Arc<Resource>] {
        &self.rows
    }

    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_path.get(&(group.into(), version.into(), plural.into())).map(|&index| &self.rows[index])
    }

    pub fn find_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Resource>> {
        let (group, version) = split_api_version(api_version);
        self.rows.iter().find(|r| r.group == group && r.version == version && r.kind == kind)
    }

    /// What a person may call a resource: plural, singular, short name or kind in any case, optionally with
    /// `.group` or `.version.group` behind it. The first match in table order wins, as in `kubectl`.
    pub fn find_name(&self, name: &str) -> Option<&Arc<Resource>> {
        let lower = name.to_lowercase();
        let (stem, group) = match lower.split_once('.') {
            Some((stem, group)) => (stem, Some(group)),
            None => (lower.as_str(), None),
        };
        let named =
            |r: &Resource| r.plural == stem || r.singular == stem || r.short_names.iter().any(|s| s == stem);
        let in_group = |r: &Resource| match group {
            None => true,
            Some(group) => {
                r.group == group || format!("{}.{}", r.version, r.group).trim_end_matches('.') == group
            }
        };
        self.rows.iter().find(|r| r.stored() && named(r) && in_group(r))
    }
}

/// `apps/v1` is `("apps", "v1")`, `v1` is `("", "v1")`.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_path_and_kind() {
        let registry = Registry::builtin();
        for row in registry.rows() {
            assert_eq!(registry.find(&row.group, &row.version, &row.plural), Some(row));
            assert_eq!(registry.find_kind(&row.api_version(), &row.kind), Some(row));
        }
        assert_eq!(registry.rows().len(), 68);
    }

    #[test]
    fn people_may_use_any_name_of_a_resource() {
        let registry = Registry::builtin();
        for (name, plural, group) in [
            ("po", "pods", ""),
            ("Pod", "pods", ""),
            ("deploy", "deployments", "apps"),
            ("deployments.apps", "deployments", "apps"),
            ("deployments.v1.apps", "deployments", "apps"),
            ("ev", "events", ""),
            ("events.events.k8s.io", "events", "events.k8s.io"),
            ("crd", "customresourcedefinitions", "apiextensions.k8s.io"),
        ] {
            let row = registry.find_name(name).unwrap_or_else(|| panic!("{name} is known"));
            assert_eq!((row.plural.as_str(), row.group.as_str()), (plural, group));
        }
        assert!(registry.find_name("nonsense").is_none());
    }
}
