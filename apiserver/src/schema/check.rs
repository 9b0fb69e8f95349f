//! Decoding: types, unknown fields, nulls.

use kontiki_proto::status::Status;
use serde_json::Value;

use super::FieldValidation;

pub(super) fn decode(
    kind: (&str, &str, &str),
    body: &[u8],
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let mut object: Value =
        serde_json::from_slice(body).map_err(|error| Status::bad_request(error.to_string()))?;
    let warnings = canonicalize(kind, &mut object, validation)?;
    Ok((object, warnings))
}

pub(super) fn canonicalize(
    _kind: (&str, &str, &str),
    object: &mut Value,
    _validation: FieldValidation,
) -> Result<Vec<String>, Status> {
    if !object.is_object() {
        return Err(Status::bad_request("the body of the request is not an object"));
    }
    Ok(Vec::new())
}
