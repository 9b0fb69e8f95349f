//! Pods stay for five minutes on a node that is not ready or cannot be reached, unless they say otherwise.

use serde_json::json;

use super::{Admission, Call, Operation, Refusal, list_at, map_at};

const SECONDS: i64 = 300;
const TAINTS: &[&str] = &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub(super) fn admit(_: &Admission, call: &mut Call<'_>) -> Result<(), Refusal> {
    if !call.is("", "pods", &[Operation::Create, Operation::Update]) {
        return Ok(());
    }
    let Some(tolerations) = map_at(call.object, "spec").and_then(|spec| list_at(spec, "tolerations")) else {
        return Ok(());
    };
    for taint in TAINTS {
        let tolerated = tolerations.iter().any(|toleration| {
            let text = |name: &str| toleration[name].as_str().unwrap_or_default();
            matches!(text("key"), key if key.is_empty() || key == *taint)
                && matches!(text("effect"), "" | "NoExecute")
        });
        if !tolerated {
            tolerations.push(json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            }));
        }
    }
    Ok(())
}
