//! Real `kontiki server` processes.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use kontiki_cli::pki::{Identity, Pki, Subject};
use kontiki_proto::client::{Client, ClientConfig};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{Cluster, ServerId};
use crate::disk::{Disk, Loss};
use crate::world::{Place, Trouble};

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

/// What only some clusters have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras {
    /// Places for servers that are not there at the start.
    pub spares: u8,
    /// Each server's data is on a disk that can lose power and fail.
    pub disks: bool,
    /// All data is in memory, so that what others do to this machine's disk does not show.
    pub in_memory: bool,
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
    /// How often it has been started.
    life: AtomicUsize,
    /// Of a hundred packets from other servers, so many are lost.
    loss: AtomicU8,
    disk: Option<Disk>,
    /// Its data was removed, so that it has to join anew.
    wiped: AtomicBool,
}

/// A cluster of processes; they die with it, and their data with them.
pub struct Processes {
    options: Options,
    dir: TempDir,
    pki: Pki,
    admin: Identity,
    servers: Vec<Server>,
    /// Who does not get whose packets: from, to.
    severed: Mutex<BTreeSet<(ServerId, ServerId)>>,
    in_memory: bool,
}

impl Drop for Processes {
    fn drop(&mut self) {
        // A disk must be unmounted before the folder it is mounted at can be removed.
        self.servers.iter_mut().for_each(|server| server.disk = None);
        if self.in_memory
            && let Err(error) = umount2(self.dir.path(), MntFlags::MNT_DETACH)
        {
            tracing::warn!(%error, "the data stays in memory until this process ends");
        }
    }
}

impl Processes {
    /// Prepares addresses and certificates; starts nothing.
    ///
    /// # Errors
    /// What cannot be made.
    pub fn new(options: Options) -> Result<Processes> {
        Processes::with(options, Extras::default())
    }

    /// As [`Processes::new`], with more than every cluster has.
    ///
    /// # Errors
    /// What cannot be made.
    pub fn with(options: Options, extras: Extras) -> Result<Processes> {
        let dir =
            tempfile::Builder::new().prefix("kontiki-chaos-").tempdir().context("cannot make a directory")?;
        if extras.in_memory {
            mount(Some("kontiki-chaos"), dir.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>)
                .context("cannot mount a tmpfs for the data")?;
        }
        let pki = Pki::open_or_create(&dir.path().join("pki"))?;
        let admin = pki.issue(&Subject::User("kubernetes-admin", "system:masters"))?;
        let servers = (0..options.servers + extras.spares)
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
                let data = dir.path().join(format!("server-{number}"));
                let disk = if extras.disks {
                    std::fs::create_dir(&data)?;
                    Some(Disk::mount(&data)?)
                } else {
                    None
                };
                let (child, pid, wiped, life, loss) = Default::default();
                Ok(Server { place, api, peer, child, pid, life, loss, disk, wiped })
            })
            .collect::<Result<_>>()?;
        Ok(Processes {
            options,
            dir,
            pki,
            admin,
            servers,
            severed: Mutex::default(),
            in_memory: extras.in_memory,
        })
    }

    /// Starts every server and waits until all of them vote.
    ///
    /// # Errors
    /// With the last lines of the server that is at fault.
    pub async fn start_all(&self) -> Result<()> {
        for server in 0..usize::from(self.options.servers) {
            self.start(server).await?;
            self.await_voters(server + 1).await?;
        }
        Ok(())
    }

    /// Waits until so many servers, the first ones, vote.
    ///
    /// # Errors
    /// With the last lines of the server that is at fault.
    pub async fn await_voters(&self, count: usize) -> Result<()> {
        let among: Vec<ServerId> = (0..count).collect();
        let client = self.client(&among, Duration::from_secs(2))?;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
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
                bail!("{count} servers do not all vote after 60 s ({last}):\n{}", self.last_words(count - 1));
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

    /// Keeps a copy of the data and logs of a failed run for inspection, and says where.
    pub fn keep(&self) -> PathBuf {
        let copy = self.dir.path().with_extension("kept");
        // On a disk of ours or in memory it would be gone with this process.
        let copied = std::process::Command::new("cp").arg("-r").arg(self.dir.path()).arg(&copy).status();
        if !copied.is_ok_and(|status| status.success()) {
            tracing::warn!("the data of {} could not be kept", self.dir.path().display());
        }
        copy
    }

    fn signal(&self, server: ServerId, signal: Signal) -> Result<()> {
        match *self.servers[server].pid.lock() {
            Some(pid) => kill(pid, signal).with_context(|| format!("cannot signal server {server}")),
            None => bail!("server {server} does not run"),
        }
    }

    fn place(&self, server: ServerId) -> Result<&Place> {
        self.servers[server].place.as_ref().context("servers on loopback cannot be cut off")
    }

    /// Makes these links, from and to, the ones that carry nothing; all others carry again.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn sever(&self, links: BTreeSet<(ServerId, ServerId)>) -> Result<()> {
        let before = std::mem::replace(&mut *self.severed.lock(), links.clone());
        let touched: BTreeSet<ServerId> = before.symmetric_difference(&links).map(|(_, to)| *to).collect();
        touched.into_iter().try_for_each(|server| self.trouble(server, false))
    }

    fn trouble(&self, server: ServerId, resets: bool) -> Result<()> {
        let loss = self.servers[server].loss.load(Ordering::Relaxed);
        let severed = self.severed.lock().clone();
        let from = severed.iter().filter(|(_, to)| *to == server).map(|(from, _)| *from);
        let deaf_to = from.map(|from| self.place(from).map(|place| place.address)).collect::<Result<_>>()?;
        let trouble = Trouble { deaf_to, loss, resets: resets.then_some(PEER_PORT) };
        tokio::task::block_in_place(|| self.place(server)?.hurt(&trouble))
    }

    /// Of a hundred packets from other servers, so many do not arrive.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn lose(&self, server: ServerId, percent: u8) -> Result<()> {
        self.servers[server].loss.store(percent, Ordering::Relaxed);
        self.trouble(server, false)
    }

    /// Resets every connection between this server and the others that is used in the next moments.
    ///
    /// # Errors
    /// What `nft` says.
    pub async fn reset_connections(&self, server: ServerId) -> Result<()> {
        self.trouble(server, true)?;
        tokio::time::sleep(Duration::from_millis(60)).await;
        self.trouble(server, false)
    }

    /// Makes what this server sends late, and some of it lost; says how.
    ///
    /// # Errors
    /// What `tc` says.
    pub fn slow_link(&self, server: ServerId, slow: bool) -> Result<&'static str> {
        tokio::task::block_in_place(|| self.place(server)?.slow(slow))
    }

    /// The disk of a server in a cluster that was made with disks.
    ///
    /// # Errors
    /// In one that was not.
    pub fn disk(&self, server: ServerId) -> Result<&Disk> {
        self.servers[server].disk.as_ref().context("this cluster was made without disks")
    }

    /// Cuts the power of a server; it can be started again.
    ///
    /// # Errors
    /// When the process cannot be killed.
    pub async fn cut_power(&self, server: ServerId, seed: u64) -> Result<Loss> {
        let loss = self.disk(server)?.cut_power(seed);
        self.kill(server).await?;
        self.disk(server)?.restore_power();
        Ok(loss)
    }

    /// Ends a server and removes its data; when it is started it joins as a new member.
    ///
    /// # Errors
    /// When it cannot be killed, or its data not removed.
    pub async fn wipe(&self, server: ServerId) -> Result<()> {
        self.kill(server).await?;
        let data = self.data_dir(server).join("store");
        tokio::task::spawn_blocking(move || std::fs::remove_dir_all(data)).await??;
        self.servers[server].wiped.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Asks a server to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// When it does not within 60 s; it is killed then.
    pub async fn stop(&self, server: ServerId) -> Result<()> {
        self.signal(server, Signal::SIGTERM)?;
        let ended = self.await_end(server, Duration::from_secs(60)).await;
        self.kill(server).await?;
        if ended { Ok(()) } else { bail!("server {server} had not stopped 60 s after it was told to") }
    }

    /// Waits until a server's process has ended of its own accord; false when it has not by then.
    pub async fn await_end(&self, server: ServerId, patience: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + patience;
        while tokio::time::Instant::now() < deadline {
            if !self.runs(server).await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// Whether a server's process is there.
    pub async fn runs(&self, server: ServerId) -> bool {
        let mut child = self.servers[server].child.lock().await;
        child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// How often a server has been started.
    pub fn life(&self, server: ServerId) -> usize {
        self.servers[server].life.load(Ordering::Relaxed)
    }

    /// How often a server has written this text.
    pub fn times_said(&self, server: ServerId, text: &str) -> usize {
        std::fs::read_to_string(self.log(server)).map_or(0, |log| log.matches(text).count())
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
        let wiped = this.wiped.load(Ordering::Relaxed);
        if server > 0 || wiped {
            let known = usize::from(self.options.servers).max(server);
            let others = (0..known).filter(|other| *other != server && (wiped || *other < server));
            let others: Vec<&str> = others.map(|other| self.servers[other].peer.as_str()).collect();
            command.args(["--join", &others.join(",")]);
        }
        let started =
            command.spawn().with_context(|| format!("cannot start {}", self.options.program.display()))?;
        *this.pid.lock() = started.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        this.life.fetch_add(1, Ordering::Relaxed);
        *child = Some(started);
        Ok(())
    }

    async fn kill(&self, server: ServerId) -> Result<()> {
        let this = &self.servers[server];
        if let Some(mut child) = this.child.lock().await.take() {
            if child.try_wait()?.is_none() {
                child.start_kill().with_context(|| format!("cannot kill server {server}"))?;
            }
            // One that waits for its disk cannot die before that answers.
            while tokio::time::timeout(Duration::from_millis(20), child.wait()).await.is_err() {
                if let Some(disk) = &this.disk {
                    disk.give_up();
                }
            }
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
