//! Subresources of pods that change the pod: binding, eviction, ephemeral containers, resize.

use kontiki_proto::Registry;
use kontiki_proto::api::{DeleteOptions, WriteOptions};
use kontiki_proto::resource::Resource;
use kontiki_proto::selector::Selector;
use kontiki_proto::status::{FieldError, Status};
use serde_json::{Value, json};

use super::create::now;
use super::decode;
use super::edit::{Edit, Part};
use super::{Call, delete};
use crate::request::{Body, Document};
use crate::server::Context;
use crate::storage;

/// How often an eviction is judged anew when another used up the budget first.
const ATTEMPTS: usize = 5;

/// The pod as it is once bound to the node; a conflict where it is bound or going already.
fn bound(row: &Resource, pod: &Value, binding: &Value) -> Result<Value, Status> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let uid = binding["metadata"]["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && pod["metadata"]["uid"] != uid {
        let found = pod["metadata"]["uid"].as_str().unwrap_or_default();
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {found}");
        return Err(Status::conflict(row, name, &why));
    }
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(Status::invalid(row, name, &[FieldError::required("target.name", "")]));
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return Err(Status::conflict(
            row,
            name,
            &format!("pod {name} is being deleted, cannot be assigned to a host"),
        ));
    }
    if let Some(assigned) = pod["spec"]["nodeName"].as_str().filter(|assigned| !assigned.is_empty()) {
        return Err(Status::conflict(
            row,
            name,
            &format!("pod {name} is already assigned to node \"{assigned}\""),
        ));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(Status::conflict(row, name, &format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    let mut pod = pod.clone();
    pod["spec"]["nodeName"] = node.into();
    if let Some(annotations) = binding["metadata"]["annotations"].as_object() {
        for (key, value) in annotations {
            pod["metadata"]["annotations"][key] = value.clone();
        }
    }
    set_condition(&mut pod, json!({"type": "PodScheduled", "status": "True"}));
    Ok(pod)
}

/// Puts a condition in place of the one of its type; its transition time changes with its status alone.
fn set_condition(object: &mut Value, mut condition: Value) {
    let status = &mut object["status"];
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(list) = status["conditions"].as_array_mut() else { return };
    let old = list.iter().position(|old| old["type"] == condition["type"]);
    let same = old.is_some_and(|at| list[at]["status"] == condition["status"]);
    condition["lastTransitionTime"] = match old {
        Some(at) if same => list[at]["lastTransitionTime"].clone(),
        _ => now().into(),
    };
    match old {
        Some(at) => list[at] = condition,
        None => list.push(condition),
    }
}

/// `pods/<name>/binding`: puts the pod on a node. Answers 201 with a success `Status`.
pub(super) async fn bind(
    context: &Context,
    call: &Call,
    body: &Body,
    options: &WriteOptions,
) -> Result<Document, Status> {
    let decoded = decode::document(("", "v1", "Binding"), body, options)?;
    let binding = decoded.object;
    let named = binding["metadata"]["name"].as_str().unwrap_or_default();
    if !named.is_empty() && named != call.target.name.as_str() {
        return Err(Status::bad_request(format!(
            "name in URL does not match name in Binding object: {} != {named}",
            call.target.name
        )));
    }
    let row = &call.row;
    let produce = |current: &Value| bound(row, current, &binding).map(|pod| (pod, Vec::new()));
    let edit = Edit { call, part: Part::Narrow, produce: &produce, dry_run: options.dry_run };
    edit.run(context).await?;
    let mut status = Status::success();
    status.code = 201;
    Ok(Document::created(status.to_json().into()).warned(decoded.warnings))
}

fn budget_row() -> Result<&'static Resource, Status> {
    Registry::builtin()
        .find("policy", "v1", "poddisruptionbudgets")
        .map(|row| &**row)
        .ok_or_else(|| Status::internal("the resource table has no poddisruptionbudgets"))
}

/// Names of the budgets that guard a pod.
fn budgets_of(context: &Context, pod: &Value, namespace: &str) -> Result<Vec<String>, Status> {
    let (budgets, _) = storage::find_all(&context.store, budget_row()?, namespace)?;
    let mut names = Vec::new();
    for budget in budgets {
        let selector = &budget["spec"]["selector"];
        if selector.is_null() {
            continue;
        }
        let selector = serde_json::from_value(selector.clone())
            .map_err(|error| Status::internal(format!("a disruption budget's selector: {error}")))?;
        let selector = Selector::from_label_selector(&selector)
            .map_err(|error| Status::internal(format!("a disruption budget's selector: {error}")))?;
        if selector.matches(|key| pod["metadata"]["labels"][key].as_str()) {
            names.push(budget["metadata"]["name"].as_str().unwrap_or_default().to_string());
        }
    }
    Ok(names)
}

/// Whether losing the pod costs nobody anything.
fn expendable(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Pending" | "Succeeded" | "Failed"))
        || !pod["metadata"]["deletionTimestamp"].is_null()
}

/// The budget with one disruption fewer, or 429 where none is left.
fn disrupted(budget: &Value, pod: &str) -> Result<Value, Status> {
    let name = budget["metadata"]["name"].as_str().unwrap_or_default();
    let status = &budget["status"];
    let refuse = |cause: String| {
        Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
            .with_cause("DisruptionBudget", &cause, "")
    };
    if status["observedGeneration"].as_i64().unwrap_or(0)
        < budget["metadata"]["generation"].as_i64().unwrap_or(0)
    {
        return Err(refuse(format!("The disruption budget {name} is still being processed by the server.")));
    }
    let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
    if allowed <= 0 {
        let (needed, healthy) =
            (status["desiredHealthy"].as_i64().unwrap_or(0), status["currentHealthy"].as_i64().unwrap_or(0));
        return Err(refuse(format!(
            "The disruption budget {name} needs {needed} healthy pods and has {healthy} currently"
        )));
    }
    let mut budget = budget.clone();
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    budget["status"]["disruptedPods"][pod] = now().into();
    Ok(budget)
}

/// `pods/<name>/eviction`: a delete that a disruption budget may refuse with 429.
pub(super) async fn evict(
    context: &Context,
    call: &Call,
    body: &Body,
    options: &WriteOptions,
) -> Result<Document, Status> {
    let decoded = decode::document(("policy", "v1", "Eviction"), body, options)?;
    let mut delete_options: DeleteOptions = match &decoded.object["deleteOptions"] {
        Value::Null => DeleteOptions::default(),
        value => serde_json::from_value(value.clone())
            .map_err(|error| Status::bad_request(format!("deleteOptions: {error}")))?,
    };
    if options.dry_run {
        delete_options.dry_run = vec!["All".into()];
    }
    let namespace = call.target.namespace.as_str();
    super::read::catch_up(&context.store, "").await?;
    let entry = super::entry(context, call)?;
    let pod = storage::decode(&call.row, &entry)?;
    if !expendable(&pod) {
        let budgets = budgets_of(context, &pod, namespace)?;
        match budgets.as_slice() {
            [] => {}
            [name] => spend(context, call, namespace, name, options.dry_run).await?,
            _ => {
                return Err(Status::internal(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ));
            }
        }
    }
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    if delete_options.preconditions.as_ref().is_none_or(|preconditions| preconditions.uid.is_none()) {
        delete_options = delete_options.only(uid);
    }
    delete::delete(context, &call.on(namespace, &call.target.name), &delete_options).await?;
    let mut status = Status::success();
    status.code = 201;
    Ok(Document::created(status.to_json().into()).warned(decoded.warnings))
}

async fn spend(
    context: &Context,
    call: &Call,
    namespace: &str,
    name: &str,
    dry_run: bool,
) -> Result<(), Status> {
    let row = Registry::builtin().find("policy", "v1", "poddisruptionbudgets");
    let row = row.ok_or_else(|| Status::internal("the resource table has no poddisruptionbudgets"))?;
    let mut budget_call = call.on(namespace, name);
    budget_call.row = row.clone();
    let pod = call.target.name.as_str();
    let produce = |budget: &Value| disrupted(budget, pod).map(|budget| (budget, Vec::new()));
    for _ in 0..ATTEMPTS {
        let edit = Edit { call: &budget_call, part: Part::Narrow, produce: &produce, dry_run };
        match edit.run(context).await {
            Ok(_) => return Ok(()),
            Err(status) if status.is_conflict() => {}
            Err(status) => return Err(status),
        }
    }
    Err(Status::too_many_requests("the pod's disruption budget changes too fast; try again", 1))
}

/// What `ephemeralcontainers` and `resize` take over from the document the client sent.
pub(super) fn narrow(subresource: &str, current: &Value, sent: &Value) -> Result<Value, Status> {
    let mut pod = current.clone();
    pod["metadata"]["resourceVersion"] = sent["metadata"]["resourceVersion"].clone();
    if subresource == "ephemeralcontainers" {
        let (old, new) = (&current["spec"]["ephemeralContainers"], &sent["spec"]["ephemeralContainers"]);
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        for container in list(old) {
            if !list(new).iter().any(|other| other["name"] == container["name"]) {
                let name = current["metadata"]["name"].as_str().unwrap_or_default();
                let row = Registry::builtin().find("", "v1", "pods");
                let row = row.ok_or_else(|| Status::internal("the resource table has no pods"))?;
                return Err(Status::invalid(
                    row,
                    name,
                    &[FieldError::forbidden(
                        "spec.ephemeralContainers",
                        "existing ephemeral containers may not be removed",
                    )],
                ));
            }
        }
        if !new.is_null() {
            pod["spec"]["ephemeralContainers"] = new.clone();
        }
        return Ok(pod);
    }
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let sent = sent["spec"][list].as_array().into_iter().flatten();
            let mut same = sent.filter(|other| other["name"] == container["name"]);
            if let Some(other) = same.next() {
                for field in ["resources", "resizePolicy"] {
                    if !other[field].is_null() {
                        container[field] = other[field].clone();
                    }
                }
            }
        }
    }
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> &'static Resource {
        Registry::builtin().find("", "v1", "pods").expect("a row")
    }

    #[test]
    fn a_pod_is_bound_once() {
        let pod = json!({"metadata": {"name": "a", "uid": "u"}, "spec": {}});
        let binding = json!({"target": {"kind": "Node", "name": "n1"}});
        let once = bound(pods(), &pod, &binding).expect("bound");
        assert_eq!(once["spec"]["nodeName"], "n1");
        assert_eq!(once["status"]["conditions"][0]["type"], "PodScheduled");
        let twice = bound(pods(), &once, &binding).expect_err("refused");
        assert_eq!(twice.code, 409);
        assert!(twice.message.contains("already assigned to node \"n1\""), "{}", twice.message);
    }

    #[test]
    fn an_eviction_needs_a_disruption_to_be_allowed() {
        let budget =
            |allowed: i64| json!({"metadata": {"name": "b"}, "status": {"disruptionsAllowed": allowed}});
        let spent = disrupted(&budget(1), "p").expect("allowed");
        assert_eq!(spent["status"]["disruptionsAllowed"], 0);
        assert!(spent["status"]["disruptedPods"]["p"].is_string());
        assert_eq!(disrupted(&budget(0), "p").expect_err("refused").code, 429);
    }
}
