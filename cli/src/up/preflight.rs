//! What the machine must have, said before anything is made.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, bail};

use super::layout::Layout;

/// A program, and the Debian package it comes from.
const PROGRAMS: [(&str, &str); 7] = [
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("nft", "nftables"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("docker-registry", "docker-registry"),
    ("busybox", "busybox-static"),
];

/// # Errors
/// Everything that is missing at once, and the command that gets it.
pub fn check(layout: &Layout) -> Result<()> {
    if layout.nodes == 0 {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "nodes need root: network namespaces and containers cannot be made without it\n  \
             run the command again with sudo, or servers alone with `kontiki up --nodes 0`"
        );
    }
    let missing: Vec<_> = PROGRAMS.iter().filter(|(program, _)| find(program).is_none()).collect();
    if !missing.is_empty() {
        let programs = missing.iter().map(|(program, _)| *program).collect::<Vec<_>>().join(", ");
        let packages = missing.iter().map(|(_, package)| *package).collect::<Vec<_>>().join(" ");
        bail!("not found on this machine: {programs}\n  get them with: apt-get install {packages}");
    }
    Ok(())
}

/// Searches `PATH`; see [`search_path`].
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}

/// `PATH` with the directories of administrators' programs, which many users' shells leave out.
pub fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let given: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let more = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    let missing: Vec<PathBuf> = more.into_iter().filter(|dir| !given.contains(dir)).collect();
    std::env::join_paths(given.into_iter().chain(missing)).unwrap_or(path)
}
