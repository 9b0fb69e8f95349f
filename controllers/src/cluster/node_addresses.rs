//! Gives each node a range of pod addresses of its own, out of the cluster's.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Node;
use kontiki_proto::api::PatchType;
use serde_json::json;

use crate::objects::reference;
use crate::runtime::{Action, Controller, EventSpec, Key, Now, Plan, Severity, World};

/// Each node gets a /24: 254 addresses, for 110 pods at the most.
const NODE_PREFIX: u8 = 24;

/// One key for all nodes: two ranges chosen at once could be the same.
pub fn controller() -> Controller {
    Controller::new("node-addresses", reconcile).watching::<Node>(|_, _, new| {
        let waits = new.is_some_and(|node| range_of(node).is_none());
        if waits { vec![Key::default()] } else { Vec::new() }
    })
}

fn range_of(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.pod_cidr.as_deref().filter(|range| !range.is_empty())
}

/// The node ranges of a cluster range, lowest first.
fn ranges(cluster: &str) -> Option<impl Iterator<Item = String> + use<>> {
    let (address, prefix) = cluster.split_once('/')?;
    let (address, prefix): (Ipv4Addr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
    if prefix > NODE_PREFIX {
        return None;
    }
    let first = if prefix == 0 { 0 } else { u32::from(address) & (u32::MAX << (32 - prefix)) };
    let step = 1u32 << (32 - NODE_PREFIX);
    Some(
        (0..1u32 << (NODE_PREFIX - prefix))
            .map(move |index| format!("{}/{NODE_PREFIX}", Ipv4Addr::from(first + index * step))),
    )
}

pub fn reconcile(world: &World, _key: &Key, _now: &Now) -> Plan {
    let mut plan = Plan::none();
    let taken: HashSet<&str> = world.nodes.iter().filter_map(|node| range_of(node)).collect();
    let Some(ranges) = ranges(&world.settings.pod_cidr) else { return plan };
    let mut free = ranges.filter(|range| !taken.contains(range.as_str()));
    for node in world.nodes.iter().filter(|node| range_of(node).is_none()) {
        let event = |severity, reason: &str, message: String| EventSpec {
            regarding: reference(node.as_ref()),
            severity,
            component: "node-ipam-controller",
            reason: reason.into(),
            message,
        };
        match free.next() {
            Some(range) => {
                let body = json!({
                    "metadata": {"resourceVersion": node.metadata.resource_version},
                    "spec": {"podCIDR": range, "podCIDRs": [range]},
                });
                plan.push(Action::patch(node.as_ref(), "", PatchType::Merge, body));
            }
            None => {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                let message = format!("Node {name} status is now: CIDRNotAvailable");
                plan.push(Action::report(event(Severity::Normal, "CIDRNotAvailable", message)));
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn nodes_get_the_lowest_free_range() {
        let settings = crate::Settings { pod_cidr: "10.244.0.0/16".into(), ..Default::default() };
        let mut world = World { settings: Arc::new(settings), ..World::default() };
        for (name, range) in
            [("a", None), ("b", Some("10.244.0.0/24")), ("c", None), ("d", Some("10.244.2.0/24"))]
        {
            let node = json!({"metadata": {"name": name}, "spec": {"podCIDR": range}});
            world.nodes.insert(Arc::new(serde_json::from_value(node).expect("a node")));
        }
        let plan = reconcile(&world, &Key::default(), &Now::at(jiff::Timestamp::UNIX_EPOCH));
        let given: Vec<_> = plan
            .actions
            .iter()
            .map(|action| match &action.operation {
                crate::runtime::Operation::Patch { body, .. } => (
                    action.target.name.to_string(),
                    body["spec"]["podCIDR"].as_str().unwrap_or("").to_string(),
                ),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(given, [("a".into(), "10.244.1.0/24".into()), ("c".into(), "10.244.3.0/24".into())]);
    }

    #[test]
    fn a_range_that_makes_no_sense_gives_nothing() {
        assert!(ranges("10.0.0.0/28").is_none());
        assert!(ranges("nonsense").is_none());
        assert_eq!(ranges("10.0.0.0/23").map(|r| r.collect::<Vec<_>>().len()), Some(2));
    }
}
