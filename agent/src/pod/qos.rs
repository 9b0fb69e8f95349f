//! What a pod's requests and limits make of it: class, cgroup limits, the order in which the kernel kills.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kontiki_proto::quantity;

use super::model::members;
use crate::runtime::cgroup::PodLimits;
use crate::runtime::spec::Limits;

type Amounts = BTreeMap<String, Quantity>;

fn amount(list: Option<&Amounts>, name: &str) -> Option<quantity::Quantity> {
    let text = &list?.get(name)?.0;
    quantity::Quantity::parse(text).ok().filter(|q| !q.is_zero())
}

fn limit(c: &Container, name: &str) -> Option<quantity::Quantity> {
    amount(c.resources.as_ref()?.limits.as_ref(), name)
}

/// Requests default to limits.
fn request(c: &Container, name: &str) -> Option<quantity::Quantity> {
    amount(c.resources.as_ref()?.requests.as_ref(), name).or_else(|| limit(c, name))
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn class(spec: &PodSpec) -> &'static str {
    let all = || members(spec).map(|(_, c)| c);
    let guaranteed = all().all(|c| {
        ["cpu", "memory"].iter().all(|n| match (request(c, n), limit(c, n)) {
            (Some(request), Some(limit)) => request.milli() == limit.milli(),
            _ => false,
        })
    });
    let none = all().all(|c| ["cpu", "memory"].iter().all(|n| request(c, n).is_none()));
    match (guaranteed, none) {
        (true, _) => "Guaranteed",
        (_, true) => "BestEffort",
        _ => "Burstable",
    }
}

/// 1024 shares are one CPU.
fn shares(cpu: Option<quantity::Quantity>) -> u64 {
    let milli = cpu.map_or(0, quantity::Quantity::milli);
    (u64::try_from(milli).unwrap_or(0) * 1024 / 1000).clamp(2, 262_144)
}

/// Microseconds per 100 ms; the kernel refuses less than one millisecond.
fn quota(cpu: quantity::Quantity) -> i64 {
    (cpu.milli() * 100).max(1000)
}

pub fn container_limits(c: &Container) -> Limits {
    Limits {
        cpu_shares: shares(request(c, "cpu")),
        cpu_quota: limit(c, "cpu").map(quota),
        memory_bytes: limit(c, "memory").map(quantity::Quantity::value),
        pids: None,
    }
}

/// The pod is limited where each of its containers is.
pub fn pod_limits(spec: &PodSpec) -> PodLimits {
    let sum = |of: &dyn Fn(&Container) -> Option<i64>| -> Option<u64> {
        let main = spec.containers.iter().map(of).sum::<Option<i64>>()?;
        let init = spec.init_containers.iter().flatten().map(of).collect::<Option<Vec<_>>>()?;
        let sidecars = spec
            .init_containers
            .iter()
            .flatten()
            .zip(&init)
            .filter(|(c, _)| c.restart_policy.as_deref() == Some("Always"))
            .map(|(_, v)| v)
            .sum::<i64>();
        let most = init.into_iter().max().unwrap_or(0);
        u64::try_from((main + sidecars).max(most)).ok()
    };
    let cpu_milli: i64 =
        spec.containers.iter().filter_map(|c| request(c, "cpu")).map(quantity::Quantity::milli).sum();
    PodLimits {
        memory_bytes: sum(&|c| limit(c, "memory").map(quantity::Quantity::value)),
        cpu_quota: sum(&|c| limit(c, "cpu").map(quota)),
        cpu_shares: shares(Some(quantity::Quantity::from_milli(cpu_milli))),
    }
}

/// The kernel's preference for killing this container: low for guaranteed pods, high for those that asked for nothing.
/// Never below `floor`, the least the agent may set.
pub fn oom_score(spec: &PodSpec, c: &Container, node_memory: u64, floor: i32) -> i32 {
    let score = match class(spec) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let asked = request(c, "memory").map_or(0, quantity::Quantity::value).max(0);
            let share = 1000 * i128::from(asked) / i128::from(node_memory.max(1));
            i32::try_from(1000 - share).unwrap_or(2).clamp(3, 999)
        }
    };
    score.max(floor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(resources: &[Value]) -> PodSpec {
        let containers = resources
            .iter()
            .enumerate()
            .map(|(i, r)| json!({"name": i.to_string(), "resources": r}))
            .collect::<Vec<_>>();
        serde_json::from_value(json!({"containers": containers})).unwrap()
    }

    #[test]
    fn the_class_follows_requests_and_limits() {
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let some = json!({"requests": {"cpu": "100m"}});
        for (list, expected) in [
            (vec![json!({})], "BestEffort"),
            (vec![full.clone()], "Guaranteed"),
            (vec![full.clone(), json!({})], "Burstable"),
            (vec![some], "Burstable"),
        ] {
            assert_eq!(class(&spec(&list)), expected);
        }
    }

    #[test]
    fn a_pod_is_limited_only_where_all_its_containers_are() {
        let full = json!({"limits": {"cpu": "500m", "memory": "1Mi"}});
        let limits = pod_limits(&spec(&[full.clone(), full.clone()]));
        assert_eq!((limits.memory_bytes, limits.cpu_quota), (Some(2 << 20), Some(100_000)));
        assert_eq!(pod_limits(&spec(&[full, json!({})])).memory_bytes, None);
    }

    #[test]
    fn the_kernel_spares_who_asked() {
        let half = spec(&[json!({"requests": {"memory": "512"}})]);
        assert_eq!(oom_score(&half, &half.containers[0], 1024, -1000), 500);
        let none = spec(&[json!({})]);
        assert_eq!(oom_score(&none, &none.containers[0], 1024, -1000), 1000);
        let full = spec(&[json!({"limits": {"cpu": "1", "memory": "1"}})]);
        assert_eq!(oom_score(&full, &full.containers[0], 1024, 0), 0);
    }
}
