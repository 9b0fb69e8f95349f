//! Who belongs to the cluster. The leader alone changes it, one step at a time.
//!
//! ```text
//!   a new server ── Peer.Admit ──▶ any member ──▶ leader: new id from the log, learner
//!                                                   │ replication, by snapshot where it must
//!                                                   ▼
//!                                    caught up ──▶ voter
//! ```

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kontiki_proto::pb;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant as _};
use tokio::time::Instant;

use super::core::{Core, Route};
use super::transport::{PeerError, Transport};
use super::types::{Member, Types};
use super::wire::{Ask, Told};
use crate::command::{Command, Reply};
use crate::config::OpenError;
use crate::disk::Identity;
use crate::types::{MemberId, StoreError};

/// A learner this many entries behind is let vote.
const CAUGHT_UP: u64 = 64;
/// Changing members waits for replication, not for one round trip.
const CHANGE: Duration = Duration::from_secs(30);
const STATUS: Duration = Duration::from_secs(1);
const ADMIT: Duration = Duration::from_secs(10);

fn refused(problem: impl Into<String>) -> StoreError {
    StoreError::Membership(problem.into())
}

/// Asks the leader for something about members, wherever it is, until the deadline.
async fn with_leader(core: &Core, ask: &Ask, patience: Duration) -> Result<Told, StoreError> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        let told = match core.route() {
            Route::Here => answer(core, ask).await,
            Route::There { id, peer } => match core.ask(id, &peer, ask, deadline).await {
                Ok(told) => told,
                Err(PeerError::Unreachable(_) | PeerError::Refused(_)) => Told::NotLeader,
                Err(error @ PeerError::Lost(_)) => {
                    tracing::warn!(%error, "no answer from the leader");
                    return Err(StoreError::Unknown(patience));
                }
            },
            Route::Nowhere => Told::NotLeader,
        };
        match told {
            Told::NotLeader => core.leader_may_have_changed(deadline).await,
            Told::Failed(error) => return Err(error),
            told => return Ok(told),
        }
    }
    Err(StoreError::NoLeader)
}

/// The leader's side.
pub(crate) async fn answer(core: &Core, ask: &Ask) -> Told {
    if !core.leads() {
        return Told::NotLeader;
    }
    let result = match ask {
        Ask::Admit { peer, client } => admit(core, peer, client).await,
        Ask::Leave { id } => remove(core, *id).await,
        Ask::Transfer { to } => hand_over(core, *to).await,
        Ask::Propose { .. } | Ask::ReadIndex { .. } => return Told::NotLeader,
    };
    match result {
        Ok(told) => told,
        Err(error) => Told::Failed(error),
    }
}

/// Lets a server in under an id of its own, as a learner. One that comes back without its data gets a new id, and its
/// old one is removed: what it had promised under the old one it no longer knows.
async fn admit(core: &Core, peer: &str, client: &str) -> Result<Told, StoreError> {
    let _one_at_a_time = core.membership.lock().await;
    let old = core.members().into_iter().find(|(_, member)| member.peer == peer);
    if let Some((id, member)) = old {
        if id == core.speaker.me || ask_status(core, id, &member).await.is_some() {
            return Err(refused(format!("member {id} is running at the peer address {peer} already")));
        }
        change(core, leaving(core, id)?, false).await?;
    }
    let id = match core.proposals.submit(core, Command::NewMember).await? {
        Reply::Member(id) => id,
        _ => return Err(StoreError::Unknown(core.timings.request)),
    };
    let member = Member { peer: peer.to_string(), client: client.to_string() };
    match tokio::time::timeout(CHANGE, core.raft.add_learner(id, member, false)).await {
        Ok(Ok(_)) => Ok(Told::Member(id)),
        Ok(Err(error)) => settle(error),
        Err(_) => Err(StoreError::Unknown(CHANGE)),
    }
}

fn settle(error: RaftError<Types, ClientWriteError<Types>>) -> Result<Told, StoreError> {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Ok(Told::NotLeader),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            Err(refused(error.to_string()))
        }
        error => {
            tracing::warn!(%error, "the outcome of a change of members is unknown");
            Err(StoreError::Unknown(CHANGE))
        }
    }
}

async fn change(
    core: &Core,
    members: ChangeMembers<MemberId, Member>,
    retain: bool,
) -> Result<(), StoreError> {
    match tokio::time::timeout(CHANGE, core.raft.change_membership(members, retain)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => settle(error).and(Err(StoreError::NoLeader)),
        Err(_) => Err(StoreError::Unknown(CHANGE)),
    }
}

fn voters(core: &Core) -> BTreeSet<MemberId> {
    core.metrics().membership_config.voter_ids().collect()
}

/// The change that takes a member out.
fn leaving(core: &Core, id: MemberId) -> Result<ChangeMembers<MemberId, Member>, StoreError> {
    if !core.members().contains_key(&id) {
        return Err(refused(format!("there is no member {id}")));
    }
    let voters = voters(core);
    if !voters.contains(&id) {
        return Ok(ChangeMembers::RemoveNodes(BTreeSet::from([id])));
    }
    if voters.len() == 1 {
        return Err(refused(format!("member {id} is the last voter and cannot leave")));
    }
    Ok(ChangeMembers::RemoveVoters(BTreeSet::from([id])))
}

async fn remove(core: &Core, id: MemberId) -> Result<Told, StoreError> {
    let members = leaving(core, id)?;
    if id == core.speaker.me {
        hand_over(core, None).await?;
        return Ok(Told::NotLeader);
    }
    let _one_at_a_time = core.membership.lock().await;
    change(core, members, false).await?;
    Ok(Told::Member(id))
}

async fn hand_over(core: &Core, to: Option<MemberId>) -> Result<Told, StoreError> {
    let me = core.speaker.me;
    let metrics = core.metrics();
    let voters: BTreeSet<MemberId> = metrics.membership_config.voter_ids().collect();
    let to = match to {
        Some(to) if to == me => return Ok(Told::Member(me)),
        Some(to) if voters.contains(&to) => to,
        Some(to) => return Err(refused(format!("{to} is not a voting member"))),
        None => {
            let replication = metrics.replication.unwrap_or_default();
            let heard = metrics.heartbeat.unwrap_or_default();
            // A member that is down must not be waited for; of those that answer, the one that has the most.
            let fitness = |id: &MemberId| {
                let acked = heard.get(id).cloned().flatten().map(|at| at.elapsed());
                let answers = acked.is_some_and(|ago| ago < core.timings.election_max);
                (answers, replication.get(id).cloned().flatten())
            };
            let others = voters.iter().filter(|id| **id != me);
            *others.max_by_key(|id| fitness(id)).ok_or_else(|| refused("there is no other voting member"))?
        }
    };
    let deadline = Instant::now() + CHANGE;
    while Instant::now() < deadline {
        core.raft.trigger().transfer_leader(to).await.map_err(|_| StoreError::Stopped)?;
        let round = Instant::now() + core.timings.election_max * 2;
        while Instant::now() < round {
            match core.metrics().current_leader {
                Some(leader) if leader != me => return Ok(Told::Member(leader)),
                _ => core.leader_may_have_changed(round).await,
            }
        }
    }
    Err(refused(format!("member {to} did not take the leadership over within {CHANGE:?}")))
}

/// Before a server stops: leadership goes to another, if one is there to take it soon, and whoever asked this server in
/// the meantime gets its answer.
pub(crate) async fn resign(core: &Core) {
    if !core.leads() || voters(core).len() == 1 {
        return;
    }
    let patience = core.timings.election_max * 2;
    // Without it the others elect by themselves, which is no harm.
    if !matches!(tokio::time::timeout(patience, hand_over(core, None)).await, Ok(Ok(_))) {
        return;
    }
    // Those who have not heard of the new leader yet ask here, and are told to ask elsewhere.
    tokio::time::sleep(core.timings.heartbeat * 2).await;
    core.answering.close();
    if tokio::time::timeout(patience, core.answering.wait()).await.is_err() {
        tracing::warn!("stopping with questions of other servers unanswered");
    }
}

/// Turns learners that have caught up into voters, for as long as this server leads.
pub(crate) async fn promote(core: Arc<Core>) {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if !core.leads() {
            continue;
        }
        let metrics = core.metrics();
        let Some(replication) = &metrics.replication else { continue };
        let last = metrics.last_log_index.unwrap_or(0);
        let membership = metrics.membership_config.membership();
        let ready = membership.learner_ids().find(|id| {
            let matched = replication.get(id).cloned().flatten();
            matched.is_some_and(|matched| matched.index + CAUGHT_UP >= last)
        });
        let Some(id) = ready else { continue };
        let _one_at_a_time = core.membership.lock().await;
        match change(&core, ChangeMembers::AddVoterIds(BTreeSet::from([id])), true).await {
            Ok(()) => tracing::info!(member = id, "the learner has caught up and votes now"),
            Err(error) => tracing::warn!(member = id, %error, "the learner does not vote yet"),
        }
    }
}

/// Waits until the server at the peer address, which asks for admission itself, votes.
pub(crate) async fn await_join(core: &Core, peer: &str, _client: &str) -> Result<MemberId, StoreError> {
    let patience = CHANGE * 2;
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if let Some((id, _)) = core.members().into_iter().find(|(_, member)| member.peer == peer)
            && voters(core).contains(&id)
        {
            return Ok(id);
        }
        core.leader_may_have_changed(deadline).await;
    }
    Err(refused(format!(
        "no server at {peer} became a voting member within {patience:?}; start it so that it joins one of the members"
    )))
}

pub(crate) async fn leave(core: &Core, id: MemberId) -> Result<(), StoreError> {
    with_leader(core, &Ask::Leave { id }, CHANGE * 2).await.map(|_| ())
}

pub(crate) async fn transfer(core: &Core, to: Option<MemberId>) -> Result<MemberId, StoreError> {
    match with_leader(core, &Ask::Transfer { to }, CHANGE).await? {
        Told::Member(leader) => Ok(leader),
        _ => Err(StoreError::Unknown(CHANGE)),
    }
}

/// On whichever member a new server asks.
pub(crate) async fn admit_anywhere(
    core: &Core,
    peer: String,
    client: String,
) -> Result<MemberId, StoreError> {
    match with_leader(core, &Ask::Admit { peer, client }, ADMIT).await? {
        Told::Member(id) => Ok(id),
        _ => Err(StoreError::Unknown(ADMIT)),
    }
}

/// Asks one address after the other until one lets this server in.
pub(crate) async fn ask_admission(
    transport: &dyn Transport,
    addresses: &[String],
    me: &Member,
    patience: Duration,
) -> Result<(String, MemberId), OpenError> {
    let deadline = Instant::now() + patience;
    let mut problem = "no address to ask was given".to_string();
    while !addresses.is_empty() && Instant::now() < deadline {
        for address in addresses {
            let request =
                pb::JoinRequest { peer_address: me.peer.clone(), client_address: me.client.clone() };
            let asked = async { transport.connect(address).await?.admit(request).await };
            match tokio::time::timeout(ADMIT * 2, asked).await {
                Ok(Ok(reply)) => return Ok((reply.cluster_id, reply.id)),
                Ok(Err(error)) => problem = error.to_string(),
                Err(_) => problem = format!("{address} did not answer in time"),
            }
            tracing::info!(address, problem, "not admitted yet");
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Err(OpenError::NotAdmitted(problem))
}

/// Refuses a directory of another cluster than the one this server was told to join. Servers that do not answer prove
/// nothing.
pub(crate) async fn check_cluster(
    transport: &dyn Transport,
    addresses: &[String],
    identity: &Identity,
    dir: &Path,
) -> Result<(), OpenError> {
    for address in addresses {
        let asked = async { Some(transport.connect(address).await.ok()?.status().await.ok()?.cluster_id) };
        match tokio::time::timeout(STATUS, asked).await {
            Ok(Some(expected)) if expected != identity.cluster_id => {
                return Err(OpenError::OtherCluster {
                    dir: dir.to_path_buf(),
                    found: identity.cluster_id.clone(),
                    expected,
                });
            }
            Ok(Some(_)) => return Ok(()),
            _ => {}
        }
    }
    Ok(())
}

/// What this server says of itself.
pub(crate) fn own_status(core: &Core) -> pb::MemberStatus {
    let metrics = core.metrics();
    let me = core.speaker.me;
    let member = metrics.membership_config.get_node(&me).cloned().unwrap_or_default();
    let counters = core.replica.inspect(|machine| machine.counters().clone());
    pb::MemberStatus {
        id: me,
        address: member.peer,
        client_address: member.client,
        leader: core.leads(),
        voter: metrics.membership_config.voter_ids().any(|id| id == me),
        term: metrics.current_term,
        applied: metrics.last_applied.map_or(0, |id| id.index),
        revision: counters.revision,
        db_bytes: core.disk.bytes(),
        pid: std::process::id(),
        reachable: true,
        version: env!("CARGO_PKG_VERSION").to_string(),
        state_hash: counters.hash,
    }
}

/// `None` where the member does not answer in time, or another one answers at its address.
async fn ask_status(core: &Core, id: MemberId, member: &Member) -> Option<pb::MemberStatus> {
    let transport = &core.transport;
    let asked = async { Some(transport.connect(&member.peer).await.ok()?.status().await.ok()?.status) };
    let answer = tokio::time::timeout(STATUS, asked).await.ok().flatten()?;
    (answer.id == id).then_some(answer)
}

pub(crate) async fn status(core: &Core) -> pb::StatusReply {
    let voters = voters(core);
    let asked = core.members().into_iter().map(|(id, member)| {
        let voter = voters.contains(&id);
        async move {
            if id == core.speaker.me {
                return own_status(core);
            }
            let silent = pb::MemberStatus {
                id,
                address: member.peer.clone(),
                client_address: member.client.clone(),
                voter,
                ..pb::MemberStatus::default()
            };
            ask_status(core, id, &member).await.unwrap_or(silent)
        }
    });
    pb::StatusReply {
        cluster_id: core.speaker.cluster_id.to_string(),
        members: futures::future::join_all(asked).await,
        answered_by: core.speaker.me,
    }
}
