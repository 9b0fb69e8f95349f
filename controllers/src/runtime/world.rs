//! What the controllers know: a snapshot of typed objects that costs next to nothing to clone.
//!
//! Each kind has one [`Store`] in the [`World`]; stores are persistent maps, so a snapshot shares its objects with
//! the next one. **Invariant:** objects in the world are never changed in place.

use std::sync::Arc;

use imbl::{HashMap, OrdMap, OrdSet};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolumeClaim, Pod, ReplicationController, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kontiki_proto::Target;
use kontiki_proto::api::Object;
use smol_str::SmolStr;

use crate::Settings;

/// The name of an object among those of its kind; the namespace is empty for cluster-scoped kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: SmolStr,
    pub name: SmolStr,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }

    pub fn of<K: Object>(object: &K) -> Key {
        let metadata = object.metadata();
        Key::new(
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default(),
        )
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}", self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Index {
    /// By the uid of the controlling owner.
    Owner,
    /// By the node the object belongs to.
    Node,
}

/// All objects of one kind, in the order of their keys.
#[derive(Clone, Debug)]
pub struct Store<K> {
    objects: OrdMap<Key, Arc<K>>,
    index: HashMap<(Index, SmolStr), OrdSet<Key>>,
    /// Every event up to this revision is in the store.
    revision: u64,
    /// Whether the first list has been read.
    synced: bool,
}

impl<K> Default for Store<K> {
    fn default() -> Store<K> {
        Store { objects: OrdMap::new(), index: HashMap::new(), revision: 0, synced: false }
    }
}

/// The resource version of an object as a number; 0 where there is none.
pub fn revision_of<K: Object>(object: &K) -> u64 {
    object.metadata().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl<K: Kind> Store<K> {
    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    pub fn find(&self, namespace: &str, name: &str) -> Option<&Arc<K>> {
        self.objects.get(&Key::new(namespace, name))
    }

    pub fn len(&self) -> usize {
        self.objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values()
    }

    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.objects.keys()
    }

    /// The objects of a namespace, by name.
    pub fn within<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        let first = Key::new(namespace, "");
        let namespace = first.namespace.clone();
        self.objects.range(first..).take_while(move |(key, _)| key.namespace == namespace).map(|(_, v)| v)
    }

    /// The objects whose controlling owner has this uid.
    pub fn controlled_by<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        self.indexed(Index::Owner, uid)
    }

    /// The objects that belong to a node; the empty name stands for those that have none yet.
    pub fn on_node<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        self.indexed(Index::Node, node)
    }

    fn indexed<'a>(&'a self, index: Index, value: &str) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        let keys = self.index.get(&(index, value.into()));
        keys.into_iter().flatten().filter_map(|key| self.objects.get(key))
    }

    fn index_values(object: &K) -> impl Iterator<Item = (Index, SmolStr)> {
        let owner = crate::objects::controller_of(object.metadata());
        let owner = owner.map(|owner| (Index::Owner, SmolStr::from(owner.uid.as_str())));
        owner.into_iter().chain(object.node().map(|node| (Index::Node, node.into())))
    }

    /// Puts an object; returns the one it replaces.
    pub fn insert(&mut self, object: Arc<K>) -> Option<Arc<K>> {
        let key = Key::of(object.as_ref());
        let old = self.remove(&key);
        for value in Self::index_values(&object) {
            self.index.entry(value).or_default().insert(key.clone());
        }
        self.revision = self.revision.max(revision_of(object.as_ref()));
        self.objects.insert(key, object);
        old
    }

    pub fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for value in Self::index_values(&old) {
            if let Some(keys) = self.index.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.index.remove(&value);
                }
            }
        }
        Some(old)
    }

    /// Notes that everything up to `revision` has been seen.
    pub fn advance(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// Notes that the collection has been listed once.
    pub fn mark_synced(&mut self) {
        self.synced = true;
    }
}

/// A kind the controllers keep: which collection is watched, and what is remembered of each object.
pub trait Kind: Object {
    const ID: KindId;

    fn store(world: &World) -> &Store<Self>;
    fn store_mut(world: &mut World) -> &mut Store<Self>;

    /// The collection watched.
    fn target() -> Target {
        Target::kind::<Self>()
    }

    /// Narrows the collection; empty takes all of it.
    fn field_selector() -> &'static str {
        ""
    }

    /// The node the object belongs to, for the index.
    fn node(&self) -> Option<&str> {
        None
    }

    /// Called for each object that came or changed, with the time it was seen.
    fn observe(_world: &mut World, _old: Option<&Self>, _new: &Self, _seen: Timestamp) {}
}

/// Something to be done for every kind of the world.
pub trait Visitor {
    fn visit<K: Kind>(&mut self);
}

macro_rules! kinds {
    ($($field:ident: $kind:ident { $($body:item)* })*) => {
        /// The kinds of the world.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum KindId { $($kind),* }

        impl KindId {
            pub const ALL: &'static [KindId] = &[$(KindId::$kind),*];

            /// The kind a target's objects have, if the world holds it.
            pub fn of(target: &Target) -> Option<KindId> {
                $(
                    if target.resource == <$kind as k8s_openapi::Resource>::URL_PATH_SEGMENT
                        && target.group == <$kind as k8s_openapi::Resource>::GROUP
                    {
                        return Some(KindId::$kind);
                    }
                )*
                None
            }
        }

        /// Everything the controllers know at one moment.
        #[derive(Clone, Debug, Default)]
        pub struct World {
            pub settings: Arc<Settings>,
            /// When each node was last heard of, by the clock of this process.
            pub heartbeats: HashMap<SmolStr, Timestamp>,
            $(pub $field: Store<$kind>,)*
        }

        impl World {
            /// Whether an object with this uid is still there and not on its way out.
            pub fn lives(&self, kind: KindId, key: &Key, uid: &str) -> bool {
                match kind {
                    $(KindId::$kind => self.$field.get(key).is_some_and(|object| {
                        let metadata = k8s_openapi::Metadata::metadata(object.as_ref());
                        metadata.uid.as_deref() == Some(uid) && metadata.deletion_timestamp.is_none()
                    }),)*
                }
            }

            /// Every event of the kind up to this revision is in the world.
            pub fn revision(&self, kind: KindId) -> u64 {
                match kind { $(KindId::$kind => self.$field.revision,)* }
            }

            /// Whether the collection has been listed.
            pub fn synced_kind(&self, kind: KindId) -> bool {
                match kind { $(KindId::$kind => self.$field.synced,)* }
            }
        }

        $(impl Kind for $kind {
            const ID: KindId = KindId::$kind;
            fn store(world: &World) -> &Store<Self> { &world.$field }
            fn store_mut(world: &mut World) -> &mut Store<Self> { &mut world.$field }
            $($body)*
        })*

        pub fn visit_kinds(visitor: &mut impl Visitor) {
            $(visitor.visit::<$kind>();)*
        }
    };
}

kinds! {
    pods: Pod {
        fn node(&self) -> Option<&str> {
            Some(self.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default())
        }
    }
    nodes: Node {
        fn observe(world: &mut World, old: Option<&Node>, new: &Node, seen: Timestamp) {
            let Some(name) = new.metadata.name.as_deref() else { return };
            let beat = |node: &Node| {
                crate::objects::node_condition(node, "Ready").map(|ready| ready.last_heartbeat_time.clone())
            };
            if old.is_none_or(|old| beat(old) != beat(new)) {
                world.heartbeats.insert(name.into(), seen);
            }
        }
    }
    node_leases: Lease {
        fn target() -> Target {
            Target::kind::<Lease>().within("kube-node-lease")
        }
        fn observe(world: &mut World, old: Option<&Lease>, new: &Lease, seen: Timestamp) {
            let Some(name) = new.metadata.name.as_deref() else { return };
            let renewed = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
            if old.is_none_or(|old| renewed(old) != renewed(new)) {
                world.heartbeats.insert(name.into(), seen);
            }
        }
    }
    namespaces: Namespace {}
    services: Service {}
    endpoints: Endpoints {}
    endpoint_slices: EndpointSlice {}
    service_accounts: ServiceAccount {
        fn field_selector() -> &'static str {
            "metadata.name=default"
        }
    }
    root_certificates: ConfigMap {
        fn field_selector() -> &'static str {
            "metadata.name=kube-root-ca.crt"
        }
    }
    replica_sets: ReplicaSet {}
    deployments: Deployment {}
    daemon_sets: DaemonSet {}
    stateful_sets: StatefulSet {}
    controller_revisions: ControllerRevision {}
    replication_controllers: ReplicationController {}
    jobs: Job {}
    cron_jobs: CronJob {}
    disruption_budgets: PodDisruptionBudget {}
    volume_claims: PersistentVolumeClaim {}
}
