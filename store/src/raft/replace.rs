//! A new server for a dead one.
//!
//! ```text
//!   dead member: silent? ── the new server: listens? ── admitted? ── caught up?
//!                                                                       │
//!                       one change of voters: without the dead, with the new ◀┘
//! ```
//!
//! The new server asks for admission itself, as every new one does, and gets an id of its own. Nothing is changed before it
//! is known that the dead member is silent, the new one lives, and the voters after the change that live are a quorum.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::ChangeMembers;
use tokio::time::Instant;

use super::admission::knock;
use super::core::Core;
use super::membership::{
    CAUGHT_UP, CHANGE, ask_status, change, keeps_quorum, leaving, refused, voters, with_leader,
};
use super::types::Member;
use super::wire::{Ask, Told};
use crate::types::{MemberId, StoreError};

/// How long the new server may take to be admitted, once it listens.
const ADMISSION: Duration = Duration::from_secs(20);
/// How long it may take to listen.
const UNHEARD: Duration = Duration::from_secs(5);

pub(crate) async fn replace(core: &Core, dead: MemberId, peer: &str) -> Result<MemberId, StoreError> {
    let ask = Ask::Replace { dead, peer: peer.to_string() };
    match with_leader(core, &ask, CHANGE * 3).await? {
        Told::Member(id) => Ok(id),
        _ => Err(StoreError::Unknown(CHANGE)),
    }
}

/// The leader's side.
pub(super) async fn answer(core: &Core, dead: MemberId, peer: &str) -> Result<Told, StoreError> {
    let members = core.members();
    let Some(gone) = members.get(&dead) else {
        // An answer that was lost, and the question asked again.
        return match member_at(core, peer) {
            Some((id, _)) if voters(core).contains(&id) => Ok(Told::Member(id)),
            _ => Err(refused(format!("there is no member {dead}; `kontiki cluster members` lists them"))),
        };
    };
    if dead == core.speaker.me || ask_status(core, dead, gone).await.is_some() {
        return Err(refused(format!(
            "member {dead} is alive at {}: stop it first, or let the new server join and take member {dead} out with \
             `kontiki cluster leave {dead}`",
            gone.peer
        )));
    }
    let (id, member) = newcomer(core, dead, peer).await?;
    if ask_status(core, id, &member).await.is_none() {
        return Err(refused(format!("member {id} at {peer} does not answer: start it, and try again")));
    }
    caught_up(core, id, peer).await?;
    let _one_at_a_time = core.membership.lock().await;
    let mut after = voters(core);
    let voted = after.remove(&dead);
    let votes_already = !after.insert(id);
    keeps_quorum(core, &after).await?;
    if voted && !votes_already {
        change(core, ChangeMembers::ReplaceAllVoters(after), false).await?;
    } else {
        if !votes_already {
            change(core, ChangeMembers::AddVoterIds(BTreeSet::from([id])), true).await?;
        }
        if core.members().contains_key(&dead) {
            change(core, leaving(core, dead)?, false).await?;
        }
    }
    tracing::info!(dead, member = id, peer, "a dead member was replaced");
    Ok(Told::Member(id))
}

fn member_at(core: &Core, peer: &str) -> Option<(MemberId, Member)> {
    core.members().into_iter().find(|(_, member)| member.peer == peer)
}

/// The new server, as soon as it has been admitted.
async fn newcomer(core: &Core, dead: MemberId, peer: &str) -> Result<(MemberId, Member), StoreError> {
    let asked = Instant::now();
    loop {
        match member_at(core, peer) {
            Some((id, member)) if id != dead => return Ok((id, member)),
            _ if asked.elapsed() > ADMISSION => break,
            _ if !knock(core, peer).await && asked.elapsed() > UNHEARD => break,
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    Err(refused(format!(
        "no new server is waiting at {peer}: start it there with an empty data directory and --join, then replace again"
    )))
}

async fn caught_up(core: &Core, id: MemberId, peer: &str) -> Result<(), StoreError> {
    let deadline = Instant::now() + CHANGE;
    while Instant::now() < deadline {
        if voters(core).contains(&id) {
            return Ok(());
        }
        let metrics = core.metrics();
        let Some(replication) = &metrics.replication else { return Err(StoreError::NoLeader) };
        let last = metrics.last_log_index.unwrap_or(0);
        let matched = replication.get(&id).cloned().flatten();
        if matched.is_some_and(|matched| matched.index + CAUGHT_UP >= last) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(refused(format!(
        "member {id} at {peer} has not caught up within {CHANGE:?}; it goes on, and replace may be tried again"
    )))
}
