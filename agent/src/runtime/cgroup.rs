//! cgroup files, for what containerd and runc do not do: pod-level limits, reading why a container was killed, and
//! removing what is left. Works on v1 hierarchies and on the unified one.

use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

/// Limits of a whole pod; `None` leaves it open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodLimits {
    pub memory_bytes: Option<u64>,
    /// CPU time in microseconds per 100 ms.
    pub cpu_quota: Option<u64>,
    pub cpu_shares: u64,
}

fn unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// The directories a cgroup has: one per v1 hierarchy, or the one of v2.
pub fn directories(cgroup: &str) -> Vec<PathBuf> {
    let relative = cgroup.trim_start_matches('/');
    if unified() {
        return vec![Path::new(ROOT).join(relative)];
    }
    let Ok(entries) = std::fs::read_dir(ROOT) else { return Vec::new() };
    entries
        .flatten()
        // Links such as `cpu` -> `cpu,cpuacct` would name the same directory twice.
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
        .map(|entry| entry.path().join(relative))
        .collect()
}

/// Makes the pod's cgroup and writes its limits. Best effort per file: a kernel without a controller is no error.
pub fn make_pod(cgroup: &str, limits: PodLimits) {
    for dir in directories(cgroup) {
        let hierarchy = dir
            .strip_prefix(ROOT)
            .ok()
            .and_then(|p| p.components().next())
            .map(|c| c.as_os_str().to_string_lossy().into_owned())
            .unwrap_or_default();
        let names = |controller: &str| unified() || hierarchy.split(',').any(|h| h == controller);
        let (cpu, memory) = (names("cpu"), names("memory"));
        if !(cpu || memory) || std::fs::create_dir_all(&dir).is_err() {
            continue;
        }
        let write = |file: &str, value: String| {
            if let Err(error) = std::fs::write(dir.join(file), value) {
                tracing::debug!(%error, file, dir = %dir.display(), "a pod limit was not written");
            }
        };
        match (unified(), limits) {
            (true, l) => {
                if let Some(bytes) = l.memory_bytes {
                    write("memory.max", bytes.to_string());
                }
                if let Some(quota) = l.cpu_quota {
                    write("cpu.max", format!("{quota} 100000"));
                }
                write("cpu.weight", weight(l.cpu_shares).to_string());
            }
            (false, l) => {
                if let (true, Some(bytes)) = (memory, l.memory_bytes) {
                    write("memory.limit_in_bytes", bytes.to_string());
                }
                if let (true, Some(quota)) = (cpu, l.cpu_quota) {
                    write("cpu.cfs_period_us", "100000".into());
                    write("cpu.cfs_quota_us", quota.to_string());
                }
                if cpu {
                    write("cpu.shares", l.cpu_shares.max(2).to_string());
                }
            }
        }
    }
}

/// v1 shares (2–262144) on v2's scale (1–10000).
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// How often the kernel killed a process of this cgroup for memory. 0 where it cannot be read.
pub fn oom_kills(cgroup: &str) -> u64 {
    let relative = cgroup.trim_start_matches('/');
    let file = if unified() {
        Path::new(ROOT).join(relative).join("memory.events")
    } else {
        Path::new(ROOT).join("memory").join(relative).join("memory.oom_control")
    };
    let Ok(text) = std::fs::read_to_string(file) else { return 0 };
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// Removes the cgroup and all below it, in every hierarchy. Returns the directories that could not go, because
/// processes are still in them.
pub fn remove(cgroup: &str) -> Vec<PathBuf> {
    directories(cgroup).into_iter().filter(|dir| dir.exists() && !remove_tree(dir)).collect()
}

fn remove_tree(dir: &Path) -> bool {
    if let Ok(entries) = std::fs::read_dir(dir) {
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            remove_tree(&entry.path());
        }
    }
    std::fs::remove_dir(dir).is_ok() || !dir.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_keep_their_ends_on_the_unified_scale() {
        assert_eq!((weight(2), weight(262_144)), (1, 10_000));
        assert!(weight(1024) > weight(512));
    }
}
