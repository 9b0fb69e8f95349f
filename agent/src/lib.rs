//! kontiki-agent
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

pub mod ctx;
pub mod image;
pub mod net;
pub mod pod;
pub mod runtime;
pub mod stream;
pub mod volume;

/// What one node is told.
#[derive(Clone, Debug)]
pub struct Options {
    pub node_name: String,
    /// API addresses of the servers, `host:port`.
    pub servers: Vec<String>,
    /// State, pod directories, certificates.
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
