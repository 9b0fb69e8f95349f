//! Names, addresses and paths of a local cluster: everything follows from the directory, a name and two counts.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// What `kontiki up` was asked for, kept in `DIR/cluster.json` for later calls and for `down`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Absolute.
    pub dir: PathBuf,
    /// Tells clusters on one machine apart.
    pub name: String,
    pub servers: u8,
    pub nodes: u8,
    /// Port of the API on 127.0.0.1, shared by all servers.
    pub port: u16,
    /// Third byte of the local network 198.18.X.0/24.
    pub lan: u8,
    /// Seconds without heartbeat until a node is NotReady.
    pub node_grace_seconds: u64,
}

impl Layout {
    /// # Errors
    /// A count or a name that cannot be, in words.
    pub fn check(&self) -> Result<()> {
        if !matches!(self.servers, 1 | 3 | 5) {
            bail!("--servers {}: a quorum is one, three or five servers", self.servers);
        }
        if self.nodes > 20 {
            bail!("--nodes {}: at most 20 fit on one machine's network", self.nodes);
        }
        if self.name.len() > 5 || !self.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            bail!("--name {:?}: up to five lower-case letters and digits", self.name);
        }
        Ok(())
    }

    pub fn file(dir: &Path) -> PathBuf {
        dir.join("cluster.json")
    }

    /// The layout of an earlier `up`, if there was one.
    ///
    /// # Errors
    /// A file that is there and unreadable.
    pub fn load(dir: &Path) -> Result<Option<Layout>> {
        let path = Layout::file(dir);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("{} is damaged; remove it and clean up by hand", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// # Errors
    /// Names the file.
    pub fn save(&self) -> Result<()> {
        let path = Layout::file(&self.dir);
        std::fs::write(&path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Every link, namespace, table and cgroup of the cluster begins with this.
    pub fn prefix(&self) -> String {
        if self.name.is_empty() { "kontiki".into() } else { format!("kontiki-{}", self.name) }
    }

    /// Interface names have 15 bytes.
    pub fn bridge(&self) -> String {
        if self.name.is_empty() { "kontiki0".into() } else { format!("kontiki{}", self.name) }
    }

    /// The host's end of a node's cable.
    pub fn cable(&self, node: u8) -> String {
        if self.name.is_empty() { format!("kontiki-n{node}") } else { format!("kontiki{}n{node}", self.name) }
    }

    pub fn namespace(&self, node: u8) -> String {
        format!("{}-{}", self.prefix(), self.node_name(node))
    }

    pub fn node_name(&self, node: u8) -> String {
        format!("node-{node}")
    }

    pub fn cgroup(&self, node: u8) -> String {
        self.namespace(node)
    }

    /// The host on the local network. Server n has `.n`, the registry shares `.1`, nodes begin at `.101`.
    pub fn host_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.lan, 1)
    }

    pub fn server_ip(&self, server: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.lan, server)
    }

    pub fn node_ip(&self, node: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.lan, 100 + node)
    }

    /// Where a server is dialled from the nodes.
    pub fn server_address(&self, server: u8) -> String {
        if self.nodes == 0 {
            format!("127.0.0.{server}:{}", self.port + 1)
        } else {
            format!("{}:{}", self.server_ip(server), self.port)
        }
    }

    /// Where a server is dialled by its peers: a loopback address of its own.
    pub fn peer_address(&self, server: u8) -> String {
        format!("127.0.0.{server}:{}", self.port - 4063)
    }

    pub fn shared_address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn registry(&self) -> String {
        format!("{}:5000", self.host_ip())
    }

    pub fn pki_dir(&self) -> PathBuf {
        self.dir.join("pki")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    pub fn server_dir(&self, server: u8) -> PathBuf {
        self.dir.join(format!("server-{server}"))
    }

    pub fn node_dir(&self, node: u8) -> PathBuf {
        self.dir.join(self.node_name(node))
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("logs")
    }

    pub fn token_file(&self) -> PathBuf {
        self.dir.join("bootstrap-token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn layout(name: &str, servers: u8) -> Layout {
        Layout {
            dir: "/tmp/k".into(),
            name: name.into(),
            servers,
            nodes: 2,
            port: 6443,
            lan: 0,
            node_grace_seconds: 40,
        }
    }

    #[test]
    fn an_even_quorum_and_a_long_name_are_refused() {
        assert!(layout("", 3).check().is_ok());
        assert!(layout("", 2).check().unwrap_err().to_string().contains("--servers 2"));
        assert!(layout("toolong", 3).check().unwrap_err().to_string().contains("--name"));
    }

    #[test]
    fn everything_on_the_host_begins_with_kontiki_and_fits_an_interface_name() {
        for name in ["", "abcde"] {
            let layout = layout(name, 3);
            for link in [layout.bridge(), layout.cable(20)] {
                assert!(link.starts_with("kontiki") && link.len() <= 15, "{link}");
            }
            assert!(layout.namespace(1).starts_with("kontiki"));
        }
    }
}
