//! Nodes and the pods on them, as the scheduler sees them.
//!
//! A pod counts on its node from the moment it is assumed there, before its binding is written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Affinity, Node, Pod, Taint, Toleration, TopologySpreadConstraint};
use kontiki_proto::quantity::Quantity;
use smol_str::SmolStr;

use super::resources::{Resources, needs, weight};
use crate::objects::{Labels, controller_of, is_deleting, is_finished, node_name};
use crate::runtime::Key;

pub type Uid = SmolStr;

/// A port on the host: protocol, address (empty for all), number.
pub type HostPort = (String, String, i32);

/// What the scheduler remembers of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodInfo {
    pub key: Key,
    pub uid: Uid,
    pub labels: Labels,
    pub priority: i32,
    /// Seconds since 1970; pods of one priority go in the order they came.
    pub created: i64,
    pub owner: Option<Uid>,
    pub needs: Resources,
    pub weight: (i64, i64),
    pub ports: Vec<HostPort>,
    pub tolerations: Vec<Toleration>,
    pub node_selector: Labels,
    pub affinity: Option<Box<Affinity>>,
    pub spread: Vec<TopologySpreadConstraint>,
    pub deleting: bool,
}

impl PodInfo {
    pub fn of(pod: &Pod) -> PodInfo {
        let spec = pod.spec.clone().unwrap_or_default();
        let needs = needs(pod);
        let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
        let ports = ports.filter_map(|port| {
            let number = port.host_port.filter(|&number| number > 0)?;
            let address = port.host_ip.clone().filter(|ip| ip != "0.0.0.0").unwrap_or_default();
            Some((port.protocol.clone().unwrap_or_else(|| "TCP".into()), address, number))
        });
        PodInfo {
            key: Key::of(pod),
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            created: pod.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            owner: controller_of(&pod.metadata).map(|owner| owner.uid.as_str().into()),
            weight: weight(pod, &needs),
            needs,
            ports: ports.collect(),
            tolerations: spec.tolerations.unwrap_or_default(),
            node_selector: spec.node_selector.unwrap_or_default(),
            affinity: spec.affinity.map(Box::new),
            spread: spec.topology_spread_constraints.unwrap_or_default(),
            deleting: is_deleting(pod),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub name: SmolStr,
    pub labels: Labels,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub most_pods: usize,
    pub used: Resources,
    pub weight: (i64, i64),
    pub pods: HashMap<Uid, Arc<PodInfo>>,
    /// Pods on the node by their controlling owner.
    pub owners: HashMap<Uid, usize>,
    /// Whether the node itself is known, or only pods that name it.
    pub known: bool,
}

impl NodeInfo {
    /// A node without pods.
    pub fn of(node: &Node) -> NodeInfo {
        let mut info = NodeInfo::default();
        info.describe(node);
        info
    }

    fn describe(&mut self, node: &Node) {
        let spec = node.spec.clone().unwrap_or_default();
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        self.name = node.metadata.name.as_deref().unwrap_or_default().into();
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        self.taints = spec.taints.unwrap_or_default();
        self.unschedulable = spec.unschedulable == Some(true);
        self.allocatable = Resources::of(allocatable);
        let pods =
            allocatable.and_then(|list| list.get("pods")).and_then(|text| Quantity::parse(&text.0).ok());
        self.most_pods = pods.and_then(|quantity| usize::try_from(quantity.value()).ok()).unwrap_or(0);
        self.known = true;
    }

    fn put(&mut self, pod: Arc<PodInfo>) {
        self.take(&pod.uid);
        self.used.add(&pod.needs);
        self.weight = (self.weight.0 + pod.weight.0, self.weight.1 + pod.weight.1);
        if let Some(owner) = &pod.owner {
            *self.owners.entry(owner.clone()).or_default() += 1;
        }
        self.pods.insert(pod.uid.clone(), pod);
    }

    fn take(&mut self, uid: &Uid) {
        let Some(pod) = self.pods.remove(uid) else { return };
        self.used.subtract(&pod.needs);
        self.weight = (self.weight.0 - pod.weight.0, self.weight.1 - pod.weight.1);
        if let Some(owner) = &pod.owner
            && let Some(count) = self.owners.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(owner);
            }
        }
    }
}

/// What a change in the cluster means for pods that found no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Nothing,
    /// There may be room now.
    Room,
}

#[derive(Default)]
pub struct Snapshot {
    nodes: BTreeMap<SmolStr, NodeInfo>,
    places: HashMap<Uid, SmolStr>,
    assumed: HashSet<Uid>,
    pub namespaces: HashMap<SmolStr, Labels>,
    /// How many placed pods have required anti-affinity of their own; with none, nobody has to look for them.
    pub repelling: usize,
}

pub fn repels(pod: &PodInfo) -> bool {
    let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    affinity.is_some_and(|a| {
        a.required_during_scheduling_ignored_during_execution.as_ref().is_some_and(|terms| !terms.is_empty())
    })
}

impl Snapshot {
    /// The nodes pods may go to, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|node| node.known)
    }

    pub fn put_node(&mut self, node: &Node) -> Effect {
        let name: SmolStr = node.metadata.name.as_deref().unwrap_or_default().into();
        let info = self.nodes.entry(name).or_default();
        let view = |info: &NodeInfo| {
            (
                info.known,
                info.labels.clone(),
                info.taints.clone(),
                info.unschedulable,
                info.allocatable.clone(),
                info.most_pods,
            )
        };
        let before = view(info);
        info.describe(node);
        if view(info) == before { Effect::Nothing } else { Effect::Room }
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.get_mut(name) {
            info.known = false;
            if info.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }

    pub fn node_names(&self) -> Vec<SmolStr> {
        self.nodes().map(|node| node.name.clone()).collect()
    }

    /// Takes note of a pod as the API has it.
    pub fn put_pod(&mut self, pod: &Pod) -> Effect {
        let uid: Uid = pod.metadata.uid.as_deref().unwrap_or_default().into();
        if is_finished(pod) {
            return self.remove_pod(&uid);
        }
        let node = node_name(pod);
        if node.is_empty() {
            // Not bound yet; where it is assumed, it stays.
            return Effect::Nothing;
        }
        self.assumed.remove(&uid);
        self.place(Arc::new(PodInfo::of(pod)), node);
        Effect::Nothing
    }

    pub fn remove_pod(&mut self, uid: &Uid) -> Effect {
        self.assumed.remove(uid);
        if self.displace(uid) { Effect::Room } else { Effect::Nothing }
    }

    /// Counts the pod on the node until the API says where it is, or [`Snapshot::forget`] is called.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.assumed.insert(pod.uid.clone());
        self.place(pod, node);
    }

    /// Takes back an assumption that did not come true.
    pub fn forget(&mut self, uid: &Uid) {
        if self.assumed.remove(uid) {
            self.displace(uid);
        }
    }

    pub fn is_placed(&self, uid: &Uid) -> bool {
        self.places.contains_key(uid)
    }

    pub fn placed(&self) -> Vec<Uid> {
        self.places.keys().filter(|uid| !self.assumed.contains(*uid)).cloned().collect()
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.displace(&pod.uid);
        self.repelling += usize::from(repels(&pod));
        self.places.insert(pod.uid.clone(), node.into());
        self.nodes.entry(node.into()).or_default().put(pod);
    }

    fn displace(&mut self, uid: &Uid) -> bool {
        let Some(node) = self.places.remove(uid) else { return false };
        if let Some(info) = self.nodes.get_mut(&node) {
            self.repelling -= info.pods.get(uid).map_or(0, |pod| usize::from(repels(pod)));
            info.take(uid);
            if !info.known && info.pods.is_empty() {
                self.nodes.remove(&node);
            }
        }
        true
    }
}
