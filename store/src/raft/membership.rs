//! Who belongs to the cluster. The leader alone changes it, one step at a time, and takes no step that would leave fewer
//! living voters than a quorum.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kontiki_proto::pb;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant as _};
use tokio::time::Instant;

use super::core::{Core, Route};
use super::transport::PeerError;
use super::types::{Member, Types};
use super::wire::{Ask, Told};
use super::{admission, replace};
use crate::types::{MemberId, StoreError};

/// A learner this many entries behind is let vote.
pub(super) const CAUGHT_UP: u64 = 64;
/// Changing members waits for replication, not for one round trip.
pub(super) const CHANGE: Duration = Duration::from_secs(30);
pub(super) const STATUS: Duration = Duration::from_secs(1);

pub(super) fn refused(problem: impl Into<String>) -> StoreError {
    StoreError::Membership(problem.into())
}

/// Asks the leader for something about members, wherever it is, until the deadline.
pub(super) async fn with_leader(core: &Core, ask: &Ask, patience: Duration) -> Result<Told, StoreError> {
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
        Ask::Admit { peer, client } => admission::admit(core, peer, client).await,
        Ask::Replace { dead, peer } => replace::answer(core, *dead, peer).await,
        Ask::Leave { id } => remove(core, *id).await,
        Ask::Transfer { to } => hand_over(core, *to).await,
        Ask::Propose { .. } | Ask::ReadIndex { .. } => return Told::NotLeader,
    };
    match result {
        Ok(told) => told,
        // It has lost its leadership over it; whoever asks looks for the next leader.
        Err(StoreError::NoLeader) => Told::NotLeader,
        Err(error) => Told::Failed(error),
    }
}

pub(super) fn settle(error: RaftError<Types, ClientWriteError<Types>>) -> Result<Told, StoreError> {
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

pub(super) async fn change(
    core: &Core,
    members: ChangeMembers<MemberId, Member>,
    retain: bool,
) -> Result<(), StoreError> {
    match tokio::time::timeout(CHANGE, core.raft.change_membership(members, retain)).await {
        Ok(Ok(done)) => {
            // Who asks next reads the members from the metrics, which follow a moment later.
            let deadline = Instant::now() + core.timings.request;
            while *core.metrics().membership_config.log_id() < Some(done.log_id) && Instant::now() < deadline
            {
                core.leader_may_have_changed(deadline).await;
            }
            Ok(())
        }
        Ok(Err(error)) => settle(error).and(Err(StoreError::NoLeader)),
        Err(_) => Err(StoreError::Unknown(CHANGE)),
    }
}

pub(super) fn voters(core: &Core) -> BTreeSet<MemberId> {
    core.metrics().membership_config.voter_ids().collect()
}

/// The change that takes a member out.
pub(super) fn leaving(core: &Core, id: MemberId) -> Result<ChangeMembers<MemberId, Member>, StoreError> {
    if !core.members().contains_key(&id) {
        return Err(refused(format!("there is no member {id}")));
    }
    let voters = voters(core);
    if !voters.contains(&id) {
        return Ok(ChangeMembers::RemoveNodes(BTreeSet::from([id])));
    }
    if voters.len() == 1 {
        return Err(refused(format!(
            "member {id} is the last voter and cannot leave; let another server join first, or stop this one for good"
        )));
    }
    Ok(ChangeMembers::RemoveVoters(BTreeSet::from([id])))
}

/// Refuses a set of voters of which too few live to be a quorum: the cluster would stop with the change.
pub(super) async fn keeps_quorum(core: &Core, after: &BTreeSet<MemberId>) -> Result<(), StoreError> {
    let members = core.members();
    let asked = after.iter().map(|id| {
        let member = members.get(id).cloned().unwrap_or_default();
        async move { (*id, *id == core.speaker.me || ask_status(core, *id, &member).await.is_some()) }
    });
    let (living, dead): (Vec<_>, Vec<_>) =
        futures::future::join_all(asked).await.into_iter().partition(|(_, lives)| *lives);
    let quorum = after.len() / 2 + 1;
    if living.len() >= quorum {
        return Ok(());
    }
    let dead: Vec<String> = dead.iter().map(|(id, _)| id.to_string()).collect();
    Err(refused(format!(
        "the cluster would stop: of its {} voters only {} would live, and {quorum} are needed. Start member {} again, \
         or take it out first with `kontiki cluster leave` or `replace`",
        after.len(),
        living.len(),
        dead.join(" and ")
    )))
}

async fn remove(core: &Core, id: MemberId) -> Result<Told, StoreError> {
    let members = leaving(core, id)?;
    if id == core.speaker.me {
        hand_over(core, None).await?;
        return Ok(Told::NotLeader);
    }
    let _one_at_a_time = core.membership.lock().await;
    let mut after = voters(core);
    if after.remove(&id) {
        keeps_quorum(core, &after).await?;
    }
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

/// One attempt to hand leadership to whoever is furthest; whether it came to that is seen in the metrics. False where
/// there is nothing to hand over, or no other voter whose disk has all the log up to the index.
pub(super) async fn give_way(core: &Core, has: u64) -> bool {
    let metrics = core.metrics();
    let replication = metrics.replication.unwrap_or_default();
    let mut others = metrics.membership_config.voter_ids().filter(|id| *id != core.speaker.me);
    let does_better =
        |id| replication.get(&id).cloned().flatten().is_some_and(|matched| matched.index >= has);
    if !core.leads() || !others.any(does_better) {
        return false;
    }
    match tokio::time::timeout(core.timings.election_max * 2, hand_over(core, None)).await {
        Ok(Ok(Told::Member(to))) => tracing::warn!(to, "leadership was given away"),
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "leadership is not given away yet"),
        Err(_) => tracing::warn!("leadership is not given away yet"),
    }
    true
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

/// Turns learners that have caught up into voters, and ends changes that were left halfway, for as long as this server
/// leads.
pub(crate) async fn promote(core: Arc<Core>) {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if !core.leads() {
            continue;
        }
        if is_halfway(&core) {
            finish(&core).await;
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

/// Whether the cluster needs the majorities of two configurations, the one it leaves and the one it goes to.
fn is_halfway(core: &Core) -> bool {
    core.metrics().membership_config.membership().get_joint_config().len() > 1
}

/// Goes the second half of a change whose leader did not live to go it. Else the old configuration's majority would be
/// needed for ever, that of a server which was replaced because it is gone included.
async fn finish(core: &Core) {
    // Whoever changes members here holds this until both halves are done.
    let _one_at_a_time = core.membership.lock().await;
    if !is_halfway(core) {
        return;
    }
    match change(core, ChangeMembers::AddVoterIds(BTreeSet::new()), false).await {
        Ok(()) => tracing::info!("a change of members that was left halfway is done"),
        Err(error) => tracing::warn!(%error, "a change of members is still halfway"),
    }
}

pub(crate) async fn leave(core: &Core, id: MemberId) -> Result<(), StoreError> {
    let was_member = core.members().contains_key(&id);
    match with_leader(core, &Ask::Leave { id }, CHANGE * 2).await {
        // A leader that did not live to tell has done it.
        Err(StoreError::Membership(_)) if was_member && !core.members().contains_key(&id) => Ok(()),
        told => told.map(|_| ()),
    }
}

pub(crate) async fn transfer(core: &Core, to: Option<MemberId>) -> Result<MemberId, StoreError> {
    match with_leader(core, &Ask::Transfer { to }, CHANGE).await? {
        Told::Member(leader) => Ok(leader),
        _ => Err(StoreError::Unknown(CHANGE)),
    }
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
        // Of the same moment as the term, so that nobody seems to lead in a term that it did not.
        leader: core.leads() && metrics.current_leader == Some(me),
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
pub(super) async fn ask_status(core: &Core, id: MemberId, member: &Member) -> Option<pb::MemberStatus> {
    let transport = &core.mesh.transport;
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
