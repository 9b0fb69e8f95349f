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

use super::snapshot::{self, Part};
use super::transport::{Call, Messages, PeerError, Transport};
use super::types::{Image, Member, Snapshot, Types, Vote};
use super::wire::{Lane, Speaker};
use crate::codec;
use crate::types::MemberId;

/// A response on a log stream is waited for this long: longer than a slow disk takes, shorter than forever.
const RESPONSE: Duration = Duration::from_secs(5);

pub(crate) struct Network {
    pub transport: Arc<dyn Transport>,
    pub speaker: Speaker,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: MemberId, node: &Member) -> Peer {
        let lane = Lane::new(self.transport.clone(), node.peer.clone());
        Peer { target, lane, speaker: self.speaker.clone() }
    }
}

pub(crate) struct Peer {
    target: MemberId,
    lane: Lane,
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
        let asked = async { self.lane.conduit().await?.ask(call, message).await };
        let answer = match tokio::time::timeout(within, asked).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(unreachable(&format!("no answer within {within:?}"))),
        };
        match answer {
            Ok(answer) => codec::decode(&answer.payload).map_err(|error| broken(&error.to_string())),
            Err(error) => {
                self.lane.forget();
                Err(error)
            }
        }
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
            let started = async {
                let conduit = self.lane.conduit().await.map_err(failed)?;
                conduit.append(requests.boxed()).await.map_err(failed)
            };
            let responses = match tokio::time::timeout(within, started).await {
                Ok(Ok(responses)) => responses,
                Ok(Err(error)) => {
                    self.lane.forget();
                    return Err(error);
                }
                Err(_) => {
                    self.lane.forget();
                    return Err(unreachable(&format!("no answer within {within:?}")));
                }
            };
            let state = Some((responses, sent, &mut self.lane));
            Ok(futures::stream::unfold(state, next_response).boxed())
        })
    }
}

type Responses<'s> = (Messages, Sent, &'s mut Lane);

async fn next_response(
    state: Option<Responses<'_>>,
) -> Option<(Result<StreamAppendResult<Types>, RpcError>, Option<Responses<'_>>)> {
    let (mut responses, sent, lane) = state?;
    let broke = |error: RpcError, lane: &mut Lane| {
        lane.forget();
        Some((Err(error), None))
    };
    let message = loop {
        // Without a request on its way there is nothing to be late.
        let due = sent.lock().front().map(|at| *at + RESPONSE);
        let look_again = due.unwrap_or_else(|| Instant::now() + RESPONSE);
        match tokio::time::timeout_at(look_again, responses.try_next()).await {
            Ok(Ok(Some(message))) => break message,
            Ok(Ok(None)) => return None,
            Ok(Err(error)) => return broke(failed(error), lane),
            Err(_) if due.is_some() => return broke(unreachable("the follower does not answer"), lane),
            Err(_) => {}
        }
    };
    sent.lock().pop_front();
    match codec::decode::<StreamAppendResult<Types>>(&message.payload) {
        Ok(result) => {
            let goes_on = result.is_ok();
            Some((Ok(result), goes_on.then_some((responses, sent, lane))))
        }
        Err(error) => broke(broken(&error.to_string()), lane),
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
            let conduit = self.lane.conduit().await.map_err(failed)?;
            conduit.snapshot(futures::stream::iter(parts).boxed()).await.map_err(failed)
        };
        let answer = tokio::select! {
            answer = tokio::time::timeout(option.hard_ttl(), send) => answer,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                self.lane.forget();
                return Err(error.into());
            }
            Err(_) => {
                self.lane.forget();
                return Err(unreachable("the snapshot was not taken in time").into());
            }
        };
        codec::decode(&answer.payload).map_err(|error| broken(&error.to_string()).into())
    }
}
