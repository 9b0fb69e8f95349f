//! Roles and bindings of the whole cluster, in memory.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::Value;
use smol_str::{SmolStr, format_smolstr};

use super::Rule;
use crate::auth::{Access, Decision, User};

/// Namespace (empty for cluster-wide ones) and name.
type Key = (SmolStr, SmolStr);

struct Role {
    /// As written; replaced by the union of others where `selectors` is set.
    rules: Arc<[Rule]>,
    labels: Value,
    selectors: Option<Vec<Value>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(SmolStr),
    Group(SmolStr),
}

struct Binding {
    role: Key,
    subjects: Vec<Subject>,
}

#[derive(Default)]
struct State {
    roles: HashMap<Key, Role>,
    bindings: HashMap<Key, Binding>,
    by_subject: HashMap<Subject, BTreeSet<Key>>,
}

/// Answers from memory; a change is one short write lock.
#[derive(Default)]
pub struct Index {
    state: RwLock<State>,
}

/// What became of an object under `rbac.authorization.k8s.io`.
pub enum Change<'a> {
    Put { plural: &'a str, namespace: &'a str, name: &'a str, object: &'a Value },
    Delete { plural: &'a str, namespace: &'a str, name: &'a str },
}

impl Index {
    /// Takes in changes, all at once for readers.
    pub fn apply<'a>(&self, changes: impl IntoIterator<Item = Change<'a>>) {
        self.state.write().apply(changes);
    }

    /// Forgets everything and takes these in instead.
    pub fn replace<'a>(&self, changes: impl IntoIterator<Item = Change<'a>>) {
        let mut state = State::default();
        state.apply(changes);
        *self.state.write() = state;
    }

    pub fn authorize(&self, access: &Access<'_>) -> Decision {
        let state = self.state.read();
        let namespace = if access.path.is_some() { "" } else { access.namespace };
        let allowed =
            state.rules_of(access.user, namespace).any(|rules| rules.iter().any(|rule| rule.allows(access)));
        if allowed { Decision::Allow } else { Decision::Deny { reason: String::new() } }
    }

    /// All rules that hold for the user in the namespace, cluster-wide ones included; those alone where it is empty.
    pub fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let state = self.state.read();
        state.rules_of(user, namespace).flat_map(|rules| rules.iter().cloned()).collect()
    }

    /// The rules a role has, with aggregation resolved; the namespace is empty for a ClusterRole.
    pub fn role(&self, namespace: &str, name: &str) -> Option<Vec<Rule>> {
        let state = self.state.read();
        state.roles.get(&(namespace.into(), name.into())).map(|role| role.rules.to_vec())
    }
}

impl State {
    fn rules_of<'s>(&'s self, user: &User, namespace: &str) -> impl Iterator<Item = &'s Arc<[Rule]>> {
        let subjects = std::iter::once(Subject::User(user.name.as_str().into()))
            .chain(user.groups.iter().map(|group| Subject::Group(group.as_str().into())));
        let namespace = SmolStr::from(namespace);
        subjects
            .filter_map(|subject| self.by_subject.get(&subject))
            .flatten()
            .filter(move |(within, _)| within.is_empty() || *within == namespace)
            .filter_map(|key| self.bindings.get(key))
            .filter_map(|binding| self.roles.get(&binding.role))
            .map(|role| &role.rules)
    }

    fn apply<'a>(&mut self, changes: impl IntoIterator<Item = Change<'a>>) {
        let mut cluster_roles_changed = false;
        for change in changes {
            let (plural, namespace, name, object) = match change {
                Change::Put { plural, namespace, name, object } => (plural, namespace, name, Some(object)),
                Change::Delete { plural, namespace, name } => (plural, namespace, name, None),
            };
            let key = (SmolStr::from(namespace), SmolStr::from(name));
            match plural {
                "clusterroles" | "roles" => {
                    cluster_roles_changed |= plural == "clusterroles";
                    match object {
                        Some(object) => self.roles.insert(key, Role::read(object)),
                        None => self.roles.remove(&key),
                    };
                }
                "clusterrolebindings" | "rolebindings" => self.bind(key, object),
                _ => {}
            }
        }
        if cluster_roles_changed {
            self.aggregate();
        }
    }

    fn bind(&mut self, key: Key, object: Option<&Value>) {
        if let Some(old) = self.bindings.remove(&key) {
            for subject in old.subjects {
                if let Some(keys) = self.by_subject.get_mut(&subject) {
                    keys.remove(&key);
                    if keys.is_empty() {
                        self.by_subject.remove(&subject);
                    }
                }
            }
        }
        let Some(binding) = object.and_then(|object| Binding::read(&key.0, object)) else { return };
        for subject in &binding.subjects {
            self.by_subject.entry(subject.clone()).or_default().insert(key.clone());
        }
        self.bindings.insert(key, binding);
    }

    /// Fills aggregating ClusterRoles from those they select, until nothing changes: they may select each other.
    fn aggregate(&mut self) {
        let aggregating: Vec<Key> = self
            .roles
            .iter()
            .filter(|(_, role)| role.selectors.is_some())
            .map(|(key, _)| key.clone())
            .collect();
        // Rules only flow along selections, so that as many rounds as there are aggregating roles reach the end.
        for _ in 0..=aggregating.len() {
            let mut changed = false;
            for key in &aggregating {
                let union = self.union(key);
                if let Some(role) = self.roles.get_mut(key)
                    && *role.rules != *union
                {
                    role.rules = union.into();
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
    }

    fn union(&self, of: &Key) -> Vec<Rule> {
        let Some(selectors) = self.roles.get(of).and_then(|role| role.selectors.as_ref()) else {
            return Vec::new();
        };
        let mut chosen: Vec<_> = self
            .roles
            .iter()
            .filter(|(key, _)| key.0.is_empty() && *key != of)
            .filter(|(_, role)| selectors.iter().any(|selector| selects(selector, &role.labels)))
            .collect();
        chosen.sort_by(|a, b| a.0.cmp(b.0));
        let mut rules: Vec<Rule> = Vec::new();
        for rule in chosen.into_iter().flat_map(|(_, role)| role.rules.iter()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
        rules
    }
}

impl Role {
    fn read(object: &Value) -> Role {
        let selectors = object["aggregationRule"]["clusterRoleSelectors"].as_array();
        Role {
            rules: Rule::read_all(&object["rules"]).into(),
            labels: object["metadata"]["labels"].clone(),
            selectors: selectors.cloned(),
        }
    }
}

impl Binding {
    /// `None` where it names no role that can be bound there.
    fn read(namespace: &SmolStr, object: &Value) -> Option<Binding> {
        let name = object["roleRef"]["name"].as_str()?;
        let role = match object["roleRef"]["kind"].as_str()? {
            "ClusterRole" => (SmolStr::default(), name.into()),
            "Role" if !namespace.is_empty() => (namespace.clone(), name.into()),
            _ => return None,
        };
        let subjects = object["subjects"].as_array().into_iter().flatten();
        let subjects = subjects.filter_map(|subject| Subject::read(namespace, subject)).collect();
        Some(Binding { role, subjects })
    }
}

impl Subject {
    fn read(namespace: &SmolStr, subject: &Value) -> Option<Subject> {
        let name = subject["name"].as_str()?;
        match subject["kind"].as_str()? {
            "User" => Some(Subject::User(name.into())),
            "Group" => Some(Subject::Group(name.into())),
            "ServiceAccount" => {
                let within = subject["namespace"].as_str().filter(|n| !n.is_empty());
                let within = within.unwrap_or(namespace);
                (!within.is_empty())
                    .then(|| Subject::User(format_smolstr!("system:serviceaccount:{within}:{name}")))
            }
            _ => None,
        }
    }
}

/// `metav1.LabelSelector` on a label map.
fn selects(selector: &Value, labels: &Value) -> bool {
    let exact = selector["matchLabels"].as_object().into_iter().flatten();
    let mut exact = exact.map(|(key, value)| labels.get(key) == Some(value));
    let terms = selector["matchExpressions"].as_array().into_iter().flatten();
    let mut terms = terms.map(|term| {
        let label = term["key"].as_str().and_then(|key| labels.get(key));
        let listed = || term["values"].as_array().is_some_and(|v| label.is_some_and(|l| v.contains(l)));
        match term["operator"].as_str() {
            Some("In") => listed(),
            Some("NotIn") => !listed(),
            Some("Exists") => label.is_some(),
            Some("DoesNotExist") => label.is_none(),
            _ => false,
        }
    });
    exact.all(|held| held) && terms.all(|held| held)
}
