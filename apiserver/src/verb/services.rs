//! Cluster IPs and node ports of Services: cluster-wide unique, claimed and released in the transaction that writes
//! the Service. A claim is a key under `/allocations/` whose value names the Service.

use std::net::Ipv4Addr;

use bytes::Bytes;
use kontiki_proto::resource::Resource;
use kontiki_proto::status::{FieldError, Status};
use kontiki_store::{Guard, Op, Txn};
use rand::Rng;
use serde_json::{Value, json};

use super::decode;
use crate::server::Context;
use crate::storage::ALLOCATIONS;

/// How many random picks are tried before everything is looked through.
const PICKS: usize = 32;

/// The ranges addresses and ports are taken from.
#[derive(Debug)]
pub struct Allocator {
    first: u32,
    /// Addresses of the network, its own and the last one included.
    size: u32,
    ports: (u16, u16),
}

impl Allocator {
    /// `None` where the network is no IPv4 network of at least 16 addresses.
    pub(crate) fn new(cidr: &str, ports: (u16, u16)) -> Option<Allocator> {
        let (address, bits) = cidr.split_once('/')?;
        let address: Ipv4Addr = address.parse().ok()?;
        let bits: u32 = bits.parse().ok()?;
        if !(8..=28).contains(&bits) {
            return None;
        }
        let size = 1 << (32 - bits);
        Some(Allocator { first: u32::from(address) & !(size - 1), size, ports })
    }

    fn contains(&self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(self.first);
        (1..self.size - 1).contains(&offset)
    }

    /// Addresses nobody asks for by name: the lower part is left to those who do.
    fn dynamic(&self) -> std::ops::Range<u32> {
        let reserved = (self.size / 16).clamp(16, 256).min(self.size / 2);
        reserved..self.size - 1
    }

    fn address(&self, free: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let at = |offset: u32| Ipv4Addr::from(self.first + offset);
        pick(self.dynamic(), |offset| free(at(offset)))
            .or_else(|| (1..self.dynamic().start).find(|&offset| free(at(offset))))
            .map(at)
    }

    fn port(&self, free: impl Fn(u16) -> bool) -> Option<u16> {
        let range = u32::from(self.ports.0)..u32::from(self.ports.1) + 1;
        pick(range, |port| u16::try_from(port).is_ok_and(&free)).and_then(|port| u16::try_from(port).ok())
    }
}

fn pick(range: std::ops::Range<u32>, free: impl Fn(u32) -> bool) -> Option<u32> {
    let mut rng = rand::rng();
    (0..PICKS)
        .map(|_| rng.random_range(range.clone()))
        .find(|&candidate| free(candidate))
        .or_else(|| range.clone().find(|&candidate| free(candidate)))
}

/// Keys to take and to give back in a transaction.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    take: Vec<Bytes>,
    give: Vec<Bytes>,
}

impl Claims {
    /// `owner` is the key of the Service.
    pub fn extend(&self, txn: &mut Txn, owner: &Bytes) {
        for key in &self.take {
            txn.guards.push(Guard { key: key.clone(), mod_revision: 0 });
            txn.ops.push(Op::Put {
                key: key.clone(),
                value: owner.clone(),
                attributes: [].into(),
                lease: None,
            });
        }
        txn.ops.extend(self.give.iter().map(|key| Op::Delete { key: key.clone() }));
    }
}

fn address_key(address: &str) -> Bytes {
    format!("{ALLOCATIONS}clusterip/{address}").into()
}

fn port_key(port: u16) -> Bytes {
    format!("{ALLOCATIONS}nodeport/{port}").into()
}

fn is_service(row: &Resource) -> bool {
    row.plural == "services" && row.group.is_empty()
}

fn addresses(object: &Value) -> Vec<&str> {
    let spec = &object["spec"];
    let first = spec["clusterIP"].as_str();
    let all = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut list: Vec<&str> = first.into_iter().chain(all).filter(|ip| !matches!(*ip, "" | "None")).collect();
    list.dedup();
    list
}

fn ports(object: &Value) -> Vec<u16> {
    let spec = &object["spec"];
    let listed = spec["ports"].as_array().into_iter().flatten().filter_map(|port| port["nodePort"].as_u64());
    let mut list: Vec<u16> = listed
        .chain(spec["healthCheckNodePort"].as_u64())
        .filter_map(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .collect();
    list.sort_unstable();
    list.dedup();
    list
}

fn keys(object: &Value) -> Vec<Bytes> {
    addresses(object).into_iter().map(address_key).chain(ports(object).into_iter().map(port_key)).collect()
}

/// Everything a Service holds, to be given back.
pub(super) fn release(row: &Resource, object: &Value) -> Claims {
    if is_service(row) { Claims { take: Vec::new(), give: keys(object) } } else { Claims::default() }
}

/// Fills in what a Service is to get, and says which keys the write has to take and to give back.
pub(super) fn claim(
    context: &Context,
    row: &Resource,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<Claims, Status> {
    if !is_service(row) {
        return Ok(Claims::default());
    }
    let held = old.map(keys).unwrap_or_default();
    let taken = |key: &Bytes| !held.contains(key) && context.store.get(key).is_some();
    let mut errors = Vec::new();
    assign(&context.allocator, object, old, &taken, &mut errors);
    decode::refuse(row, object, &errors)?;
    let wanted = keys(object);
    Ok(Claims {
        take: wanted.iter().filter(|key| !held.contains(key)).cloned().collect(),
        give: held.into_iter().filter(|key| !wanted.contains(key)).collect(),
    })
}

fn assign(
    allocator: &Allocator,
    object: &mut Value,
    old: Option<&Value>,
    taken: &dyn Fn(&Bytes) -> bool,
    errors: &mut Vec<FieldError>,
) {
    let kind = object["spec"]["type"].as_str().unwrap_or("ClusterIP").to_string();
    if kind == "ExternalName" {
        return;
    }
    let has_address = |object: &Value| object["spec"]["clusterIP"].as_str().is_some_and(|ip| !ip.is_empty());
    if !has_address(object)
        && let Some(old) = old.filter(|old| has_address(old) && old["spec"]["type"] != "ExternalName")
    {
        for field in ["clusterIP", "clusterIPs"] {
            object["spec"][field] = old["spec"][field].clone();
        }
    }
    if has_address(object) {
        for ip in addresses(object) {
            let refuse = |why: String| FieldError::invalid("spec.clusterIPs", [ip], &why);
            match ip.parse::<Ipv4Addr>() {
                Ok(address) if allocator.contains(address) => {
                    if taken(&address_key(ip)) {
                        errors.push(refuse(format!(
                            "failed to allocate IP {ip}: provided IP is already allocated"
                        )));
                    }
                }
                Ok(_) => errors.push(refuse(format!(
                    "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}/{}",
                    Ipv4Addr::from(allocator.first),
                    allocator.size.leading_zeros() + 1,
                ))),
                Err(_) => errors.push(refuse("must be an IPv4 address of the service network".into())),
            }
        }
        if object["spec"]["clusterIPs"].as_array().is_none_or(Vec::is_empty) {
            object["spec"]["clusterIPs"] = json!([object["spec"]["clusterIP"]]);
        }
    } else {
        match allocator.address(|ip| !taken(&address_key(&ip.to_string()))) {
            Some(ip) => {
                object["spec"]["clusterIP"] = ip.to_string().into();
                object["spec"]["clusterIPs"] = json!([ip.to_string()]);
            }
            None => errors.push(FieldError::invalid("spec.clusterIPs", "", "the service network is full")),
        }
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer")
        && object["spec"]["allocateLoadBalancerNodePorts"] != false
    {
        assign_ports(allocator, object, taken, errors);
    }
}

fn assign_ports(
    allocator: &Allocator,
    object: &mut Value,
    taken: &dyn Fn(&Bytes) -> bool,
    errors: &mut Vec<FieldError>,
) {
    let mut mine = ports(object);
    for &port in &mine {
        if !(allocator.ports.0..=allocator.ports.1).contains(&port) {
            let why = format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                allocator.ports.0, allocator.ports.1
            );
            errors.push(FieldError::invalid("spec.ports[0].nodePort", port, &why));
        } else if taken(&port_key(port)) {
            errors.push(FieldError::invalid(
                "spec.ports[0].nodePort",
                port,
                "provided port is already allocated",
            ));
        }
    }
    for port in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
        if port["nodePort"].as_u64().is_some_and(|port| port != 0) {
            continue;
        }
        match allocator.port(|port| !mine.contains(&port) && !taken(&port_key(port))) {
            Some(free) => {
                mine.push(free);
                port["nodePort"] = free.into();
            }
            None => errors.push(FieldError::invalid("spec.ports", "", "no node port is free")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator() -> Allocator {
        Allocator::new("10.96.0.0/16", (30000, 30001)).expect("a network")
    }

    fn assigned(mut object: Value, taken: &[&str]) -> Result<Value, Vec<String>> {
        let mut errors = Vec::new();
        let taken = |key: &Bytes| taken.iter().any(|t| key.ends_with(format!("/{t}").as_bytes()));
        assign(&allocator(), &mut object, None, &taken, &mut errors);
        if errors.is_empty() { Ok(object) } else { Err(errors.iter().map(ToString::to_string).collect()) }
    }

    #[test]
    fn a_service_gets_an_address_of_the_network_outside_the_part_for_fixed_ones() {
        let object = assigned(json!({"spec": {}}), &[]).expect("assigned");
        let ip: Ipv4Addr = object["spec"]["clusterIP"].as_str().expect("an address").parse().expect("an IP");
        assert!(allocator().contains(ip) && u32::from(ip) >= u32::from(Ipv4Addr::new(10, 96, 1, 0)), "{ip}");
        assert_eq!(object["spec"]["clusterIPs"], json!([ip.to_string()]));
    }

    #[test]
    fn headless_and_external_services_get_none() {
        for spec in [json!({"clusterIP": "None"}), json!({"type": "ExternalName"})] {
            let object = assigned(json!({"spec": spec}), &[]).expect("assigned");
            assert!(addresses(&object).is_empty());
        }
    }

    #[test]
    fn an_address_that_is_taken_or_foreign_is_refused() {
        for (ip, why) in [("10.96.0.1", "already allocated"), ("10.97.0.1", "not in the valid range")] {
            let errors = assigned(json!({"spec": {"clusterIP": ip}}), &["10.96.0.1"]).expect_err("refused");
            assert!(errors[0].contains(why), "{errors:?}");
        }
    }

    #[test]
    fn node_ports_are_unique_and_run_out() {
        let service = |ports: Value| json!({"spec": {"type": "NodePort", "ports": ports}});
        let object = assigned(service(json!([{"port": 1}, {"port": 2}])), &[]).expect("assigned");
        assert_eq!(ports(&object), [30000, 30001]);
        let errors = assigned(service(json!([{"port": 1}])), &["30000", "30001"]).expect_err("refused");
        assert!(errors[0].contains("no node port is free"), "{errors:?}");
    }
}
