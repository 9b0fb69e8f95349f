//! `kontiki down`: nothing of the cluster is left on the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::layout::Layout;
use super::process::{Daemon, processes_naming, wait_gone};
use super::progress::Step;
use super::{absolute, network};

#[derive(Args, Clone, Debug)]
pub struct DownArgs {
    /// Directory the cluster was made in
    #[arg(long, default_value = ".kontiki")]
    pub dir: PathBuf,
    /// Keep the directory with data and logs
    #[arg(long)]
    pub keep_data: bool,
}

/// Ends processes, unmounts, and removes namespaces, links, routes, cgroups and the directory. Safe to run again.
///
/// # Errors
/// What could not be removed.
pub fn down(args: &DownArgs) -> Result<()> {
    let dir = absolute(&args.dir)?;
    let Some(layout) = Layout::load(&dir)? else {
        eprintln!("there is no cluster in {}", dir.display());
        return Ok(());
    };
    let step = Step::begin("processes");
    let stopped = stop_daemons(&layout) + stop_pods(&layout);
    step.done(&format!("{stopped} stopped"));

    let step = Step::begin("mounts");
    let unmounted = unmount_below(&dir)?;
    step.done(&format!("{unmounted} released"));

    let step = Step::begin("network, cgroups");
    network::remove(&layout);
    for node in 1..=layout.nodes {
        remove_cgroups(&layout.cgroup(node));
    }
    step.done("removed");

    if !args.keep_data {
        let step = Step::begin("data");
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        step.done(&format!("{} removed", dir.display()));
    }
    Ok(())
}

/// Agents first, so that nothing is started anew; servers last.
fn stop_daemons(layout: &Layout) -> usize {
    let nodes = 1..=layout.nodes;
    let names = nodes
        .clone()
        .map(|node| format!("{}-agent", layout.node_name(node)))
        .chain(nodes.map(|node| format!("{}-containerd", layout.node_name(node))))
        .chain((1..=layout.servers).map(|server| format!("server-{server}")))
        .chain(["registry".to_string()]);
    let (run_dir, log_dir) = (layout.run_dir(), layout.log_dir());
    names
        .filter(|name| Daemon { name, run_dir: &run_dir, log_dir: &log_dir }.stop(Duration::from_secs(5)))
        .count()
}

/// Containers, shims and loggers: what runs in the nodes' cgroups, and what names the cluster's directory.
fn stop_pods(layout: &Layout) -> usize {
    let mut all = Vec::new();
    // Killing may uncover more, such as what a shim started a moment ago.
    for _ in 0..5 {
        let mut found: Vec<i32> =
            (1..=layout.nodes).flat_map(|node| processes_in_cgroup(&layout.cgroup(node))).collect();
        found.extend(processes_naming(&layout.dir).into_iter().filter(|&pid| is_ours(pid)));
        found.sort_unstable();
        found.dedup();
        found.retain(|pid| *pid != std::process::id() as i32);
        if found.is_empty() {
            break;
        }
        for &pid in &found {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        for &pid in &found {
            wait_gone(pid, Duration::from_secs(2));
        }
        all.extend(found);
    }
    all.sort_unstable();
    all.dedup();
    all.len()
}

/// A shell standing in the directory, an editor or a pager is not ours.
fn is_ours(pid: i32) -> bool {
    const PROGRAMS: [&str; 5] = ["containerd-shim", "containerd", "runc", "kontiki", "docker-registry"];
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        PROGRAMS.iter().any(|ours| name.starts_with(ours))
    })
}

/// Lazily where it is busy: the last user takes the mount with it.
fn unmount_below(dir: &Path) -> Result<usize> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let mut points: Vec<String> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(|point| point.replace("\\040", " "))
        .filter(|point| Path::new(point).starts_with(dir))
        .collect();
    // The innermost first.
    points.sort_by_key(|point| std::cmp::Reverse(point.len()));
    for point in &points {
        if umount2(point.as_str(), MntFlags::UMOUNT_NOFOLLOW).is_err() {
            umount2(point.as_str(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .with_context(|| format!("cannot unmount {point}"))?;
        }
    }
    Ok(points.len())
}

/// The cgroup's directory in every hierarchy of cgroup v1, and in the unified one.
fn cgroup_dirs(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    hierarchies.chain([root.to_path_buf()]).map(|dir| dir.join(name)).filter(|dir| dir.is_dir()).collect()
}

fn walk(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
    visit(dir);
}

fn processes_in_cgroup(name: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for dir in cgroup_dirs(name) {
        walk(&dir, &mut |dir| {
            let processes = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(processes.lines().filter_map(|line| line.parse::<i32>().ok()));
        });
    }
    found
}

fn remove_cgroups(name: &str) {
    // The kernel may take a moment to let go of the last process.
    for _ in 0..20 {
        let dirs = cgroup_dirs(name);
        if dirs.is_empty() {
            return;
        }
        for dir in dirs {
            walk(&dir, &mut |dir| {
                let _ = fs::remove_dir(dir);
            });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
