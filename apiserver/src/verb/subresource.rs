//! Subresources, and rows that are answered without being stored.

use kontiki_proto::api::{List, PatchType, WriteOptions};
use kontiki_proto::status::Status;
use serde_json::{Value, json};

use super::edit::{Edit, Part, Produced};
use super::shape::{ListMeta, write};
use super::{Call, decode, edit, namespaces, pods, read};
use crate::request::{Action, Answer, Body, Document};
use crate::server::Context;
use crate::strategy::scale;
use crate::{patch, review, storage};

/// Carries out a call on a subresource its row has.
pub(super) async fn run(context: &Context, call: &Call, action: Action) -> Result<Document, Status> {
    let name = call.target.subresource.clone();
    match (name.as_str(), action) {
        ("scale", Action::Get(options)) => {
            read::catch_up(&context.store, &options.resource_version).await?;
            let object = storage::decode(&call.row, &*super::entry(context, call)?)?;
            Ok(Document::ok(write(&scale::read(&call.row, &object)?)?))
        }
        ("scale", Action::Update(body, options)) => {
            let decoded = decode::document(("autoscaling", "v1", "Scale"), &body, &options)?;
            let wanted = decoded.object;
            check_scale(call, &wanted)?;
            let produce = |current: &Value| rescaled(call, current, &wanted, decoded.warnings.clone());
            scaled(context, call, &produce, options.dry_run).await
        }
        ("scale", Action::Patch(patch_type, body, options)) => {
            patch_scale(context, call, patch_type, &body, &options).await
        }
        ("status", Action::Update(body, options)) => edit::update(context, call, &body, &options).await,
        ("status", Action::Patch(patch_type, body, options)) => {
            edit::patch(context, call, patch_type, &body, &options).await
        }
        ("status" | "ephemeralcontainers" | "resize" | "approval", Action::Get(options)) => {
            read::get(context, call, &options).await
        }
        ("ephemeralcontainers" | "resize" | "approval", Action::Update(body, options)) => {
            let decoded = decode::object(call, &body, &options)?;
            let produce =
                |current: &Value| narrowed(call, current, &decoded.object, decoded.warnings.clone());
            narrow(context, call, &produce, options.dry_run).await
        }
        ("ephemeralcontainers" | "resize" | "approval", Action::Patch(patch_type, body, options)) => {
            let bytes = decode::json(&body)?;
            let produce = |current: &Value| {
                let (sent, warnings) = edit::patched(call, patch_type, &bytes, &options, current)?;
                narrowed(call, current, &sent, warnings)
            };
            narrow(context, call, &produce, options.dry_run).await
        }
        ("finalize", Action::Update(body, options)) => {
            namespaces::finalize(context, call, &body, &options).await
        }
        ("binding", Action::Create(body, options)) => pods::bind(context, call, &body, &options).await,
        ("eviction", Action::Create(body, options)) => pods::evict(context, call, &body, &options).await,
        ("token", Action::Create(body, options)) => {
            let kind = ("authentication.k8s.io", "v1", "TokenRequest");
            let decoded = decode::document(kind, &body, &options)?;
            reviewed(context, call, decoded).await
        }
        (name, _) => {
            Err(Status::not_implemented(&format!("the {name} subresource of {}", call.row.qualified())))
        }
    }
}

fn check_scale(call: &Call, wanted: &Value) -> Result<(), Status> {
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    if !name.is_empty() && name != call.target.name.as_str() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.target.name
        )));
    }
    Ok(())
}

fn rescaled(call: &Call, current: &Value, wanted: &Value, warnings: Vec<String>) -> Produced {
    let mut object = current.clone();
    scale::write(&call.row, &mut object, wanted)?;
    for field in ["resourceVersion", "uid"] {
        if let Some(value) = wanted["metadata"][field].as_str().filter(|value| !value.is_empty()) {
            object["metadata"][field] = value.into();
        }
    }
    Ok((object, warnings))
}

async fn patch_scale(
    context: &Context,
    call: &Call,
    patch_type: PatchType,
    body: &Body,
    options: &WriteOptions,
) -> Result<Document, Status> {
    let bytes = decode::json(body)?;
    // A Scale has no lists, so that its strategic merge is a plain one.
    let patch_type = match patch_type {
        PatchType::StrategicMerge => PatchType::Merge,
        other => other,
    };
    let produce = |current: &Value| {
        let before = scale::read(&call.row, current)?;
        let wanted = patch::apply(patch_type, &call.row, &before, &bytes)?;
        rescaled(call, current, &wanted, Vec::new())
    };
    scaled(context, call, &produce, options.dry_run).await
}

async fn scaled(
    context: &Context,
    call: &Call,
    produce: &(dyn Fn(&Value) -> Produced + Send + Sync),
    dry_run: bool,
) -> Result<Document, Status> {
    let edited = Edit { call, part: Part::Whole, produce, dry_run }.run(context).await?;
    let json = write(&scale::read(&call.row, &edited.object)?)?;
    Ok(Document::ok(json).warned(edited.warnings))
}

/// What a narrow subresource takes over from a whole document.
fn narrowed(call: &Call, current: &Value, sent: &Value, warnings: Vec<String>) -> Produced {
    let subresource = call.target.subresource.as_str();
    if subresource != "approval" {
        return Ok((pods::narrow(subresource, current, sent)?, warnings));
    }
    let mut object = current.clone();
    for field in ["resourceVersion", "uid"] {
        object["metadata"][field] = sent["metadata"][field].clone();
    }
    object["status"]["conditions"] = sent["status"]["conditions"].clone();
    Ok((object, warnings))
}

async fn narrow(
    context: &Context,
    call: &Call,
    produce: &(dyn Fn(&Value) -> Produced + Send + Sync),
    dry_run: bool,
) -> Result<Document, Status> {
    Ok(Edit { call, part: Part::Narrow, produce, dry_run }.run(context).await?.document())
}

async fn reviewed(context: &Context, call: &Call, decoded: decode::Decoded) -> Result<Document, Status> {
    let answer = review::create(&context.auth, &call.user, &call.target, &decoded.object).await;
    let object = answer.ok_or_else(|| {
        Status::not_implemented(&format!("creating {} of {}", call.target.subresource, call.row.qualified()))
    })??;
    Ok(Document::created(write(&object)?).warned(decoded.warnings))
}

/// Rows without a store behind them: reviews, bindings, component statuses.
pub(super) async fn answered(context: &Context, call: &Call, action: Action) -> Result<Answer, Status> {
    match (call.row.plural.as_str(), action) {
        ("componentstatuses", Action::List(options)) => {
            let item = write(&component_status(context).await)?;
            let meta = ListMeta { revision: context.store.revision(), ..ListMeta::default() };
            let list: List = read::answer(&call.row, vec![item], meta, call.form(options.shape))?;
            Ok(Answer::List(list))
        }
        ("componentstatuses", Action::Get(_)) if call.target.name == "store" => {
            Ok(Answer::Document(Document::ok(write(&component_status(context).await)?)))
        }
        ("componentstatuses", Action::Get(_)) => Err(call.not_found()),
        ("bindings", Action::Create(body, options)) => {
            let decoded = decode::document(("", "v1", "Binding"), &body, &options)?;
            let name = decoded.object["metadata"]["name"].as_str().unwrap_or_default();
            let row = kontiki_proto::Registry::builtin().find("", "v1", "pods");
            let mut pod = call.on(&call.target.namespace, name);
            pod.row = row.cloned().ok_or_else(|| Status::internal("the resource table has no pods"))?;
            pods::bind(context, &pod, &body, &options).await.map(Answer::Document)
        }
        (_, Action::Create(body, options)) => {
            let decoded = decode::object(call, &body, &options)?;
            reviewed(context, call, decoded).await.map(Answer::Document)
        }
        (_, action) => Err(Status::method_not_supported(&call.row, action.verb())),
    }
}

async fn component_status(context: &Context) -> Value {
    let condition = match context.store.barrier().await {
        Ok(_) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(error) => json!({"type": "Healthy", "status": "False", "message": error.to_string()}),
    };
    json!({
        "apiVersion": "v1", "kind": "ComponentStatus",
        "metadata": {"name": "store", "creationTimestamp": null},
        "conditions": [condition],
    })
}
