//! The one place where the world changes: informers feed it, queues and waiters learn from it.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::world::{Key, Kind, KindId, Store, World, revision_of};
use crate::Settings;

/// One object of one kind, before and after.
pub struct Change {
    pub old: Option<Arc<dyn Any + Send + Sync>>,
    pub new: Option<Arc<dyn Any + Send + Sync>>,
}

impl Change {
    /// The typed objects; both are `None` when the change is one of another kind.
    pub fn of<K: Kind>(&self) -> (Option<&K>, Option<&K>) {
        (
            self.old.as_deref().and_then(|object| object.downcast_ref::<K>()),
            self.new.as_deref().and_then(|object| object.downcast_ref::<K>()),
        )
    }
}

type Listener = Box<dyn Fn(&World, &Change) + Send + Sync>;

/// A step in the life of a collection, as an informer sees it.
pub enum Step<K> {
    Put(K),
    Remove(K),
    /// Everything up to this revision has been seen.
    Bookmark(u64),
}

pub struct Hub {
    world: Mutex<Arc<World>>,
    revisions: HashMap<KindId, watch::Sender<u64>>,
    listeners: RwLock<HashMap<KindId, Vec<Listener>>>,
}

/// What has to be visible in the world before a key may be reconciled again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// A write of ours with this revision.
    Seen(KindId, u64),
    /// A delete of ours: the object is gone, or marked.
    Gone(KindId, Key, String),
}

impl Expectation {
    fn kind(&self) -> KindId {
        match self {
            Expectation::Seen(kind, _) | Expectation::Gone(kind, _, _) => *kind,
        }
    }

    fn met(&self, world: &World) -> bool {
        match self {
            Expectation::Seen(kind, revision) => world.revision(*kind) >= *revision,
            Expectation::Gone(kind, key, uid) => !world.lives(*kind, key, uid),
        }
    }
}

impl Hub {
    pub fn new(settings: Arc<Settings>) -> Hub {
        Hub {
            world: Mutex::new(Arc::new(World { settings, ..World::default() })),
            revisions: KindId::ALL.iter().map(|&kind| (kind, watch::Sender::new(0))).collect(),
            listeners: RwLock::default(),
        }
    }

    pub fn snapshot(&self) -> Arc<World> {
        self.world.lock().clone()
    }

    /// Calls `listener` for every later change of the kind, on the informer's task: it must be quick.
    pub fn listen(&self, kind: KindId, listener: impl Fn(&World, &Change) + Send + Sync + 'static) {
        self.listeners.write().entry(kind).or_default().push(Box::new(listener));
    }

    /// Replaces a collection by a list read at `revision`.
    pub fn replace<K: Kind>(&self, items: Vec<K>, revision: u64, seen: Timestamp) {
        self.change::<K>(|world, changes| {
            let mut gone: std::collections::HashSet<Key> = K::store(world).keys().cloned().collect();
            for item in items {
                gone.remove(&Key::of(&item));
                put(world, item, seen, changes);
            }
            for key in gone {
                if let Some(old) = K::store_mut(world).remove(&key) {
                    changes.push(Change { old: Some(old), new: None });
                }
            }
            K::store_mut(world).advance(revision);
            K::store_mut(world).mark_synced();
        });
    }

    /// Applies events in their order.
    pub fn apply<K: Kind>(&self, steps: impl IntoIterator<Item = Step<K>>, seen: Timestamp) {
        self.change::<K>(|world, changes| {
            for step in steps {
                match step {
                    Step::Put(object) => put(world, object, seen, changes),
                    Step::Remove(object) => {
                        let store: &mut Store<K> = K::store_mut(world);
                        let old = store.remove(&Key::of(&object));
                        store.advance(revision_of(&object));
                        if let Some(old) = old {
                            changes.push(Change { old: Some(old), new: None });
                        }
                    }
                    Step::Bookmark(revision) => K::store_mut(world).advance(revision),
                }
            }
        });
    }

    fn change<K: Kind>(&self, apply: impl FnOnce(&mut World, &mut Vec<Change>)) {
        let mut changes = Vec::new();
        let world = {
            let mut guard = self.world.lock();
            apply(Arc::make_mut(&mut guard), &mut changes);
            guard.clone()
        };
        if let Some(listeners) = self.listeners.read().get(&K::ID) {
            for change in &changes {
                listeners.iter().for_each(|listener| listener(&world, change));
            }
        }
        if let Some(revision) = self.revisions.get(&K::ID) {
            revision.send_replace(world.revision(K::ID));
        }
    }

    /// Waits until all expectations are met; `false` when `patience` runs out first.
    pub async fn wait_for(&self, expectations: &[Expectation], patience: Duration) -> bool {
        let all = async {
            for expectation in expectations {
                let Some(sender) = self.revisions.get(&expectation.kind()) else { continue };
                let mut revision = sender.subscribe();
                while !expectation.met(&self.snapshot()) {
                    if revision.changed().await.is_err() {
                        return;
                    }
                }
            }
        };
        tokio::time::timeout(patience, all).await.is_ok()
    }

    /// Waits until every collection has been listed.
    pub async fn wait_for_sync(&self) {
        for kind in KindId::ALL {
            let Some(sender) = self.revisions.get(kind) else { continue };
            let mut revision = sender.subscribe();
            while !self.snapshot().synced_kind(*kind) {
                if revision.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

fn put<K: Kind>(world: &mut World, mut object: K, seen: Timestamp, changes: &mut Vec<Change>) {
    // Field ownership is the server's business, and as large as the rest of the object.
    object.metadata_mut().managed_fields = None;
    let key = Key::of(&object);
    if let Some(present) = K::store(world).get(&key)
        && revision_of(present.as_ref()) == revision_of(&object)
        && present.metadata().uid == object.metadata().uid
    {
        return;
    }
    let new = Arc::new(object);
    let old = K::store_mut(world).insert(new.clone());
    K::observe(world, old.as_deref(), &new, seen);
    changes.push(Change { old: old.map(|old| old as _), new: Some(new) });
}
