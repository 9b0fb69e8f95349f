//! The peer port: what other servers ask of this one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use kontiki_proto::pb;
use kontiki_proto::pb::peer_server::{Peer, PeerServer};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::core::Core;
use super::snapshot::{Assembly, Part};
use super::tls::is_peer;
use super::types::Types;
use super::wire::{Ask, MESSAGE_BYTES, Told};
use super::{barrier, membership, propose};
use crate::types::StoreError;

/// Names the cluster in the metadata of a status answer.
pub(crate) const CLUSTER: &str = "kontiki-cluster";
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections that may wait for the server to take them.
const WAITING: usize = 64;

/// Serves until the store stops; connections in use are cut then.
pub(crate) fn serve(core: Arc<Core>, listener: TcpListener) {
    let (accepted, connections) = tokio::sync::mpsc::channel(WAITING);
    tokio::spawn(core.stop.clone().run_until_cancelled_owned(accept(core.clone(), listener, accepted)));
    let service = PeerServer::new(Service { core: core.clone() })
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    let connections = tokio_stream::wrappers::ReceiverStream::new(connections);
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .add_service(service)
        .serve_with_incoming(connections);
    tokio::spawn(async move {
        let stop = core.stop.clone();
        if let Some(Err(error)) = stop.run_until_cancelled(server).await {
            tracing::error!(%error, "the peer port is no longer served");
        }
    });
}

async fn accept(
    core: Arc<Core>,
    listener: TcpListener,
    accepted: tokio::sync::mpsc::Sender<Result<PeerStream, io::Error>>,
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
        let (core, accepted) = (core.clone(), accepted.clone());
        let stop = core.stop.clone();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            match tokio::time::timeout(HANDSHAKE, admit(&core, stream)).await {
                // A closed channel means that the store has stopped.
                Ok(Ok(stream)) => drop(accepted.send(Ok(PeerStream(stream))).await),
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

async fn admit(core: &Core, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    let stream = core.tls.acceptor.accept(stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    if !certificate.is_some_and(|certificate| is_peer(certificate)) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the certificate is not a server's"));
    }
    Ok(stream)
}

/// A verified peer's connection.
struct PeerStream(TlsStream<TcpStream>);

impl Connected for PeerStream {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

struct Service {
    core: Arc<Core>,
}

type Answer = Result<Response<pb::PeerMessage>, Status>;

fn stopped(error: &dyn std::fmt::Display) -> Status {
    Status::unavailable(format!("this server's consensus has stopped: {error}"))
}

impl Service {
    fn reply<T: Serialize>(&self, to: u64, payload: &T) -> Answer {
        Ok(Response::new(self.core.speaker.say(to, payload)))
    }
}

fn refusal(error: &StoreError) -> Status {
    match error {
        StoreError::Membership(problem) => Status::failed_precondition(problem.clone()),
        error => Status::unavailable(error.to_string()),
    }
}

#[tonic::async_trait]
impl Peer for Service {
    type AppendStream = BoxStream<'static, Result<pb::PeerMessage, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<pb::PeerMessage>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let speaker = self.core.speaker.clone();
        let (refused, mut why) = tokio::sync::mpsc::channel::<Status>(1);
        let hear = speaker.clone();
        // The stream ends at the first request that cannot be taken; the sender is told why.
        let requests = request.into_inner().map_err(Some).and_then(move |message| {
            let heard = hear.hear::<AppendEntriesRequest<Types>>(&message);
            async move { heard.map_err(Some) }
        });
        let requests = requests.scan(refused, |refused, item| {
            let item = match item {
                Ok(request) => Some(request),
                Err(status) => {
                    // Full only if a reason is waiting already.
                    let _ = status.map(|status| refused.try_send(status));
                    None
                }
            };
            async move { item }
        });
        let answers = self.core.raft.stream_append(requests.boxed());
        let answers = answers.map(move |answer| match answer {
            Ok(answer) => Ok(speaker.say(0, &answer)),
            Err(error) => Err(stopped(&error)),
        });
        let reason = async move { why.recv().await };
        let reason = futures::stream::once(reason).filter_map(|status| async move { status.map(Err) });
        Ok(Response::new(answers.chain(reason).boxed()))
    }

    async fn vote(&self, request: Request<pb::PeerMessage>) -> Answer {
        let message = request.into_inner();
        let vote: VoteRequest<Types> = self.core.speaker.hear(&message)?;
        let answer = self.core.raft.vote(vote).await.map_err(|error| stopped(&error))?;
        self.reply(message.from, &answer)
    }

    async fn pre_vote(&self, request: Request<pb::PeerMessage>) -> Answer {
        let message = request.into_inner();
        let vote: VoteRequest<Types> = self.core.speaker.hear(&message)?;
        let answer = self.core.raft.pre_vote(vote).await.map_err(|error| stopped(&error))?;
        self.reply(message.from, &answer)
    }

    async fn snapshot(&self, request: Request<Streaming<pb::PeerMessage>>) -> Answer {
        let mut messages = request.into_inner();
        let mut assembly = Assembly::default();
        let mut from = 0;
        while let Some(message) = messages.message().await? {
            from = message.from;
            let part: Part = self.core.speaker.hear(&message)?;
            assembly.add(part).map_err(Status::invalid_argument)?;
        }
        let (vote, snapshot) = assembly.finish().map_err(Status::invalid_argument)?;
        let installed = self.core.raft.install_full_snapshot(vote, snapshot).await;
        let answer = installed.map_err(|error| stopped(&error))?;
        self.reply(from, &answer)
    }

    async fn transfer_leader(&self, request: Request<pb::PeerMessage>) -> Answer {
        let message = request.into_inner();
        let transfer: TransferLeaderRequest<Types> = self.core.speaker.hear(&message)?;
        let answer =
            self.core.raft.handle_transfer_leader(transfer).await.map_err(|error| stopped(&error))?;
        self.reply(message.from, &answer)
    }

    async fn forward(&self, request: Request<pb::PeerMessage>) -> Answer {
        let message = request.into_inner();
        let ask: Ask = self.core.speaker.hear(&message)?;
        let told: Told = match ask {
            Ask::Propose { commands, within } => propose::answer(&self.core, commands, within).await,
            Ask::ReadIndex { within } => barrier::answer(&self.core, within).await,
            ask => membership::answer(&self.core, &ask).await,
        };
        self.reply(message.from, &told)
    }

    async fn status(
        &self,
        _request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::MemberStatus>, Status> {
        let mut response = Response::new(membership::own_status(&self.core));
        if let Ok(cluster) = self.core.speaker.cluster_id.parse() {
            response.metadata_mut().insert(CLUSTER, cluster);
        }
        Ok(response)
    }

    async fn admit(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinReply>, Status> {
        let pb::JoinRequest { peer_address, client_address } = request.into_inner();
        if peer_address
            .rsplit_once(':')
            .is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
        {
            return Err(Status::invalid_argument(format!("peer_address: {peer_address:?} is not host:port")));
        }
        let admitted = membership::admit_anywhere(&self.core, peer_address, client_address).await;
        let id = admitted.map_err(|error| refusal(&error))?;
        Ok(Response::new(pb::JoinReply { id, cluster_id: self.core.speaker.cluster_id.to_string() }))
    }
}
