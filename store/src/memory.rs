//! A cluster of one without disk or network: what is proposed is applied at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kontiki_proto::pb;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::command::{Batch, Command, Millis, Reply};
use crate::housekeeping::{self, Limits};
use crate::mvcc::FIRST_MEMBER;
use crate::replica::Replica;
use crate::types::StoreError;

pub(crate) struct Memory {
    pub replica: Arc<Replica>,
    pub cluster_id: String,
    started: Instant,
    stopped: AtomicBool,
    /// Keeps commands in one order.
    order: Mutex<()>,
}

impl Memory {
    /// Leases expire and history is compacted only inside a tokio runtime.
    pub fn start(replica: Arc<Replica>, cluster_id: String, limits: Limits) -> Arc<Memory> {
        let memory = Arc::new(Memory {
            replica,
            cluster_id,
            started: Instant::now(),
            stopped: AtomicBool::new(false),
            order: Mutex::new(()),
        });
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tend(Arc::downgrade(&memory), limits));
        }
        memory
    }

    fn now(&self) -> Millis {
        self.started.elapsed().as_millis() as Millis
    }

    pub fn submit(&self, command: Command) -> Result<Reply, StoreError> {
        let _order = self.order.lock();
        if self.stopped.load(Ordering::Acquire) {
            return Err(StoreError::Stopped);
        }
        let batch = Batch { time: self.now(), commands: vec![command] };
        let mut applied = self.replica.apply(vec![batch]);
        applied.pop().and_then(|mut one| one.replies.pop()).ok_or(StoreError::Stopped)
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.replica.stop();
    }

    pub fn status(&self) -> pb::MemberStatus {
        let counters = self.replica.inspect(|machine| machine.counters().clone());
        pb::MemberStatus {
            id: FIRST_MEMBER,
            leader: true,
            voter: true,
            term: 1,
            applied: counters.revision,
            revision: counters.revision,
            pid: std::process::id(),
            reachable: true,
            version: env!("CARGO_PKG_VERSION").to_string(),
            state_hash: counters.hash,
            ..pb::MemberStatus::default()
        }
    }
}

async fn tend(memory: Weak<Memory>, limits: Limits) {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Some(memory) = memory.upgrade() else { return };
        let now = memory.now();
        for command in memory.replica.inspect(|machine| housekeeping::due(machine, now, &limits)) {
            if memory.submit(command).is_err() {
                return;
            }
        }
    }
}
