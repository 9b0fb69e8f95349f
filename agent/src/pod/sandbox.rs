//! What a pod's containers share: namespaces pinned by bind mounts (there is no pause container), files under `/etc`,
//! shared memory. Everything is idempotent; the namespaces are lost on reboot, as a pause container's would be.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::dirs::{PodDir, write};
use super::model::{name, namespace};

/// Names the cluster's DNS for resolv.conf.
#[derive(Clone, Debug)]
pub struct Dns {
    pub server: IpAddr,
    pub domain: String,
}

pub fn host_network(spec: &PodSpec) -> bool {
    spec.host_network == Some(true)
}

/// The name a pod's processes see. A host-network pod sees the node's.
pub fn hostname(pod: &Pod, node: &str) -> String {
    let Some(spec) = &pod.spec else { return name(pod).into() };
    if host_network(spec) {
        return node.into();
    }
    let wanted = spec.hostname_override.as_deref().or(spec.hostname.as_deref()).unwrap_or(name(pod));
    // The kernel holds 64 bytes; a label of DNS 63.
    wanted.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).into()
}

/// Makes directory, namespaces and shared memory. Blocks for some milliseconds.
pub fn make(dir: &PodDir, pod: &Pod, node: &str) -> io::Result<()> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    std::fs::create_dir_all(dir.path().join("_ns"))?;
    std::fs::create_dir_all(dir.path().join("_etc"))?;
    let mut kinds = vec![("uts", CloneFlags::CLONE_NEWUTS)];
    if !host_network(spec) {
        kinds.push(("net", CloneFlags::CLONE_NEWNET));
    }
    if spec.host_ipc != Some(true) {
        kinds.push(("ipc", CloneFlags::CLONE_NEWIPC));
        let shm = dir.shm();
        std::fs::create_dir_all(&shm)?;
        if !is_mount_point(&shm) {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("shm"), &shm, Some("tmpfs"), flags, Some("mode=1777,size=65536k"))?;
        }
    }
    let hostname = hostname(pod, node);
    for (kind, flag) in kinds {
        pin(&dir.namespace(kind), kind, flag, &hostname)?;
    }
    Ok(())
}

/// A new namespace, kept by a bind mount over `path`. One that is pinned there already stays.
fn pin(path: &Path, kind: &'static str, flag: CloneFlags, hostname: &str) -> io::Result<()> {
    if is_namespace(path) {
        return Ok(());
    }
    std::fs::File::create(path)?;
    let (path, hostname) = (path.to_path_buf(), hostname.to_string());
    // The thread leaves the namespaces of the process, and ends with them.
    std::thread::spawn(move || -> io::Result<()> {
        unshare(flag)?;
        if kind == "uts" {
            nix::unistd::sethostname(&hostname)?;
        }
        let own = format!("/proc/thread-self/ns/{kind}");
        mount(Some(own.as_str()), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    })
    .join()
    .map_err(|_| io::Error::other("the thread that makes a namespace panicked"))?
}

fn is_namespace(path: &Path) -> bool {
    const NSFS: libc::__fsword_t = 0x6e73_6673;
    nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type().0 == NSFS)
}

pub fn is_mount_point(path: &Path) -> bool {
    mounts_below(path).iter().any(|m| m == path)
}

/// The mount points at or below a directory, deepest first.
pub fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let Ok(table) = std::fs::read_to_string("/proc/self/mountinfo") else { return Vec::new() };
    let mut found = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .filter(|point| point.starts_with(path))
        .collect::<Vec<_>>();
    found.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    found
}

/// mountinfo writes blanks and backslashes as octal numbers.
fn unescape(field: &str) -> String {
    let mut out = Vec::new();
    let bytes = field.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\')
            .then(|| field.get(at + 1..at + 4).and_then(|d| u8::from_str_radix(d, 8).ok()))
            .flatten();
        match octal {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Unmounts everything of the pod and removes what is not a record or a log.
pub fn unmake(dir: &PodDir) -> io::Result<()> {
    for point in mounts_below(dir.path()) {
        umount2(&point, MntFlags::MNT_DETACH)?;
    }
    for part in ["_ns", "_etc", "_shm", "_volumes", "_secrets"] {
        match std::fs::remove_dir_all(dir.path().join(part)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Writes `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`, and returns them by name.
pub fn write_etc(dir: &PodDir, pod: &Pod, node: &str, ips: &[IpAddr], dns: &Dns) -> io::Result<()> {
    let hostname = hostname(pod, node);
    let host = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    put(&dir.etc("hostname"), &format!("{hostname}\n"))?;
    put(&dir.etc("hosts"), &hosts(pod, &hostname, ips, &dns.domain, &host("/etc/hosts")))?;
    put(&dir.etc("resolv.conf"), &resolv_conf(pod, dns, &host("/etc/resolv.conf")))
}

/// In place where it is there: running containers have the file itself mounted.
fn put(path: &Path, content: &str) -> io::Result<()> {
    match std::fs::read_to_string(path) {
        Ok(old) if old == content => Ok(()),
        Ok(_) => std::fs::write(path, content),
        Err(_) => write(path, content.as_bytes()),
    }
}

fn hosts(pod: &Pod, hostname: &str, ips: &[IpAddr], domain: &str, host: &str) -> String {
    let Some(spec) = &pod.spec else { return String::new() };
    let mut text = String::from("# Written by the node's agent for this pod.\n");
    if host_network(spec) {
        text.push_str(host);
    } else {
        text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        text.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
        let full = spec
            .subdomain
            .as_deref()
            .filter(|s| !s.is_empty())
            .map(|sub| format!("{hostname}.{sub}.{}.svc.{domain}\t", namespace(pod)))
            .unwrap_or_default();
        for ip in ips {
            text.push_str(&format!("{ip}\t{full}{hostname}\n"));
        }
    }
    for alias in spec.host_aliases.iter().flatten() {
        let names = alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

fn resolv_conf(pod: &Pod, dns: &Dns, host: &str) -> String {
    let Some(spec) = &pod.spec else { return String::new() };
    let (mut servers, mut searches, mut options) = (Vec::new(), Vec::new(), Vec::new());
    let policy = match (spec.dns_policy.as_deref(), host_network(spec)) {
        (Some("None"), _) => "None",
        (Some("Default"), _) | (Some("ClusterFirst") | None, true) => "Default",
        _ => "ClusterFirst",
    };
    match policy {
        "None" => {}
        "Default" => {
            for line in host.lines() {
                let mut words = line.split_whitespace();
                match words.next() {
                    Some("nameserver") => servers.extend(words.map(String::from)),
                    Some("search") => searches = words.map(String::from).collect(),
                    Some("options") => options.extend(words.map(String::from)),
                    _ => {}
                }
            }
        }
        _ => {
            servers.push(dns.server.to_string());
            let domain = &dns.domain;
            searches =
                vec![format!("{}.svc.{domain}", namespace(pod)), format!("svc.{domain}"), domain.clone()];
            options.push("ndots:5".into());
        }
    }
    if let Some(config) = &spec.dns_config {
        servers.extend(config.nameservers.iter().flatten().cloned());
        searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(option_name) = &option.name else { continue };
            // The pod's own setting replaces the cluster's.
            options.retain(|o| o.split(':').next() != Some(option_name));
            options.push(match option.value.as_deref() {
                Some(value) => format!("{option_name}:{value}"),
                None => option_name.clone(),
            });
        }
    }
    let mut text = String::new();
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    for server in servers.iter().take(3) {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn resolve(spec: Value) -> String {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d"}, "spec": spec}))
                .unwrap();
        let dns = Dns { server: "10.96.0.10".parse().unwrap(), domain: "cluster.local".into() };
        resolv_conf(&pod, &dns, "nameserver 192.0.2.1\nsearch example.org\n")
    }

    #[test]
    fn the_dns_policy_says_who_is_asked() {
        let cluster = "search d.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";
        let node = "search example.org\nnameserver 192.0.2.1\n";
        assert_eq!(resolve(json!({})), cluster);
        assert_eq!(resolve(json!({"hostNetwork": true})), node);
        assert_eq!(resolve(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})), cluster);
        assert_eq!(resolve(json!({"dnsPolicy": "Default"})), node);
        let own = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.9"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]}});
        assert_eq!(resolve(own), "nameserver 192.0.2.9\noptions ndots:2 rotate\n");
    }

    #[test]
    fn a_pods_own_option_replaces_the_clusters() {
        let text = resolve(json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}));
        assert!(text.ends_with("options ndots:1\n"), "{text}");
    }

    #[test]
    fn mount_points_with_blanks_are_read_back() {
        assert_eq!(unescape("/a\\040b"), "/a b");
    }
}
