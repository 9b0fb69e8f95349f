//! The state machine as consensus sees it: applies entries, writes checkpoints, gives and takes snapshots.
//!
//! What consensus calls *building a snapshot* is here a checkpoint: only what changed is written, and only when that is
//! durable does consensus purge the log below it. What it sends to a follower is the state itself, as of now.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::types::{Answer, Image, LogId, Position, Snapshot, SnapshotMeta, StoredMembership, Types};
use crate::codec;
use crate::command::Batch;
use crate::disk::checkpoint::{Checkpoint, Dirty, Restored};
use crate::disk::{DiskError, die};
use crate::mvcc::Applied;
use crate::replica::Replica;

/// Entries applied before their changes are shown together.
const STRIDE: usize = 64;

/// What the machine and a checkpoint in the making share.
struct Shared {
    replica: Arc<Replica>,
    progress: Mutex<Progress>,
    /// Held while a checkpoint or snapshot is written, and until the state agrees with it (etcd #14685).
    checkpoint: Arc<tokio::sync::Mutex<Checkpoint>>,
    /// Index of the last applied entry + 1.
    applied: watch::Sender<u64>,
}

#[derive(Default)]
struct Progress {
    position: Position,
    dirty: Dirty,
}

/// An entry on its way into the state.
struct Gathered {
    id: LogId,
    batch: Batch,
    membership: Option<StoredMembership>,
    responder: Option<ApplyResponder<Types>>,
}

#[derive(Clone)]
pub(crate) struct RaftMachine {
    shared: Arc<Shared>,
}

impl RaftMachine {
    pub fn open(
        replica: Arc<Replica>,
        checkpoint: Checkpoint,
        restored: Option<Restored>,
    ) -> Result<RaftMachine, DiskError> {
        let mut position = Position::default();
        if let Some(restored) = restored {
            position = codec::decode(&restored.position)?;
            replica.install(restored.machine);
        }
        let applied = watch::Sender::new(position.applied.map_or(0, |id| id.index + 1));
        let progress = Mutex::new(Progress { position, ..Progress::default() });
        let checkpoint = Arc::new(tokio::sync::Mutex::new(checkpoint));
        let shared = Shared { replica, progress, checkpoint, applied };
        Ok(RaftMachine { shared: Arc::new(shared) })
    }

    pub fn applied(&self) -> Option<LogId> {
        self.shared.progress.lock().position.applied
    }

    /// Whether the state follows from the log alone, which then has to reach up to it.
    pub fn follows_the_log(&self) -> bool {
        !self.shared.progress.lock().position.installed
    }

    /// Changes with each applied entry: the next index to apply.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// State and position belong together: both are taken while nothing is being applied.
    fn image(&self) -> (Image, Position) {
        let progress = self.shared.progress.lock();
        let image = self.shared.replica.inspect(Image::of);
        (image, progress.position.clone())
    }

    /// Writes what changed since the last checkpoint.
    async fn write_checkpoint(&self) -> Result<Position, DiskError> {
        let mut checkpoint = self.shared.checkpoint.clone().lock_owned().await;
        let (machine, position, dirty) = {
            let mut progress = self.shared.progress.lock();
            let dirty = std::mem::take(&mut progress.dirty);
            (self.shared.replica.machine(), progress.position.clone(), dirty)
        };
        let record = codec::encode(&position);
        let written = tokio::task::spawn_blocking(move || checkpoint.advance(&machine, &dirty, record));
        match written.await {
            Ok(Ok(())) => Ok(position),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(DiskError::Io(error.to_string())),
        }
    }
}

impl Shared {
    /// Applies what has been gathered, shows it, and answers.
    fn flush(&self, gathered: &mut Vec<Gathered>) {
        let Some(last) = gathered.last().map(|one| one.id) else { return };
        let membership = gathered.iter_mut().rev().find_map(|one| one.membership.take());
        let (batches, waiting): (Vec<Batch>, Vec<_>) =
            gathered.drain(..).map(|one| (one.batch, one.responder)).unzip();
        let mut progress = self.progress.lock();
        let applied = self.replica.apply(&batches);
        progress.position.applied = Some(last);
        progress.position.installed = false;
        if let Some(membership) = membership {
            progress.position.membership = membership;
        }
        for Applied { events, leases, .. } in &applied {
            let keys =
                events.iter().flat_map(|event| event.changes.iter()).map(|change| change.entry.key.clone());
            progress.dirty.keys.extend(keys);
            progress.dirty.leases.extend(leases);
        }
        drop(progress);
        self.applied.send_replace(last.index + 1);
        for (one, responder) in applied.into_iter().zip(waiting) {
            if let Some(responder) = responder {
                responder.send(Answer(one.replies));
            }
        }
    }
}

impl RaftStateMachine<Types> for RaftMachine {
    type SnapshotData = Image;
    type SnapshotBuilder = RaftMachine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let progress = self.shared.progress.lock();
        Ok((progress.position.applied, progress.position.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut gathered = Vec::new();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let mut membership = None;
            let batch = match entry.payload {
                EntryPayload::Normal(payload) => match codec::decode(&payload.0) {
                    Ok(batch) => batch,
                    // Skipping it would make this replica another state than the others.
                    Err(error) => die(&format!("log entry {} cannot be applied", entry.log_id), &error),
                },
                EntryPayload::Blank => Batch::default(),
                EntryPayload::Membership(new) => {
                    membership = Some(StoredMembership::new(Some(entry.log_id), new));
                    Batch::default()
                }
            };
            gathered.push(Gathered { id: entry.log_id, batch, membership, responder });
            if gathered.len() == STRIDE {
                self.shared.flush(&mut gathered);
                tokio::task::yield_now().await;
            }
        }
        self.shared.flush(&mut gathered);
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> RaftMachine {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, image: Image) -> Result<(), io::Error> {
        let position =
            Position { applied: meta.last_log_id, membership: meta.last_membership.clone(), installed: true };
        // Waits for a checkpoint in the making, so that the older state is not written over the newer one.
        let mut checkpoint = self.shared.checkpoint.clone().lock_owned().await;
        let machine = image.into_machine();
        let state = machine.clone();
        let record = codec::encode(&position);
        let written = tokio::task::spawn_blocking(move || {
            let result = checkpoint.replace(&state, record);
            (checkpoint, result)
        });
        let (_checkpoint, result) = written.await.map_err(io::Error::other)?;
        if let Err(error) = result {
            die("a snapshot cannot be written", &error);
        }
        let mut progress = self.shared.progress.lock();
        progress.dirty = Dirty::default();
        progress.position = position;
        self.shared.replica.install(machine);
        let next = progress.position.applied.map_or(0, |id| id.index + 1);
        drop(progress);
        self.shared.applied.send_replace(next);
        tracing::info!(applied = next, "a snapshot was installed");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let (image, position) = self.image();
        if position.applied.is_none() {
            return Ok(None);
        }
        let meta = SnapshotMeta { last_log_id: position.applied, last_membership: position.membership };
        Ok(Some(Snapshot { meta, snapshot: image }))
    }
}

impl RaftSnapshotBuilder<Types> for RaftMachine {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let position = match self.write_checkpoint().await {
            Ok(position) => position,
            Err(error) => die("a checkpoint cannot be written", &error),
        };
        let (image, _) = self.image();
        let meta = SnapshotMeta { last_log_id: position.applied, last_membership: position.membership };
        Ok(Snapshot { meta, snapshot: image })
    }
}
