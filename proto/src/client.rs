//! The [`Api`] over gRPC, with fail-over between servers.
//!
//! Every server is one [`Channel`] that connects when it is first used and again after it broke. Calls go to one server
//! for as long as it answers; a transport error, or its word that it cannot serve (503), moves them to the next. What
//! has certainly not been taken is tried again within the call's deadline; a write that may have been taken is not, and
//! fails with `Timeout`: outcome unknown.

#[cfg(test)]
mod tests;
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig as TlsConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tonic::codegen::InterceptedService;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::api::{
    Api, DeleteOptions, GetOptions, List, ListOptions, PatchType, Target, WatchOptions, WatchStream,
    WriteOptions,
};
use crate::pb;
use crate::pb::cluster_client::ClusterClient;
use crate::pb::nodes_client::NodesClient;
use crate::pb::pod_streams_client::PodStreamsClient;
use crate::pb::resources_client::ResourcesClient;
use crate::resource::Registry;
use crate::status::Status;
use crate::wire;

/// Largest message in either direction, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// A dead server is noticed on an idle connection after interval and timeout.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(3);
/// First pause between two rounds over all servers; it doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Lists may be large: they get so many times a call's deadline.
const LIST_FACTOR: u32 = 4;

/// A source of bearer tokens, asked for each call so that they can rotate.
pub type TokenSource = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// Where the servers are and who is calling.
#[derive(Clone)]
pub struct ClientConfig {
    /// `host:port`, in the order they are tried.
    pub servers: Vec<String>,
    pub ca_pem: String,
    /// Certificate chain and key, PEM.
    pub identity: Option<(String, String)>,
    pub token: Option<TokenSource>,
    /// Longest time one call may take, retries included. A list may take four times as long; of a watch it bounds the
    /// beginning.
    pub deadline: Duration,
    /// How long a call goes on when no server takes it, within its deadline.
    pub patience: Duration,
    /// Trust any server: a person's own decision.
    pub insecure: bool,
}

impl ClientConfig {
    pub fn new<S: Into<String>>(servers: impl IntoIterator<Item = S>, ca_pem: &str) -> ClientConfig {
        ClientConfig {
            servers: servers.into_iter().map(Into::into).collect(),
            ca_pem: ca_pem.into(),
            identity: None,
            token: None,
            deadline: Duration::from_secs(30),
            patience: Duration::from_secs(5),
            insecure: false,
        }
    }

    #[must_use]
    pub fn with_identity(mut self, cert_pem: &str, key_pem: &str) -> ClientConfig {
        self.identity = Some((cert_pem.into(), key_pem.into()));
        self
    }

    #[must_use]
    pub fn with_token(self, token: String) -> ClientConfig {
        self.with_token_source(Arc::new(move || Some(token.clone())))
    }

    #[must_use]
    pub fn with_token_source(mut self, source: TokenSource) -> ClientConfig {
        self.token = Some(source);
        self
    }

    /// A token in a file, which others may replace at any time.
    #[must_use]
    pub fn with_token_file(self, path: impl Into<std::path::PathBuf>) -> ClientConfig {
        let path = path.into();
        self.with_token_source(Arc::new(move || {
            std::fs::read_to_string(&path).ok().map(|token| token.trim().to_string())
        }))
    }

    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> ClientConfig {
        self.deadline = deadline;
        self
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no server address was given")]
    NoServers,
    #[error("server address {0:?} is not host:port")]
    Address(String),
    #[error("the {0} is not usable PEM: {1}")]
    Pem(&'static str, String),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Adds the bearer token to each call.
#[derive(Clone)]
pub struct Bearer(Option<TokenSource>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, tonic::Status> {
        if let Some(token) = self.0.as_ref().and_then(|source| source()) {
            let value = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| {
                tonic::Status::unauthenticated("the bearer token has characters no header may have")
            })?;
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// A channel that says who is calling.
pub type Service = InterceptedService<Channel, Bearer>;

/// Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    addresses: Vec<String>,
    channels: Vec<Channel>,
    bearer: Bearer,
    /// The server that answered last.
    current: AtomicUsize,
    deadline: Duration,
    patience: Duration,
}

/// Whether a call that failed in transport may be sent again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Reads,
    Writes,
}

impl Client {
    /// Connects to nothing yet; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// Addresses or PEM that cannot be used.
    pub fn new(config: ClientConfig) -> Result<Client, ClientError> {
        if config.servers.is_empty() {
            return Err(ClientError::NoServers);
        }
        let tls = Arc::new(tls::config(&config)?);
        let channels =
            config.servers.iter().map(|address| channel(address, tls.clone())).collect::<Result<_, _>>()?;
        let shared = Shared {
            addresses: config.servers,
            channels,
            bearer: Bearer(config.token),
            current: AtomicUsize::new(0),
            deadline: config.deadline,
            patience: config.patience,
        };
        Ok(Client { shared: Arc::new(shared) })
    }

    pub fn addresses(&self) -> &[String] {
        &self.shared.addresses
    }

    /// The service at one of [`Client::addresses`], for streams that must reach a particular server.
    pub fn service_at(&self, index: usize) -> Service {
        let channel = self.shared.channels[index % self.shared.channels.len()].clone();
        InterceptedService::new(channel, self.shared.bearer.clone())
    }

    fn service(&self) -> Service {
        self.service_at(self.shared.current.load(Ordering::Relaxed))
    }

    /// Raw clients on the server that answered last; their calls have no deadline and no fail-over.
    pub fn resources(&self) -> ResourcesClient<Service> {
        sized(ResourcesClient::new(self.service()))
    }

    pub fn cluster(&self) -> ClusterClient<Service> {
        ClusterClient::new(self.service())
    }

    pub fn pod_streams(&self) -> PodStreamsClient<Service> {
        PodStreamsClient::new(self.service())
    }

    pub fn nodes(&self) -> NodesClient<Service> {
        NodesClient::new(self.service())
    }

    /// The cluster's members, from whichever server answers.
    ///
    /// # Errors
    /// 503 when none does.
    pub async fn cluster_status(&self) -> Result<pb::StatusReply, Status> {
        self.call(Effect::Reads, |service| async move {
            Ok(ClusterClient::new(service).status(pb::StatusRequest {}).await?.into_inner())
        })
        .await
    }

    /// What the cluster serves, custom resources included, and the server's version.
    ///
    /// # Errors
    /// 503 when no server answers.
    pub async fn discover(&self) -> Result<(Registry, String), Status> {
        let reply = self
            .call(Effect::Reads, |service| async move {
                Ok(sized(ResourcesClient::new(service)).discover(pb::DiscoverRequest {}).await?.into_inner())
            })
            .await?;
        Ok((wire::registry(&reply), reply.server_version))
    }

    /// The address that the next call goes to first.
    pub fn current_address(&self) -> &str {
        &self.shared.addresses[self.shared.current.load(Ordering::Relaxed)]
    }

    /// Lets the next call begin at another server: for users of the raw clients whose call failed.
    pub fn turn_away(&self) {
        self.turn_from(self.shared.current.load(Ordering::Relaxed));
    }

    /// Only if no other call has moved on already.
    fn turn_from(&self, index: usize) {
        let next = (index + 1) % self.shared.channels.len();
        let _ = self.shared.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    async fn call<T, F>(&self, effect: Effect, attempt: impl FnMut(Service) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, tonic::Status>>,
    {
        self.call_within(self.shared.deadline, effect, attempt).await
    }

    /// Runs a call against the current server, and against the others while that is safe and there is time.
    async fn call_within<T, F>(
        &self,
        longest: Duration,
        effect: Effect,
        mut attempt: impl FnMut(Service) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<T, tonic::Status>>,
    {
        let begun = Instant::now();
        let deadline = begun + longest;
        let give_up = deadline.min(begun + self.shared.patience);
        let servers = self.shared.channels.len();
        let (mut tried, mut pause) = (0, PAUSE);
        loop {
            let index = self.shared.current.load(Ordering::Relaxed);
            let address = &self.shared.addresses[index];
            let left = deadline.saturating_duration_since(Instant::now());
            // A read leaves time to ask another server when this one hangs.
            let is_last = effect == Effect::Writes || servers == 1;
            let allowed = if is_last { left } else { left.min((longest / 3).max(CONNECT)) };
            let (error, is_over) = match tokio::time::timeout(allowed, attempt(self.service_at(index))).await
            {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => match (wire::carried(&error), fate(&error)) {
                    // Nothing was done: another server may be able to.
                    (Some(status), _) if status.code == 503 => (status, Instant::now() >= give_up),
                    (Some(status), _) | (None, Fate::Answered(status) | Fate::Distrusted(status)) => {
                        return Err(status);
                    }
                    (None, Fate::NotSent(why)) => {
                        (Status::unavailable(format!("{address}: {why}")), Instant::now() >= give_up)
                    }
                    (None, Fate::Broken(why)) if effect == Effect::Reads => {
                        (Status::unavailable(format!("{address}: {why}")), Instant::now() >= give_up)
                    }
                    (None, Fate::Broken(why)) => {
                        self.turn_from(index);
                        return Err(Status::timeout(format!(
                            "the connection to {address} broke; the outcome of the request is unknown: {why}"
                        )));
                    }
                },
                Err(_) => {
                    let late = format!("{address} gave no answer within {allowed:?}");
                    if effect == Effect::Writes {
                        self.turn_from(index);
                        return Err(Status::timeout(format!(
                            "{late}; the outcome of the request is unknown"
                        )));
                    }
                    (Status::timeout(late), false)
                }
            };
            self.turn_from(index);
            if is_over || Instant::now() + pause >= deadline {
                return Err(error);
            }
            tried += 1;
            if tried % servers == 0 {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// What an error that carries no document says of the request.
#[derive(Debug)]
enum Fate {
    /// It has reached nobody.
    NotSent(String),
    /// The server's certificate is not one to trust: asking again does not help.
    Distrusted(Status),
    /// The connection ended while an answer was awaited.
    Broken(String),
    /// The server, or gRPC itself, refused it.
    Answered(Status),
}

fn fate(error: &tonic::Status) -> Fate {
    let mut source = std::error::Error::source(error);
    if source.is_none() {
        return Fate::Answered(Status::from(error));
    }
    let mut innermost = error.message().to_string();
    let mut is_sent = true;
    while let Some(cause) = source {
        if let Some(failed) = cause.downcast_ref::<ConnectFailed>() {
            return if is_distrust(&failed.source) {
                let why = format!("cannot trust {}: {}", failed.address, failed.source);
                Fate::Distrusted(Status::unavailable(why))
            } else {
                Fate::NotSent(failed.source.to_string())
            };
        }
        // What waited for its turn on a connection that closed was never written.
        is_sent &= !cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled);
        innermost = cause.to_string();
        source = cause.source();
    }
    match error.code() {
        _ if !is_sent => Fate::NotSent(innermost),
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled => Fate::Broken(innermost),
        _ => Fate::Answered(Status::from(error)),
    }
}

fn is_distrust(error: &std::io::Error) -> bool {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
}

/// Marks the errors that happened before anything was sent.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {address}: {source}")]
struct ConnectFailed {
    address: String,
    source: std::io::Error,
}

fn sized(client: ResourcesClient<Service>) -> ResourcesClient<Service> {
    client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
}

fn channel(address: &str, tls: Arc<TlsConfig>) -> Result<Channel, ClientError> {
    let bad = || ClientError::Address(address.into());
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    port.parse::<u16>().map_err(|_| bad())?;
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_string()).map_err(|_| bad())?;
    // The scheme is http because the connector does the TLS.
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| bad())?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .tcp_nodelay(true);
    let address = address.to_string();
    let connector = tower::service_fn(move |_| {
        let (address, name) = (address.clone(), name.clone());
        let connector = TlsConnector::from(tls.clone());
        async move {
            let connect = async {
                let tcp = TcpStream::connect(&address).await?;
                tcp.set_nodelay(true)?;
                connector.connect(name, tcp).await
            };
            let connected = match tokio::time::timeout(CONNECT, connect).await {
                Ok(connected) => connected,
                Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut)),
            };
            connected.map(TokioIo::new).map_err(|source| ConnectFailed { address, source })
        }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

#[async_trait]
impl Api for Client {
    async fn get(&self, target: &Target, options: &GetOptions) -> Result<Bytes, Status> {
        let request = wire::get_request(target, options);
        self.call(Effect::Reads, |service| {
            let request = request.clone();
            async move { Ok(sized(ResourcesClient::new(service)).get(request).await?.into_inner().json) }
        })
        .await
    }

    async fn list(&self, target: &Target, options: &ListOptions) -> Result<List, Status> {
        let request = wire::list_request(target, options);
        self.call_within(self.shared.deadline * LIST_FACTOR, Effect::Reads, |service| {
            let request = request.clone();
            async move {
                let mut chunks = sized(ResourcesClient::new(service)).list(request).await?.into_inner();
                let mut list = wire::ListAssembly::default();
                while let Some(chunk) = chunks.message().await? {
                    list.push(chunk);
                }
                list.finish().map_err(tonic::Status::from)
            }
        })
        .await
    }

    async fn watch(&self, target: &Target, options: &WatchOptions) -> Result<WatchStream, Status> {
        let request = wire::watch_request(target, options);
        let messages = self
            .call(Effect::Reads, |service| {
                let request = request.clone();
                async move { Ok(sized(ResourcesClient::new(service)).watch(request).await?.into_inner()) }
            })
            .await?;
        Ok(until_error(self.clone(), messages))
    }

    async fn create(&self, target: &Target, body: Bytes, options: &WriteOptions) -> Result<Bytes, Status> {
        let request = wire::write_request(target, body, options);
        self.call(Effect::Writes, |service| {
            let request = request.clone();
            async move { Ok(sized(ResourcesClient::new(service)).create(request).await?.into_inner().json) }
        })
        .await
    }

    async fn update(&self, target: &Target, body: Bytes, options: &WriteOptions) -> Result<Bytes, Status> {
        let request = wire::write_request(target, body, options);
        self.call(Effect::Writes, |service| {
            let request = request.clone();
            async move { Ok(sized(ResourcesClient::new(service)).update(request).await?.into_inner().json) }
        })
        .await
    }

    async fn patch(
        &self,
        target: &Target,
        patch_type: PatchType,
        body: Bytes,
        options: &WriteOptions,
    ) -> Result<Bytes, Status> {
        let request = wire::patch_request(target, patch_type, body, options);
        self.call(Effect::Writes, |service| {
            let request = request.clone();
            async move { Ok(sized(ResourcesClient::new(service)).patch(request).await?.into_inner().json) }
        })
        .await
    }

    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Bytes, Status> {
        let request = wire::delete_request(target, options)?;
        self.call(Effect::Writes, |service| {
            let request = request.clone();
            async move { Ok(sized(ResourcesClient::new(service)).delete(request).await?.into_inner().json) }
        })
        .await
    }

    async fn delete_collection(
        &self,
        target: &Target,
        selection: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Bytes, Status> {
        let request = wire::delete_collection_request(target, selection, options)?;
        self.call_within(self.shared.deadline * LIST_FACTOR, Effect::Writes, |service| {
            let request = request.clone();
            async move {
                let mut resources = sized(ResourcesClient::new(service));
                Ok(resources.delete_collection(request).await?.into_inner().json)
            }
        })
        .await
    }
}

/// The events, and at most one error behind them: 503 when the connection broke.
fn until_error(client: Client, messages: tonic::Streaming<pb::WatchEvent>) -> WatchStream {
    Box::pin(futures::stream::unfold(Some((client, messages)), |state| async move {
        let (client, mut messages) = state?;
        let status = match messages.next().await? {
            Ok(message) => match wire::event(message) {
                Ok(event) => return Some((Ok(event), Some((client, messages)))),
                Err(status) => status,
            },
            Err(error) => match (wire::carried(&error), fate(&error)) {
                (Some(status), _) | (None, Fate::Answered(status) | Fate::Distrusted(status)) => status,
                (None, Fate::NotSent(why) | Fate::Broken(why)) => {
                    Status::unavailable(format!("the watch broke off: {why}"))
                }
            },
        };
        Some((Err(status), None))
    }))
}
