//! What servers say to each other, and who says it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kontiki_proto::pb;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::transport::PeerError;
use crate::codec;
use crate::command::{Command, Reply};
use crate::types::{MemberId, StoreError};

/// What a server asks the leader for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// One log entry's worth, to be decided within the time.
    Propose {
        commands: Vec<Command>,
        within: Duration,
    },
    ReadIndex {
        within: Duration,
    },
    Admit {
        peer: String,
        client: String,
    },
    Leave {
        id: MemberId,
    },
    Replace {
        dead: MemberId,
        peer: String,
    },
    Transfer {
        to: Option<MemberId>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Told {
    /// Nothing was done: another server has to be asked.
    NotLeader,
    /// The index of the entry, and the replies to its commands.
    Done {
        index: u64,
        replies: Vec<Reply>,
    },
    Index(u64),
    Member(MemberId),
    Failed(StoreError),
}

/// Who speaks, in which cluster.
#[derive(Clone, Debug)]
pub(crate) struct Speaker {
    pub cluster_id: Arc<str>,
    pub me: MemberId,
}

impl Speaker {
    pub fn say<T: Serialize>(&self, to: MemberId, payload: &T) -> pb::PeerMessage {
        pb::PeerMessage {
            cluster_id: self.cluster_id.to_string(),
            from: self.me,
            to,
            payload: Bytes::from(codec::encode(payload)),
        }
    }

    /// Refuses what is meant for another cluster or member, and what this program cannot read.
    pub fn hear<T: DeserializeOwned>(&self, message: &pb::PeerMessage) -> Result<T, PeerError> {
        if message.cluster_id != *self.cluster_id {
            return Err(PeerError::Refused(format!(
                "this server belongs to cluster {}, the message to cluster {:?}",
                self.cluster_id, message.cluster_id
            )));
        }
        if message.to != self.me {
            return Err(PeerError::Refused(format!(
                "this server is member {}, the message is for member {}",
                self.me, message.to
            )));
        }
        codec::decode(&message.payload).map_err(|error| PeerError::Refused(error.to_string()))
    }
}
