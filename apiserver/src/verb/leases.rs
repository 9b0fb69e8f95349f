//! Leases that let old events go. Events share a lease with others of the same few minutes.

use std::time::Duration;

use kontiki_proto::resource::Resource;
use kontiki_proto::status::Status;
use kontiki_store::{LeaseId, Store};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::storage;

const TTL: Duration = Duration::from_secs(3600);
/// Events of this long share a lease, and so live up to this much longer.
const BUCKET: Duration = Duration::from_secs(300);

/// The lease new events get at the moment.
#[derive(Debug, Default)]
pub struct EventLeases {
    current: Mutex<Option<(Instant, LeaseId)>>,
}

impl EventLeases {
    /// The lease an object is stored under; `None` for kinds that stay.
    pub(super) async fn of(&self, store: &Store, row: &Resource) -> Result<Option<LeaseId>, Status> {
        if row.plural != "events" || !row.storage_group().is_empty() {
            return Ok(None);
        }
        let mut current = self.current.lock().await;
        if let Some((since, lease)) = *current
            && since.elapsed() < BUCKET
        {
            return Ok(Some(lease));
        }
        let lease = store.grant_lease(TTL + BUCKET).await.map_err(storage::store_error)?;
        *current = Some((Instant::now(), lease));
        Ok(Some(lease))
    }

    /// Forgets a lease the store no longer knows.
    pub(super) async fn forget(&self) {
        *self.current.lock().await = None;
    }
}
