//! One node of a Kontiki cluster: runs pods on containerd, with no CRI between, and gives them volumes, network, services
//! and names.
//!
//! ```text
//!   API ──watch──► pod::manager ──► pod::worker (one per pod) ──► runtime (containerd), volume, net
//!    ▲                                  observe → plan (pure) → act → report
//!    ├──── status, events ◄─────────────┘
//!    ├──── node: certificate, Node object, lease, pod network
//!    └──── stream: logs and exec, over streams that the node opened
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`node`] | registration, heartbeat, bringing up the network |
//! | [`pod`] | a pod's life, from the watch to the last trace |
//! | [`runtime`] | containerd and cgroups |
//! | [`image`] | names, pulling, unpacking |
//! | [`volume`] | volumes and tokens |
//! | [`stream`] | logs, exec |
//! | [`net`] | pod network, services, DNS |
//!
//! **Invariants.** Observe, then plan: what is on disk and in containerd is the truth, and a restart is the normal path.
//! Nothing of a pod is removed unless the API has said that it may go. Nothing is left when it is gone. The agent never
//! stops a container because it itself, containerd or a server was away.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kontiki_proto::DynApi;
use kontiki_proto::client::{Client, ClientConfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub mod ctx;
pub mod image;
pub mod net;
pub mod node;
pub mod pod;
pub mod runtime;
pub mod stream;
pub mod volume;

use ctx::{Ctx, DynNetwork};
use node::identity::{self, Identity};

/// What one node is told.
#[derive(Clone, Debug)]
pub struct Options {
    pub node_name: String,
    /// API addresses of the servers, `host:port`.
    pub servers: Vec<String>,
    /// State, pod directories, certificates. Absolute: containerd and runc are told paths below it.
    pub root_dir: PathBuf,
    pub containerd_socket: PathBuf,
    pub containerd_namespace: String,
    /// runc's state directory; one per node, where nodes share a machine.
    pub runc_root: PathBuf,
    /// Parent cgroup of all pods of this node.
    pub cgroup_parent: String,
    pub ca_pem: String,
    /// `<id>.<secret>`; needed until the node has a certificate.
    pub bootstrap_token: Option<String>,
    /// An address of this node that the other nodes reach.
    pub node_ip: IpAddr,
    /// The `kontiki-logger` binary, absolute.
    pub logger: PathBuf,
    pub cluster_dns: IpAddr,
    pub cluster_domain: String,
    pub labels: BTreeMap<String, String>,
    /// Registries spoken to in plain HTTP, `host:port`.
    pub insecure_registries: Vec<String>,
}

/// Why a node cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a node has to run as root: it makes namespaces, mounts and cgroups")]
    NotRoot,
    #[error("cannot {0}: {1}")]
    Io(&'static str, std::io::Error),
    #[error("{0} must be an absolute path")]
    Relative(PathBuf),
    #[error(
        "the log writer {0} is not there: build it with `cargo build -p kontiki-agent --bin kontiki-logger`, or say where it is with --logger"
    )]
    NoLogger(PathBuf),
    #[error("the node has no certificate yet, and no bootstrap token to get one with: give it --token-file")]
    NoToken,
    #[error("node {node} was not registered: {why}")]
    Register { node: String, why: String },
    #[error("the servers cannot be called: {0}")]
    Client(#[from] kontiki_proto::client::ClientError),
}

/// Runs the node until the shutdown; its pods go on running afterwards.
///
/// # Errors
/// What makes running a node impossible on this machine. Servers or a containerd that are away are waited for.
pub async fn run(mut options: Options, shutdown: CancellationToken) -> Result<(), Error> {
    prepare(&mut options)?;
    while !shutdown.is_cancelled() {
        let Some(identity) = obtain(&options, &shutdown).await? else { break };
        let config = ClientConfig::new(options.servers.clone(), &options.ca_pem)
            .with_identity(&identity.certificate, &identity.key);
        let client = Client::new(config)?;
        // With a new certificate everything begins anew: that is how a restart works anyway.
        let round = shutdown.child_token();
        let renewal = tokio::spawn(renew(options.clone(), identity, round.clone()));
        serve(options.clone(), Arc::new(client.clone()), Some(client), None, round.clone()).await;
        round.cancel();
        renewal.abort();
    }
    Ok(())
}

/// Checks what the node needs of its machine, and makes its directory.
fn prepare(options: &mut Options) -> Result<(), Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    std::fs::create_dir_all(&options.root_dir).map_err(|e| Error::Io("make the node's directory", e))?;
    options.root_dir =
        options.root_dir.canonicalize().map_err(|e| Error::Io("find the node's directory", e))?;
    if !options.logger.is_absolute() {
        return Err(Error::Relative(options.logger.clone()));
    }
    if !options.logger.is_file() {
        return Err(Error::NoLogger(options.logger.clone()));
    }
    // Processes that were in the middle of an exec when the agent ended have lost their streams.
    match std::fs::remove_dir_all(options.root_dir.join("io")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::Io("clean the node's directory", e)),
        _ => Ok(()),
    }
}

/// The identity on disk, or a new one; waits for servers that are away. `None` at shutdown.
async fn obtain(options: &Options, shutdown: &CancellationToken) -> Result<Option<Identity>, Error> {
    let mut pause = Duration::from_millis(200);
    loop {
        if let Some(identity) = identity::load(&options.root_dir) {
            return Ok(Some(identity));
        }
        match identity::register(options, None).await {
            Ok(identity) => return Ok(Some(identity)),
            Err(error @ Error::Register { .. }) => tracing::warn!(%error, "trying again"),
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(5)),
            () = shutdown.cancelled() => return Ok(None),
        }
    }
}

/// Ends the round once there is a newer certificate.
async fn renew(options: Options, identity: Identity, round: CancellationToken) {
    loop {
        let left = Duration::try_from(identity.renew_at.duration_since(Timestamp::now())).unwrap_or_default();
        tokio::time::sleep(left.clamp(Duration::from_secs(30), Duration::from_secs(3600))).await;
        if identity.renew_at > Timestamp::now() {
            continue;
        }
        match identity::register(&options, Some(&identity)).await {
            Ok(_) => return round.cancel(),
            Err(error) => tracing::warn!(%error, "the node's certificate was not renewed; trying again"),
        }
    }
}

/// Runs the node over any API until the shutdown. `network` stands in for the built-in pod network; `client` is needed for
/// logs and exec, which the servers ask for over streams of their own.
pub async fn serve(
    options: Options,
    api: DynApi,
    client: Option<Client>,
    network: Option<DynNetwork>,
    shutdown: CancellationToken,
) {
    let containerd = runtime::Containerd::new(
        &options.containerd_socket,
        &options.containerd_namespace,
        &options.runc_root,
    );
    let given = network.is_some();
    let (up, network) = watch::channel(network);
    let events = pod::events::Recorder::start(api.clone(), options.node_name.clone(), shutdown.clone());
    let ctx = Arc::new(Ctx::new(options, api, containerd, network, events));
    let manager = pod::manager::Manager::new(ctx.clone(), shutdown.clone());
    let bring_up = async {
        if given {
            shutdown.cancelled().await;
            drop(up);
        } else {
            node::bring_up_network(ctx.clone(), up, shutdown.clone()).await;
        }
    };
    let streams = async {
        if let Some(client) = client {
            stream::listen(client, ctx.clone(), shutdown.clone()).await;
        }
    };
    tokio::join!(manager.run(), node::keep(ctx.clone(), shutdown.clone()), bring_up, streams);
}
