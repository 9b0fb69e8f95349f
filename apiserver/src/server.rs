//! The API server as a whole: what its parts share, and its life.

use std::sync::Arc;
use std::time::Duration;

use kontiki_proto::{DynApi, Registry};
use kontiki_store::Store;
use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::auth::{Auth, AuthConfig, AuthError, User};
use crate::chain::Room;
use crate::config::ServerConfig;
use crate::front;
use crate::openapi::OpenApi;
use crate::streams::Nodes;
use crate::verb::Allocator;

/// Why an API server could not be set up or stopped serving.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("the serving certificate: {0}")]
    Tls(String),
    #[error("the service network {0} is not an IPv4 network such as 10.96.0.0/16")]
    ServiceCidr(String),
    #[error("a listener failed: {0}")]
    Listener(#[from] std::io::Error),
}

/// What fronts, chain and verbs share.
pub struct Context {
    pub config: ServerConfig,
    pub store: Store,
    pub auth: Auth,
    pub admission: Admission,
    pub openapi: OpenApi,
    pub nodes: Nodes,
    pub(crate) room: Room,
    pub(crate) allocator: Allocator,
    pub(crate) event_leases: crate::verb::EventLeases,
    registry: RwLock<Registry>,
}

impl Context {
    /// The rows served at this moment.
    pub fn registry(&self) -> Registry {
        self.registry.read().clone()
    }

    /// Replaces the rows served, for custom resources that come and go.
    pub fn set_registry(&self, registry: Registry) {
        *self.registry.write() = registry;
    }
}

/// One API server over one replica of the store. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    context: Arc<Context>,
}

impl ApiServer {
    /// Checks the configuration; serves nothing yet.
    pub fn new(config: ServerConfig, store: Store) -> Result<ApiServer, SetupError> {
        let auth_config = AuthConfig {
            token_file: config.token_file.clone(),
            issuer: config.issuer.clone(),
            audiences: vec![config.issuer.clone()],
            ..AuthConfig::with_key(config.service_account_key_pem.clone())
        };
        let auth = Auth::new(&auth_config, store.clone())?;
        let admission = Admission::new(auth.objects.clone(), auth.authorizer.clone());
        let allocator = Allocator::new(&config.service_cidr, config.node_ports)
            .ok_or_else(|| SetupError::ServiceCidr(config.service_cidr.clone()))?;
        let context = Context {
            room: Room::new(config.max_reads, config.max_writes),
            allocator,
            event_leases: Default::default(),
            openapi: OpenApi::new(),
            nodes: Nodes::default(),
            registry: RwLock::new(Registry::builtin().clone()),
            auth,
            admission,
            store,
            config,
        };
        Ok(ApiServer { context: Arc::new(context) })
    }

    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The API as this user, without a network between; the same chain from authorization on.
    pub fn local(&self, user: User) -> DynApi {
        front::local::api(self.context.clone(), user)
    }

    /// Serves REST and gRPC over TLS until cancelled, then finishes what is in flight within a few seconds.
    /// Fills an empty cluster with what every cluster holds.
    pub async fn serve(
        &self,
        listeners: Vec<TcpListener>,
        stop: CancellationToken,
    ) -> Result<(), SetupError> {
        let tls = front::tls::server_config(&self.context.config)?;
        let background = stop.child_token();
        let follow = {
            let (context, stop) = (self.context.clone(), background.clone());
            tokio::spawn(async move { context.auth.follow(stop).await })
        };
        let bootstrap = {
            let store = self.context.store.clone();
            let api = self.local(User::controllers());
            let addresses = move || store.client_addresses();
            let service_cidr = self.context.config.service_cidr.clone();
            tokio::spawn(crate::bootstrap::run(api, service_cidr, addresses, background.clone()))
        };
        let custom = {
            let (store, context) = (self.context.store.clone(), self.context.clone());
            let api = self.local(User::controllers());
            let set = move |definitions: &[serde_json::Value]| {
                context.openapi.set_declared(crate::custom::follow::declared(definitions));
                context.set_registry(crate::custom::registry(definitions));
            };
            tokio::spawn(crate::custom::follow::follow(store, api, set, background.clone()))
        };
        let served = front::tls::serve(self.context.clone(), tls, listeners, stop).await;
        background.cancel();
        for task in [follow, bootstrap, custom] {
            // Both end on cancellation; a second is far more than they need.
            let _ = tokio::time::timeout(Duration::from_secs(1), task).await;
        }
        served
    }
}
