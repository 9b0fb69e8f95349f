//! How servers reach each other: the seam that the simulation exchanges.
//!
//! ```text
//!   network, failover, core, membership                       server
//!        │ Transport::connect(address)                          │ Transport::listen(address) ─▶ Listener::serve
//!        ▼                                                      ▼
//!     Conduit: append, snapshot, ask, status, admit ─────▶ the same calls of the other server's PeerService
//!        └─ closed(): the connection has ended
//! ```
//!
//! A [`Conduit`] is one connection: it never mends itself. When it has ended, every call on it fails, and whoever needs
//! another connects again.
//!
//! **What callers rely on.**
//! - [`PeerError`] tells what may have happened: after `Unreachable` and `Refused` nothing was acted on, after `Lost` it
//!   may have been.
//! - The messages of one append stream arrive in the order they were sent, each once, or the stream ends. Nothing is
//!   promised between calls: they overtake each other, and a call of which the caller despaired may still arrive.
//! - A future that is dropped is a call that was given up; the other side may still act on it.
//! - A message is whole or it is not there. TLS and TCP see to that in the product; a network that bends bits is no
//!   part of the model, a peer that lies is (see `wire`).
//! - Only `Refused` of [`Transport::probe`] says that a process has died; see `failover`.
//!
//! **What a transport in one thread has to mind.** Calls are served on tasks of the server that listens: `serve` is
//! called within that server's [`Life`](crate::life::Life), and what it spawns through [`crate::life::spawn`] ends with
//! it. Waits count tokio's clock.

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kontiki_proto::pb;
use tokio_util::sync::CancellationToken;

/// Why a call to another server brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// There is no connection, so nothing was sent.
    #[error("{0}")]
    Unreachable(String),
    /// The other server read it and does nothing about it, for this reason.
    #[error("refused: {0}")]
    Refused(String),
    /// It was sent, or may have been, and no answer came: it may have been acted on.
    #[error("{0}")]
    Lost(String),
}

/// Calls of one message and one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Vote,
    PreVote,
    TransferLeader,
    /// A question for the leader: see `wire::Ask`.
    Forward,
}

/// A member's word on itself, and the cluster it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Introduction {
    pub cluster_id: String,
    pub status: pb::MemberStatus,
}

/// Messages one way. An error is the last item: on the receiver's side it says how the stream broke, and who sends
/// one ends the stream with it.
pub type Messages = BoxStream<'static, Result<pb::PeerMessage, PeerError>>;
pub type Answer<T> = BoxFuture<'static, Result<T, PeerError>>;

/// What one server does for another: the serving side implements it, and a [`Conduit`] to it has the same calls.
pub trait PeerService: Send + Sync + 'static {
    /// Log traffic and heartbeats: requests one way, their answers in the same order the other.
    fn append(&self, requests: Messages) -> Answer<Messages>;

    /// A whole state, in parts; answered when it is installed.
    fn snapshot(&self, parts: Messages) -> Answer<pb::PeerMessage>;

    fn ask(&self, call: Call, message: pb::PeerMessage) -> Answer<pb::PeerMessage>;

    /// Whoever has a certificate of the cluster may ask; no member id is needed.
    fn status(&self) -> Answer<Introduction>;

    /// A new server asks for an id of its own.
    fn admit(&self, request: pb::JoinRequest) -> Answer<pb::JoinReply>;
}

/// One connection to one server. Calls share it and do not wait for each other.
pub trait Conduit: PeerService {
    /// Resolves when the connection has ended, whichever side ended it, or the network: at once where the other process
    /// died on a host that lives, after some seconds of silence where the host is gone. Resolved for ever after.
    fn closed(&self) -> BoxFuture<'static, ()>;
}

/// Whether anybody listens at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    Listening,
    /// The host is there and says that nobody listens.
    Refused,
    /// No answer in time, which proves nothing.
    Silent,
}

/// An address that is held, before anybody is served at it. Who connects meanwhile waits.
pub trait Listener: Send {
    /// Serves until `stop` is cancelled or the server's life ends; connections in use are cut then.
    fn serve(self: Box<Self>, service: std::sync::Arc<dyn PeerService>, stop: CancellationToken);
}

/// One server's way to the others.
pub trait Transport: Send + Sync + 'static {
    /// Names the authority by which servers prove themselves. A data directory is bound to it.
    fn authority(&self) -> Vec<u8>;

    /// Takes the address. An error is the reason in words, such as another process that has it.
    fn listen(&self, address: &str) -> BoxFuture<'static, Result<Box<dyn Listener>, String>>;

    /// Connects, within a second or so. Succeeds only when both sides have proved to be servers of the cluster's
    /// authority; which cluster and which member answers is for every message to check.
    fn connect(&self, address: &str) -> Answer<std::sync::Arc<dyn Conduit>>;

    /// Knocks without a word, and tells within 200 ms.
    fn probe(&self, address: &str) -> BoxFuture<'static, Probe>;
}
