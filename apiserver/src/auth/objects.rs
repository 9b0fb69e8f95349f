//! The view of the store that authentication, authorization and admission read.

use async_trait::async_trait;
use kontiki_proto::Status;
use kontiki_store::Store;
use serde_json::Value;

/// The newest objects applied on this server.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    /// `group` is empty for the core group, `namespace` for cluster-scoped resources.
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value>;

    /// All of a namespace, or of all namespaces where it is empty, in key order.
    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Value>;

    /// Returns when this server has applied everything that was acknowledged anywhere before the call.
    async fn catch_up(&self) -> Result<(), Status>;
}

/// [`Objects`] of a store.
pub struct Stored {
    store: Store,
}

impl Stored {
    pub fn new(store: Store) -> Stored {
        Stored { store }
    }
}

#[async_trait]
impl Objects for Stored {
    fn get(&self, _group: &str, _plural: &str, _namespace: &str, _name: &str) -> Option<Value> {
        None
    }

    fn list(&self, _group: &str, _plural: &str, _namespace: &str) -> Vec<Value> {
        Vec::new()
    }

    async fn catch_up(&self) -> Result<(), Status> {
        self.store.barrier().await.map(drop).map_err(|error| Status::unavailable(error.to_string()))
    }
}
