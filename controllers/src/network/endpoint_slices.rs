//! EndpointSlices: the pods behind each service, a hundred to a slice.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{
    HEADLESS, Port, addresses, hostname, is_headless, pods_behind, ports, publishes_unready, selector,
    services_of,
};
use crate::objects::{
    Labels, controlling_reference, is_controlled_by, is_deleting, is_ready, name_of, namespace_of, node_name,
};
use crate::runtime::{Action, Controller, Key, Now, Plan, World};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Endpoints in one slice.
const FULL: usize = 100;

pub fn controller() -> Controller {
    Controller::new("endpoint-slices", reconcile)
        .of::<Service>()
        .watching::<Pod>(services_of)
        .watching::<EndpointSlice>(|_, old, new| {
            let mut keys = Vec::new();
            for slice in [old, new].into_iter().flatten() {
                if let Some(service) = service_of(slice) {
                    let key = Key::new(namespace_of(slice), service);
                    if !keys.contains(&key) {
                        keys.push(key);
                    }
                }
            }
            keys
        })
}

fn service_of(slice: &EndpointSlice) -> Option<&str> {
    let labels = slice.metadata.labels.as_ref()?;
    (labels.get(MANAGED_BY)? == MANAGER).then(|| labels.get(SERVICE_NAME).map(String::as_str)).flatten()
}

/// What endpoints must have in common to share a slice: address type and ports.
type Group = (String, Vec<Port>);

pub fn reconcile(world: &World, key: &Key, _now: &Now) -> Plan {
    let mut plan = Plan::none();
    let Some(service) = world.services.get(key).filter(|service| !is_deleting(service.as_ref())) else {
        // The slices are owned by the service and go with it.
        return plan;
    };
    if selector(service).is_none() {
        return plan;
    }
    let mut wanted: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    for family in families(service) {
        for pod in pods_behind(world, service) {
            let of_family = |address: &&str| address.contains(':') == (family == "IPv6");
            let Some(address) = addresses(&pod).into_iter().find(of_family).map(str::to_string) else {
                continue;
            };
            let group = (family.clone(), ports(service, &pod));
            wanted.entry(group).or_default().push(endpoint(world, service, &pod, address));
        }
        // A service without endpoints has an empty slice, so that its absence of endpoints is seen too.
        if !wanted.keys().any(|(known, _)| *known == family) {
            wanted.insert((family, Vec::new()), Vec::new());
        }
    }

    let present: Vec<_> = world
        .endpoint_slices
        .within(&key.namespace)
        .filter(|slice| service_of(slice) == Some(key.name.as_str()) && !is_deleting(slice.as_ref()))
        .collect();
    let labels = labels(service);
    let mut slices: Vec<(Option<&EndpointSlice>, EndpointSlice)> = Vec::new();
    let mut surplus: Vec<&EndpointSlice> = Vec::new();
    for (group, endpoints) in wanted {
        let mut left: HashMap<String, Endpoint> =
            endpoints.iter().map(|endpoint| (identity(endpoint), endpoint.clone())).collect();
        let mut kept: Vec<(Option<&EndpointSlice>, EndpointSlice)> = Vec::new();
        for slice in present.iter().filter(|slice| group_of(slice) == group) {
            let mut new = (***slice).clone();
            let stay = new.endpoints.iter().flatten().filter_map(|old| left.remove(&identity(old))).collect();
            new.endpoints = Some(stay);
            kept.push((Some(slice.as_ref()), new));
        }
        let mut rest: Vec<Endpoint> =
            endpoints.into_iter().filter_map(|endpoint| left.remove(&identity(&endpoint))).collect();
        for (_, slice) in &mut kept {
            let inside = slice.endpoints.get_or_insert_default();
            let room = FULL.saturating_sub(inside.len()).min(rest.len());
            inside.extend(rest.drain(..room));
        }
        while !rest.is_empty() {
            let part = rest.drain(..rest.len().min(FULL)).collect();
            kept.push((None, new_slice(service, &group, part)));
        }
        if kept.is_empty() {
            kept.push((None, new_slice(service, &group, Vec::new())));
        }
        // Of slices that ran empty one is enough, and none where others have endpoints.
        let mut filled = kept.iter().any(|(_, slice)| slice.endpoints.iter().flatten().next().is_some());
        for (before, slice) in kept {
            if slice.endpoints.as_ref().is_none_or(Vec::is_empty) && std::mem::replace(&mut filled, true) {
                surplus.extend(before);
            } else {
                slices.push((before, slice));
            }
        }
    }
    let known: Vec<Group> = slices.iter().map(|(_, slice)| group_of(slice)).collect();
    surplus
        .extend(present.iter().map(|slice| slice.as_ref()).filter(|slice| !known.contains(&group_of(slice))));

    for (before, mut slice) in slices {
        let custom = slice.metadata.labels.get_or_insert_default();
        *custom = labels.clone();
        if slice.endpoints.as_ref().is_some_and(Vec::is_empty)
            && before.is_some_and(|b| b.endpoints.is_none())
        {
            slice.endpoints = None;
        }
        match before {
            None => plan.push(Action::create(&slice)),
            Some(before) => {
                if !is_controlled_by(&slice, service.as_ref()) {
                    slice.metadata.owner_references = Some(vec![controlling_reference(service.as_ref())]);
                }
                if *before != slice {
                    plan.push(Action::update(&slice));
                }
            }
        }
    }
    for slice in surplus {
        plan.push(Action::delete(slice));
    }
    plan
}

fn families(service: &Service) -> Vec<String> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    if families.is_empty() { vec!["IPv4".into()] } else { families }
}

fn labels(service: &Service) -> Labels {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name_of(service).into());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels
}

fn group_of(slice: &EndpointSlice) -> Group {
    let mut ports: Vec<Port> = slice
        .ports
        .iter()
        .flatten()
        .map(|port| Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            number: port.port.unwrap_or(0),
            application: port.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    (slice.address_type.clone(), ports)
}

fn identity(endpoint: &Endpoint) -> String {
    match endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()) {
        Some(uid) => uid,
        None => endpoint.addresses.join(","),
    }
}

fn endpoint(world: &World, service: &Service, pod: &Pod, address: String) -> Endpoint {
    let terminating = is_deleting(pod);
    let serving = is_ready(pod);
    let node = Some(node_name(pod)).filter(|node| !node.is_empty());
    let zone = node
        .and_then(|node| world.nodes.find("", node))
        .and_then(|node| node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE)).cloned());
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(publishes_unready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: node.map(str::to_string),
        target_ref: Some(target(pod)),
        zone,
        ..Endpoint::default()
    }
}

pub(super) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

fn new_slice(service: &Service, (family, ports): &Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let ports = ports.iter().map(|port| EndpointPort {
        name: Some(port.name.clone()),
        protocol: Some(port.protocol.clone()),
        port: Some(port.number),
        app_protocol: port.application.clone(),
    });
    EndpointSlice {
        address_type: family.clone(),
        endpoints: Some(endpoints),
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name_of(service))),
            namespace: service.metadata.namespace.clone(),
            owner_references: Some(vec![controlling_reference(service)]),
            ..ObjectMeta::default()
        },
        ports: Some(ports.collect()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::runtime::Operation;

    fn world(pods: usize, service: Value) -> World {
        let mut world = World::default();
        let mut web = json!({"metadata": {"name": "web", "namespace": "default", "uid": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
        for (key, value) in service.as_object().into_iter().flatten() {
            web["spec"][key] = value.clone();
        }
        world.services.insert(Arc::new(serde_json::from_value(web).expect("a service")));
        for index in 0..pods {
            put(&mut world, index, json!({}));
        }
        world
    }

    fn put(world: &mut World, index: usize, metadata: Value) {
        let address = format!("10.244.{}.{}", index / 200, index % 200 + 1);
        let name = format!("web-{index:04}");
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
            "spec": {"containers": [], "nodeName": "node"},
            "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
        });
        for (key, value) in metadata.as_object().into_iter().flatten() {
            pod["metadata"][key] = value.clone();
        }
        world.pods.insert(Arc::new(serde_json::from_value(pod).expect("a pod")));
    }

    /// Carries the plan out; returns what it did, in short.
    fn settle(world: &mut World) -> Vec<String> {
        let now = Now::at(jiff::Timestamp::UNIX_EPOCH);
        let plan = reconcile(world, &Key::new("default", "web"), &now);
        let mut done = Vec::new();
        for (index, action) in plan.actions.iter().enumerate() {
            match &action.operation {
                Operation::Create { body } | Operation::Update { body } => {
                    let mut slice: EndpointSlice = serde_json::from_value(body.clone()).expect("a slice");
                    let verb = if slice.metadata.name.is_none() { "create" } else { "update" };
                    let count = world.endpoint_slices.len();
                    slice.metadata.name.get_or_insert_with(|| format!("web-{count}-{index}"));
                    done.push(format!("{verb} {}", slice.endpoints.as_ref().map_or(0, Vec::len)));
                    world.endpoint_slices.insert(Arc::new(slice));
                }
                Operation::Delete { .. } => {
                    done.push("delete".into());
                    world.endpoint_slices.remove(&Key::new("default", &action.target.name));
                }
                other => panic!("{other:?}"),
            }
        }
        done
    }

    #[test]
    fn a_hundred_endpoints_fill_a_slice() {
        let mut world = world(250, json!({}));
        assert_eq!(settle(&mut world), ["create 100", "create 100", "create 50"]);
        assert!(settle(&mut world).is_empty());
        put(&mut world, 250, json!({}));
        assert_eq!(settle(&mut world), ["update 51"], "a new one touches one slice");
        world.pods.remove(&Key::new("default", "web-0007"));
        assert_eq!(settle(&mut world), ["update 99"], "one that goes touches one slice");
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice() {
        let mut world = world(1, json!({}));
        assert_eq!(settle(&mut world), ["create 1"]);
        world.pods.remove(&Key::new("default", "web-0000"));
        assert_eq!(settle(&mut world), ["create 0", "delete"]);
        assert!(settle(&mut world).is_empty());
    }

    #[test]
    fn a_pod_that_is_ending_serves_and_is_not_ready() {
        for (publish, ready) in [(false, false), (true, true)] {
            let mut world = world(0, json!({"publishNotReadyAddresses": publish}));
            put(&mut world, 0, json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}));
            settle(&mut world);
            let slice = world.endpoint_slices.iter().next().expect("a slice");
            let conditions =
                slice.endpoints.as_ref().and_then(|e| e[0].conditions.clone()).expect("conditions");
            let got = (conditions.ready, conditions.serving, conditions.terminating);
            assert_eq!(got, (Some(ready), Some(true), Some(true)));
        }
    }

    #[test]
    fn services_that_choose_nothing_are_left_alone() {
        for service in [json!({"selector": {}}), json!({"type": "ExternalName"})] {
            assert!(settle(&mut world(3, service)).is_empty());
        }
    }
}
