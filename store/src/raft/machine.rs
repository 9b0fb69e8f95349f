//! The state machine as consensus sees it: applies entries, writes checkpoints, gives and takes snapshots.
//!
//! What consensus calls *building a snapshot* is here a checkpoint: only what changed is written, and only when that is
//! durable does consensus purge the log below it. What it sends to a follower is the state itself, as of now.

use std::io;
use std::sync::{Arc, OnceLock};

use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, watch};

use super::types::{Answer, Image, LogId, Position, Snapshot, SnapshotMeta, StoredMembership, Types};
use crate::codec;
use crate::command::Batch;
use crate::disk::checkpoint::{Checkpoint, Dirty, Plan, Restored};
use crate::disk::journal::Journal;
use crate::disk::{Disk, DiskError};
use crate::environment::Labour;
use crate::mvcc::Applied;
use crate::replica::Replica;

/// Entries applied before their changes are shown together.
const STRIDE: usize = 64;

/// What the machine and a checkpoint in the making share.
struct Shared {
    replica: Arc<Replica>,
    disk: Arc<Disk>,
    /// The log that entries come from.
    log: OnceLock<Journal>,
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
    /// What the checkpoint on disk has applied: the log is needed behind it.
    durable: Option<LogId>,
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
        disk: Arc<Disk>,
        checkpoint: Checkpoint,
        restored: Option<Restored>,
    ) -> Result<RaftMachine, DiskError> {
        let mut position = Position::default();
        if let Some(restored) = restored {
            position = codec::decode(&restored.position)?;
            replica.install(restored.machine);
        }
        let applied = watch::Sender::new(position.applied.map_or(0, |id| id.index + 1));
        let durable = position.applied;
        let progress = Mutex::new(Progress { position, durable, ..Progress::default() });
        let checkpoint = Arc::new(tokio::sync::Mutex::new(checkpoint));
        let shared = Shared { replica, disk, log: OnceLock::new(), progress, checkpoint, applied };
        Ok(RaftMachine { shared: Arc::new(shared) })
    }

    /// From now on no checkpoint becomes durable before what it covers is durable in this log.
    pub fn stands_on(&self, log: Journal) {
        // It has one log; a second one would be the same.
        let _ = self.shared.log.set(log);
    }

    pub fn applied(&self) -> Option<LogId> {
        self.shared.progress.lock().position.applied
    }

    /// The last entry that the checkpoint on disk covers: nothing behind it may be purged.
    pub fn durable(&self) -> Option<LogId> {
        self.shared.progress.lock().durable
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

    /// Writes what changed since the last checkpoint, and returns what that came to.
    async fn write_checkpoint(&self) -> Result<(Image, Position), DiskError> {
        let mut checkpoint = self.shared.checkpoint.clone().lock_owned().await;
        let (machine, position, dirty) = {
            let mut progress = self.shared.progress.lock();
            let dirty = std::mem::take(&mut progress.dirty);
            (self.shared.replica.machine(), progress.position.clone(), dirty)
        };
        let image = Image::of(&machine);
        self.shared.log_is_durable().await?;
        let plan = checkpoint.advance(machine, dirty, codec::encode(&position))?;
        let _checkpoint = self.carry_out(checkpoint, plan).await?;
        self.shared.progress.lock().durable = position.applied;
        Ok((image, position))
    }

    /// Durable when it returns. The checkpoint is handed back so that the caller decides when another may begin.
    async fn carry_out(
        &self,
        mut checkpoint: OwnedMutexGuard<Checkpoint>,
        mut plan: Plan,
    ) -> Result<OwnedMutexGuard<Checkpoint>, DiskError> {
        let labour = &self.shared.disk.labour;
        if let Labour::Inline(pace) = labour {
            while checkpoint.step(&mut plan)? {
                tokio::time::sleep(pace.sync()).await;
            }
            return Ok(checkpoint);
        }
        labour.run_aside(move || checkpoint.write(plan).map(|()| checkpoint)).await.map_err(DiskError::Io)?
    }

    /// Ends the process; in a simulation, the server.
    fn die(&self, what: &str, error: &dyn std::fmt::Display) -> io::Error {
        self.shared.disk.storage.die(what, error);
        io::Error::other(format!("{what}: {error}"))
    }
}

impl Shared {
    /// Entries are applied when a quorum has them, which need not include this server: its own disk may be behind. A
    /// checkpoint that got ahead of the log would make it look as if the log had lost its end.
    async fn log_is_durable(&self) -> Result<(), DiskError> {
        let Some(log) = self.log.get() else { return Ok(()) };
        let (done, durable) = tokio::sync::oneshot::channel();
        log.settled(Box::new(move |result| drop(done.send(result))))?;
        match durable.await {
            Ok(result) => Ok(result?),
            Err(_) => Err(DiskError::Io("the log's writer has stopped".to_string())),
        }
    }

    /// Applies what has been gathered, shows it, and answers.
    fn flush(&self, gathered: &mut Vec<Gathered>) {
        let Some(last) = gathered.last().map(|one| one.id) else { return };
        let membership = gathered.iter_mut().rev().find_map(|one| one.membership.take());
        let (batches, waiting): (Vec<Batch>, Vec<_>) =
            gathered.drain(..).map(|one| (one.batch, one.responder)).unzip();
        let mut progress = self.progress.lock();
        let applied = self.replica.apply(batches);
        progress.position.applied = Some(last);
        progress.position.installed = false;
        if let Some(membership) = membership {
            progress.position.membership = membership;
        }
        for Applied { events, leases, .. } in &applied {
            for change in events.iter().flat_map(|event| event.changes.iter()) {
                progress.dirty.key(&change.entry.key, change.previous.is_some());
            }
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
                    Err(error) => {
                        return Err(
                            self.die(&format!("log entry {} cannot be applied", entry.log_id), &error)
                        );
                    }
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
        let written = match checkpoint.replace(machine.clone(), codec::encode(&position)) {
            Ok(plan) => self.carry_out(checkpoint, plan).await,
            Err(error) => Err(error),
        };
        let _checkpoint = match written {
            Ok(checkpoint) => checkpoint,
            Err(error) => return Err(self.die("a snapshot cannot be written", &error)),
        };
        let mut progress = self.shared.progress.lock();
        progress.dirty = Dirty::default();
        progress.durable = position.applied;
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
        let (image, position) = match self.write_checkpoint().await {
            Ok(written) => written,
            Err(error) => return Err(self.die("a checkpoint cannot be written", &error)),
        };
        let meta = SnapshotMeta { last_log_id: position.applied, last_membership: position.membership };
        Ok(Snapshot { meta, snapshot: image })
    }
}
