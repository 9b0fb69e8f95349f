//! What other servers ask of this one.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, TryStreamExt};
use kontiki_proto::pb;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use serde::Serialize;

use super::core::Core;
use super::snapshot::{Assembly, Part};
use super::transport::{Answer, Call, Introduction, Messages, PeerError, PeerService};
use super::types::Types;
use super::wire::{Ask, Told};
use super::{admission, barrier, membership, propose};
use crate::types::StoreError;

/// This server as its peers see it.
pub(crate) struct Service {
    pub core: Arc<Core>,
}

fn stopped(error: &dyn std::fmt::Display) -> PeerError {
    PeerError::Lost(format!("this server's consensus has stopped: {error}"))
}

fn refusal(error: &StoreError) -> PeerError {
    match error {
        StoreError::Membership(problem) => PeerError::Refused(problem.clone()),
        error => PeerError::Lost(error.to_string()),
    }
}

fn say<T: Serialize>(core: &Core, to: u64, payload: &T) -> Result<pb::PeerMessage, PeerError> {
    Ok(core.speaker.say(to, payload))
}

impl PeerService for Service {
    fn append(&self, requests: Messages) -> Answer<Messages> {
        let core = self.core.clone();
        async move {
            let (refused, mut why) = tokio::sync::mpsc::channel::<PeerError>(1);
            let hear = core.speaker.clone();
            // The stream ends at the first request that cannot be taken; the sender is told why.
            let requests = requests.and_then(move |message| {
                futures::future::ready(hear.hear::<AppendEntriesRequest<Types>>(&message))
            });
            let requests = requests.scan(refused, |refused, item| {
                // Full only if a reason is waiting already.
                let item = item.map_err(|error| drop(refused.try_send(error))).ok();
                futures::future::ready(item)
            });
            let speaker = core.speaker.clone();
            let answers = core.raft.stream_append(requests.boxed());
            let answers = answers.map(move |answer| match answer {
                Ok(answer) => Ok(speaker.say(0, &answer)),
                Err(error) => Err(stopped(&error)),
            });
            let reason = futures::stream::once(async move { why.recv().await });
            let reason = reason.filter_map(|error| futures::future::ready(error.map(Err)));
            Ok(answers.chain(reason).boxed())
        }
        .boxed()
    }

    fn snapshot(&self, mut parts: Messages) -> Answer<pb::PeerMessage> {
        let core = self.core.clone();
        async move {
            let mut assembly = Assembly::default();
            let mut from = 0;
            while let Some(message) = parts.try_next().await? {
                from = message.from;
                let part: Part = core.speaker.hear(&message)?;
                assembly.add(part).map_err(PeerError::Refused)?;
            }
            let (vote, snapshot) = assembly.finish().map_err(PeerError::Refused)?;
            let installed = core.raft.install_full_snapshot(vote, snapshot).await;
            say(&core, from, &installed.map_err(|error| stopped(&error))?)
        }
        .boxed()
    }

    fn ask(&self, call: Call, message: pb::PeerMessage) -> Answer<pb::PeerMessage> {
        let core = self.core.clone();
        async move {
            match call {
                Call::Vote => {
                    let vote: VoteRequest<Types> = core.speaker.hear(&message)?;
                    let answer = core.raft.vote(vote).await.map_err(|error| stopped(&error))?;
                    say(&core, message.from, &answer)
                }
                Call::PreVote => {
                    let vote: VoteRequest<Types> = core.speaker.hear(&message)?;
                    let answer = core.raft.pre_vote(vote).await.map_err(|error| stopped(&error))?;
                    say(&core, message.from, &answer)
                }
                Call::TransferLeader => {
                    let transfer: TransferLeaderRequest<Types> = core.speaker.hear(&message)?;
                    let answer = core.raft.handle_transfer_leader(transfer).await;
                    say(&core, message.from, &answer.map_err(|error| stopped(&error))?)
                }
                Call::Forward => {
                    let _answering = core.answering.token();
                    let ask: Ask = core.speaker.hear(&message)?;
                    let told: Told = match ask {
                        Ask::Propose { commands, within } => propose::answer(&core, commands, within).await,
                        Ask::ReadIndex { within } => barrier::answer(&core, within).await,
                        ask => membership::answer(&core, &ask).await,
                    };
                    say(&core, message.from, &told)
                }
            }
        }
        .boxed()
    }

    fn status(&self) -> Answer<Introduction> {
        let cluster_id = self.core.speaker.cluster_id.to_string();
        let status = membership::own_status(&self.core);
        futures::future::ready(Ok(Introduction { cluster_id, status })).boxed()
    }

    fn admit(&self, request: pb::JoinRequest) -> Answer<pb::JoinReply> {
        let core = self.core.clone();
        async move {
            let pb::JoinRequest { peer_address, client_address } = request;
            if peer_address
                .rsplit_once(':')
                .is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
            {
                return Err(PeerError::Refused(format!("peer_address: {peer_address:?} is not host:port")));
            }
            let admitted = admission::admit_anywhere(&core, peer_address, client_address).await;
            let id = admitted.map_err(|error| refusal(&error))?;
            Ok(pb::JoinReply { id, cluster_id: core.speaker.cluster_id.to_string() })
        }
        .boxed()
    }
}
