//! Endpoints: the older form of the same news, one object for each service, for clients that still read it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::endpoint_slices::target;
use super::{
    HEADLESS, Port, addresses, hostname, is_headless, pods_behind, ports, publishes_unready, selector,
    services_of,
};
use crate::objects::{Labels, is_deleting, is_ready, name_of, node_name};
use crate::runtime::{Action, Controller, Key, Now, Plan, World};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one object; readers of large services use slices.
const CAPACITY: usize = 1000;

pub fn controller() -> Controller {
    Controller::new("endpoints", reconcile).of::<Service>().of::<Endpoints>().watching::<Pod>(services_of)
}

pub fn reconcile(world: &World, key: &Key, _now: &Now) -> Plan {
    let mut plan = Plan::none();
    let present = world.endpoints.get(key);
    let Some(service) = world.services.get(key) else {
        let ours = |endpoints: &Endpoints| {
            let labels = endpoints.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|manager| manager == MANAGER)
        };
        if let Some(endpoints) = present.filter(|e| ours(e) && !is_deleting(e.as_ref())) {
            plan.push(Action::delete(endpoints.as_ref()));
        }
        return plan;
    };
    if selector(service).is_none() || is_deleting(service.as_ref()) {
        return plan;
    }
    let mut groups: BTreeMap<Vec<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let mut count = 0;
    let mut cut = false;
    for pod in pods_behind(world, service) {
        if is_deleting(pod.as_ref()) && !publishes_unready(service) {
            continue;
        }
        let Some(&address) = addresses(&pod).first() else { continue };
        if count == CAPACITY {
            cut = true;
            break;
        }
        count += 1;
        let ports = ports(service, &pod);
        if ports.is_empty() && !is_headless(service) {
            continue;
        }
        let address = EndpointAddress {
            ip: address.into(),
            hostname: hostname(service, &pod),
            node_name: Some(node_name(&pod).to_string()).filter(|node| !node.is_empty()),
            target_ref: Some(target(&pod)),
        };
        let (ready, unready) = groups.entry(ports).or_default();
        if is_ready(&pod) || publishes_unready(service) { ready.push(address) } else { unready.push(address) }
    }
    let subsets: Vec<_> =
        groups.into_iter().map(|(ports, (ready, unready))| subset(ports, ready, unready)).collect();
    let subsets = (!subsets.is_empty()).then_some(subsets);
    let labels = labels(service);
    match present {
        None => {
            let mut metadata = ObjectMeta {
                namespace: service.metadata.namespace.clone(),
                name: Some(name_of(service.as_ref()).into()),
                labels: Some(labels),
                ..ObjectMeta::default()
            };
            mark_capacity(&mut metadata, cut);
            plan.push(Action::create(&Endpoints { metadata, subsets }));
        }
        Some(present) => {
            let mut new = (**present).clone();
            new.metadata.labels = Some(labels);
            new.subsets = subsets;
            mark_capacity(&mut new.metadata, cut);
            if new != **present && !is_deleting(present.as_ref()) {
                plan.push(Action::update(&new));
            }
        }
    }
    plan
}

fn labels(service: &Service) -> Labels {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels
}

fn mark_capacity(metadata: &mut ObjectMeta, cut: bool) {
    if cut {
        metadata.annotations.get_or_insert_default().insert(OVER_CAPACITY.into(), "truncated".into());
    } else if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(OVER_CAPACITY);
    }
}

fn subset(ports: Vec<Port>, ready: Vec<EndpointAddress>, unready: Vec<EndpointAddress>) -> EndpointSubset {
    let some = |list: Vec<EndpointAddress>| (!list.is_empty()).then_some(list);
    let ports: Vec<_> = ports
        .into_iter()
        .map(|port| EndpointPort {
            name: Some(port.name).filter(|name| !name.is_empty()),
            protocol: Some(port.protocol),
            port: port.number,
            app_protocol: port.application,
        })
        .collect();
    EndpointSubset {
        addresses: some(ready),
        not_ready_addresses: some(unready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}
