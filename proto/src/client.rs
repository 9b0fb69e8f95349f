//! The [`Api`] over gRPC, with fail-over between servers.
//!
//! Every server is one [`Channel`] that connects when it is first used and again after it broke. Calls go to one server
//! for as long as it answers; a transport error moves them to the next. What has certainly not been sent is tried again
//! within the call's deadline; a write that may have been sent is not, and fails with `Timeout`: outcome unknown.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig as TlsConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tonic::codegen::InterceptedService;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::api::{
    Api, DeleteOptions, Event, GetOptions, List, ListOptions, PatchType, Target, WatchOptions, WatchStream,
    WriteOptions,
};
use crate::pb;
use crate::pb::cluster_client::ClusterClient;
use crate::pb::nodes_client::NodesClient;
use crate::pb::pod_streams_client::PodStreamsClient;
use crate::pb::resources_client::ResourcesClient;
use crate::status::Status;
use crate::wire;

/// Largest message in either direction, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// A dead server is noticed on an idle connection after interval and timeout.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(3);
/// Pause between two rounds over all servers.
const PAUSE: Duration = Duration::from_millis(50);

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
    /// Longest time one call may take, retries included; lists and watches that stream are not cut off by it.
    pub deadline: Duration,
}

impl ClientConfig {
    pub fn new<S: Into<String>>(servers: impl IntoIterator<Item = S>, ca_pem: &str) -> ClientConfig {
        ClientConfig {
            servers: servers.into_iter().map(Into::into).collect(),
            ca_pem: ca_pem.into(),
            identity: None,
            token: None,
            deadline: Duration::from_secs(30),
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
        let tls = Arc::new(tls_config(&config)?);
        let channels =
            config.servers.iter().map(|address| channel(address, tls.clone())).collect::<Result<_, _>>()?;
        let shared = Shared {
            addresses: config.servers,
            channels,
            bearer: Bearer(config.token),
            current: AtomicUsize::new(0),
            deadline: config.deadline,
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

    /// Runs a call against the current server, and against the others while that is safe and there is time.
    async fn call<T, F>(&self, effect: Effect, mut attempt: impl FnMut(Service) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, tonic::Status>>,
    {
        let deadline = Instant::now() + self.shared.deadline;
        let servers = self.shared.channels.len();
        let mut tried = 0;
        loop {
            let index = self.shared.current.load(Ordering::Relaxed);
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match tokio::time::timeout(left, attempt(self.service_at(index))).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => {
                    let waited = self.shared.deadline;
                    return Err(Status::timeout(format!(
                        "no answer within {waited:?}; the outcome of the request is unknown"
                    )));
                }
            };
            // An answer of the API, a refusal too, is an answer.
            if let Some(status) = wire::carried(&error) {
                return Err(status);
            }
            let _ = self.shared.current.compare_exchange(
                index,
                (index + 1) % servers,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match fate(&error) {
                Fate::NotSent => {}
                Fate::Broken if effect == Effect::Reads => {}
                Fate::Broken => {
                    return Err(Status::timeout(format!(
                        "the connection broke; the outcome of the request is unknown: {}",
                        error.message()
                    )));
                }
                Fate::Answered => return Err(Status::from(&error)),
            }
            tried += 1;
            let pause = if tried % servers == 0 { PAUSE } else { Duration::ZERO };
            // One pause beyond the first round, then a person would rather know.
            if Instant::now() + pause >= deadline || tried >= 3 * servers {
                return Err(Status::from(&error));
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// What a transport error says of the request.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// No connection was made.
    NotSent,
    /// The connection ended while an answer was awaited.
    Broken,
    /// The server, or gRPC itself, refused it.
    Answered,
}

fn fate(error: &tonic::Status) -> Fate {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<ConnectFailed>() {
            return Fate::NotSent;
        }
        source = cause.source();
    }
    match error.code() {
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled => Fate::Broken,
        _ => Fate::Answered,
    }
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

fn tls_config(config: &ClientConfig) -> Result<TlsConfig, ClientError> {
    let pem = |what, error: rustls::pki_types::pem::Error| ClientError::Pem(what, error.to_string());
    let certificates = |text: &str, what| {
        CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| pem(what, e))
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&config.ca_pem, "certificate authority")? {
        roots.add(certificate)?;
    }
    if roots.is_empty() {
        return Err(ClientError::Pem("certificate authority", "it holds no certificate".into()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = TlsConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut tls = match &config.identity {
        Some((certificate, key)) => builder.with_client_auth_cert(
            certificates(certificate, "client certificate")?,
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| pem("client key", e))?,
        )?,
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(tls)
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
        self.call(Effect::Reads, |service| {
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
        Ok(until_error(messages))
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
        self.call(Effect::Writes, |service| {
            let request = request.clone();
            async move {
                let mut resources = sized(ResourcesClient::new(service));
                Ok(resources.delete_collection(request).await?.into_inner().json)
            }
        })
        .await
    }
}

/// The events, and at most one error behind them.
fn until_error(messages: tonic::Streaming<pb::WatchEvent>) -> WatchStream {
    let events = messages.map(|message| match message {
        Ok(message) => wire::event(message),
        Err(status) => Err(Status::from(&status)),
    });
    let stream: Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>> =
        Box::pin(futures::stream::unfold(Some(events), |events| async move {
            let mut events = events?;
            match events.next().await? {
                Ok(event) => Some((Ok(event), Some(events))),
                Err(status) => Some((Err(status), None)),
            }
        }));
    stream
}
