//! A data directory without its server: read to its end, or made anew. No consensus runs here.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures::executor::block_on;
use openraft::EntryPayload;
use openraft::storage::{RaftLogReader, RaftLogStorage};
use openraft::vote::RaftLeaderId;

use super::log::LogStore;
use super::types::{LogId, Member, Position, StoredMembership, Types, Vote};
use crate::backup::State;
use crate::codec;
use crate::command::Batch;
use crate::disk::checkpoint::Checkpoint;
use crate::disk::real::RealStorage;
use crate::disk::{Disk, DiskError, Identity};
use crate::environment::{Labour, Storage};
use crate::mvcc::Machine;
use crate::recovery::Found;

/// Entries of the log that are in memory at once, about.
const STRIDE: u64 = 256;
/// Where a new cluster's log begins. What came before is in the checkpoint, so that who joins is sent that.
const BEGINNING: u64 = 1;

/// What a server left behind.
pub(crate) struct Left {
    pub identity: Identity,
    pub state: State,
    pub found: Found,
    /// Holds the directory against other processes.
    pub lock: Arc<dyn Storage>,
}

fn io(error: std::io::Error) -> DiskError {
    DiskError::Io(error.to_string())
}

fn beginning(identity: &Identity) -> (Vote, LogId) {
    let leader = openraft::alias::LeaderIdOf::<Types>::new(1, identity.member);
    (Vote::new(1, identity.member), LogId::new(leader.to_committed(), BEGINNING))
}

/// Makes the directory a cluster of one member, whose log is empty and purged up to its beginning. Durable when it
/// returns, but for the directory's own name.
pub(crate) fn begin(dir: &Path, identity: &Identity, machine: &Machine) -> Result<(), DiskError> {
    let disk = Disk::open(dir, Arc::new(RealStorage::new(dir)), Labour::Threads)?;
    disk.claim(identity)?;
    let (vote, first) = beginning(identity);
    let alone = openraft::Membership::new(
        vec![[identity.member].into()],
        // Its addresses are those it is started with.
        BTreeMap::from([(identity.member, Member::default())]),
    )
    .map_err(|error| DiskError::Io(error.to_string()))?;
    let position = Position {
        applied: Some(first),
        membership: StoredMembership::new(Some(first), alone),
        ..Position::default()
    };
    let (mut checkpoint, _) = Checkpoint::open(disk.database.clone(), &disk.labour)?;
    let plan = checkpoint.replace(machine.clone(), codec::encode(&position))?;
    checkpoint.write(plan)?;
    let (journal, contents) = disk.journal()?;
    let mut log = LogStore::open(journal, contents)?;
    block_on(async {
        log.save_vote(&vote).await?;
        log.purge(first).await
    })
    .map_err(io)?;
    block_on(log.stop());
    Ok(())
}

/// Reads the state with everything that is in the log, known to be committed or not: any of it may have been acknowledged
/// by others that are gone. `None` in a directory that belongs to nobody. The directory stays locked.
pub(crate) fn read(dir: &Path) -> Result<Option<Left>, DiskError> {
    let storage: Arc<dyn Storage> = Arc::new(RealStorage::new(dir));
    let disk = Disk::open(dir, storage.clone(), Labour::Threads)?;
    let Some(identity) = disk.identity() else { return Ok(None) };
    let (checkpoint, restored) = Checkpoint::open(disk.database.clone(), &disk.labour)?;
    let (mut machine, mut position) = (Machine::new(), Position::default());
    if let Some(restored) = restored {
        position = codec::decode(&restored.position)?;
        machine = restored.machine;
    }
    let (journal, contents) = disk.journal()?;
    let mut log = LogStore::open(journal, contents)?;
    if log.purged() > position.applied {
        return Err(DiskError::Corrupt("the checkpoint is older than what the log still holds".to_string()));
    }
    let mut membership = position.membership.membership().clone();
    let mut next = position.applied.map_or(0, |id| id.index + 1);
    let end = log.last().map_or(0, |id| id.index + 1);
    while next < end {
        let upto = end.min(next + STRIDE);
        let entries = block_on(log.try_get_log_entries(next..upto)).map_err(io)?;
        if entries.len() as u64 != upto - next {
            return Err(DiskError::Corrupt(format!("the log has a gap between {next} and {upto}")));
        }
        for entry in entries {
            match entry.payload {
                EntryPayload::Normal(payload) => drop(machine.apply(codec::decode::<Batch>(&payload.0)?)),
                EntryPayload::Membership(changed) => membership = changed,
                EntryPayload::Blank => {}
            }
        }
        next = upto;
    }
    let term = block_on(log.read_vote()).map_err(io)?.map_or(0, |vote| vote.leader_id.term);
    let last = log.last().max(position.applied);
    let members = membership.nodes().map(|(id, member)| (*id, member.peer.clone())).collect();
    block_on(log.stop());
    drop(checkpoint);
    let state = State::of(&machine);
    let found = Found {
        cluster_id: identity.cluster_id.clone(),
        member: identity.member,
        members,
        last_index: last.map_or(0, |id| id.index),
        last_term: last.map_or(0, |id| **id.committed_leader_id()),
        term,
        revision: state.counters.revision,
        entries: state.entries.len() as u64,
    };
    Ok(Some(Left { identity, state, found, lock: storage }))
}
