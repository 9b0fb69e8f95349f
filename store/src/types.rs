//! What the store speaks of: keys, bytes, revisions, transactions, changes. Never a kind.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// Counts the transactions that changed something, cluster-wide. An empty store is at revision 1, so that the first
/// write makes revision 2 and 0 is free to mean *none*. Never goes backwards.
pub type Revision = u64;
/// Given out by the log; never reused.
pub type MemberId = u64;
pub type LeaseId = u64;

/// Strings the owner of a value wants to read without parsing it, such as labels; opaque to the store.
pub type Attributes = Arc<[(SmolStr, SmolStr)]>;

/// A key's value at one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub key: Bytes,
    pub value: Bytes,
    pub attributes: Attributes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    /// 1 on creation, +1 for each change; starts again after a delete.
    pub version: u64,
    pub lease: Option<LeaseId>,
}

/// Holds when the key's `mod_revision` is this one; 0 means the key is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    pub key: Bytes,
    pub mod_revision: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    Put {
        key: Bytes,
        value: Bytes,
        attributes: Attributes,
        lease: Option<LeaseId>,
    },
    /// A delete of nothing changes nothing.
    Delete {
        key: Bytes,
    },
}

/// All guards hold and all operations happen, at one revision, or nothing does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    pub guards: Vec<Guard>,
    pub ops: Vec<Op>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The revision of the change, or the current one where the transaction changed nothing.
    Committed { revision: Revision },
    /// A guard failed: the revision at which it was judged, and what its key holds, in guard order.
    Conflict { revision: Revision, current: Vec<Option<Arc<Entry>>> },
}

#[derive(Clone, Debug, Default)]
pub struct RangeRequest {
    pub prefix: Bytes,
    /// Only keys strictly behind this one.
    pub after: Option<Bytes>,
    /// 0: no limit.
    pub limit: usize,
    /// `None`: the newest applied here.
    pub revision: Option<Revision>,
}

#[derive(Clone, Debug)]
pub struct Range {
    /// The revision the entries were read at.
    pub revision: Revision,
    /// In key order.
    pub entries: Vec<Arc<Entry>>,
    /// Whether keys follow behind the last entry.
    pub more: bool,
    /// All keys under the prefix at the revision, from `after` on, whatever the limit.
    pub count: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub revision: Revision,
    /// For a delete: the last value, with `mod_revision` set to the delete's revision.
    pub entry: Arc<Entry>,
    pub previous: Option<Arc<Entry>>,
    pub deleted: bool,
}

/// What a watcher gets, in revision order.
#[derive(Clone, Debug)]
pub enum WatchItem {
    /// All changes of one revision under the watched prefix.
    Changes(Arc<[Change]>),
    /// Every change up to this revision has been delivered.
    Progress(Revision),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("revision {asked} has been compacted; the oldest readable one is {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    #[error("revision {asked} is in the future; the current one is {current}")]
    Future { asked: Revision, current: Revision },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The watcher fell too far behind; list again.
    #[error("the watcher was too slow and has been cancelled; list again")]
    TooSlow,
    /// State was replaced by a snapshot; list again from the current revision.
    #[error("the state was replaced by a snapshot; list again")]
    Replaced,
    #[error("the store has been stopped")]
    Stopped,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum StoreError {
    /// Nothing was proposed; trying again is safe.
    #[error("the cluster has no leader that can reach a quorum of servers")]
    NoLeader,
    /// It may or may not happen yet.
    #[error("the outcome of the request is unknown: no answer within {0:?}")]
    Unknown(Duration),
    /// Nothing was proposed: too many requests wait already.
    #[error("too many requests are waiting for the store")]
    Busy,
    #[error("a transaction of {size} bytes is over the limit of {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("lease {0} does not exist")]
    NoSuchLease(LeaseId),
    #[error("{0}")]
    Membership(String),
    #[error("the disk of a server is full or failing: {0}")]
    Disk(String),
    #[error("the store has been stopped")]
    Stopped,
}

impl Txn {
    /// Bytes of keys, values and attributes: what the limit of a transaction counts.
    pub fn size(&self) -> usize {
        let guards: usize = self.guards.iter().map(|guard| guard.key.len() + 8).sum();
        let ops = self.ops.iter().map(|op| match op {
            Op::Put { key, value, attributes, .. } => {
                let attributes: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
                key.len() + value.len() + attributes
            }
            Op::Delete { key } => key.len(),
        });
        guards + ops.sum::<usize>()
    }
}
