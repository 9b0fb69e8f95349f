//! A new node takes no pods before the node controller has seen it ready.

use serde_json::json;

use super::{Admission, Call, Operation, Refusal, list_at, map_at};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) fn admit(_: &Admission, call: &mut Call<'_>) -> Result<(), Refusal> {
    if !call.is("", "nodes", &[Operation::Create]) {
        return Ok(());
    }
    if let Some(taints) = map_at(call.object, "spec").and_then(|spec| list_at(spec, "taints"))
        && !taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule")
    {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
    Ok(())
}
