//! How an API server is set up.

use std::path::PathBuf;

/// Everything an API server has to be told; [`ServerConfig::default`] holds the cluster's constants.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// PEM of the CA that verifies client certificates; given to nodes when they register.
    pub ca_pem: String,
    /// PEM of the key that signs node certificates.
    pub ca_key_pem: String,
    /// PEM of the server's own certificate, chain included.
    pub cert_pem: String,
    pub key_pem: String,
    /// Private key (PKCS#8, EC P-256 or RSA) that signs and verifies service-account tokens; the same on every server.
    pub service_account_key_pem: String,
    /// The `iss` of service-account tokens.
    pub issuer: String,
    /// `host:port` under which clients reach this server, the first one preferred.
    pub advertise_addresses: Vec<String>,
    /// CSV of `token,user,uid,"group1,group2"`.
    pub token_file: Option<PathBuf>,
    /// The largest request body that is read.
    pub max_object_bytes: usize,
    /// IPv4 network Services get their addresses from.
    pub service_cidr: String,
    /// First and last node port.
    pub node_ports: (u16, u16),
    /// The cluster's DNS domain.
    pub domain: String,
    /// Connections served at one time; further ones wait in the listener's backlog.
    pub max_connections: usize,
    /// Requests served at one time, reading and writing; watches are exempt.
    pub max_reads: usize,
    pub max_writes: usize,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            ca_pem: String::new(),
            ca_key_pem: String::new(),
            cert_pem: String::new(),
            key_pem: String::new(),
            service_account_key_pem: String::new(),
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            advertise_addresses: Vec::new(),
            token_file: None,
            max_object_bytes: 3 << 19,
            service_cidr: "10.96.0.0/16".into(),
            node_ports: (30000, 32767),
            domain: "cluster.local".into(),
            max_connections: 20_000,
            max_reads: 400,
            max_writes: 200,
        }
    }
}
