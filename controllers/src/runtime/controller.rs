//! A controller as data, and the loop that runs it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kontiki_proto::Status;
use kontiki_proto::api::DynApi;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::Clock;
use super::execute::Executor;
use super::hub::{Change, Hub};
use super::plan::{Now, Observed, Plan};
use super::queue::Queue;
use super::world::{Key, Kind, KindId, World};

/// Keys one controller works on at once.
const WORKERS: usize = 8;
/// How long a key waits for the world to show its last writes before it goes on without.
const PATIENCE: Duration = Duration::from_secs(30);

type Mapper = Box<dyn Fn(&World, &Change) -> Vec<Key> + Send + Sync>;
type Observer = fn(DynApi, Arc<World>, Key) -> BoxFuture<'static, Result<Observed, Status>>;

pub struct Watch {
    kind: KindId,
    keys: Mapper,
}

/// One controller: which changes wake which keys, and what is decided for a key.
pub struct Controller {
    pub name: &'static str,
    /// Pure: looks at nothing but its arguments.
    pub reconcile: fn(&World, &Key, &Now) -> Plan,
    watches: Vec<Watch>,
    observe: Option<Observer>,
}

impl Controller {
    pub fn new(name: &'static str, reconcile: fn(&World, &Key, &Now) -> Plan) -> Controller {
        Controller { name, reconcile, watches: Vec::new(), observe: None }
    }

    /// The objects of `K` are the controller's keys.
    #[must_use]
    pub fn of<K: Kind>(self) -> Controller {
        self.watching::<K>(|_, old, new| new.or(old).map(Key::of).into_iter().collect())
    }

    /// `keys` says which keys a change of an object of `K` concerns; it is given the object before and after.
    #[must_use]
    pub fn watching<K: Kind>(mut self, keys: fn(&World, Option<&K>, Option<&K>) -> Vec<Key>) -> Controller {
        let keys = Box::new(move |world: &World, change: &Change| {
            let (old, new) = change.of::<K>();
            keys(world, old, new)
        });
        self.watches.push(Watch { kind: K::ID, keys });
        self
    }

    /// Asks the API for something before each decision.
    #[must_use]
    pub fn observing(mut self, observe: Observer) -> Controller {
        self.observe = Some(observe);
        self
    }

    /// Registers with the hub and works until dropped. To be called before the informers start.
    pub fn start(
        self,
        hub: &Arc<Hub>,
        api: DynApi,
        executor: Executor,
        clock: Clock,
    ) -> BoxFuture<'static, ()> {
        let queue = Arc::new(Queue::<Key>::default());
        for watch in self.watches {
            let queue = queue.clone();
            hub.listen(watch.kind, move |world, change| {
                for key in (watch.keys)(world, change) {
                    queue.add(key);
                }
            });
        }
        let worker = Arc::new(Worker {
            name: self.name,
            reconcile: self.reconcile,
            observe: self.observe,
            hub: hub.clone(),
            api,
            executor,
            clock,
            queue,
            failures: Mutex::default(),
        });
        Box::pin(async move {
            worker.hub.wait_for_sync().await;
            let mut workers = JoinSet::new();
            for _ in 0..WORKERS {
                let worker = worker.clone();
                workers.spawn(async move { worker.run().await });
            }
            while let Some(ended) = workers.join_next().await {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    // One broken object must not stop the controller; its key is lost until something changes.
                    tracing::error!(controller = worker.name, %error, "a reconcile panicked");
                    let worker = worker.clone();
                    workers.spawn(async move { worker.run().await });
                }
            }
        })
    }
}

struct Worker {
    name: &'static str,
    reconcile: fn(&World, &Key, &Now) -> Plan,
    observe: Option<Observer>,
    hub: Arc<Hub>,
    api: DynApi,
    executor: Executor,
    clock: Clock,
    queue: Arc<Queue<Key>>,
    failures: Mutex<HashMap<Key, String>>,
}

impl Worker {
    async fn run(&self) {
        loop {
            let key = self.queue.next().await;
            if let Err(status) = self.attempt(&key).await {
                let overtaken = status.is_conflict() || status.is_not_found();
                if overtaken || status.message.contains("being terminated") {
                    tracing::debug!(controller = self.name, %key, %status, "decided on old knowledge, again");
                } else {
                    tracing::info!(controller = self.name, %key, %status, "not done, again");
                    self.failures.lock().insert(key.clone(), status.message);
                }
                self.queue.retry(key.clone());
            } else {
                self.queue.forget(&key);
                self.failures.lock().remove(&key);
            }
            self.queue.done(&key);
        }
    }

    async fn attempt(&self, key: &Key) -> Result<(), Status> {
        let observed = match self.observe {
            Some(observe) => observe(self.api.clone(), self.hub.snapshot(), key.clone()).await?,
            None => Observed::Nothing,
        };
        let failure = self.failures.lock().get(key).cloned();
        let now = Now { time: self.clock.now(), failure, observed };
        let plan = (self.reconcile)(&self.hub.snapshot(), key, &now);
        if !plan.actions.is_empty() {
            tracing::trace!(controller = self.name, %key, actions = plan.actions.len(), "acts");
        }
        let outcome = self.executor.execute(&plan.actions).await;
        if !self.hub.wait_for(&outcome.expected, PATIENCE).await {
            tracing::warn!(controller = self.name, %key, "the cache is behind its own writes");
        }
        if let Some(delay) = plan.requeue_after {
            self.queue.add_after(key.clone(), delay);
        }
        outcome.failure.map_or(Ok(()), Err)
    }
}
