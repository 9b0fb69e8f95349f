//! Keeps the index up to date from the store.

use std::sync::Arc;

use kontiki_store::Store;
use tokio_util::sync::CancellationToken;

use super::Index;

pub async fn follow(_store: Store, _index: Arc<Index>, stop: CancellationToken) {
    stop.cancelled().await;
}
