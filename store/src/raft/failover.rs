//! Electing at once when the leader's process has died, instead of after a timeout.
//!
//! ```text
//!   standing connection to the leader ── ends ──▶ dial its port ── accepted ──▶ it lives: nothing changes
//!                                                     │ refused, again and again
//!                                                     ▼
//!                              drop the own lease on that leader ──▶ pre-vote, staggered by rank
//! ```
//!
//! Every voter has to see the death itself before it grants a vote, so a cut connection to a living leader changes
//! nothing. A host that vanishes sends no reset and refuses nothing: that is what the election timers are for.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use tokio::time::Instant;

use super::core::Core;
use super::transport::Probe;
use super::types::Vote;
use crate::types::MemberId;

/// A listener may outlive its process's connections by some milliseconds, so one accepted call proves no life.
const CALLS: u32 = 12;
const BETWEEN_CALLS: Duration = Duration::from_millis(5);
/// A process that is alive refuses none of these.
const REFUSALS: u32 = 2;
/// Pre-votes are this far apart, and begin this much later for each voter of a lower id.
const CAMPAIGN_EVERY: Duration = Duration::from_millis(15);
const PER_RANK: Duration = Duration::from_millis(8);
/// After this the timers have long taken over.
const CAMPAIGN: Duration = Duration::from_secs(1);

/// The leader that this server follows.
#[derive(Clone, PartialEq)]
struct Followed {
    id: MemberId,
    address: String,
    vote: Vote,
    /// How many voters, the leader aside, have a lower id than this one.
    rank: u32,
}

pub(crate) fn run(core: Arc<Core>) {
    let stop = core.stop.clone();
    crate::life::spawn(stop.run_until_cancelled_owned(async move {
        loop {
            let Some(followed) = followed(&core) else {
                core.leader_may_have_changed(Instant::now() + Duration::from_millis(50)).await;
                continue;
            };
            if outlived(&core, &followed).await && is_dead(&core, &followed.address).await {
                campaign(&core, &followed).await;
            }
        }
    }));
}

fn followed(core: &Core) -> Option<Followed> {
    let server = core.raft.server_metrics();
    let server = server.borrow_watched();
    let me = core.speaker.me;
    let id = server.current_leader.filter(|id| *id != me)?;
    let voters: Vec<MemberId> = server.membership_config.voter_ids().collect();
    if !voters.contains(&me) {
        return None;
    }
    let address = server.membership_config.get_node(&id)?.peer.clone();
    let rank = voters.iter().filter(|voter| **voter < me && **voter != id).count() as u32;
    Some(Followed { id, address, vote: server.vote, rank })
}

/// Holds a connection to the leader; true when the connection ended while that leader was still followed.
async fn outlived(core: &Core, followed: &Followed) -> bool {
    let ended = async {
        match core.mesh.to(&followed.address).talk.conduit().await {
            Ok(conduit) => conduit.closed().await,
            // It may be on its way up, or cut off: not a death that was seen.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    let changed = async {
        let mut server = core.raft.server_metrics();
        server.borrow_and_update();
        while self::followed(core).as_ref() == Some(followed) {
            if server.changed().await.is_err() {
                // Consensus has stopped: there is nobody to follow any more.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = ended => true,
        () = changed => false,
    }
}

/// Whether nobody listens at the address any more.
async fn is_dead(core: &Core, address: &str) -> bool {
    let mut refusals = 0;
    for _ in 0..CALLS {
        match core.mesh.transport.probe(address).await {
            Probe::Refused => refusals += 1,
            Probe::Listening => refusals = 0,
            Probe::Silent => return false,
        }
        if refusals == REFUSALS {
            return true;
        }
        tokio::time::sleep(BETWEEN_CALLS).await;
    }
    false
}

async fn campaign(core: &Core, dead: &Followed) {
    tracing::info!(leader = dead.id, "the leader's process has died");
    // Addressed to the dead leader, the request does one thing here: it ends this server's lease on that leader.
    let release = TransferLeaderRequest::new(dead.vote, dead.id, None);
    if core.raft.handle_transfer_leader(release).await.is_err() {
        return;
    }
    tokio::time::sleep(PER_RANK * dead.rank).await;
    let until = Instant::now() + CAMPAIGN;
    while Instant::now() < until && followed(core).as_ref() == Some(dead) {
        if core.raft.trigger().elect(true).await.is_err() {
            return;
        }
        core.leader_may_have_changed(Instant::now() + CAMPAIGN_EVERY + PER_RANK * dead.rank).await;
        if core.leads() {
            return;
        }
    }
}
