//! Linearizable reads: one question to the leader for all who wait, then the wait until its answer is applied here.
//!
//! Whoever comes while a question is under way waits for the next one: an answer is only good for those who were there
//! before it was asked. An answer is never used across two attempts, so that a leader that was deposed in between
//! makes nothing stale (etcd #20418).

use std::sync::Arc;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::core::{Core, Route};
use super::wire::{Ask, Told};
use crate::mutant::mutated;
use crate::types::StoreError;

type Answer = oneshot::Sender<Result<(), StoreError>>;

/// Readers that may wait.
const ROOM: usize = 16 << 10;

pub(crate) struct Queue {
    readers: mpsc::Sender<Answer>,
}

pub(crate) struct Waiting {
    readers: mpsc::Receiver<Answer>,
}

impl Queue {
    pub fn new() -> (Queue, Waiting) {
        let (readers, waiting) = mpsc::channel(ROOM);
        (Queue { readers }, Waiting { readers: waiting })
    }

    pub async fn wait(&self, core: &Core) -> Result<(), StoreError> {
        if core.stop.is_cancelled() {
            return Err(StoreError::Stopped);
        }
        if mutated!(ReadWithoutReadIndex) {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        self.readers.try_send(answer).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => StoreError::Stopped,
        })?;
        tokio::select! {
            answered = answered => answered.unwrap_or(Err(StoreError::Stopped)),
            // The question under way may take its whole time before ours is asked.
            () = tokio::time::sleep(core.timings.request * 2) => Err(StoreError::NoLeader),
            () = core.stop.cancelled() => Err(StoreError::Stopped),
        }
    }
}

pub(crate) fn run(core: Arc<Core>, mut waiting: Waiting) {
    let stop = core.stop.clone();
    crate::life::spawn(stop.run_until_cancelled_owned(async move {
        while let Some(first) = waiting.readers.recv().await {
            let mut readers = vec![first];
            while let Ok(reader) = waiting.readers.try_recv() {
                readers.push(reader);
            }
            let deadline = Instant::now() + core.timings.request;
            let index = ask(&core, deadline).await;
            let core = core.clone();
            // The next question need not wait until this one's answer is applied.
            crate::life::spawn(async move {
                let result = match index {
                    Ok(index) if core.applied(index, deadline).await => Ok(()),
                    Ok(_) => Err(StoreError::Unknown(core.timings.request)),
                    Err(error) => Err(error),
                };
                for reader in readers {
                    let _ = reader.send(result.clone());
                }
            });
        }
    }));
}

/// The index up to which a read has to see, as a leader confirmed by a quorum knows it.
pub(crate) async fn ask(core: &Core, deadline: Instant) -> Result<u64, StoreError> {
    while Instant::now() < deadline {
        let index = match core.route() {
            Route::Here => read_index(core, deadline).await,
            Route::There { id, peer } => {
                let within = deadline.saturating_duration_since(Instant::now());
                let leader = Route::There { id, peer: peer.clone() };
                let question = Ask::ReadIndex { within };
                let told = tokio::select! {
                    told = core.ask(id, &peer, &question, deadline) => told,
                    () = core.deposed(&leader) => Ok(Told::NotLeader),
                };
                match told {
                    Ok(Told::Index(index)) => Some(index),
                    Ok(_) => None,
                    Err(error) => {
                        tracing::debug!(?error, "no read index yet");
                        None
                    }
                }
            }
            Route::Nowhere => None,
        };
        match index {
            Some(index) => return Ok(index),
            None => core.leader_may_have_changed(deadline).await,
        }
    }
    Err(StoreError::NoLeader)
}

async fn read_index(core: &Core, deadline: Instant) -> Option<u64> {
    match tokio::time::timeout_at(deadline, core.raft.get_read_log_id(ReadPolicy::ReadIndex)).await {
        Ok(Ok((read, _))) => Some(read.index()),
        Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_)))) | Err(_) => None,
        Ok(Err(error)) => {
            tracing::debug!(%error, "no read index yet");
            None
        }
    }
}

/// A follower's question, on the leader.
pub(crate) async fn answer(core: &Core, within: std::time::Duration) -> Told {
    if !core.leads() {
        return Told::NotLeader;
    }
    match read_index(core, Instant::now() + within.min(core.timings.request)).await {
        Some(index) => Told::Index(index),
        None => Told::NotLeader,
    }
}
