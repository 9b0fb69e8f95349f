//! The `finalize` subresource: what the namespace controller writes when a namespace's content is gone.

use kontiki_proto::api::WriteOptions;
use kontiki_proto::status::Status;
use serde_json::Value;

use super::Call;
use super::decode;
use super::edit::{Edit, Part};
use crate::request::{Body, Document};
use crate::server::Context;

/// Replaces `spec.finalizers` and nothing else. A terminating namespace without any is gone.
pub(super) async fn finalize(
    context: &Context,
    call: &Call,
    body: &Body,
    options: &WriteOptions,
) -> Result<Document, Status> {
    let decode::Decoded { object, warnings } = decode::object(call, body, options)?;
    let produce = |current: &Value| {
        let mut new = current.clone();
        new["spec"]["finalizers"] = match &object["spec"]["finalizers"] {
            Value::Null => Value::Array(Vec::new()),
            list => list.clone(),
        };
        new["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
        if let Some(uid) = object["metadata"]["uid"].as_str() {
            new["metadata"]["uid"] = uid.into();
        }
        Ok((new, warnings.clone()))
    };
    let edit = Edit { call, part: Part::Narrow, produce: &produce, dry_run: options.dry_run };
    Ok(edit.run(context).await?.document())
}
