//! `kontiki agent`: one node.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use tokio_util::sync::CancellationToken;

#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    /// Name of the node
    #[arg(long)]
    pub node_name: String,
    /// API addresses of the servers, `host:port`; one is enough to find the others
    #[arg(long, value_delimiter = ',', required = true)]
    pub servers: Vec<String>,
    /// The cluster's certificate authority
    #[arg(long)]
    pub ca_file: PathBuf,
    /// File with a bootstrap token; needed for the first start alone
    #[arg(long)]
    pub token_file: Option<PathBuf>,
    /// Address other nodes reach this one at
    #[arg(long)]
    pub node_ip: IpAddr,
    /// Where the node keeps pods, volumes, logs and its certificate
    #[arg(long, default_value = "/var/lib/kontiki/agent")]
    pub root_dir: PathBuf,
    /// containerd's socket
    #[arg(long, default_value = "/run/containerd/containerd.sock")]
    pub containerd: PathBuf,
    /// runc's state, one for each node on a machine
    #[arg(long, default_value = "/run/kontiki/runc")]
    pub runc_root: PathBuf,
    /// Parent cgroup of all pods
    #[arg(long, default_value = "kontiki")]
    pub cgroup_parent: String,
    /// The log writer [default: kontiki-logger beside this program]
    #[arg(long)]
    pub logger: Option<PathBuf>,
    /// Registries spoken to in plain HTTP, `host:port`
    #[arg(long)]
    pub insecure_registry: Vec<String>,
    /// Address of the cluster DNS
    #[arg(long, default_value = "10.96.0.10")]
    pub cluster_dns: IpAddr,
    /// Domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Labels of the node, `key=value`
    #[arg(long = "label")]
    pub labels: Vec<String>,
}

/// Runs the node until `shutdown`; its pods go on running.
///
/// # Errors
/// Says which file or program is missing, or what the agent could not do.
pub async fn run(args: AgentArgs, shutdown: CancellationToken) -> Result<()> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let labels = args
        .labels
        .iter()
        .map(|label| {
            let (key, value) =
                label.split_once('=').with_context(|| format!("--label {label} is not key=value"))?;
            Ok((key.to_string(), value.to_string()))
        })
        .collect::<Result<_>>()?;
    let logger = match args.logger {
        Some(logger) => logger,
        None => std::env::current_exe()?.with_file_name("kontiki-logger"),
    };
    let options = kontiki_agent::Options {
        node_name: args.node_name,
        servers: args.servers,
        root_dir: args.root_dir,
        containerd_socket: args.containerd,
        containerd_namespace: "k8s.io".into(),
        runc_root: args.runc_root,
        cgroup_parent: args.cgroup_parent,
        ca_pem: read(&args.ca_file)?,
        bootstrap_token: args.token_file.as_ref().map(read).transpose()?.map(|t| t.trim().to_string()),
        node_ip: args.node_ip,
        logger,
        cluster_dns: args.cluster_dns,
        cluster_domain: args.cluster_domain,
        labels,
        insecure_registries: args.insecure_registry,
    };
    Ok(kontiki_agent::run(options, shutdown).await?)
}
