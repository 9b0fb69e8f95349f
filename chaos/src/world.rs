//! The private network of a run.
//!
//! This process moves to a network namespace of its own, the hub, with a bridge in it; each server gets a namespace at
//! the end of a cable. None has a name or a way out, so the kernel removes all of it with the last process that uses it.

use std::collections::BTreeSet;
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

/// What is wrong with the network at one place; nothing by default. Packets are dropped where they arrive, so that one
/// direction alone can be cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Places whose packets do not arrive.
    pub deaf_to: BTreeSet<Ipv4Addr>,
    /// Of a hundred packets from other servers, so many are lost.
    pub loss: u8,
    /// Packets of the peer port are answered with a reset, from everyone.
    pub resets: Option<u16>,
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

    /// Puts this trouble in the place of what there was.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn hurt(&self, trouble: &Trouble) -> Result<()> {
        let mut rules = String::from("add table inet kontiki; delete table inet kontiki");
        if *trouble != Trouble::default() {
            rules += "; add table inet kontiki; \
                      add chain inet kontiki in { type filter hook input priority 0; }";
        }
        for address in &trouble.deaf_to {
            rules += &format!("; add rule inet kontiki in ip saddr {address} drop");
        }
        if trouble.loss > 0 {
            let odds = format!("numgen random mod 100 < {}", trouble.loss);
            rules += &format!("; add rule inet kontiki in iif eth0 ip saddr != {HUB} {odds} drop");
        }
        if let Some(port) = trouble.resets {
            for side in ["dport", "sport"] {
                rules += &format!("; add rule inet kontiki in tcp {side} {port} reject with tcp reset");
            }
        }
        self.run("nft", &[&rules])
    }

    /// Makes the cable of this place a slow one, with a queue, so that packets are late and, when it is full, lost; `None`
    /// makes it a good one. By `netem`, with latency and loss, where the kernel has that.
    ///
    /// # Errors
    /// What `tc` says.
    pub fn slow(&self, slow: bool) -> Result<&'static str> {
        let tc = |rule: &str| self.run("tc", &rule.split(' ').collect::<Vec<_>>());
        if !slow {
            return tc("qdisc del dev eth0 root").map(|()| "");
        }
        match tc("qdisc add dev eth0 root netem delay 40ms 20ms loss 1%") {
            Ok(()) => Ok("40 ms late, 1 % lost (netem)"),
            Err(_) => {
                tc("qdisc add dev eth0 root tbf rate 1mbit burst 8kb latency 300ms")?;
                Ok("a queue of up to 300 ms at 1 Mbit/s (the kernel has no netem)")
            }
        }
    }
}
