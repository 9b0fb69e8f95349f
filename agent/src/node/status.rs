//! The Node object: what this machine has and how it does. Pure, over what has been read.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::Options;
use crate::ctx::Machine;

pub const VERSION: &str = "v1.36.0+kontiki.0.1.0";
const PODS: u32 = 110;

/// What was found out at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// containerd's version, where it answers.
    pub containerd: Option<String>,
    pub network: bool,
    pub memory_available: u64,
    /// Bytes of the file system of pods, and those free.
    pub disk: (u64, u64),
    pub images: Vec<ContainerImage>,
}

/// The node as it registers.
pub fn node(options: &Options) -> Node {
    let arch = crate::image::architecture();
    let mut labels = options.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", options.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ] {
        labels.entry(key.into()).or_insert_with(|| value.into());
    }
    Node {
        metadata: ObjectMeta {
            name: Some(options.node_name.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        ..Node::default()
    }
}

pub fn status(
    options: &Options,
    machine: &Machine,
    found: &Findings,
    old: &NodeStatus,
    now: Timestamp,
) -> NodeStatus {
    let disk_kib = found.disk.0 / 1024;
    let amounts: BTreeMap<String, Quantity> = machine
        .allocatable()
        .into_iter()
        .chain([
            ("pods".to_string(), PODS.to_string()),
            ("ephemeral-storage".to_string(), format!("{disk_kib}Ki")),
        ])
        .map(|(k, v)| (k, Quantity(v)))
        .collect();
    let address = |kind: &str, address: String| NodeAddress { type_: kind.into(), address };
    NodeStatus {
        capacity: Some(amounts.clone()),
        allocatable: Some(amounts),
        addresses: Some(vec![
            address("InternalIP", options.node_ip.to_string()),
            address("Hostname", options.node_name.clone()),
        ]),
        conditions: Some(conditions(found, old, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints::default()),
        images: Some(found.images.clone()),
        node_info: Some(info(found)),
        ..NodeStatus::default()
    }
}

fn conditions(found: &Findings, old: &NodeStatus, now: Timestamp) -> Vec<NodeCondition> {
    let mut missing = Vec::new();
    if found.containerd.is_none() {
        missing.push("container runtime is down");
    }
    if !found.network {
        missing.push("container runtime network not ready: the node has no pod address range yet");
    }
    let ready = missing.is_empty();
    let not_ready = format!("[{}]", missing.join(", "));
    let low_memory = found.memory_available < 100 << 20;
    let low_disk = found.disk.0 > 0 && found.disk.1 < found.disk.0 / 20;
    let all = [
        (
            "MemoryPressure",
            low_memory,
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        (
            "DiskPressure",
            low_disk,
            "KubeletHasDiskPressure",
            "kubelet has disk pressure",
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
        (
            "PIDPressure",
            false,
            "KubeletHasInsufficientPID",
            "kubelet has insufficient PID available",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        (
            "Ready",
            ready,
            "KubeletReady",
            "kubelet is posting ready status",
            "KubeletNotReady",
            not_ready.as_str(),
        ),
    ];
    all.into_iter()
        .map(|(kind, holds, reason, message, else_reason, else_message)| {
            let status = if holds { "True" } else { "False" };
            let before = old.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status);
            NodeCondition {
                type_: kind.into(),
                status: status.into(),
                reason: Some(if holds { reason } else { else_reason }.into()),
                message: Some(if holds { message } else { else_message }.into()),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
            }
        })
        .collect()
}

/// Whether the API has to hear of it before the next round is due.
pub fn differs(a: &NodeStatus, b: &NodeStatus) -> bool {
    let plain = |s: &NodeStatus| {
        let mut s = s.clone();
        for condition in s.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
            condition.last_transition_time = None;
        }
        s
    };
    plain(a) != plain(b)
}

fn info(found: &Findings) -> NodeSystemInfo {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_string();
    let os = read("/etc/os-release");
    let os = os
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_string(), |n| n.trim_matches('"').to_string());
    NodeSystemInfo {
        architecture: crate::image::architecture().into(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: format!(
            "containerd://{}",
            found.containerd.as_deref().unwrap_or("unknown")
        ),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: VERSION.into(),
        machine_id: read("/etc/machine-id"),
        operating_system: "linux".into(),
        os_image: os,
        system_uuid: read("/etc/machine-id"),
        ..NodeSystemInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(found: &Findings) -> (String, String) {
        let all = conditions(found, &NodeStatus::default(), Timestamp::UNIX_EPOCH);
        let ready = all.into_iter().find(|c| c.type_ == "Ready").unwrap();
        (ready.status, ready.message.unwrap())
    }

    #[test]
    fn a_node_is_ready_with_runtime_and_network() {
        let mut found = Findings { memory_available: u64::MAX, ..Findings::default() };
        assert!(ready(&found).1.contains("runtime is down, container runtime network"));
        found.containerd = Some("1.6".into());
        assert_eq!(ready(&found).0, "False");
        found.network = true;
        assert_eq!(ready(&found).0, "True");
    }

    #[test]
    fn a_condition_keeps_the_time_it_changed_at() {
        let found = Findings { containerd: Some("1".into()), network: true, ..Findings::default() };
        let first = conditions(&found, &NodeStatus::default(), Timestamp::UNIX_EPOCH);
        let old = NodeStatus { conditions: Some(first), ..NodeStatus::default() };
        let later = conditions(&found, &old, Timestamp::from_second(60).unwrap());
        assert_eq!(later[3].last_transition_time, Some(Time(Timestamp::UNIX_EPOCH)));
        let newer = NodeStatus { conditions: Some(later), ..NodeStatus::default() };
        assert!(!differs(&old, &newer));
    }
}
