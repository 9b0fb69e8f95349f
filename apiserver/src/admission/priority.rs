//! A pod's priority comes from its priority class.

use serde_json::{Value, json};

use super::{Admission, Call, Operation, Refusal, map_at};

const GROUP: &str = "scheduling.k8s.io";
const PREEMPT: &str = "PreemptLowerPriority";

/// Classes that count even before they are stored.
pub(crate) static SYSTEM: &[(&str, i64)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub(super) fn admit(admission: &Admission, call: &mut Call<'_>) -> Result<(), Refusal> {
    if call.is("", "pods", &[Operation::Create]) {
        return pod(admission, call);
    }
    if call.is(GROUP, "priorityclasses", &[Operation::Create, Operation::Update]) {
        return class(admission, call);
    }
    Ok(())
}

fn pod(admission: &Admission, call: &mut Call<'_>) -> Result<(), Refusal> {
    let asked = call.object["spec"]["priorityClassName"].as_str().unwrap_or_default().to_string();
    let class = match asked.as_str() {
        "" => default_class(admission),
        name => match admission.objects.get(GROUP, "priorityclasses", "", name) {
            Some(class) => Some(class),
            None => match SYSTEM.iter().find(|(system, _)| *system == name) {
                Some((name, value)) => Some(json!({"metadata": {"name": name}, "value": value})),
                None => {
                    let why = format!("no PriorityClass with name {name} was found");
                    return Err(Refusal::Missing(call.forbidden(&why), Default::default()));
                }
            },
        },
    };
    let name = class.as_ref().and_then(|class| class["metadata"]["name"].as_str()).unwrap_or_default();
    let value = class.as_ref().and_then(|class| class["value"].as_i64()).unwrap_or(0);
    let policy = class.as_ref().and_then(|class| class["preemptionPolicy"].as_str()).unwrap_or(PREEMPT);

    let spec = &call.object["spec"];
    if let Some(given) = spec["priority"].as_i64().filter(|given| *given != value) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(call.forbidden(&why).into());
    }
    if let Some(given) = spec["preemptionPolicy"].as_str().filter(|given| *given != policy) {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(call.forbidden(&why).into());
    }
    if let Some(spec) = map_at(call.object, "spec") {
        spec.insert("priority".into(), value.into());
        spec.insert("preemptionPolicy".into(), policy.into());
        if !name.is_empty() {
            spec.insert("priorityClassName".into(), name.into());
        }
    }
    Ok(())
}

/// Of several default classes (made at the same moment on several servers) the lowest counts.
fn default_class(admission: &Admission) -> Option<Value> {
    let classes = admission.objects.list(GROUP, "priorityclasses", "");
    let defaults = classes.into_iter().filter(|class| class["globalDefault"] == true);
    defaults.min_by_key(|class| class["value"].as_i64().unwrap_or_default())
}

fn class(admission: &Admission, call: &mut Call<'_>) -> Result<(), Refusal> {
    if call.object["globalDefault"] != true {
        return Ok(());
    }
    let classes = admission.objects.list(GROUP, "priorityclasses", "");
    let other = classes.iter().find(|class| {
        class["globalDefault"] == true && class["metadata"]["name"].as_str() != Some(call.name())
    });
    match other.and_then(|other| other["metadata"]["name"].as_str()) {
        None => Ok(()),
        Some(other) => {
            let why =
                format!("PriorityClass {other} is already marked as default. Only one default can exist");
            Err(call.forbidden(&why).into())
        }
    }
}
