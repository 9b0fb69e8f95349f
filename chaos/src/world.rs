//! The private network of a run.
//!
//! This process moves to a network namespace of its own, the hub, with a bridge in it; each server gets a namespace at
//! the end of a cable. None has a name or a way out, so the kernel removes all of it with the last process that uses it.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

const BRIDGE: &str = "kontiki-c";

/// The network namespace of one server.
#[derive(Clone, Debug)]
pub struct Place {
    netns: Arc<File>,
    cable: Arc<Cable>,
    pub address: Ipv4Addr,
}

/// Taken away with its last user, so that the next server may have the address.
#[derive(Debug)]
struct Cable(String);

impl Drop for Cable {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("link del {}", self.0)) {
            tracing::warn!(%error, "a cable stays until this process ends");
        }
    }
}

/// The address of the hub, where all clients are.
pub const HUB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);

/// Moves this process to a hub of its own. Must be called while it has one thread, so that all later ones are there too.
///
/// # Errors
/// Without root, or without the `ip` program.
pub fn enter() -> Result<()> {
    let threads = std::fs::read_dir("/proc/self/task").context("cannot read /proc/self/task")?.count();
    if threads != 1 {
        bail!("the hub must be entered before any thread is started");
    }
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace; this needs root")?;
    private_mounts()?;
    ip("link set lo up")?;
    ip(&format!("link add {BRIDGE} type bridge"))?;
    ip(&format!("addr add {HUB}/24 dev {BRIDGE}"))?;
    ip(&format!("link set {BRIDGE} up"))
}

/// Moves this thread, and those it starts, to a mount namespace of its own: what is mounted there is gone with the last
/// process that lives in it.
///
/// # Errors
/// Without root.
pub fn private_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace; this needs root")?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context("cannot make mounts private")
}

fn ip(arguments: &str) -> Result<()> {
    run("ip", &arguments.split(' ').collect::<Vec<_>>())
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}; the packages iproute2 and nftables are needed"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// What a server cannot reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The other servers; its clients are still there.
    Peers,
    /// Clients, and not the other servers.
    Clients,
    /// Both.
    All,
}

impl Place {
    /// Makes the namespace and its cable to the hub, in which this process must be.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn new(number: u8) -> Result<Place> {
        let made = std::thread::spawn(|| -> std::io::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let netns = match made.join() {
            Ok(made) => made.context("cannot make a network namespace")?,
            Err(_) => bail!("the thread that makes a network namespace died"),
        };
        let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
        let cable = format!("{BRIDGE}{number}");
        ip(&format!("link add {cable} type veth peer name eth0 netns {path}"))?;
        let place = Place {
            netns: Arc::new(netns),
            cable: Arc::new(Cable(cable)),
            address: Ipv4Addr::new(10, 77, 0, number),
        };
        ip(&format!("link set {} master {BRIDGE} up", place.cable.0))?;
        place.run("ip", &["link", "set", "lo", "up"])?;
        place.run("ip", &["addr", "add", &format!("{}/24", place.address), "dev", "eth0"])?;
        place.run("ip", &["link", "set", "eth0", "up"])?;
        Ok(place)
    }

    /// The namespace, to be entered before a program is executed.
    pub fn netns(&self) -> Arc<File> {
        Arc::clone(&self.netns)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let (netns, program) = (self.netns(), program.to_owned());
        let thread = std::thread::spawn(move || {
            setns(&*netns, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
            run(&program, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
        });
        thread.join().unwrap_or_else(|_| bail!("the thread that ran a program died"))
    }

    /// Drops packets without a word, in both directions, as a broken switch does.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn cut(&self, cut: Cut) -> Result<()> {
        let (inbound, outbound) = match cut {
            Cut::Peers => (format!("ip saddr != {HUB}"), format!("ip daddr != {HUB}")),
            Cut::Clients => (format!("ip saddr {HUB}"), format!("ip daddr {HUB}")),
            Cut::All => ("ip saddr 0.0.0.0/0".to_owned(), "ip daddr 0.0.0.0/0".to_owned()),
        };
        let rules = format!(
            "add table inet kontiki; delete table inet kontiki; add table inet kontiki; \
             add chain inet kontiki in {{ type filter hook input priority 0; }}; \
             add chain inet kontiki out {{ type filter hook output priority 0; }}; \
             add rule inet kontiki in iif eth0 {inbound} drop; add rule inet kontiki out oif eth0 {outbound} drop"
        );
        self.run("nft", &[&rules])
    }

    /// Undoes [`Place::cut`].
    ///
    /// # Errors
    /// What `nft` says.
    pub fn heal(&self) -> Result<()> {
        self.run("nft", &["add table inet kontiki; delete table inet kontiki"])
    }
}
