//! delete and deletecollection.
//!
//! ```text
//!   live ──delete──▶ gone                                   nothing to wait for
//!   live ──delete──▶ terminating ──▶ gone                   grace period, finalizers, a namespace's content
//!                    (deletionTimestamp)  last wait is over
//! ```

use jiff::{Timestamp, ToSpan};
use kontiki_proto::api::{DeleteOptions, ListOptions};
use kontiki_proto::resource::Resource;
use kontiki_proto::status::{Details, FieldError, Status};
use kontiki_store::{Entry, Guard, Op, Outcome, RangeRequest, Txn};
use serde_json::{Value, json};

use super::select::Selection;
use super::{Call, services};
use crate::admission::Operation;
use crate::request::Document;
use crate::server::Context;
use crate::{storage, strategy};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// How often a delete is judged anew when another write was faster.
const ATTEMPTS: usize = 16;

/// What a delete comes to, decided from the object alone.
#[derive(Clone, Debug, PartialEq)]
enum Decision {
    /// The object goes now.
    Remove,
    /// It stays for a while, as this.
    Mark(Value),
    /// It is on its way already.
    Nothing,
}

fn finalizers(object: &Value) -> Vec<&str> {
    let finalizers = object["metadata"]["finalizers"].as_array();
    finalizers.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// A namespace is kept until the content behind its own finalizers is gone.
fn keeps_content(row: &Resource, object: &Value) -> bool {
    row.plural == "namespaces"
        && row.group.is_empty()
        && object["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
}

/// Whether nothing keeps a terminating object any more.
pub(super) fn is_complete(row: &Resource, object: &Value) -> bool {
    let metadata = &object["metadata"];
    !metadata["deletionTimestamp"].is_null()
        && finalizers(object).is_empty()
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && !keeps_content(row, object)
}

/// The finalizers the propagation policy asks for in place of those there are.
fn propagate(object: &Value, options: &DeleteOptions) -> Vec<String> {
    let mut list: Vec<String> = finalizers(object).into_iter().map(String::from).collect();
    let policy = match (options.propagation_policy.as_deref(), options.orphan_dependents) {
        (Some(policy), _) => Some(policy),
        (None, Some(true)) => Some("Orphan"),
        (None, Some(false)) => Some("Background"),
        (None, None) => None,
    };
    let wanted = match policy {
        Some("Orphan") => Some(ORPHAN),
        Some("Foreground") => Some(FOREGROUND),
        Some(_) => None,
        // Without a policy what the object says itself holds.
        None => return list,
    };
    list.retain(|name| name != ORPHAN && name != FOREGROUND);
    list.extend(wanted.map(String::from));
    list
}

fn instant(seconds_ahead: i64) -> String {
    let now = Timestamp::now();
    let at = now.checked_add(seconds_ahead.seconds()).unwrap_or(now);
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn decide(row: &Resource, object: &Value, options: &DeleteOptions) -> Decision {
    let metadata = &object["metadata"];
    let terminating = !metadata["deletionTimestamp"].is_null();
    let asked = options.grace_period_seconds.map(|seconds| seconds.max(0));
    let grace = strategy::grace_seconds(row, object, asked).max(0);
    let finalizers = propagate(object, options);
    let mut marked = object.clone();
    if finalizers.is_empty() {
        if let Some(metadata) = storage::metadata_mut(&mut marked) {
            metadata.remove("finalizers");
        }
    } else {
        marked["metadata"]["finalizers"] = json!(finalizers);
    }
    if terminating {
        let left = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        // A second delete may shorten the wait, never lengthen it, and only when it names a time.
        if grace < left && (asked.is_some() || grace == 0) {
            marked["metadata"]["deletionGracePeriodSeconds"] = grace.into();
            marked["metadata"]["deletionTimestamp"] = instant(grace).into();
        }
    } else {
        if grace == 0 && finalizers.is_empty() && !keeps_content(row, object) {
            return Decision::Remove;
        }
        marked["metadata"]["deletionTimestamp"] = instant(grace).into();
        if row.plural != "namespaces" || !row.group.is_empty() {
            marked["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        }
        if let Some(generation) = metadata["generation"].as_i64().filter(|generation| *generation > 0) {
            marked["metadata"]["generation"] = (generation + 1).into();
        }
        if row.plural == "namespaces" && row.group.is_empty() {
            marked["status"]["phase"] = "Terminating".into();
        }
    }
    if is_complete(row, &marked) {
        Decision::Remove
    } else if marked == *object {
        Decision::Nothing
    } else {
        Decision::Mark(marked)
    }
}

fn check_options(options: &DeleteOptions) -> Result<(), Status> {
    let mut errors = Vec::new();
    if options.propagation_policy.is_some() && options.orphan_dependents.is_some() {
        errors.push(FieldError::invalid(
            "propagationPolicy",
            &options.propagation_policy,
            "orphanDependents and deletionPropagation cannot be both set",
        ));
    }
    if let Some(policy) = &options.propagation_policy
        && !matches!(policy.as_str(), "Orphan" | "Foreground" | "Background")
    {
        errors.push(FieldError::not_supported(
            "propagationPolicy",
            policy,
            &["Background", "Foreground", "Orphan"],
        ));
    }
    if options.dry_run.iter().any(|stage| stage != "All") {
        errors.push(FieldError::not_supported("dryRun", &options.dry_run, &["All"]));
    }
    if errors.is_empty() {
        return Ok(());
    }
    let about = Resource::new(
        "meta.k8s.io",
        "v1",
        "DeleteOptions",
        "deleteoptions",
        kontiki_proto::resource::Scope::Cluster,
        kontiki_proto::resource::Verbs::NONE,
    );
    Err(Status::invalid(&about, "", &errors))
}

fn check_preconditions(row: &Resource, object: &Value, options: &DeleteOptions) -> Result<(), Status> {
    let Some(preconditions) = &options.preconditions else { return Ok(()) };
    let metadata = &object["metadata"];
    for (field, label, wanted) in [
        ("uid", "UID", &preconditions.uid),
        ("resourceVersion", "ResourceVersion", &preconditions.resource_version),
    ] {
        let found = metadata[field].as_str().unwrap_or_default();
        if let Some(wanted) = wanted
            && wanted != found
        {
            let name = metadata["name"].as_str().unwrap_or_default();
            let why = format!(
                "Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {found}"
            );
            return Err(Status::conflict(row, name, &why));
        }
    }
    Ok(())
}

/// Kinds whose delete answers with the object instead of a `Status`.
fn returns_object(row: &Resource) -> bool {
    row.group.is_empty()
        && matches!(
            row.plural.as_str(),
            "pods"
                | "services"
                | "serviceaccounts"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "podtemplates"
                | "resourcequotas"
        )
}

fn removed(row: &Resource, object: &Value) -> Result<Document, Status> {
    if returns_object(row) {
        return Ok(Document::ok(super::shape::write(object)?));
    }
    let mut status = Status::success();
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_string();
    status.details = Some(Box::new(Details {
        name: text("name"),
        group: row.group.to_string(),
        kind: row.plural.to_string(),
        uid: text("uid"),
        ..Details::default()
    }));
    Ok(Document::ok(status.to_json().into()))
}

/// The transaction of a decision that changes something.
fn transaction(row: &Resource, found: &Entry, object: &Value, next: Option<&Value>) -> Result<Txn, Status> {
    let key = found.key.clone();
    let mut txn =
        Txn { guards: vec![Guard { key: key.clone(), mod_revision: found.mod_revision }], ops: Vec::new() };
    match next {
        None => {
            txn.ops.push(Op::Delete { key: key.clone() });
            services::release(row, object).extend(&mut txn, &key);
        }
        Some(next) => {
            let (value, attributes) = storage::encode(row, next)?;
            txn.ops.push(Op::Put { key, value, attributes, lease: found.lease });
        }
    }
    Ok(txn)
}

/// Deletes the object the call names, or begins to.
pub(super) async fn delete(
    context: &Context,
    call: &Call,
    options: &DeleteOptions,
) -> Result<Document, Status> {
    check_options(options)?;
    let (row, store) = (&*call.row, &context.store);
    let key = storage::key(row, &call.target.namespace, &call.target.name);
    let mut entry = store.get(&key);
    let mut fresh = false;
    for _ in 0..ATTEMPTS {
        let judged = match &entry {
            None => Err(call.not_found()),
            Some(found) => judge(context, call, found, options).await,
        };
        let (current, decision) = match judged {
            // What this server holds may be old: a refusal is given only after catching up.
            Err(_) if !fresh => {
                store.barrier().await.map_err(storage::store_error)?;
                fresh = true;
                entry = store.get(&key);
                continue;
            }
            judged => judged?,
        };
        let Some(found) = &entry else { return Err(call.not_found()) };
        let next = match decision {
            Decision::Nothing => return Ok(Document::ok(super::shape::write(&current)?)),
            Decision::Remove => None,
            Decision::Mark(next) => Some(next),
        };
        let dry_run = !options.dry_run.is_empty();
        let outcome = if dry_run {
            Outcome::Committed { revision: found.mod_revision }
        } else {
            let txn = transaction(row, found, &current, next.as_ref())?;
            store.propose(txn).await.map_err(storage::store_error)?
        };
        match outcome {
            Outcome::Committed { revision } => {
                let Some(mut next) = next else { return removed(row, &current) };
                storage::set_revision(&mut next, revision);
                return Ok(Document::ok(super::shape::write(&next)?));
            }
            Outcome::Conflict { current, .. } => {
                entry = current.into_iter().next().flatten();
                fresh = true;
            }
        }
    }
    Err(Status::stale(row, &call.target.name))
}

async fn judge(
    context: &Context,
    call: &Call,
    found: &Entry,
    options: &DeleteOptions,
) -> Result<(Value, Decision), Status> {
    let row = &*call.row;
    let current = storage::decode(row, found)?;
    check_preconditions(row, &current, options)?;
    let mut nothing = Value::Null;
    context
        .admission
        .admit(Operation::Delete, row, &call.target, &call.user, &mut nothing, Some(&current))
        .await?;
    let decision = decide(row, &current, options);
    Ok((current, decision))
}

/// Deletes what is selected, one by one; objects that come later are not touched. Answers with a success `Status`, as
/// the objects may be many.
pub(super) async fn delete_collection(
    context: &Context,
    call: &Call,
    selection: &ListOptions,
    options: &DeleteOptions,
) -> Result<Document, Status> {
    check_options(options)?;
    let row = &*call.row;
    let selected = Selection::new(row, &call.target, &selection.label_selector, &selection.field_selector)?;
    super::read::catch_up(&context.store, "").await?;
    let request = RangeRequest { prefix: selected.prefix().clone(), ..RangeRequest::default() };
    let range = context.store.range(&request).map_err(storage::read_error)?;
    for entry in range.entries.iter().filter(|entry| selected.selects(entry)) {
        let (namespace, name) = storage::names(&entry.key);
        match delete(context, &call.on(namespace, name), options).await {
            Ok(_) => {}
            Err(status) if status.is_not_found() => {}
            Err(status) => return Err(status),
        }
    }
    Ok(Document::ok(Status::success().to_json().into()))
}

#[cfg(test)]
mod tests {
    use kontiki_proto::Registry;

    use super::*;

    fn row(plural: &str) -> &'static Resource {
        Registry::builtin().find("", "v1", plural).expect("a built-in row")
    }

    fn options(json: Value) -> DeleteOptions {
        serde_json::from_value(json).expect("options")
    }

    #[test]
    fn an_object_without_anything_to_wait_for_goes_at_once() {
        let object = json!({"metadata": {"name": "a"}});
        assert_eq!(decide(row("configmaps"), &object, &options(json!({}))), Decision::Remove);
    }

    #[test]
    fn finalizers_keep_an_object_until_the_last_is_gone() {
        let object = json!({"metadata": {"name": "a", "finalizers": ["x/y"], "generation": 1}});
        let Decision::Mark(marked) = decide(row("configmaps"), &object, &options(json!({}))) else {
            panic!("it must stay");
        };
        assert!(marked["metadata"]["deletionTimestamp"].is_string());
        assert_eq!(marked["metadata"]["generation"], 2);
        assert!(!is_complete(row("configmaps"), &marked));
        assert_eq!(decide(row("configmaps"), &marked, &options(json!({}))), Decision::Nothing);
        let mut free = marked;
        free["metadata"]["finalizers"] = json!([]);
        assert!(is_complete(row("configmaps"), &free));
    }

    #[test]
    fn the_propagation_policy_is_left_to_the_garbage_collector_as_a_finalizer() {
        let object = json!({"metadata": {"name": "a", "finalizers": ["orphan"]}});
        for (asked, finalizer) in [("Orphan", "orphan"), ("Foreground", "foregroundDeletion")] {
            let asked = options(json!({"propagationPolicy": asked}));
            let Decision::Mark(marked) = decide(row("configmaps"), &object, &asked) else {
                panic!("it must stay");
            };
            assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
        }
        let background = options(json!({"propagationPolicy": "Background"}));
        assert_eq!(decide(row("configmaps"), &object, &background), Decision::Remove);
    }

    #[test]
    fn a_namespace_terminates_until_its_content_is_gone() {
        let object = json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}});
        let Decision::Mark(marked) = decide(row("namespaces"), &object, &options(json!({}))) else {
            panic!("it must stay");
        };
        assert_eq!(marked["status"]["phase"], "Terminating");
        let mut empty = marked;
        empty["spec"]["finalizers"] = json!([]);
        assert!(is_complete(row("namespaces"), &empty));
    }
}
