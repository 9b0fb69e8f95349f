//! How a store is opened.

use std::path::PathBuf;
use std::time::Duration;

/// PEM material for mutual TLS between servers. Only peers with a certificate of this CA whose subject organisation is
/// `kontiki:peers` are let in.
#[derive(Clone, Debug)]
pub struct PeerTls {
    pub ca_pem: String,
    pub cert_pem: String,
    pub key_pem: String,
}

/// What to do when the data directory is empty. A directory with data ignores this.
#[derive(Clone, Debug)]
pub enum Start {
    /// Be the first server of a new cluster.
    Bootstrap,
    /// Ask one of these peer addresses (host:port) for admission: learner first, voter when caught up.
    Join(Vec<String>),
}

#[derive(Clone, Debug)]
pub struct Timings {
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
    /// How long a proposal, barrier or forwarded request waits at most.
    pub request: Duration,
}

impl Default for Timings {
    fn default() -> Timings {
        Timings {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            request: Duration::from_secs(5),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    pub start: Start,
    /// Where peers are listened for, `host:port`; port 0 is refused.
    pub peer_listen: String,
    /// What peers are told to dial, `host:port`.
    pub peer_advertise: String,
    /// The API address clients are told of, `host:port`.
    pub client_advertise: String,
    pub tls: PeerTls,
    pub timings: Timings,
    /// Bytes of one transaction; 2 MiB by default, above the API's object limit.
    pub max_txn_bytes: usize,
    /// History is kept for this long, and at most `history_bytes`.
    pub history: Duration,
    pub history_bytes: usize,
}

/// Why a store did not open; the message says the way out.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{field}: {problem}")]
    Config { field: &'static str, problem: String },
    #[error("{field}: the peer certificate material cannot be used: {problem}")]
    Tls { field: &'static str, problem: String },
    #[error("cannot listen for peers on {address}: {problem}")]
    Listen { address: String, problem: String },
    /// Another process has the directory open.
    #[error("the data directory {dir} is in use by another process")]
    InUse { dir: PathBuf },
    #[error(
        "the data directory {dir} belongs to cluster {found}, not to {expected}; \
         point --data-dir elsewhere, or remove the directory to join anew"
    )]
    OtherCluster { dir: PathBuf, found: String, expected: String },
    #[error(
        "the data directory {dir} was written under another certificate authority; \
         point --data-dir elsewhere, or remove the directory to join anew"
    )]
    OtherAuthority { dir: PathBuf },
    #[error(
        "the data directory {dir} is damaged ({problem}) and is not repaired; keep it aside, remove this member \
         from the cluster (`kontiki cluster leave`), and let the server join again with an empty directory"
    )]
    Corrupt { dir: PathBuf, problem: String },
    #[error(
        "the data directory {dir} was written by an earlier version of this program, which kept its log in a database; \
         keep it aside, and start with an empty directory: a server of a living cluster joins again, a cluster that is \
         down as a whole needs the earlier version to be read"
    )]
    OldFormat { dir: PathBuf },
    #[error("the data directory {dir} cannot be used: {problem}")]
    Disk { dir: PathBuf, problem: String },
    #[error(
        "member {member} of cluster {cluster} is running already, at {address}: two servers must not share an id. \
         Stop one of them; where the data directory {dir} is a copy, remove it and join with an empty one"
    )]
    Twin { dir: PathBuf, cluster: String, member: u64, address: String },
    #[error(
        "the data directory {dir} belongs to member {member}, which the cluster knows at {known}, not at {given}. \
         Where the directory is a copy, remove it and join with an empty one; where the server has moved, start it at \
         {known} again, or put it at {given} with an empty directory and `kontiki cluster replace {member} --with {given}`"
    )]
    OtherAddress { dir: PathBuf, member: u64, known: String, given: String },
    /// No server that was asked let this one in.
    #[error("this server was not admitted to the cluster: {0}")]
    NotAdmitted(String),
    #[error("consensus did not start: {0}")]
    Consensus(String),
}
