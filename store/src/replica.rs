//! This server's copy of the state: one writer, readers without locks.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::command::Batch;
use crate::mvcc::{Applied, Machine, View};
use crate::types::{Revision, StoreError};
use crate::watch::{Feed, Hub};

pub(crate) struct Replica {
    machine: Mutex<Machine>,
    feed: Arc<Feed>,
    revision: watch::Sender<Revision>,
}

impl Replica {
    pub fn new(machine: Machine) -> Replica {
        let view = machine.view().clone();
        let revision = view.revision;
        let feed = Feed { view: ArcSwap::from_pointee(view), hub: Hub::new(revision) };
        Replica { machine: Mutex::new(machine), feed: Arc::new(feed), revision: watch::Sender::new(revision) }
    }

    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    pub fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.feed.view.load()
    }

    /// The state as it is, for decisions and snapshots. Cheap; blocks while a batch is being applied.
    pub fn machine(&self) -> Machine {
        self.machine.lock().clone()
    }

    /// Asks the state machine without cloning it.
    pub fn inspect<T>(&self, ask: impl FnOnce(&Machine) -> T) -> T {
        ask(&self.machine.lock())
    }

    /// Applies log entries in order. State first, then the events: who is told of a change can read it.
    pub fn apply(&self, batches: impl IntoIterator<Item: Into<Batch>>) -> Vec<Applied> {
        let mut machine = self.machine.lock();
        let applied: Vec<Applied> = batches.into_iter().map(|batch| machine.apply(batch)).collect();
        self.feed.view.store(Arc::new(machine.view().clone()));
        for one in &applied {
            self.feed.hub.publish(&one.events);
        }
        self.revision.send_replace(machine.view().revision);
        applied
    }

    /// Replaces the state by one that did not come through the log.
    pub fn install(&self, mut state: Machine) {
        let mut machine = self.machine.lock();
        let epoch = machine.view().epoch + 1;
        state.set_epoch(epoch);
        *machine = state;
        let revision = machine.view().revision;
        self.feed.view.store(Arc::new(machine.view().clone()));
        self.feed.hub.replace(revision, epoch);
        self.revision.send_replace(revision);
    }

    pub fn stop(&self) {
        self.feed.hub.stop();
    }

    pub async fn wait_for(&self, revision: Revision, deadline: Duration) -> Result<(), StoreError> {
        let mut seen = self.revision.subscribe();
        let reached = seen.wait_for(|seen| *seen >= revision);
        match tokio::time::timeout(deadline, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(StoreError::Stopped),
            Err(_) => Err(StoreError::Unknown(deadline)),
        }
    }
}
