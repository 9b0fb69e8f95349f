//! Connections to other servers, and what is said on them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use kontiki_proto::pb;
use kontiki_proto::pb::peer_client::PeerClient;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::tls::Tls;
use crate::codec;
use crate::command::{Command, Reply};
use crate::types::{MemberId, StoreError};

/// A message between servers at most; the log's own limit keeps far below it.
pub(crate) const MESSAGE_BYTES: usize = 64 << 20;
const CONNECT: Duration = Duration::from_secs(1);

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

    /// Refuses what is meant for another cluster or member.
    pub fn hear<T: DeserializeOwned>(&self, message: &pb::PeerMessage) -> Result<T, tonic::Status> {
        if message.cluster_id != *self.cluster_id {
            return Err(tonic::Status::permission_denied(format!(
                "this server belongs to cluster {}, the message to cluster {:?}",
                self.cluster_id, message.cluster_id
            )));
        }
        if message.to != self.me {
            return Err(tonic::Status::failed_precondition(format!(
                "this server is member {}, the message is for member {}",
                self.me, message.to
            )));
        }
        codec::decode(&message.payload).map_err(|error| tonic::Status::invalid_argument(error.to_string()))
    }
}

/// One connection to one server, made when first needed and made again after it broke.
pub(crate) struct Lane {
    tls: Arc<Tls>,
    address: String,
    channel: Option<Channel>,
}

impl Lane {
    pub fn new(tls: Arc<Tls>, address: String) -> Lane {
        Lane { tls, address, channel: None }
    }

    /// An error means that nothing was sent.
    pub async fn client(&mut self) -> Result<PeerClient<Channel>, String> {
        let channel = match &self.channel {
            Some(channel) => channel.clone(),
            None => self.channel.insert(connect(self.tls.clone(), &self.address).await?).clone(),
        };
        Ok(PeerClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES))
    }

    /// The next call makes a new connection.
    pub fn forget(&mut self) {
        self.channel = None;
    }
}

async fn connect(tls: Arc<Tls>, address: &str) -> Result<Channel, String> {
    let failed = |error: &dyn std::fmt::Display| format!("no connection to the server at {address}: {error}");
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| failed(&error))?
        .connect_timeout(CONNECT)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true);
    let target = address.to_string();
    let connector = tower::service_fn(move |_: Uri| {
        let (tls, target) = (tls.clone(), target.clone());
        async move { Ok::<_, std::io::Error>(TokioIo::new(dial(&tls, &target).await?)) }
    });
    match tokio::time::timeout(CONNECT, endpoint.connect_with_connector(connector)).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(failed(&whole(&error))),
        Err(_) => Err(failed(&format!("no answer within {CONNECT:?}"))),
    }
}

/// A connection on which both sides have proved to be servers of the cluster.
pub(crate) async fn dial(
    tls: &Tls,
    address: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let host =
        address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']).to_string();
    let name = rustls::pki_types::ServerName::try_from(host).map_err(std::io::Error::other)?;
    tls.connector.connect(name, stream).await
}

/// An error with its causes: tonic's own text is "transport error".
pub(crate) fn whole(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
