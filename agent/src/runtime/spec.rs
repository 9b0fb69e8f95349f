//! The OCI runtime spec of a container, made from what has been decided about it. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// One bind or special mount of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindMount {
    pub source: String,
    pub destination: String,
    pub read_only: bool,
    /// `private`, `rslave` or `rshared`.
    pub propagation: &'static str,
}

/// Namespaces to join by path. `None` in net or ipc means the node's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    pub net: Option<String>,
    pub ipc: Option<String>,
    pub uts: Option<String>,
    /// The node's processes are visible, instead of a pid namespace of the container's own.
    pub host_pid: bool,
}

/// Who the process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
}

/// Limits of one container; `None` leaves it open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu_shares: u64,
    /// Microseconds per 100 ms.
    pub cpu_quota: Option<i64>,
    pub memory_bytes: Option<i64>,
    pub pids: Option<i64>,
}

/// All that the spec depends on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    pub args: Vec<String>,
    /// `NAME=value`, later ones win.
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: User,
    pub terminal: bool,
    pub read_only_root: bool,
    pub privileged: bool,
    /// `CAP_…`
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub oom_score_adj: i32,
    pub mounts: Vec<BindMount>,
    pub namespaces: Namespaces,
    pub cgroup: String,
    pub limits: Limits,
    pub sysctls: BTreeMap<String, String>,
    pub pod_uid: String,
}

/// What a container gets that asks for nothing: enough to change users and bind low ports, not enough to touch the node.
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Every capability, in the kernel's order of numbers.
pub const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The capabilities a container runs with: the defaults, with what it adds and drops (`ALL` included), or all where
/// it is privileged; never more than the agent's own (`available`), which the kernel would refuse.
pub fn capabilities(privileged: bool, add: &[String], drop: &[String], available: &[&str]) -> Vec<String> {
    let normal = |name: &String| {
        let name = name.to_uppercase();
        if name == "ALL" || name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
    };
    let (add, drop) =
        (add.iter().map(normal).collect::<Vec<_>>(), drop.iter().map(normal).collect::<Vec<_>>());
    let all = |list: &[String]| list.iter().any(|n| n == "ALL");
    ALL_CAPABILITIES
        .iter()
        .filter(|cap| {
            let named = |list: &[String]| list.iter().any(|n| n == *cap);
            let default = DEFAULT_CAPABILITIES.contains(cap) && !all(&drop);
            privileged || named(&add) || ((default || all(&add)) && !named(&drop))
        })
        .filter(|cap| available.contains(cap))
        .map(ToString::to_string)
        .collect()
}

/// The spec as the document runc reads.
pub fn document(c: &Container) -> Value {
    let mut namespaces = vec![json!({"type": "mount"})];
    for (kind, path) in
        [("network", &c.namespaces.net), ("ipc", &c.namespaces.ipc), ("uts", &c.namespaces.uts)]
    {
        if let Some(path) = path {
            namespaces.push(json!({"type": kind, "path": path}));
        }
    }
    if !c.namespaces.host_pid {
        namespaces.push(json!({"type": "pid"}));
    }
    json!({
        "ociVersion": "1.0.2",
        "process": process(c, &c.args, c.terminal),
        "root": {"path": "rootfs", "readonly": c.read_only_root},
        "mounts": mounts(c),
        "annotations": {"io.containerd.runc.v2.group": c.pod_uid},
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": c.cgroup,
            "resources": resources(c),
            "sysctl": c.sysctls,
            "devices": [],
            "maskedPaths": if c.privileged { json!([]) } else { json!(MASKED) },
            "readonlyPaths": if c.privileged { json!([]) } else { json!(READ_ONLY) },
        }
    })
}

/// The process part, also used for further processes in the running container.
pub fn process(c: &Container, args: &[String], terminal: bool) -> Value {
    let mut env = c.env.clone();
    if terminal && !env.iter().any(|e| e.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    json!({
        "terminal": terminal,
        "user": {"uid": c.user.uid, "gid": c.user.gid, "additionalGids": c.user.additional_gids},
        "args": args,
        "env": env,
        "cwd": if c.working_dir.is_empty() { "/" } else { &c.working_dir },
        "capabilities": {
            "bounding": c.capabilities,
            "effective": c.capabilities,
            "permitted": c.capabilities,
        },
        "noNewPrivileges": c.no_new_privileges,
        "oomScoreAdj": c.oom_score_adj,
    })
}

fn mounts(c: &Container) -> Vec<Value> {
    let sys = if c.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", sys]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", sys]}),
    ];
    // Outer directories first, or they would hide what is mounted below them.
    let mut binds = c.mounts.iter().collect::<Vec<_>>();
    binds.sort_by_key(|m| m.destination.trim_end_matches('/').matches('/').count());
    for bind in binds {
        let mode = if bind.read_only { "ro" } else { "rw" };
        mounts.push(json!({
            "destination": bind.destination,
            "type": "bind",
            "source": bind.source,
            "options": ["rbind", bind.propagation, mode],
        }));
    }
    mounts
}

fn resources(c: &Container) -> Value {
    let mut devices = vec![json!({"allow": c.privileged, "access": "rwm"})];
    if !c.privileged {
        // null, full, zero, random, urandom, tty, and terminals.
        for (major, minor) in [(1, 3), (1, 7), (1, 5), (1, 8), (1, 9), (5, 0), (5, 2)] {
            devices
                .push(json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"}));
        }
        devices.push(json!({"allow": true, "type": "c", "major": 136, "access": "rwm"}));
        devices.push(json!({"allow": true, "type": "c", "access": "m"}));
        devices.push(json!({"allow": true, "type": "b", "access": "m"}));
    }
    let mut cpu = json!({"shares": c.limits.cpu_shares.max(2)});
    if let Some(quota) = c.limits.cpu_quota {
        cpu["quota"] = json!(quota);
        cpu["period"] = json!(100_000);
    }
    let mut resources = json!({"devices": devices, "cpu": cpu});
    if let Some(bytes) = c.limits.memory_bytes {
        resources["memory"] = json!({"limit": bytes});
    }
    if let Some(pids) = c.limits.pids {
        resources["pids"] = json!({"limit": pids});
    }
    resources
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn capabilities_are_added_and_dropped_by_either_name() {
        let caps =
            |add: &[&str], drop: &[&str]| capabilities(false, &names(add), &names(drop), &ALL_CAPABILITIES);
        assert_eq!(caps(&[], &[]).len(), DEFAULT_CAPABILITIES.len());
        assert_eq!(caps(&["NET_ADMIN"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert_eq!(caps(&["cap_net_admin"], &["all"]), ["CAP_NET_ADMIN"]);
        assert!(!caps(&["ALL"], &["CHOWN"]).contains(&"CAP_CHOWN".to_string()));
        assert_eq!(caps(&["ALL"], &[]).len(), ALL_CAPABILITIES.len());
    }

    #[test]
    fn what_the_agent_does_not_have_is_not_asked_for() {
        assert_eq!(capabilities(true, &[], &[], &["CAP_CHOWN"]), ["CAP_CHOWN"]);
    }

    #[test]
    fn mounts_go_from_the_outside_in() {
        let bind = |destination: &str| BindMount {
            source: "/x".into(),
            destination: destination.into(),
            read_only: false,
            propagation: "rprivate",
        };
        let container = Container {
            mounts: vec![bind("/data/inner/deep"), bind("/data"), bind("/data/inner/")],
            ..Container::default()
        };
        let document = document(&container);
        let order = document["mounts"].as_array().unwrap().iter().rev().take(3).collect::<Vec<_>>();
        let order = order.iter().rev().map(|m| m["destination"].as_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(order, ["/data", "/data/inner/", "/data/inner/deep"]);
    }

    #[test]
    fn a_host_network_pod_joins_no_network_namespace() {
        let spec = document(&Container::default());
        let kinds = spec["linux"]["namespaces"].as_array().unwrap();
        assert!(!kinds.iter().any(|n| n["type"] == "network"));
    }
}
