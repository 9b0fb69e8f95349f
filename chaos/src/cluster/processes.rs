//! `kontiki server` processes, each in a network namespace of its own when packets are to be stopped.
//!
//! ```text
//!  host ─ bridge kontiki-chaos 198.18.250.0/24 ─┬─ kontiki-c1: server 1 at .1
//!   └ clients, at .254                          ├─ kontiki-c2: server 2 at .2
//!                                               └─ …
//! ```
//!
//! A cut drops everything between one server's address and those of its peers, in its own namespace.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use kontiki_cli::pki::{Identity, Pki, Subject};
use kontiki_proto::client::{Client, ClientConfig};
use kontiki_proto::pb;
use parking_lot::Mutex;

use super::{Cluster, Server};

const BRIDGE: &str = "kontiki-chaos";
const LAN: [u8; 3] = [198, 18, 250];
const HOST: u8 = 254;
const API: u16 = 6443;
const PEER: u16 = 2380;
/// One request's time; short, so that a dead server does not stall its clients.
const DEADLINE: Duration = Duration::from_secs(3);
const START: Duration = Duration::from_secs(60);

/// Where the servers live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Namespaces of their own; needs root.
    Namespaces,
    /// Loopback addresses 127.0.250.N: nothing can be cut.
    Loopback,
}

/// Removes all it made when it is dropped.
pub struct Processes {
    count: Server,
    network: Network,
    program: PathBuf,
    dir: tempfile::TempDir,
    pki: Pki,
    admin: Identity,
    children: Mutex<HashMap<Server, Child>>,
    clients: HashMap<Server, Client>,
}

impl Processes {
    /// Makes the network, starts the servers, and waits until all vote.
    ///
    /// # Errors
    /// What is missing, or the end of the log of the server that failed.
    pub async fn start(program: PathBuf, count: Server, network: Network) -> Result<Processes> {
        let dir = tempfile::Builder::new().prefix("kontiki-chaos-").tempdir()?;
        let pki = Pki::open_or_create(&dir.path().join("pki"))?;
        let admin = pki.issue(&Subject::User("chaos", "system:masters"))?;
        let mut cluster = Processes {
            count,
            network,
            program,
            dir,
            pki,
            admin,
            children: Mutex::default(),
            clients: HashMap::new(),
        };
        if network == Network::Namespaces {
            cluster.make_network()?;
        }
        for server in 1..=count {
            let config = ClientConfig::new([cluster.address(server, API)], &cluster.pki.ca.cert_pem)
                .with_identity(&cluster.admin.cert_pem, &cluster.admin.key_pem)
                .with_deadline(DEADLINE);
            cluster.clients.insert(server, Client::new(config)?);
        }
        for server in 1..=count {
            cluster.spawn(server)?;
            cluster.await_voters(server, server).await?;
        }
        Ok(cluster)
    }

    fn ip(&self, server: Server) -> Ipv4Addr {
        match self.network {
            Network::Namespaces => Ipv4Addr::new(LAN[0], LAN[1], LAN[2], server),
            Network::Loopback => Ipv4Addr::new(127, 0, 250, server),
        }
    }

    fn address(&self, server: Server, port: u16) -> String {
        format!("{}:{port}", self.ip(server))
    }

    /// API address, for clients of another kind than [`Cluster::client`].
    pub fn api_address(&self, server: Server) -> String {
        self.address(server, API)
    }

    pub fn ca_pem(&self) -> &str {
        &self.pki.ca.cert_pem
    }

    pub fn admin(&self) -> &Identity {
        &self.admin
    }

    /// Process ids of the running servers.
    pub fn pids(&self) -> Vec<u32> {
        self.children.lock().values().map(Child::id).collect()
    }

    pub fn log_tail(&self, server: Server) -> String {
        let path = self.dir.path().join(format!("server-{server}.log"));
        let text = std::fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn spawn(&self, server: Server) -> Result<()> {
        let mut command = match self.network {
            Network::Namespaces => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{}", namespace(server))).arg(&self.program);
                command
            }
            Network::Loopback => Command::new(&self.program),
        };
        command.arg("server").arg("--data-dir").arg(self.dir.path().join(format!("server-{server}")));
        command.arg("--pki-dir").arg(self.dir.path().join("pki"));
        command.args(["--listen", &self.address(server, API), "--peer-listen", &self.address(server, PEER)]);
        if server > 1 {
            command.args(["--join", &self.address(1, PEER)]);
        }
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join(format!("server-{server}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        self.children.lock().insert(server, child);
        Ok(())
    }

    /// Until so many members vote in the eyes of this server.
    async fn await_voters(&self, asked: Server, count: Server) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            if let Ok(status) = self.status(asked).await {
                let voters = status.members.iter().filter(|m| m.voter && m.reachable).count();
                if voters >= usize::from(count) && status.members.iter().any(|m| m.leader) {
                    return Ok(());
                }
            }
            if Instant::now() > deadline {
                bail!("server {asked} does not see {count} voters:\n{}", self.log_tail(asked));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn make_network(&self) -> Result<()> {
        remove_network(self.count);
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["address", "add", &format!("{}/24", Ipv4Addr::new(LAN[0], LAN[1], LAN[2], HOST)), "dev", BRIDGE])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        for server in 1..=self.count {
            let (namespace, cable) = (namespace(server), cable(server));
            ip(&["netns", "add", &namespace])?;
            ip(&["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
            ip(&["link", "set", &cable, "master", BRIDGE, "up"])?;
            let address = format!("{}/24", self.ip(server));
            ip(&["-n", &namespace, "address", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }
}

#[async_trait]
impl Cluster for Processes {
    fn servers(&self) -> Vec<Server> {
        (1..=self.count).collect()
    }

    fn client(&self, server: Server) -> Client {
        self.clients[&server].clone()
    }

    async fn kill(&self, server: Server) -> Result<()> {
        let Some(mut child) = self.children.lock().remove(&server) else { return Ok(()) };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    async fn start(&self, server: Server) -> Result<()> {
        if !self.children.lock().contains_key(&server) {
            self.spawn(server)?;
        }
        Ok(())
    }

    async fn cut(&self, server: Server) -> Result<()> {
        if self.network == Network::Loopback {
            bail!("servers on loopback cannot be cut off; run as root for namespaces");
        }
        let peers: Vec<String> =
            (1..=self.count).filter(|peer| *peer != server).map(|peer| self.ip(peer).to_string()).collect();
        let peers = peers.join(", ");
        let rules = format!(
            "table inet kontiki-chaos {{\n chain in {{ type filter hook input priority 0; ip saddr {{ {peers} }} drop; }}\n \
             chain out {{ type filter hook output priority 0; ip daddr {{ {peers} }} drop; }}\n}}\n"
        );
        nft(server, &rules)
    }

    async fn heal(&self) -> Result<()> {
        if self.network == Network::Namespaces {
            for server in 1..=self.count {
                nft(server, "table inet kontiki-chaos\ndelete table inet kontiki-chaos\n")?;
            }
        }
        Ok(())
    }

    fn server_of(&self, member: &pb::MemberStatus) -> Option<Server> {
        (1..=self.count).find(|&server| member.address == self.address(server, PEER))
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for (_, mut child) in self.children.lock().drain() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.network == Network::Namespaces {
            remove_network(self.count);
        }
    }
}

fn namespace(server: Server) -> String {
    format!("kontiki-c{server}")
}

fn cable(server: Server) -> String {
    format!("kontiki-cv{server}")
}

fn remove_network(count: Server) {
    for server in 1..=count {
        let _ = ip(&["netns", "delete", &namespace(server)]);
        let _ = ip(&["link", "delete", &cable(server)]);
    }
    let _ = ip(&["link", "delete", BRIDGE]);
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("cannot run ip; is iproute2 installed?")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn nft(server: Server, rules: &str) -> Result<()> {
    use std::io::Write;
    let mut child = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", namespace(server)))
        .args(["nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run nft; is nftables installed?")?;
    child.stdin.take().context("nft has no input")?.write_all(rules.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("nft in {}: {}", namespace(server), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
