//! The product's transport: gRPC over mutual TLS over TCP.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use hyper_util::rt::TokioIo;
use kontiki_proto::pb;
use kontiki_proto::pb::peer_client::PeerClient;
use kontiki_proto::pb::peer_server::{Peer, PeerServer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status, Streaming};

use super::tls::{Tls, is_peer};
use super::transport::{
    Answer, Call, Conduit, Introduction, Listener, Messages, PeerError, PeerService, Probe, Transport,
};
use crate::config::{OpenError, PeerTls};

/// A message between servers at most; the log's own limit keeps far below it.
const MESSAGE_BYTES: usize = 64 << 20;
const CONNECT: Duration = Duration::from_secs(1);
const HANDSHAKE: Duration = Duration::from_secs(5);
const KNOCK: Duration = Duration::from_millis(200);
/// Connections that may wait for the server to take them.
const WAITING: usize = 64;
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Names the cluster in the metadata of a status answer.
const CLUSTER: &str = "kontiki-cluster";

pub(crate) struct Grpc {
    tls: Arc<Tls>,
}

impl Grpc {
    pub fn new(tls: &PeerTls) -> Result<Grpc, OpenError> {
        Ok(Grpc { tls: Arc::new(Tls::new(tls)?) })
    }
}

impl Transport for Grpc {
    fn authority(&self) -> Vec<u8> {
        self.tls.authority.clone()
    }

    fn listen(&self, address: &str) -> BoxFuture<'static, Result<Box<dyn Listener>, String>> {
        let (tls, address) = (self.tls.clone(), address.to_string());
        async move {
            let listener = TcpListener::bind(&address).await.map_err(|error| error.to_string())?;
            Ok(Box::new(Bound { tls, listener }) as Box<dyn Listener>)
        }
        .boxed()
    }

    fn connect(&self, address: &str) -> Answer<Arc<dyn Conduit>> {
        let (tls, address) = (self.tls.clone(), address.to_string());
        async move {
            let connection = connect(tls, &address).await;
            let connection = connection.map_err(|problem| {
                PeerError::Unreachable(format!("no connection to the server at {address}: {problem}"))
            })?;
            Ok(Arc::new(connection) as Arc<dyn Conduit>)
        }
        .boxed()
    }

    fn probe(&self, address: &str) -> BoxFuture<'static, Probe> {
        let address = address.to_string();
        async move {
            match tokio::time::timeout(KNOCK, TcpStream::connect(&address)).await {
                Ok(Ok(_)) => Probe::Listening,
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Probe::Refused,
                Ok(Err(_)) | Err(_) => Probe::Silent,
            }
        }
        .boxed()
    }
}

/// One HTTP/2 connection.
struct Connection {
    channel: Channel,
    closed: CancellationToken,
}

async fn connect(tls: Arc<Tls>, address: &str) -> Result<Connection, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true);
    let closed = CancellationToken::new();
    // The channel would connect again by itself; it finds nothing to do that with.
    let once = Arc::new(parking_lot::Mutex::new(Some(closed.clone().drop_guard())));
    let target = address.to_string();
    let connector = tower::service_fn(move |_: Uri| {
        let (tls, target, guard) = (tls.clone(), target.clone(), once.lock().take());
        async move {
            let end = guard.ok_or_else(|| io::Error::other("the connection has ended"))?;
            let stream = dial(&tls, &target).await?;
            Ok::<_, io::Error>(TokioIo::new(Watched { stream, _end: end }))
        }
    });
    match tokio::time::timeout(CONNECT, endpoint.connect_with_connector(connector)).await {
        Ok(Ok(channel)) => Ok(Connection { channel, closed }),
        Ok(Err(error)) => Err(whole(&error)),
        Err(_) => Err(format!("no answer within {CONNECT:?}")),
    }
}

/// A connection on which both sides have proved to be servers of the cluster.
async fn dial(tls: &Tls, address: &str) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let host =
        address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']).to_string();
    let name = rustls::pki_types::ServerName::try_from(host).map_err(io::Error::other)?;
    tls.connector.connect(name, stream).await
}

/// An error with its causes: tonic's own text is "transport error".
fn whole(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn from_status(status: &Status) -> PeerError {
    match status.code() {
        Code::FailedPrecondition => PeerError::Refused(status.message().to_string()),
        // Of gRPC itself: the other side knows no such call, or the message is too large for it.
        Code::Unimplemented | Code::OutOfRange | Code::ResourceExhausted => PeerError::Refused(whole(status)),
        _ => PeerError::Lost(whole(status)),
    }
}

fn to_status(error: PeerError) -> Status {
    match error {
        PeerError::Refused(reason) => Status::failed_precondition(reason),
        error => Status::unavailable(error.to_string()),
    }
}

fn from_wire(messages: Streaming<pb::PeerMessage>) -> Messages {
    messages.map(|message| message.map_err(|status| from_status(&status))).boxed()
}

impl Connection {
    /// A client, unless the connection is known to have ended: then nothing is sent.
    fn client(&self) -> Result<PeerClient<Channel>, PeerError> {
        if self.closed.is_cancelled() {
            return Err(PeerError::Unreachable("the connection has ended".to_string()));
        }
        Ok(PeerClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES))
    }
}

/// What goes out: the stream ends where its source breaks.
fn to_wire(messages: Messages) -> impl futures::Stream<Item = pb::PeerMessage> + Send + 'static {
    messages.scan((), |(), message| futures::future::ready(message.ok()))
}

impl PeerService for Connection {
    fn append(&self, requests: Messages) -> Answer<Messages> {
        let client = self.client();
        async move {
            let answers = client?.append(to_wire(requests)).await;
            Ok(from_wire(answers.map_err(|status| from_status(&status))?.into_inner()))
        }
        .boxed()
    }

    fn snapshot(&self, parts: Messages) -> Answer<pb::PeerMessage> {
        let client = self.client();
        async move {
            let answer = client?.snapshot(to_wire(parts)).await;
            Ok(answer.map_err(|status| from_status(&status))?.into_inner())
        }
        .boxed()
    }

    fn ask(&self, call: Call, message: pb::PeerMessage) -> Answer<pb::PeerMessage> {
        let client = self.client();
        async move {
            let mut client = client?;
            let answer = match call {
                Call::Vote => client.vote(message).await,
                Call::PreVote => client.pre_vote(message).await,
                Call::TransferLeader => client.transfer_leader(message).await,
                Call::Forward => client.forward(message).await,
            };
            Ok(answer.map_err(|status| from_status(&status))?.into_inner())
        }
        .boxed()
    }

    fn status(&self) -> Answer<Introduction> {
        let client = self.client();
        async move {
            let answer = client?.status(pb::StatusRequest {}).await.map_err(|status| from_status(&status))?;
            let named = answer.metadata().get(CLUSTER).and_then(|name| name.to_str().ok());
            let cluster_id = named.unwrap_or_default().to_string();
            Ok(Introduction { cluster_id, status: answer.into_inner() })
        }
        .boxed()
    }

    fn admit(&self, request: pb::JoinRequest) -> Answer<pb::JoinReply> {
        let client = self.client();
        async move { Ok(client?.admit(request).await.map_err(|status| from_status(&status))?.into_inner()) }
            .boxed()
    }
}

impl Conduit for Connection {
    fn closed(&self) -> BoxFuture<'static, ()> {
        self.closed.clone().cancelled_owned().boxed()
    }
}

/// The address is taken; the kernel keeps callers waiting.
struct Bound {
    tls: Arc<Tls>,
    listener: TcpListener,
}

impl Listener for Bound {
    fn serve(self: Box<Self>, service: Arc<dyn PeerService>, stop: CancellationToken) {
        let (accepted, connections) = tokio::sync::mpsc::channel(WAITING);
        let accepting = accept(self.tls, self.listener, accepted, stop.clone());
        crate::life::spawn(stop.clone().run_until_cancelled_owned(accepting));
        let service = PeerServer::new(Served { service })
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let connections = tokio_stream::wrappers::ReceiverStream::new(connections);
        let server = tonic::transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .add_service(service)
            .serve_with_incoming(connections);
        crate::life::spawn(async move {
            if let Some(Err(error)) = stop.run_until_cancelled(server).await {
                tracing::error!(%error, "the peer port is no longer served");
            }
        });
    }
}

type Accepted = Result<Watched<tokio_rustls::server::TlsStream<TcpStream>>, io::Error>;

async fn accept(
    tls: Arc<Tls>,
    listener: TcpListener,
    accepted: tokio::sync::mpsc::Sender<Accepted>,
    stop: CancellationToken,
) {
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Such as too many open files: it passes, and the loop must not spin until then.
                tracing::warn!(%error, "a peer's connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (tls, accepted) = (tls.clone(), accepted.clone());
        crate::life::spawn(stop.clone().run_until_cancelled_owned(async move {
            match tokio::time::timeout(HANDSHAKE, admit(&tls, stream)).await {
                // A closed channel means that the store has stopped.
                Ok(Ok(stream)) => drop(accepted.send(Ok(stream)).await),
                // Followers call to hear whether anybody listens: see `failover`.
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    tracing::debug!(%from, "a caller hung up before it said who it is");
                }
                Ok(Err(error)) => tracing::warn!(%from, %error, "a connection to the peer port was refused"),
                Err(_) => tracing::warn!(%from, "a connection to the peer port did not finish its handshake"),
            }
        }));
    }
}

async fn admit(
    tls: &Tls,
    stream: TcpStream,
) -> io::Result<Watched<tokio_rustls::server::TlsStream<TcpStream>>> {
    stream.set_nodelay(true)?;
    let stream = tls.acceptor.accept(stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    if !certificate.is_some_and(|certificate| is_peer(certificate)) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the certificate is not a server's"));
    }
    Ok(Watched { stream, _end: CancellationToken::new().drop_guard() })
}

/// A verified peer's connection, whose end is noticed.
struct Watched<S> {
    stream: S,
    _end: DropGuard,
}

impl<S> Connected for Watched<S> {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The service as gRPC calls it.
struct Served {
    service: Arc<dyn PeerService>,
}

type Told = Result<Response<pb::PeerMessage>, Status>;

impl Served {
    async fn ask(&self, call: Call, request: Request<pb::PeerMessage>) -> Told {
        self.service.ask(call, request.into_inner()).await.map(Response::new).map_err(to_status)
    }
}

#[tonic::async_trait]
impl Peer for Served {
    type AppendStream = BoxStream<'static, Result<pb::PeerMessage, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<pb::PeerMessage>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let answers = self.service.append(from_wire(request.into_inner())).await.map_err(to_status)?;
        Ok(Response::new(answers.map(|answer| answer.map_err(to_status)).boxed()))
    }

    async fn snapshot(&self, request: Request<Streaming<pb::PeerMessage>>) -> Told {
        self.service.snapshot(from_wire(request.into_inner())).await.map(Response::new).map_err(to_status)
    }

    async fn vote(&self, request: Request<pb::PeerMessage>) -> Told {
        self.ask(Call::Vote, request).await
    }

    async fn pre_vote(&self, request: Request<pb::PeerMessage>) -> Told {
        self.ask(Call::PreVote, request).await
    }

    async fn transfer_leader(&self, request: Request<pb::PeerMessage>) -> Told {
        self.ask(Call::TransferLeader, request).await
    }

    async fn forward(&self, request: Request<pb::PeerMessage>) -> Told {
        self.ask(Call::Forward, request).await
    }

    async fn status(
        &self,
        _request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::MemberStatus>, Status> {
        let Introduction { cluster_id, status } = self.service.status().await.map_err(to_status)?;
        let mut response = Response::new(status);
        if let Ok(cluster) = cluster_id.parse() {
            response.metadata_mut().insert(CLUSTER, cluster);
        }
        Ok(response)
    }

    async fn admit(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinReply>, Status> {
        self.service.admit(request.into_inner()).await.map(Response::new).map_err(to_status)
    }
}
