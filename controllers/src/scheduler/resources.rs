//! Amounts of what pods need and nodes have.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use kontiki_proto::quantity::Quantity;
use smol_str::SmolStr;

/// What a container that asks for nothing is taken to use when nodes are compared.
const LIGHT_CPU: i64 = 100;
const LIGHT_MEMORY: i64 = 200 << 20;

/// CPU in thousandths, everything else in whole units (bytes, pieces).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu: i64,
    pub memory: i64,
    pub storage: i64,
    /// All others, such as `example.com/gpu`.
    pub others: BTreeMap<SmolStr, i64>,
}

impl Resources {
    /// Amounts that cannot be read count as nothing: the API does not let them in.
    pub fn of(list: Option<&BTreeMap<String, Text>>) -> Resources {
        let mut resources = Resources::default();
        for (name, text) in list.into_iter().flatten() {
            let Ok(quantity) = Quantity::parse(&text.0) else { continue };
            match name.as_str() {
                "cpu" => resources.cpu = quantity.milli(),
                "memory" => resources.memory = quantity.value(),
                "ephemeral-storage" => resources.storage = quantity.value(),
                "pods" => {}
                _ => drop(resources.others.insert(name.as_str().into(), quantity.value())),
            }
        }
        resources
    }

    fn combine(&mut self, other: &Resources, with: fn(i64, i64) -> i64) {
        self.cpu = with(self.cpu, other.cpu);
        self.memory = with(self.memory, other.memory);
        self.storage = with(self.storage, other.storage);
        for (name, amount) in &other.others {
            let present = self.others.entry(name.clone()).or_default();
            *present = with(*present, *amount);
        }
    }

    pub fn add(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_add);
    }

    pub fn subtract(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_sub);
    }

    fn maximum(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }
}

/// Requests, or limits where only a limit is given.
fn requests(requirements: Option<&ResourceRequirements>) -> Resources {
    let Some(requirements) = requirements else { return Resources::default() };
    let mut list = requirements.limits.clone().unwrap_or_default();
    list.extend(requirements.requests.clone().unwrap_or_default());
    Resources::of(Some(&list))
}

/// What the pod needs at its worst moment: all containers and sidecars at once, or one init container together with the
/// sidecars started before it; and the overhead of its runtime class.
pub fn needs(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&requests(container.resources.as_ref()));
    }
    let is_sidecar = |container: &Container| container.restart_policy.as_deref() == Some("Always");
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let own = requests(container.resources.as_ref());
        let mut moment = sidecars.clone();
        moment.add(&own);
        starting.maximum(&moment);
        if is_sidecar(container) {
            sidecars = moment;
        }
    }
    running.add(&sidecars);
    running.maximum(&starting);
    if let Some(whole) = spec.resources.as_ref() {
        let whole = requests(Some(whole));
        running.cpu = if whole.cpu > 0 { whole.cpu } else { running.cpu };
        running.memory = if whole.memory > 0 { whole.memory } else { running.memory };
    }
    running.add(&Resources::of(spec.overhead.as_ref()));
    running
}

/// CPU and memory for comparing nodes: pods that ask for nothing still use something.
pub fn weight(pod: &Pod, needs: &Resources) -> (i64, i64) {
    let containers = pod.spec.as_ref().map_or(0, |spec| spec.containers.len()) as i64;
    let or = |amount: i64, light: i64| if amount == 0 { light * containers } else { amount };
    (or(needs.cpu, LIGHT_CPU), or(needs.memory, LIGHT_MEMORY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_needs_its_worst_moment() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        for (init, containers, expected) in [
            (json!([]), json!([container("100m"), container("1")]), 1100),
            (json!([container("2")]), json!([container("100m")]), 2000),
            (json!([container("2"), container("3")]), json!([container("100m")]), 3000),
            (json!([sidecar("500m"), container("1")]), json!([container("100m")]), 1500),
            (json!([container("1"), sidecar("500m")]), json!([container("900m")]), 1400),
            (json!([]), json!([{"name": "c", "resources": {"limits": {"cpu": "250m"}}}]), 250),
        ] {
            let pod: Pod = serde_json::from_value(
                json!({"metadata": {}, "spec": {"initContainers": init, "containers": containers}}),
            )
            .expect("a pod");
            assert_eq!(needs(&pod).cpu, expected, "{pod:?}");
        }
    }
}
