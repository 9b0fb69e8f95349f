//! Real `kontiki server` processes.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use kontiki_cli::pki::{Identity, Pki, Subject};
use kontiki_proto::client::{Client, ClientConfig};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{Cluster, Cut, ServerId};
use crate::world::Place;

const API_PORT: u16 = 6443;
const PEER_PORT: u16 = 2380;

/// How the processes are started.
#[derive(Clone, Debug)]
pub struct Options {
    pub program: PathBuf,
    pub servers: u8,
    /// Each server in a network namespace, so that it can be cut off; otherwise all are on loopback.
    pub apart: bool,
}

/// `$KONTIKI`, or the `kontiki` beside this program.
///
/// # Errors
/// When there is none.
pub fn kontiki_program() -> Result<PathBuf> {
    let program = match std::env::var_os("KONTIKI") {
        Some(program) => PathBuf::from(program),
        None => std::env::current_exe()?.with_file_name("kontiki"),
    };
    if !program.exists() {
        bail!(
            "{} does not exist; build it (`cargo build --release -p kontiki`) or set KONTIKI",
            program.display()
        );
    }
    Ok(program)
}

struct Server {
    place: Option<Place>,
    api: String,
    peer: String,
    child: tokio::sync::Mutex<Option<Child>>,
    /// For signals, also while `child` is waited for.
    pid: Mutex<Option<Pid>>,
}

/// A cluster of processes; they die with it, and their data with them.
pub struct Processes {
    options: Options,
    dir: TempDir,
    pki: Pki,
    admin: Identity,
    servers: Vec<Server>,
}

impl Processes {
    /// Prepares addresses and certificates; starts nothing.
    ///
    /// # Errors
    /// What cannot be made.
    pub fn new(options: Options) -> Result<Processes> {
        let dir =
            tempfile::Builder::new().prefix("kontiki-chaos-").tempdir().context("cannot make a directory")?;
        let pki = Pki::open_or_create(&dir.path().join("pki"))?;
        let admin = pki.issue(&Subject::User("kubernetes-admin", "system:masters"))?;
        let servers = (0..options.servers)
            .map(|number| {
                let place = if options.apart { Some(Place::new(number + 1)?) } else { None };
                let (api, peer) = match &place {
                    Some(place) => {
                        (format!("{}:{API_PORT}", place.address), format!("{}:{PEER_PORT}", place.address))
                    }
                    None => {
                        let offset = u16::from(number) * 10;
                        (
                            format!("127.0.0.1:{}", API_PORT + offset),
                            format!("127.0.0.1:{}", PEER_PORT + offset),
                        )
                    }
                };
                Ok(Server { place, api, peer, child: tokio::sync::Mutex::default(), pid: Mutex::default() })
            })
            .collect::<Result<_>>()?;
        Ok(Processes { options, dir, pki, admin, servers })
    }

    /// Starts every server and waits until all of them vote.
    ///
    /// # Errors
    /// With the last lines of the server that is at fault.
    pub async fn start_all(&self) -> Result<()> {
        for server in 0..self.servers.len() {
            self.start(server).await?;
            self.await_voters(server + 1).await?;
        }
        Ok(())
    }

    async fn await_voters(&self, count: usize) -> Result<()> {
        let among: Vec<ServerId> = (0..count).collect();
        let client = self.client(&among, Duration::from_secs(2))?;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let last = match client.cluster_status().await {
                Ok(status) => {
                    let voters =
                        status.members.iter().filter(|member| member.voter && member.reachable).count();
                    if voters >= count && status.members.iter().any(|member| member.leader) {
                        return Ok(());
                    }
                    format!("{voters} vote")
                }
                Err(status) => status.message,
            };
            for server in &among {
                if self.servers[*server]
                    .child
                    .lock()
                    .await
                    .as_mut()
                    .is_none_or(|c| !matches!(c.try_wait(), Ok(None)))
                {
                    bail!("server {server} ended:\n{}", self.last_words(*server));
                }
            }
            if tokio::time::Instant::now() > deadline {
                bail!("{count} servers do not all vote after 30 s ({last}):\n{}", self.last_words(count - 1));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn data_dir(&self, server: ServerId) -> PathBuf {
        self.dir.path().join(format!("server-{server}"))
    }

    fn log(&self, server: ServerId) -> PathBuf {
        self.dir.path().join(format!("server-{server}.log"))
    }

    pub fn api_address(&self, server: ServerId) -> &str {
        &self.servers[server].api
    }

    pub fn ca_pem(&self) -> &str {
        &self.pki.ca.cert_pem
    }

    /// The certificate and key of a person in `system:masters`.
    pub fn admin(&self) -> &Identity {
        &self.admin
    }

    /// The process of a running server.
    pub fn pid(&self, server: ServerId) -> Option<i32> {
        self.servers[server].pid.lock().map(Pid::as_raw)
    }

    /// Keeps the data and logs of a failed run for inspection, and says where.
    pub fn keep(mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    fn signal(&self, server: ServerId, signal: Signal) -> Result<()> {
        match *self.servers[server].pid.lock() {
            Some(pid) => kill(pid, signal).with_context(|| format!("cannot signal server {server}")),
            None => bail!("server {server} does not run"),
        }
    }

    fn place(&self, server: ServerId) -> Result<Place> {
        self.servers[server].place.clone().context("servers on loopback cannot be cut off")
    }
}

/// A child that dies with this process, in the network namespace given.
pub(crate) fn command(program: &Path, netns: Option<Arc<File>>, log: &Path) -> Result<Command> {
    let output = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(program);
    command.stdin(std::process::Stdio::null()).stdout(output.try_clone()?).stderr(output).kill_on_drop(true);
    // SAFETY: between fork and exec only the async-signal-safe calls prctl and setns are made; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            if let Some(netns) = &netns
                && libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    Ok(command)
}

#[async_trait]
impl Cluster for Processes {
    fn size(&self) -> usize {
        self.servers.len()
    }

    async fn start(&self, server: ServerId) -> Result<()> {
        let this = &self.servers[server];
        let mut child = this.child.lock().await;
        if child.is_some() {
            bail!("server {server} runs already");
        }
        let netns = this.place.as_ref().map(Place::netns);
        let mut command = command(&self.options.program, netns, &self.log(server))?;
        // What consensus itself says would drown the rest, and cost what is measured.
        command
            .env("KONTIKI_LOG", std::env::var("KONTIKI_SERVER_LOG").unwrap_or("info,openraft=error".into()));
        command.arg("server").arg("--data-dir").arg(self.data_dir(server));
        command.arg("--pki-dir").arg(self.dir.path().join("pki"));
        command.args(["--listen", &this.api, "--peer-listen", &this.peer]);
        if server > 0 {
            let others: Vec<&str> = self.servers[..server].iter().map(|other| other.peer.as_str()).collect();
            command.args(["--join", &others.join(",")]);
        }
        let started =
            command.spawn().with_context(|| format!("cannot start {}", self.options.program.display()))?;
        *this.pid.lock() = started.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        *child = Some(started);
        Ok(())
    }

    async fn kill(&self, server: ServerId) -> Result<()> {
        let this = &self.servers[server];
        if let Some(mut child) = this.child.lock().await.take() {
            child.kill().await.with_context(|| format!("cannot kill server {server}"))?;
            *this.pid.lock() = None;
        }
        Ok(())
    }

    async fn pause(&self, server: ServerId) -> Result<()> {
        self.signal(server, Signal::SIGSTOP)
    }

    async fn resume(&self, server: ServerId) -> Result<()> {
        self.signal(server, Signal::SIGCONT)
    }

    async fn cut(&self, server: ServerId, cut: Cut) -> Result<()> {
        let place = self.place(server)?;
        tokio::task::block_in_place(|| place.cut(cut))
    }

    async fn heal(&self, server: ServerId) -> Result<()> {
        let place = self.place(server)?;
        tokio::task::block_in_place(|| place.heal())
    }

    fn client(&self, servers: &[ServerId], deadline: Duration) -> Result<Client> {
        let addresses = servers.iter().map(|server| self.servers[*server].api.clone());
        let mut config = ClientConfig::new(addresses, &self.pki.ca.cert_pem)
            .with_identity(&self.admin.cert_pem, &self.admin.key_pem)
            .with_deadline(deadline);
        // A client that waits hides what its server says.
        config.patience = Duration::from_millis(1);
        Ok(Client::new(config)?)
    }

    fn last_words(&self, server: ServerId) -> String {
        let log = std::fs::read_to_string(self.log(server)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    fn said(&self, server: ServerId, text: &str) -> bool {
        std::fs::read_to_string(self.log(server)).is_ok_and(|log| log.contains(text))
    }

    fn by_address(&self, peer_address: &str) -> Option<ServerId> {
        self.servers.iter().position(|server| server.peer == peer_address)
    }
}
