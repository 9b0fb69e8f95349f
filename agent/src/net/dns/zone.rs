//! What the cluster's names mean: built from Services and EndpointSlices, asked without waiting.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::super::Cidr;

/// Seconds a client may keep an answer, a negative one included.
const TTL: u32 = 5;
const SPECIFICATION: &str = "1.1.0";

/// An answer to one question.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Records(Vec<Record>),
    /// A name that is an alias: its record, and the name to go on with.
    Alias(Box<Record>, String),
    /// The name exists, with no record of this type.
    NoData,
    NoName,
    /// Not a name of this cluster.
    Elsewhere,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Entry {
    addresses: BTreeSet<IpAddr>,
    services: BTreeSet<(u16, String)>,
    alias: Option<String>,
    text: Option<String>,
}

/// The names of one state of the cluster. Names are lower case without the last dot.
#[derive(Clone, Debug, Default)]
pub(super) struct Zone {
    domain: String,
    names: HashMap<String, Entry>,
    pointers: HashMap<IpAddr, BTreeSet<String>>,
    /// Addresses of these networks have a name here or nowhere.
    own: Vec<Cidr>,
}

/// A port of a service: name, protocol and number.
type NamedPort = (String, String, u16);

impl Zone {
    pub fn build(
        domain: &str,
        own: Vec<Cidr>,
        services: &[Arc<Service>],
        slices: &[Arc<EndpointSlice>],
    ) -> Zone {
        let mut zone = Zone { domain: domain.to_ascii_lowercase(), own, ..Zone::default() };
        let version = Entry { text: Some(SPECIFICATION.into()), ..Entry::default() };
        zone.names.insert(format!("dns-version.{}", zone.domain), version);
        for branch in ["svc", "pod"] {
            zone.entry(&format!("{branch}.{}", zone.domain));
        }
        let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in slices {
            let labels = slice.metadata.labels.as_ref();
            let service = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
            if let (Some(namespace), Some(service)) = (slice.metadata.namespace.as_deref(), service) {
                by_service.entry((namespace, service)).or_default().push(slice);
            }
        }
        for service in services {
            let metadata = &service.metadata;
            if let (Some(name), Some(namespace)) = (metadata.name.as_deref(), metadata.namespace.as_deref()) {
                let slices = by_service.get(&(namespace, name)).map_or(&[][..], Vec::as_slice);
                zone.add(service, name, namespace, slices);
            }
        }
        zone
    }

    /// The entry of a name; its ancestors up to the domain come to exist with it.
    fn entry(&mut self, name: &str) -> &mut Entry {
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if parent.len() <= self.domain.len() {
                break;
            }
            self.names.entry(parent.to_owned()).or_default();
            rest = parent;
        }
        self.names.entry(name.to_owned()).or_default()
    }

    fn add(&mut self, service: &Service, name: &str, namespace: &str, slices: &[&EndpointSlice]) {
        let Some(spec) = &service.spec else { return };
        let full = format!("{name}.{namespace}.svc.{}", self.domain);
        if spec.type_.as_deref() == Some("ExternalName") {
            let target = spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.');
            if !target.is_empty() {
                self.entry(&full).alias = Some(target.to_ascii_lowercase());
            }
            return;
        }
        let addresses: BTreeSet<IpAddr> = spec
            .cluster_ips
            .iter()
            .flatten()
            .chain(&spec.cluster_ip)
            .filter_map(|address| address.parse().ok())
            .collect();
        if addresses.is_empty() {
            self.add_headless(&full, slices);
            return;
        }
        for port in spec.ports.iter().flatten() {
            let Ok(number) = u16::try_from(port.port) else { continue };
            let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
            self.add_port(&full, &(port.name.clone().unwrap_or_default(), protocol, number), &full);
        }
        for address in &addresses {
            self.pointers.entry(*address).or_default().insert(full.clone());
        }
        self.entry(&full).addresses = addresses;
    }

    /// `_port._protocol.<service>`, and the service itself, which answers with all its ports.
    fn add_port(&mut self, service: &str, (name, protocol, number): &NamedPort, target: &str) {
        let record = (*number, target.to_owned());
        if !name.is_empty() {
            let full = format!("_{}._{protocol}.{service}", name.to_ascii_lowercase());
            self.entry(&full).services.insert(record.clone());
        }
        self.entry(service).services.insert(record);
    }

    fn add_headless(&mut self, full: &str, slices: &[&EndpointSlice]) {
        for slice in slices {
            let ports: Vec<NamedPort> = slice
                .ports
                .iter()
                .flatten()
                .filter_map(|port| {
                    let number = port.port.and_then(|port| u16::try_from(port).ok())?;
                    let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
                    Some((port.name.clone().unwrap_or_default(), protocol, number))
                })
                .collect();
            for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint)) {
                for address in endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok())
                {
                    let host = match endpoint.hostname.as_deref() {
                        Some(hostname) if !hostname.is_empty() => hostname.to_ascii_lowercase(),
                        _ => dashed(address),
                    };
                    let target = format!("{host}.{full}");
                    self.entry(full).addresses.insert(address);
                    self.entry(&target).addresses.insert(address);
                    self.pointers.entry(address).or_default().insert(target.clone());
                    for port in &ports {
                        self.add_port(full, port, &target);
                    }
                }
            }
        }
        // A service without an endpoint is a name like any other name that is not there, as upstream has it; but one with
        // endpoints that are not ready keeps its name.
        if slices.iter().any(|slice| slice.endpoints.iter().flatten().next().is_some()) {
            self.entry(full);
        }
    }

    /// `name` in any case, with or without the last dot.
    pub fn answer(&self, name: &str, record_type: RecordType) -> Answer {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Some(address) = reverse(&name) {
            return self.pointer(&name, address, record_type);
        }
        if name == self.domain {
            return match record_type {
                RecordType::SOA => Answer::Records(self.soa().into_iter().collect()),
                RecordType::NS => {
                    let server = to_name(&format!("ns.dns.{}", self.domain)).map(|name| RData::NS(NS(name)));
                    Answer::Records(server.and_then(|data| record(&name, data)).into_iter().collect())
                }
                _ => Answer::NoData,
            };
        }
        let Some(rest) = name.strip_suffix(&self.domain).and_then(|rest| rest.strip_suffix('.')) else {
            return Answer::Elsewhere;
        };
        if let Some(entry) = self.names.get(&name) {
            return entry.answer(&name, record_type);
        }
        match pod_address(rest) {
            Some(address) if address.is_ipv4() == (record_type == RecordType::A) => {
                let data = address_data(address);
                Answer::Records(record(&name, data).into_iter().collect())
            }
            Some(_) => Answer::NoData,
            None => Answer::NoName,
        }
    }

    fn pointer(&self, name: &str, address: IpAddr, record_type: RecordType) -> Answer {
        match self.pointers.get(&address) {
            Some(targets) if record_type == RecordType::PTR => {
                let data = |target: &String| to_name(target).map(|target| RData::PTR(PTR(target)));
                Answer::Records(targets.iter().filter_map(|target| record(name, data(target)?)).collect())
            }
            Some(_) => Answer::NoData,
            None => match address {
                IpAddr::V4(v4) if self.own.iter().any(|network| network.contains(v4)) => Answer::NoName,
                _ => Answer::Elsewhere,
            },
        }
    }

    /// Goes with negative answers, so that clients may cache them.
    pub fn soa(&self) -> Option<Record> {
        let server = to_name(&format!("ns.dns.{}", self.domain))?;
        let contact = to_name(&format!("hostmaster.{}", self.domain))?;
        record(&self.domain, RData::SOA(SOA::new(server, contact, 1, 7200, 1800, 86_400, TTL)))
    }
}

impl Entry {
    fn answer(&self, name: &str, record_type: RecordType) -> Answer {
        if let Some(alias) = &self.alias {
            let data = to_name(alias).map(|target| RData::CNAME(CNAME(target)));
            return match data.and_then(|data| record(name, data)) {
                Some(record) => Answer::Alias(Box::new(record), alias.clone()),
                None => Answer::NoData,
            };
        }
        let records: Vec<Record> = match record_type {
            RecordType::A | RecordType::AAAA => {
                let wanted = self.addresses.iter().filter(|a| a.is_ipv4() == (record_type == RecordType::A));
                wanted.filter_map(|address| record(name, address_data(*address))).collect()
            }
            RecordType::SRV => {
                let share = 100 / u16::try_from(self.services.len().clamp(1, 100)).unwrap_or(100);
                let data = |(port, target): &(u16, String)| {
                    Some(RData::SRV(SRV::new(0, share, *port, to_name(target)?)))
                };
                self.services.iter().filter_map(|service| record(name, data(service)?)).collect()
            }
            RecordType::TXT => {
                let texts = self.text.iter();
                texts.filter_map(|text| record(name, RData::TXT(TXT::new(vec![text.clone()])))).collect()
            }
            _ => Vec::new(),
        };
        if records.is_empty() { Answer::NoData } else { Answer::Records(records) }
    }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn to_name(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// Nothing for a name that DNS cannot carry.
fn record(name: &str, data: RData) -> Option<Record> {
    Some(Record::from_rdata(to_name(name)?, TTL, data))
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The address in `a-b-c-d.<namespace>.pod`.
fn pod_address(name: &str) -> Option<IpAddr> {
    let mut labels = name.split('.');
    let (host, namespace, branch) = (labels.next()?, labels.next()?, labels.next()?);
    if branch != "pod" || namespace.is_empty() || labels.next().is_some() {
        return None;
    }
    let address: Option<Ipv4Addr> = host.replace('-', ".").parse().ok();
    address.map(IpAddr::V4).or_else(|| host.replace('-', ":").parse().ok().map(IpAddr::V6))
}

/// The address an `in-addr.arpa` name asks for.
fn reverse(name: &str) -> Option<IpAddr> {
    let labels: Vec<&str> = name.strip_suffix(".in-addr.arpa")?.split('.').collect();
    let text = labels.iter().rev().copied().collect::<Vec<_>>().join(".");
    text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn zone() -> Zone {
        let service = |value| Arc::new(serde_json::from_value::<Service>(value).unwrap());
        let slice = |value| Arc::new(serde_json::from_value::<EndpointSlice>(value).unwrap());
        let services = [
            service(json!({"metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {
                "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
                "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}})),
            service(json!({"metadata": {"name": "db", "namespace": "shop"}, "spec": {
                "clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "sql", "port": 5432}]}})),
            service(
                json!({"metadata": {"name": "empty", "namespace": "shop"}, "spec": {"clusterIP": "None"}}),
            ),
            service(json!({"metadata": {"name": "out", "namespace": "shop"}, "spec": {
                "type": "ExternalName", "externalName": "Example.com"}})),
        ];
        let slices = [slice(json!({"metadata": {"name": "db-1", "namespace": "shop",
                "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.244.1.2"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.244.1.3"]},
                {"addresses": ["10.244.1.4"], "conditions": {"ready": false}}]}))];
        let own = vec!["10.96.0.0/16".parse().unwrap(), "10.244.0.0/16".parse().unwrap()];
        Zone::build("cluster.local", own, &services, &slices)
    }

    #[track_caller]
    fn check(name: &str, record_type: RecordType, expected: &str) {
        let found = match zone().answer(name, record_type) {
            Answer::Records(records) => {
                let mut lines: Vec<String> = records.iter().map(|record| record.data.to_string()).collect();
                lines.sort();
                lines.join("; ")
            }
            Answer::Alias(record, target) => format!("alias {} then {target}", record.data),
            Answer::NoData => "no data".into(),
            Answer::NoName => "no name".into(),
            Answer::Elsewhere => "elsewhere".into(),
        };
        assert_eq!(found, expected, "{name} {record_type}");
    }

    #[test]
    fn a_service_has_its_cluster_address_in_any_case() {
        check("kubernetes.default.svc.cluster.local.", RecordType::A, "10.96.0.1");
        check("Kubernetes.Default.SVC.cluster.local", RecordType::A, "10.96.0.1");
        check("kubernetes.default.svc.cluster.local.", RecordType::AAAA, "no data");
        check("kubernetes.default.svc.cluster.local.", RecordType::MX, "no data");
    }

    #[test]
    fn a_headless_service_has_its_ready_endpoints_and_each_has_a_name() {
        check("db.shop.svc.cluster.local.", RecordType::A, "10.244.1.2; 10.244.1.3");
        check("db-0.db.shop.svc.cluster.local.", RecordType::A, "10.244.1.2");
        check("10-244-1-3.db.shop.svc.cluster.local.", RecordType::A, "10.244.1.3");
        check("10-244-1-4.db.shop.svc.cluster.local.", RecordType::A, "no name");
    }

    #[test]
    fn ports_are_srv_records() {
        check(
            "_https._tcp.kubernetes.default.svc.cluster.local.",
            RecordType::SRV,
            "0 100 443 kubernetes.default.svc.cluster.local.",
        );
        check(
            "_sql._tcp.db.shop.svc.cluster.local.",
            RecordType::SRV,
            "0 50 5432 10-244-1-3.db.shop.svc.cluster.local.; 0 50 5432 db-0.db.shop.svc.cluster.local.",
        );
    }

    #[test]
    fn addresses_lead_back_to_names() {
        check("1.0.96.10.in-addr.arpa.", RecordType::PTR, "kubernetes.default.svc.cluster.local.");
        check("2.1.244.10.in-addr.arpa.", RecordType::PTR, "db-0.db.shop.svc.cluster.local.");
        check("9.9.244.10.in-addr.arpa.", RecordType::PTR, "no name");
        check("8.8.8.8.in-addr.arpa.", RecordType::PTR, "elsewhere");
    }

    #[test]
    fn pods_answer_by_their_address() {
        check("10-244-1-9.shop.pod.cluster.local.", RecordType::A, "10.244.1.9");
        check("10-244-1-9.shop.pod.cluster.local.", RecordType::AAAA, "no data");
        check("somewhere.shop.pod.cluster.local.", RecordType::A, "no name");
    }

    #[test]
    fn an_external_name_is_an_alias() {
        check("out.shop.svc.cluster.local.", RecordType::A, "alias example.com. then example.com");
    }

    #[test]
    fn a_name_between_names_exists_and_a_name_beside_them_does_not() {
        check("cluster.local.", RecordType::A, "no data");
        check("shop.svc.cluster.local.", RecordType::A, "no data");
        check("_tcp.db.shop.svc.cluster.local.", RecordType::A, "no data");
        check("nothing.shop.svc.cluster.local.", RecordType::A, "no name");
        check("empty.shop.svc.cluster.local.", RecordType::A, "no name");
        check("kubernetes.default.svc.cluster.local.example.com.", RecordType::A, "elsewhere");
        check("notcluster.local.", RecordType::A, "elsewhere");
    }

    #[test]
    fn the_specification_it_follows_is_told() {
        check("dns-version.cluster.local.", RecordType::TXT, "1.1.0");
    }
}
