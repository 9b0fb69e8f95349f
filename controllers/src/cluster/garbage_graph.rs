//! Who owns whom: the metadata of every object in the cluster, and nothing else of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kontiki_proto::Target;
use kontiki_proto::resource::{Resource, split_api_version};
use serde::Deserialize;
use smol_str::SmolStr;

use crate::runtime::Key;

pub type Uid = SmolStr;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub name: SmolStr,
    pub namespace: SmolStr,
    pub uid: Uid,
    pub resource_version: SmolStr,
    pub owner_references: Vec<OwnerReference>,
    pub finalizers: Vec<String>,
    pub deletion_timestamp: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Item {
    pub row: Arc<Resource>,
    pub meta: Meta,
}

impl Item {
    pub fn target(&self) -> Target {
        Target::of(&self.row).within(&self.meta.namespace).named(&self.meta.name)
    }

    pub fn is_deleting(&self) -> bool {
        self.meta.deletion_timestamp.is_some()
    }

    pub fn has_finalizer(&self, name: &str) -> bool {
        self.meta.finalizers.iter().any(|finalizer| finalizer == name)
    }

    /// Being deleted only once its dependents are gone.
    pub fn waits_for_dependents(&self) -> bool {
        self.is_deleting() && self.has_finalizer(super::garbage::FOREGROUND)
    }

    /// The reference to an owner with this uid, if it keeps the owner's deletion waiting.
    pub fn blocks(&self, owner: &str) -> bool {
        self.meta.owner_references.iter().any(|r| r.uid == owner && r.block_owner_deletion == Some(true))
    }
}

#[derive(Default)]
pub struct Graph {
    items: HashMap<Uid, Item>,
    children: HashMap<Uid, HashSet<Uid>>,
    by_name: HashMap<SmolStr, HashMap<Key, Uid>>,
    kinds: HashMap<(SmolStr, SmolStr), Arc<Resource>>,
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn children<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Item> + use<'a> {
        self.children.get(uid).into_iter().flatten().filter_map(|uid| self.items.get(uid))
    }

    /// The row of an owner's kind, at whatever version; `None` for kinds nobody serves.
    pub fn row_of(&self, owner: &OwnerReference) -> Option<&Arc<Resource>> {
        let (group, _) = split_api_version(&owner.api_version);
        self.kinds.get(&(group.into(), owner.kind.as_str().into()))
    }

    pub fn learn(&mut self, row: &Arc<Resource>) {
        self.kinds.insert((row.group.clone(), row.kind.clone()), row.clone());
    }

    /// Forgets a kind and its objects; returns what has to be looked at.
    pub fn unlearn(&mut self, row: &Resource) -> Vec<Uid> {
        self.kinds.remove(&(row.group.clone(), row.kind.clone()));
        self.replace_all(row, &HashSet::new())
    }

    /// Puts an object; returns whose fate may have changed.
    pub fn put(&mut self, row: &Arc<Resource>, meta: Meta) -> Vec<Uid> {
        let key = Key { namespace: meta.namespace.clone(), name: meta.name.clone() };
        let known = self.by_name.entry(row.qualified()).or_default().insert(key, meta.uid.clone());
        let mut concerned = Vec::new();
        if let Some(known) = known.filter(|known| *known != meta.uid) {
            concerned.extend(self.forget(&known));
        }
        let item = Item { row: row.clone(), meta };
        let uid = item.meta.uid.clone();
        if let Some(old) = self.items.get(&uid) {
            for owner in old.meta.owner_references.clone() {
                self.unlink(&owner.uid, &uid);
                // An owner that waits may wait no longer.
                concerned.push(owner.uid.as_str().into());
            }
        }
        for owner in &item.meta.owner_references {
            self.children.entry(owner.uid.as_str().into()).or_default().insert(uid.clone());
        }
        if !item.meta.owner_references.is_empty() || item.is_deleting() {
            concerned.push(uid.clone());
        }
        if item.is_deleting() {
            concerned.extend(self.children.get(&uid).into_iter().flatten().cloned());
        }
        self.items.insert(uid, item);
        concerned
    }

    pub fn remove(&mut self, row: &Resource, key: &Key) -> Vec<Uid> {
        match self.by_name.get_mut(&row.qualified()).and_then(|names| names.remove(key)) {
            Some(uid) => self.forget(&uid),
            None => Vec::new(),
        }
    }

    /// After a list: drops the row's objects that were not in it.
    pub fn replace_all(&mut self, row: &Resource, listed: &HashSet<Key>) -> Vec<Uid> {
        let names = self.by_name.get(&row.qualified()).into_iter().flatten();
        let gone: Vec<Key> =
            names.map(|(key, _)| key).filter(|key| !listed.contains(*key)).cloned().collect();
        gone.iter().flat_map(|key| self.remove(row, key)).collect()
    }

    fn forget(&mut self, uid: &Uid) -> Vec<Uid> {
        let Some(item) = self.items.remove(uid) else { return Vec::new() };
        let mut concerned: Vec<Uid> = self.children.get(uid).into_iter().flatten().cloned().collect();
        for owner in &item.meta.owner_references {
            self.unlink(&owner.uid, uid);
            concerned.push(owner.uid.as_str().into());
        }
        concerned
    }

    fn unlink(&mut self, owner: &str, child: &Uid) {
        if let Some(children) = self.children.get_mut(owner) {
            children.remove(child);
            if children.is_empty() {
                self.children.remove(owner);
            }
        }
    }
}
