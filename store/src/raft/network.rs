//! How consensus reaches other servers. Log traffic, heartbeats and snapshots have connections of their own.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::mesh::{Lane, Links, Mesh};
use super::snapshot::{self, Part};
use super::transport::{Call, Conduit, Messages, PeerError};
use super::types::{Image, Member, Snapshot, Types, Vote};
use super::wire::Speaker;
use crate::codec;
use crate::types::MemberId;

/// A response on a log stream is waited for this long: longer than a slow disk takes, shorter than forever.
const RESPONSE: Duration = Duration::from_secs(5);

pub(crate) struct Network {
    pub mesh: Arc<Mesh>,
    pub speaker: Speaker,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: MemberId, node: &Member) -> Peer {
        let bulk = Lane::new(self.mesh.transport.clone(), node.peer.clone());
        Peer { target, links: self.mesh.to(&node.peer), bulk, speaker: self.speaker.clone() }
    }
}

pub(crate) struct Peer {
    target: MemberId,
    links: Links,
    /// For snapshots.
    bulk: Lane,
    speaker: Speaker,
}

type RpcError = RPCError<Types>;

fn unreachable(problem: &str) -> RpcError {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(problem)))
}

fn broken(problem: &str) -> RpcError {
    RPCError::Network(NetworkError::new(&AnyError::error(problem)))
}

fn failed(error: PeerError) -> RpcError {
    match error {
        PeerError::Refused(_) => broken(&error.to_string()),
        PeerError::Unreachable(_) | PeerError::Lost(_) => unreachable(&error.to_string()),
    }
}

impl Peer {
    async fn unary<Q: Serialize, R: DeserializeOwned>(
        &mut self,
        call: Call,
        request: &Q,
        within: Duration,
    ) -> Result<R, RpcError> {
        let message = self.speaker.say(self.target, request);
        let due = Instant::now() + within;
        let late = |_| PeerError::Lost(format!("no answer within {within:?}"));
        let conduit = tokio::time::timeout_at(due, self.links.talk.conduit()).await;
        let conduit = conduit.map_err(late).and_then(|conduit| conduit).map_err(failed)?;
        let answer = tokio::time::timeout_at(due, conduit.ask(call, message)).await;
        let answer = answer.map_err(late).and_then(|answer| answer).map_err(|error| {
            self.links.talk.forget(&conduit);
            failed(error)
        })?;
        codec::decode(&answer.payload).map_err(|error| broken(&error.to_string()))
    }
}

impl NetBackoff<Types> for Peer {
    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

impl NetVote<Types> for Peer {
    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        self.unary(Call::Vote, &rpc, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        self.unary(Call::PreVote, &rpc, option.hard_ttl()).await
    }
}

impl NetTransferLeader<Types> for Peer {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RpcError> {
        self.unary(Call::TransferLeader, &req, option.hard_ttl()).await
    }
}

/// When each request that has no response yet was sent.
type Sent = Arc<Mutex<VecDeque<Instant>>>;

impl NetStreamAppend<Types> for Peer {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let within = option.hard_ttl().max(Duration::from_secs(1));
            let sent: Sent = Arc::default();
            let requests = {
                let (speaker, target, sent) = (self.speaker.clone(), self.target, sent.clone());
                input.map(move |request| {
                    sent.lock().push_back(Instant::now());
                    Ok(speaker.say(target, &request))
                })
            };
            let due = Instant::now() + within;
            let late = |_| unreachable(&format!("no answer within {within:?}"));
            let lane = &*self.links.log;
            let conduit =
                tokio::time::timeout_at(due, lane.conduit()).await.map_err(late)?.map_err(failed)?;
            let broken = Broken { lane, conduit };
            let started = tokio::time::timeout_at(due, broken.conduit.append(requests.boxed())).await;
            let responses = match started {
                Ok(Ok(responses)) => responses,
                Ok(Err(error)) => return Err(broken.because(failed(error))),
                Err(elapsed) => return Err(broken.because(late(elapsed))),
            };
            Ok(futures::stream::unfold(Some((responses, sent, broken)), next_response).boxed())
        })
    }
}

/// The connection that an append stream is on, to be given up when the stream breaks.
struct Broken<'s> {
    lane: &'s Lane,
    conduit: Arc<dyn Conduit>,
}

impl Broken<'_> {
    fn because(&self, error: RpcError) -> RpcError {
        self.lane.forget(&self.conduit);
        error
    }
}

type Responses<'s> = (Messages, Sent, Broken<'s>);

async fn next_response(
    state: Option<Responses<'_>>,
) -> Option<(Result<StreamAppendResult<Types>, RpcError>, Option<Responses<'_>>)> {
    let (mut responses, sent, on) = state?;
    let broke = |error: RpcError| Some((Err(on.because(error)), None));
    let message = loop {
        // Without a request on its way there is nothing to be late.
        let due = sent.lock().front().map(|at| *at + RESPONSE);
        let look_again = due.unwrap_or_else(|| Instant::now() + RESPONSE);
        match tokio::time::timeout_at(look_again, responses.try_next()).await {
            Ok(Ok(Some(message))) => break message,
            Ok(Ok(None)) => return None,
            Ok(Err(error)) => return broke(failed(error)),
            Err(_) if due.is_some() => return broke(unreachable("the follower does not answer")),
            Err(_) => {}
        }
    };
    sent.lock().pop_front();
    match codec::decode::<StreamAppendResult<Types>>(&message.payload) {
        Ok(result) => {
            let goes_on = result.is_ok();
            Some((Ok(result), goes_on.then_some((responses, sent, on))))
        }
        Err(error) => broke(broken(&error.to_string())),
    }
}

impl NetSnapshot<Types> for Peer {
    type SnapshotData = Image;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let (speaker, target) = (self.speaker.clone(), self.target);
        let parts = snapshot::parts(vote, snapshot).map(move |part: Part| Ok(speaker.say(target, &part)));
        let send = async {
            let conduit = self.bulk.conduit().await.map_err(failed)?;
            let answer = conduit.snapshot(futures::stream::iter(parts).boxed()).await.map_err(failed);
            // It was for this one.
            self.bulk.forget(&conduit);
            answer
        };
        let answer = tokio::select! {
            answer = tokio::time::timeout(option.hard_ttl(), send) => answer,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(unreachable("the snapshot was not taken in time").into()),
        };
        codec::decode(&answer.payload).map_err(|error| broken(&error.to_string()).into())
    }
}
