//! `kontiki server`: one control-plane process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use kontiki_apiserver::auth::User;
use kontiki_apiserver::{ApiServer, ServerConfig};
use kontiki_store::{Config, PeerTls, Start, Store, Timings};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::pki::{Pki, Subject};

/// Connections the kernel holds for us while we are busy.
const BACKLOG: u32 = 1024;

#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// Where this server keeps its replica
    #[arg(long, default_value = "/var/lib/kontiki/server")]
    pub data_dir: PathBuf,
    /// Directory of ca.crt, ca.key and sa.key; made by the first server of a cluster [default: DATA_DIR/pki]
    #[arg(long)]
    pub pki_dir: Option<PathBuf>,
    /// Address of the API, `host:port`; may be given several times. Servers on one machine may share one
    #[arg(long, default_value = "127.0.0.1:6443")]
    pub listen: Vec<SocketAddr>,
    /// API address other machines dial, `host:port` [default: the first --listen]
    #[arg(long)]
    pub advertise: Option<String>,
    /// Address for other servers, `host:port`
    #[arg(long, default_value = "127.0.0.1:2380")]
    pub peer_listen: String,
    /// Peer address other servers dial, `host:port` [default: --peer-listen]
    #[arg(long)]
    pub peer_advertise: Option<String>,
    /// Join the cluster of these peer addresses instead of founding one; ignored once DATA_DIR has data
    #[arg(long, value_delimiter = ',')]
    pub join: Vec<String>,
    /// More names and addresses for the serving certificate
    #[arg(long)]
    pub tls_san: Vec<String>,
    /// CSV file of bearer tokens: token,user,uid,"group,group"
    #[arg(long)]
    pub token_file: Option<PathBuf>,
    /// Largest object accepted, in bytes
    #[arg(long, default_value_t = 3 * 512 * 1024)]
    pub max_object_bytes: usize,
    /// Seconds without a heartbeat after which a node is NotReady
    #[arg(long, default_value_t = 40)]
    pub node_grace_seconds: u64,
    /// Addresses of Services
    #[arg(long, default_value = "10.96.0.0/16")]
    pub service_cidr: String,
    /// Addresses of pods; every node gets a /24 of it
    #[arg(long, default_value = "10.244.0.0/16")]
    pub pod_cidr: String,
}

/// Serves until `shutdown`, or until a part fails.
///
/// # Errors
/// Says which part could not start and what to do about it.
pub async fn run(args: ServerArgs, shutdown: CancellationToken) -> Result<()> {
    let Some(&first) = args.listen.first() else { bail!("--listen is needed at least once") };
    let pki_dir = args.pki_dir.clone().unwrap_or_else(|| args.data_dir.join("pki"));
    let pki = if args.join.is_empty() { Pki::open_or_create(&pki_dir)? } else { Pki::open(&pki_dir)? };
    let listeners = args.listen.iter().map(|&address| bind(address)).collect::<Result<Vec<_>>>()?;
    let advertise = args.advertise.clone().unwrap_or_else(|| first.to_string());

    let store = Store::open(store_config(&args, &pki, &advertise)?).await?;
    info!(cluster = store.cluster_id(), member = store.member_id(), "store is open");
    let serving = pki.issue(&Subject::Server(&serving_names(&args, &advertise)))?;
    let api = ApiServer::new(
        ServerConfig {
            ca_pem: pki.ca.cert_pem.clone(),
            ca_key_pem: pki.ca.key_pem.clone(),
            cert_pem: serving.cert_pem,
            key_pem: serving.key_pem,
            service_account_key_pem: pki.service_account_key_pem.clone(),
            token_file: args.token_file.clone(),
            max_object_bytes: args.max_object_bytes,
            service_cidr: args.service_cidr.clone(),
            ..ServerConfig::default()
        },
        store.clone(),
    )?;

    let controllers = tokio::spawn(kontiki_controllers::run(
        api.local(controllers_user()),
        kontiki_controllers::Options {
            identity: format!("server-{}", store.member_id()),
            root_ca_pem: pki.ca.cert_pem.clone(),
            pod_cidr: args.pod_cidr.clone(),
            node_grace: Duration::from_secs(args.node_grace_seconds),
            ..kontiki_controllers::Options::default()
        },
        shutdown.clone(),
    ));
    let served = api.serve(listeners, shutdown.clone()).await;
    shutdown.cancel();
    // The controllers give up their leases on the way out, for which the store must still be there.
    let _ = tokio::time::timeout(Duration::from_secs(3), controllers).await;
    store.shutdown().await;
    Ok(served?)
}

fn controllers_user() -> User {
    User {
        name: "system:kontiki:controllers".into(),
        groups: vec!["system:masters".into(), "system:authenticated".into()],
        ..User::default()
    }
}

fn store_config(args: &ServerArgs, pki: &Pki, advertise: &str) -> Result<Config> {
    let peer_advertise = args.peer_advertise.clone().unwrap_or_else(|| args.peer_listen.clone());
    let names = [host(&args.peer_listen), host(&peer_advertise), "localhost".into(), "kontiki-peer".into()];
    let peer = pki.issue(&Subject::Peer(&names))?;
    Ok(Config {
        data_dir: args.data_dir.join("store"),
        start: if args.join.is_empty() { Start::Bootstrap } else { Start::Join(args.join.clone()) },
        peer_listen: args.peer_listen.clone(),
        peer_advertise,
        client_advertise: advertise.to_string(),
        tls: PeerTls { ca_pem: pki.ca.cert_pem.clone(), cert_pem: peer.cert_pem, key_pem: peer.key_pem },
        timings: Timings::default(),
        // Room for what the API adds around an object.
        max_txn_bytes: args.max_object_bytes + 512 * 1024,
        history: Duration::from_secs(300),
        history_bytes: 256 * 1024 * 1024,
    })
}

fn serving_names(args: &ServerArgs, advertise: &str) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "10.96.0.1", "kubernetes", "kubernetes.default"]
        .into_iter()
        .chain(["kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "kontiki"])
        .map(String::from)
        .chain(args.listen.iter().map(|address| address.ip().to_string()))
        .chain([host(advertise)])
        .chain(args.tls_san.iter().cloned())
        .collect();
    names.sort();
    names.dedup();
    names
}

fn host(address: &str) -> String {
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']).to_string()
}

/// Several servers of one machine may listen on one address: the kernel spreads connections over those that live.
fn bind(address: SocketAddr) -> Result<TcpListener> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().with_context(|| format!("cannot listen on {address}; choose another with --listen"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_taken_from_addresses() {
        for (address, expected) in [("127.0.0.1:1", "127.0.0.1"), ("[::1]:6443", "::1"), ("name", "name")] {
            assert_eq!(host(address), expected);
        }
    }

    #[tokio::test]
    async fn servers_of_one_machine_share_an_address() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        bind(first.local_addr().unwrap()).unwrap();
    }
}
