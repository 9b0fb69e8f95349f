//! A new server's way in, and who is turned away.
//!
//! ```text
//!   a new server ── Peer.Admit ──▶ any member ──▶ leader: new id from the log, learner
//!                                                   │ replication, by snapshot where it must
//!                                                   ▼
//!                                    caught up ──▶ voter
//! ```
//!
//! **Invariants.** An id is given out once. A server runs under its id only at the address that the cluster knows it by,
//! and not while another one answers there under the same id: of two copies of a directory one is turned away.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use kontiki_proto::pb;
use openraft::ChangeMembers;
use tokio::time::Instant;

use super::core::Core;
use super::membership::{CHANGE, STATUS, ask_status, change, leaving, refused, settle, voters, with_leader};
use super::transport::{Probe, Transport};
use super::types::{Member, Raft};
use super::wire::{Ask, Speaker, Told};
use crate::command::{Command, Reply};
use crate::config::{Config, OpenError};
use crate::disk::{Disk, Identity};
use crate::types::{MemberId, StoreError};

const ADMIT: Duration = Duration::from_secs(10);
/// A server that is to join may be on its way up for so long.
const UNHEARD: Duration = Duration::from_secs(10);

/// Whether somebody listens at the address. Says not who: a server that waits for admission does not talk yet.
pub(super) async fn knock(core: &Core, address: &str) -> bool {
    core.mesh.transport.probe(address).await == Probe::Listening
}

/// Lets a server in under an id of its own, as a learner. One that comes back without its data gets a new id, and its
/// old one is removed: what it had promised under the old one it no longer knows.
pub(super) async fn admit(core: &Core, peer: &str, client: &str) -> Result<Told, StoreError> {
    let _one_at_a_time = core.membership.lock().await;
    let old = core.members().into_iter().find(|(_, member)| member.peer == peer);
    if let Some((id, member)) = &old
        && (*id == core.speaker.me || ask_status(core, *id, member).await.is_some())
    {
        return Err(refused(format!("member {id} is running at the peer address {peer} already")));
    }
    if !knock(core, peer).await {
        return Err(refused(format!(
            "nobody listens at {peer}, as far as member {} can tell: start the new server so that it listens there, \
             and give it the address that others reach it by as --peer-advertise",
            core.speaker.me
        )));
    }
    if let Some((id, _)) = old {
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

fn known(core: &Core, peer: &str) -> bool {
    core.members().values().any(|member| member.peer == peer)
}

/// Waits until the server at the peer address, which asks for admission itself, votes.
pub(crate) async fn await_join(core: &Core, peer: &str, _client: &str) -> Result<MemberId, StoreError> {
    let patience = CHANGE * 2;
    let deadline = Instant::now() + patience;
    let mut unheard_until = Instant::now() + UNHEARD;
    while Instant::now() < deadline {
        if let Some((id, _)) = core.members().into_iter().find(|(_, member)| member.peer == peer)
            && voters(core).contains(&id)
        {
            return Ok(id);
        }
        if Instant::now() > unheard_until {
            unheard_until += UNHEARD;
            if known(core, peer) || knock(core, peer).await {
                continue;
            }
            return Err(refused(format!(
                "nobody listens at {peer}; start the new server there, so that it joins one of the members, and try again"
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(refused(format!(
        "no server at {peer} became a voting member within {patience:?}; start it so that it joins one of the members"
    )))
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
        let mut strangers = 0;
        for address in addresses {
            let request =
                pb::JoinRequest { peer_address: me.peer.clone(), client_address: me.client.clone() };
            let asked = async { transport.connect(address).await?.admit(request).await };
            match tokio::time::timeout(ADMIT * 2, asked).await {
                Ok(Ok(reply)) => return Ok((reply.cluster_id, reply.id)),
                Ok(Err(error)) => {
                    problem = error.to_string();
                    strangers += usize::from(of_another_authority(&problem));
                }
                Err(_) => problem = format!("{address} did not answer in time"),
            }
            tracing::info!(address, problem, "not admitted yet");
        }
        if strangers == addresses.len() {
            // Asking again would change nothing.
            return Err(OpenError::NotAdmitted(format!(
                "{problem}: the cluster has another certificate authority. Copy ca.crt, ca.key and sa.key from the pki \
                 directory of one of its servers, then start this one again"
            )));
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

/// How rustls words it when one side's certificate is not the other authority's.
fn of_another_authority(problem: &str) -> bool {
    ["invalid peer certificate", "UnknownCA", "DecryptError", "CertificateUnknown"]
        .iter()
        .any(|words| problem.contains(words))
}

/// Before this server listens itself: whether another one answers at its address under its id.
pub(super) async fn refuse_twin(
    config: &Config,
    disk: &Disk,
    transport: &dyn Transport,
) -> Result<(), OpenError> {
    let Some(identity) = disk.identity() else { return Ok(()) };
    let address = &config.peer_advertise;
    let asked = async { transport.connect(address).await.ok()?.status().await.ok() };
    match tokio::time::timeout(STATUS, asked).await.ok().flatten() {
        Some(other) if (&other.cluster_id, other.status.id) == (&identity.cluster_id, identity.member) => {
            Err(OpenError::Twin {
                dir: config.data_dir.clone(),
                cluster: identity.cluster_id,
                member: identity.member,
                address: address.clone(),
            })
        }
        _ => Ok(()),
    }
}

/// A server that is alone may have moved, or have been restored elsewhere: those who join are to be told its new addresses.
pub(super) async fn adopt_address(core: &Core, me: &Member) {
    let members = core.members();
    if members.len() != 1 || members.get(&core.speaker.me).is_none_or(|known| known == me) {
        return;
    }
    let _one_at_a_time = core.membership.lock().await;
    let renamed = BTreeMap::from([(core.speaker.me, me.clone())]);
    match change(core, ChangeMembers::SetNodes(renamed), true).await {
        Ok(()) => tracing::info!(peer = me.peer, client = me.client, "this server's addresses have changed"),
        Err(error) => {
            tracing::warn!(%error, "the cluster keeps this server's old addresses until the next start")
        }
    }
}

/// Whether the cluster knows this server at the address it was given. One that is alone has nobody to mislead: see
/// [`adopt_address`].
pub(super) async fn check_address(
    raft: &Raft,
    speaker: &Speaker,
    me: &Member,
    dir: &Path,
) -> Result<(), OpenError> {
    let id = speaker.me;
    // The metrics may not know yet what consensus has read from the log.
    let found = raft.with_raft_state(move |state| {
        let membership = state.membership_state.effective().membership();
        (membership.get_node(&id).cloned(), membership.nodes().count())
    });
    match found.await.map_err(|error| OpenError::Consensus(error.to_string()))? {
        (Some(known), members) if known.peer != me.peer && members > 1 => Err(OpenError::OtherAddress {
            dir: dir.to_path_buf(),
            member: id,
            known: known.peer,
            given: me.peer.clone(),
        }),
        _ => Ok(()),
    }
}
