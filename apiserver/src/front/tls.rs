//! Connections: TLS with optional client certificates, HTTP/1.1 and HTTP/2 by ALPN, a bound on everything.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::ServerConfig;
use crate::server::{Context, SetupError};

/// How long a client may take for its TLS handshake, and for the head of a request.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long requests in flight may go on after the server was told to stop.
const GRACE: Duration = Duration::from_secs(3);
/// Pause after the listener failed, as with too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// Requests a client may have open on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1000;

/// Who is at the other end of a connection; among a request's extensions.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// DER of the leaf certificate, verified against the cluster's CA.
    pub certificate: Option<Arc<[u8]>>,
}

/// TLS settings from PEM; client certificates are optional and must come from the cluster's CA.
pub fn server_config(config: &ServerConfig) -> Result<Arc<rustls::ServerConfig>, SetupError> {
    let bad = |what: &str, why: &dyn std::fmt::Display| SetupError::Tls(format!("{what}: {why}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(config.ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|error| bad("ca_pem", &error))?;
        roots.add(certificate).map_err(|error| bad("ca_pem", &error))?;
    }
    let chain = CertificateDer::pem_slice_iter(config.cert_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad("cert_pem", &error))?;
    let key =
        PrivateKeyDer::from_pem_slice(config.key_pem.as_bytes()).map_err(|error| bad("key_pem", &error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| bad("ca_pem", &error))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad("TLS versions", &error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| bad("cert_pem and key_pem", &error))?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

/// Accepts until cancelled. Returns when what was in flight has ended, or a few seconds later.
pub async fn serve(
    context: Arc<Context>,
    tls: Arc<rustls::ServerConfig>,
    listeners: Vec<TcpListener>,
    stop: CancellationToken,
) -> Result<(), SetupError> {
    let room = Arc::new(Semaphore::new(context.config.max_connections.max(1)));
    let service = super::Service::new(context, stop.clone());
    let graceful = Arc::new(GracefulShutdown::new());
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        let acceptor = TlsAcceptor::from(tls.clone());
        accepting.spawn(accept(
            listener,
            acceptor,
            service.clone(),
            room.clone(),
            graceful.clone(),
            stop.clone(),
        ));
    }
    while accepting.join_next().await.is_some() {}
    // Every accept loop has ended, and with it every other handle on the watcher but those of handshakes.
    if let Ok(graceful) = Arc::try_unwrap(graceful) {
        let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
    } else {
        tokio::time::sleep(GRACE).await;
    }
    Ok(())
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    service: super::Service,
    room: Arc<Semaphore>,
    graceful: Arc<GracefulShutdown>,
    stop: CancellationToken,
) {
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => return,
            permit = room.clone().acquire_owned() => permit,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let watcher = graceful.watcher();
                let (acceptor, service, stop) = (acceptor.clone(), service.clone(), stop.clone());
                tokio::spawn(async move {
                    if let Some(connection) =
                        handshake(stream, address, acceptor, service, stop, permit).await
                    {
                        connection.run(watcher).await;
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the API listener failed; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

struct Connection {
    io: TokioIo<tokio_rustls::server::TlsStream<TcpStream>>,
    peer: Peer,
    service: super::Service,
    _permit: OwnedSemaphorePermit,
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    service: super::Service,
    stop: CancellationToken,
    permit: OwnedSemaphorePermit,
) -> Option<Connection> {
    let _ = stream.set_nodelay(true);
    let accepted = tokio::select! {
        () = stop.cancelled() => return None,
        accepted = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)) => accepted,
    };
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a TLS handshake failed");
            return None;
        }
        Err(_) => {
            tracing::debug!(%address, "a TLS handshake took too long");
            return None;
        }
    };
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let peer = Peer { address, certificate: leaf.map(|leaf| Arc::from(leaf.as_ref())) };
    Some(Connection { io: TokioIo::new(stream), peer, service, _permit: permit })
}

impl Connection {
    async fn run(self, watcher: hyper_util::server::graceful::Watcher) {
        let Connection { io, peer, service, _permit } = self;
        let address = peer.address;
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            let service = service.clone();
            async move { Ok::<Response<Body>, std::convert::Infallible>(service.call(request).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HANDSHAKE)
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        let connection = builder.serve_connection_with_upgrades(io, service).into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%address, %error, "a connection ended");
        }
    }
}
