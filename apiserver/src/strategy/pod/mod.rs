//! Pods, and the pod templates inside other kinds.

mod container;
mod defaults;
mod placement;
mod resources;
mod update;
mod validate;
mod volume;

use serde_json::{Value, json};

use super::value::{carry, int, object, set, text};
use super::{Entry, PLAIN, Strategy};

pub(super) use defaults::template as default_template;
pub(super) use placement::{node_selector, taint_effect};
pub(super) use validate::template as validate_template;
pub(super) use volume::host_path;

pub(super) static KINDS: &[Entry] = &[(
    "",
    "pods",
    Strategy {
        default: defaults::pod,
        prepare_create,
        prepare_update,
        prepare_status_update,
        validate: validate::pod,
        validate_create: validate::new_pod,
        validate_update: update::validate,
        grace,
        generation: true,
        ..PLAIN
    },
)];

fn prepare_create(pod: &mut Value) {
    let class = qos_class(&pod["spec"]);
    set(pod, "status", json!({"phase": "Pending", "qosClass": class}));
}

fn prepare_update(new: &mut Value, old: &Value) {
    defaults::pair_service_account(&mut new["spec"]);
    carry(new, old, "status");
}

fn prepare_status_update(new: &mut Value, old: &Value) {
    carry(object(new, "metadata"), &old["metadata"], "ownerReferences");
    if !old["status"]["qosClass"].is_null() {
        carry(object(new, "status"), &old["status"], "qosClass");
    }
}

/// A pod nobody runs, or that has ended, goes at once; the rest gets its own or the asked-for time.
fn grace(pod: &Value, asked: Option<i64>) -> i64 {
    if text(&pod["spec"], "nodeName").is_empty()
        || matches!(text(&pod["status"], "phase"), "Succeeded" | "Failed")
    {
        return 0;
    }
    let wanted = asked.or_else(|| int(&pod["spec"], "terminationGracePeriodSeconds")).unwrap_or(30);
    // A negative time means as short as may be, and yet in good order.
    if wanted < 0 { 1 } else { wanted }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from the requests and limits of all containers.
fn qos_class(spec: &Value) -> &'static str {
    use super::value::{entries, list};
    let mut any = false;
    let mut guaranteed = true;
    let containers = list(spec, "containers").iter().chain(list(spec, "initContainers"));
    let pod_level =
        ["limits", "requests"].iter().any(|part| entries(&spec["resources"], part).next().is_some());
    let holders: Vec<&Value> = if pod_level { vec![spec] } else { containers.collect() };
    for holder in holders {
        let resources = &holder["resources"];
        let amount = |part: &str, name: &str| {
            resources[part].get(name).and_then(super::value::quantity).filter(|a| a.sign() > 0)
        };
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount("requests", name), amount("limits", name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
