//! Limit ranges: what containers request where they say nothing, and what pods and claims may ask for at all.

use kontiki_proto::quantity::Quantity;
use serde_json::{Map, Value};

use super::{Admission, Call, Operation, Refusal, items, map_at};

pub(super) fn admit(admission: &Admission, call: &mut Call<'_>) -> Result<(), Refusal> {
    let pods = call.is("", "pods", &[Operation::Create]) && !call.is_mirror_pod();
    let claims = call.is("", "persistentvolumeclaims", &[Operation::Create]);
    if !pods && !claims {
        return Ok(());
    }
    let ranges = admission.objects.list("", "limitranges", call.namespace());
    let limits: Vec<&Value> = ranges.iter().flat_map(|range| items(&range["spec"]["limits"])).collect();
    if pods {
        for limit in limits.iter().filter(|limit| limit["type"] == "Container") {
            default_containers(call.object, limit);
        }
    }
    let mut problems = Vec::new();
    for limit in limits {
        match limit["type"].as_str() {
            Some("Container") if pods => {
                for (_, container) in containers(call.object) {
                    let resources = &container["resources"];
                    check(
                        limit,
                        "Container",
                        &amounts(resources, "requests"),
                        &amounts(resources, "limits"),
                        &mut problems,
                    );
                }
            }
            Some("Pod") if pods => {
                let (requests, limits) = (total(call.object, "requests"), total(call.object, "limits"));
                check(limit, "Pod", &requests, &limits, &mut problems);
            }
            Some("PersistentVolumeClaim") if claims => {
                let resources = &call.object["spec"]["resources"];
                let requests = amounts(resources, "requests");
                check(limit, "PersistentVolumeClaim", &requests, &requests, &mut problems);
            }
            _ => {}
        }
    }
    match problems.as_slice() {
        [] => Ok(()),
        [one] => Err(call.forbidden(one).into()),
        many => Err(call.forbidden(&format!("[{}]", many.join(", "))).into()),
    }
}

type Amounts = Vec<(String, Quantity)>;

fn containers(pod: &Value) -> impl Iterator<Item = (bool, &Value)> {
    let all = |kind: &'static str| items(&pod["spec"][kind]).map(move |c| (kind == "initContainers", c));
    all("initContainers").chain(all("containers"))
}

/// Amounts that cannot be read are left to validation.
fn amounts(resources: &Value, kind: &str) -> Amounts {
    let list = resources[kind].as_object().into_iter().flatten();
    list.filter_map(|(name, text)| Some((name.clone(), Quantity::parse(text.as_str()?).ok()?))).collect()
}

/// What the pod needs at once: its containers together, or the largest of those that run before them.
fn total(pod: &Value, kind: &str) -> Amounts {
    let mut sums: Amounts = Vec::new();
    let mut largest: Amounts = Vec::new();
    for (init, container) in containers(pod) {
        let sidecar = container["restartPolicy"] == "Always";
        for (name, amount) in amounts(&container["resources"], kind) {
            let list = if init && !sidecar { &mut largest } else { &mut sums };
            match list.iter_mut().find(|(known, _)| *known == name) {
                None => list.push((name, amount)),
                Some((_, known)) if init && !sidecar => *known = (*known).max(amount),
                Some((_, known)) => *known += amount,
            }
        }
    }
    for (name, amount) in largest {
        match sums.iter_mut().find(|(known, _)| *known == name) {
            None => sums.push((name, amount)),
            Some((_, sum)) => *sum = (*sum).max(amount),
        }
    }
    sums
}

fn default_containers(pod: &mut Value, limit: &Value) {
    for kind in ["initContainers", "containers"] {
        let list = pod["spec"].get_mut(kind).and_then(Value::as_array_mut);
        for container in list.into_iter().flatten() {
            for (field, defaults) in [("limits", "default"), ("requests", "defaultRequest")] {
                let defaults = limit[defaults].as_object().filter(|defaults| !defaults.is_empty());
                let (Some(defaults), Some(resources)) = (defaults, map_at(container, "resources")) else {
                    continue;
                };
                let list = resources.entry(field).or_insert_with(|| Map::new().into());
                let Some(list) = list.as_object_mut() else { continue };
                for (name, amount) in defaults {
                    list.entry(name.clone()).or_insert_with(|| amount.clone());
                }
            }
        }
    }
}

fn check(limit: &Value, what: &str, requests: &Amounts, limits: &Amounts, problems: &mut Vec<String>) {
    let of =
        |list: &Amounts, name: &str| list.iter().find(|(known, _)| known == name).map(|(_, amount)| *amount);
    for (name, least) in amounts(limit, "min") {
        let text = &limit["min"][&name];
        match of(requests, &name) {
            None => problems.push(format!(
                "minimum {name} usage per {what} is {}.  No request is specified",
                plain(text)
            )),
            Some(asked) if asked < least => problems
                .push(format!("minimum {name} usage per {what} is {}, but request is {asked}", plain(text))),
            Some(_) => {}
        }
    }
    for (name, most) in amounts(limit, "max") {
        let text = &limit["max"][&name];
        match of(limits, &name) {
            None => problems
                .push(format!("maximum {name} usage per {what} is {}.  No limit is specified", plain(text))),
            Some(asked) if asked > most => {
                problems.push(format!(
                    "maximum {name} usage per {what} is {}, but limit is {asked}",
                    plain(text)
                ));
            }
            Some(_) => {}
        }
    }
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
