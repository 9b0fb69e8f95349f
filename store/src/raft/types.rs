//! The types consensus is told to use.

use std::fmt;

use bytes::Bytes;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::command::Reply;
use crate::lease::Lease;
use crate::mvcc::{Counters, Entries, Machine};
use crate::types::{LeaseId, MemberId};

openraft::declare_raft_types!(
    /// Members are numbered by the log and known by their addresses.
    pub(crate) Types:
        D = Payload,
        R = Answer,
        NodeId = MemberId,
        Node = Member,
        // One leader a term at most (Raft §5.2); the default lets several lead in one term, one after the other.
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = super::runtime::Runtime,
);

pub(crate) type LogId = openraft::alias::LogIdOf<Types>;
pub(crate) type Vote = openraft::alias::VoteOf<Types>;
pub(crate) type LogEntry = openraft::alias::EntryOf<Types>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<Types, Image>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;
pub(crate) type Raft = openraft::Raft<Types, super::machine::RaftMachine>;

/// An encoded [`crate::command::Batch`]: encoded once, by the leader; the same bytes on every disk and wire.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Payload(pub Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The replies to a batch's commands, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answer(pub Vec<Reply>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Where it listens for peers, host:port.
    pub peer: String,
    /// The API address its clients are told of, host:port.
    pub client: String,
}

/// How far a state has come, as consensus counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
    /// The state came as a snapshot, which the log need not reach up to; otherwise it does.
    pub installed: bool,
}

/// A state at one point, with all its maps shared: what a snapshot is made of. Without history.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub counters: Counters,
    pub entries: Entries,
    pub leases: OrdMap<LeaseId, Lease>,
}

impl Image {
    pub fn of(machine: &Machine) -> Image {
        Image {
            counters: machine.counters().clone(),
            entries: machine.view().current.clone(),
            leases: machine.leases().table().clone(),
        }
    }

    pub fn into_machine(self) -> Machine {
        Machine::restore(self.counters, self.entries, self.leases)
    }
}
