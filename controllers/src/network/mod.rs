//! Controllers that tell the network which pods stand behind which service.

pub mod endpoint_slices;
pub mod endpoints;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerPort, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::objects::{Labels, is_finished, namespace_of};
use crate::runtime::{Key, World};

/// Label of slices and endpoints of a service without an address of its own.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// A port of a service as one pod serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    pub name: String,
    pub protocol: String,
    pub number: i32,
    pub application: Option<String>,
}

pub fn selector(service: &Service) -> Option<&Labels> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

fn chosen(selector: &Labels, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// The services a change of a pod concerns.
pub fn services_of(world: &World, old: Option<&Pod>, new: Option<&Pod>) -> Vec<Key> {
    let Some(namespace) = old.or(new).map(namespace_of) else { return Vec::new() };
    let concerns = |service: &Arc<Service>| {
        selector(service).is_some_and(|s| [old, new].into_iter().flatten().any(|pod| chosen(s, pod)))
    };
    world.services.within(namespace).filter(|s| concerns(s)).map(|s| Key::of(s.as_ref())).collect()
}

/// The pods behind a service that can be addressed, by name.
pub fn pods_behind(world: &World, service: &Service) -> Vec<Arc<Pod>> {
    let Some(selector) = selector(service) else { return Vec::new() };
    world
        .pods
        .within(namespace_of(service))
        .filter(|pod| chosen(selector, pod) && !is_finished(pod) && !addresses(pod).is_empty())
        .cloned()
        .collect()
}

/// All addresses of a pod, the primary one first.
pub fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    let mut addresses: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    if addresses.is_empty() {
        addresses.extend(status.pod_ip.as_deref());
    }
    addresses.retain(|address| !address.is_empty());
    addresses
}

/// The service's ports as this pod serves them; a named port the pod does not have is left out.
pub fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let mut resolved: Vec<Port> = ports
        .iter()
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                number: resolve(port, pod)?,
                application: port.app_protocol.clone(),
            })
        })
        .collect();
    resolved.sort();
    resolved
}

fn resolve(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let serves = |container: &&ContainerPort| {
                container.name.as_deref() == Some(name)
                    && container.protocol.as_deref().unwrap_or("TCP") == protocol
            };
            let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
            ports.filter(|port| serves(port)).map(|port| port.container_port).next()
        }
    }
}

pub fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// The host name a pod has in the DNS of its service.
pub fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_deref().filter(|name| !name.is_empty())?;
    (spec.subdomain.as_deref() == service.metadata.name.as_deref()).then(|| hostname.to_string())
}
