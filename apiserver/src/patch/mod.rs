//! The patch types: RFC 6902, RFC 7386 and strategic merge.
//!
//! Each takes the object as it is and the patch, and gives the object as it shall be. Pure: nothing is defaulted or
//! validated here; [`decode`] holds the outcome against the schema, as the next step of a patch.

mod strategic;
#[cfg(test)]
mod tests;

use json_patch::{Patch, PatchOperation};
use kontiki_proto::api::PatchType;
use kontiki_proto::resource::Resource;
use kontiki_proto::status::{FieldError, Status};
use serde_json::Value;

use crate::schema::{self, FieldValidation};

/// Operations in one JSON patch.
pub const MOST_OPERATIONS: usize = 10_000;
/// Bytes that the copies of one JSON patch may add up to: each may double what is there.
pub const MOST_COPIED_BYTES: usize = 3 * 1024 * 1024;

const FOR_CUSTOM: &str = "application/json-patch+json, application/merge-patch+json";

/// The object after the patch.
///
/// Errors as upstream words them: 400 for a patch that cannot be read, 422 for one that cannot be applied, 415 for a
/// strategic merge on a custom resource, 413 for more than [`MOST_OPERATIONS`] operations.
pub fn apply(patch_type: PatchType, row: &Resource, current: &Value, patch: &[u8]) -> Result<Value, Status> {
    match patch_type {
        PatchType::Json => json(current, patch),
        PatchType::Merge => {
            let patch = read_object(patch)?;
            let mut patched = current.clone();
            json_patch::merge(&mut patched, &patch);
            Ok(patched)
        }
        PatchType::StrategicMerge => {
            let Some(of) = schema::type_of(row) else {
                return Err(Status::unsupported_media_type(
                    "application/strategic-merge-patch+json",
                    FOR_CUSTOM,
                ));
            };
            let patch = read_object(patch)?;
            strategic::apply(of, current.clone(), patch).map_err(Status::bad_request)
        }
        PatchType::Apply => Err(Status::not_implemented("server-side apply")),
    }
}

/// [`schema::canonicalize`] for a patched object: what does not fit is a 422 that shows the outcome of the patch, as
/// upstream answers, and not the 400 of a body.
pub fn decode(
    row: &Resource,
    patched: &mut Value,
    validation: FieldValidation,
) -> Result<Vec<String>, Status> {
    let shown = patched.to_string();
    schema::canonicalize(row, patched, validation).map_err(|status| {
        let why = status.message.split_once(": ").map_or(status.message.as_str(), |(_, why)| why);
        let error = FieldError::invalid("patch", shown, why);
        let mut nameless = row.clone();
        (nameless.group, nameless.kind) = Default::default();
        Status::invalid(&nameless, "", &[error])
    })
}

fn read_object(patch: &[u8]) -> Result<Value, Status> {
    let patch: Value = serde_json::from_slice(patch).map_err(undecodable)?;
    if patch.is_object() {
        return Ok(patch);
    }
    let what = match patch {
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        _ => "null",
    };
    Err(undecodable(format!("json: cannot unmarshal {what} into Go value of type map[string]interface {{}}")))
}

fn undecodable(why: impl std::fmt::Display) -> Status {
    Status::bad_request(format!("error decoding patch: {why}"))
}

fn json(current: &Value, patch: &[u8]) -> Result<Value, Status> {
    let Patch(operations) = serde_json::from_slice(patch).map_err(undecodable)?;
    if operations.len() > MOST_OPERATIONS {
        return Err(Status::failure(
            413,
            "RequestEntityTooLarge",
            format!(
                "Request entity too large: The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {}",
                operations.len()
            ),
        ));
    }
    let mut patched = current.clone();
    let mut copied = 0;
    for operation in &operations {
        if let PatchOperation::Copy(copy) = operation
            && let Ok(source) = copy.from.resolve(&patched)
        {
            copied += source.to_string().len();
            if copied > MOST_COPIED_BYTES {
                return Err(unprocessable(&format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MOST_COPIED_BYTES}"
                )));
            }
        }
        json_patch::patch(&mut patched, std::slice::from_ref(operation))
            .map_err(|error| unprocessable(&error.to_string()))?;
    }
    Ok(patched)
}

fn unprocessable(why: &str) -> Status {
    Status::failure(422, "Invalid", "the server rejected our request due to an error in our request")
        .with_cause("UnexpectedServerResponse", why, "")
}
