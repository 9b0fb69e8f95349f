//! From a request's body to an object that belongs where the request says.

use std::borrow::Cow;

use kontiki_proto::api::WriteOptions;
use kontiki_proto::resource::Resource;
use kontiki_proto::status::{FieldError, Status};
use serde::Deserialize;
use serde_json::Value;

use super::Call;
use crate::request::{Body, Format};
use crate::schema::{self, FieldValidation};
use crate::storage;

/// A decoded object and what to tell people about fields that were dropped.
pub(super) struct Decoded {
    pub object: Value,
    pub warnings: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TypeMeta<'a> {
    #[serde(borrow)]
    api_version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    kind: Option<Cow<'a, str>>,
}

pub(super) fn validation(options: &WriteOptions) -> Result<FieldValidation, Status> {
    FieldValidation::parse(&options.field_validation).ok_or_else(|| {
        let error = FieldError::not_supported(
            "fieldValidation",
            &options.field_validation,
            &["Ignore", "Strict", "Warn"],
        );
        Status::bad_request(error.to_string())
    })
}

/// The JSON of a body; YAML is turned into it.
pub(super) fn json(body: &Body) -> Result<Cow<'_, [u8]>, Status> {
    match body.format {
        Format::Json => Ok(Cow::Borrowed(&body.bytes)),
        Format::Protobuf => {
            let value = crate::protobuf::decode(&body.bytes)?;
            serde_json::to_vec(&value).map(Cow::Owned).map_err(|error| Status::internal(error.to_string()))
        }
        Format::Yaml => {
            let text = std::str::from_utf8(&body.bytes)
                .map_err(|error| Status::bad_request(format!("the body is not UTF-8: {error}")))?;
            let value: Value = serde_saphyr::from_str(text).map_err(|error| {
                Status::bad_request(format!("error converting YAML to JSON: yaml: {error}"))
            })?;
            serde_json::to_vec(&value).map(Cow::Owned).map_err(|error| Status::internal(error.to_string()))
        }
    }
}

/// A document of a kind that is no row, such as a `Binding`. Its own kind may be left out.
pub(super) fn document(
    kind: (&str, &str, &str),
    body: &Body,
    options: &WriteOptions,
) -> Result<Decoded, Status> {
    let bytes = json(body)?;
    check_kind(kind, &bytes)?;
    let (object, warnings) = schema::decode_kind(kind, &bytes, validation(options)?)?;
    Ok(Decoded { object: with_kind(object, kind), warnings })
}

/// An object of the row, with its kind and namespace filled in from the request.
pub(super) fn object(call: &Call, body: &Body, options: &WriteOptions) -> Result<Decoded, Status> {
    let row = &call.row;
    let bytes = json(body)?;
    let kind = (row.group.as_str(), row.version.as_str(), row.kind.as_str());
    check_kind(kind, &bytes)?;
    let (object, warnings) = schema::decode(row, &bytes, validation(options)?)?;
    let mut object = with_kind(object, kind);
    settle(call, &mut object)?;
    Ok(Decoded { object, warnings })
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.into() } else { format!("{group}/{version}") }
}

/// A body may leave its kind out, but not be of another one.
fn check_kind((group, version, kind): (&str, &str, &str), body: &[u8]) -> Result<(), Status> {
    // What is no document at all is reported by the decoder, with the place.
    let Ok(found) = serde_json::from_slice::<TypeMeta<'_>>(body) else { return Ok(()) };
    let expected = api_version(group, version);
    let found_version = found.api_version.as_deref().unwrap_or_default();
    let found_kind = found.kind.as_deref().unwrap_or_default();
    if !found_version.is_empty() && found_version != expected {
        return Err(Status::bad_request(format!(
            "the API version in the data ({found_version}) does not match the expected API version ({expected})"
        )));
    }
    if !found_kind.is_empty() && found_kind != kind {
        return Err(Status::bad_request(format!(
            "{found_kind} in version \"{expected}\" cannot be handled as a {kind}"
        )));
    }
    Ok(())
}

fn with_kind(mut object: Value, (group, version, kind): (&str, &str, &str)) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), api_version(group, version).into());
        map.insert("kind".into(), kind.into());
    }
    object
}

/// Puts a body where the request says it belongs, or says that it belongs elsewhere.
pub(super) fn settle(call: &Call, object: &mut Value) -> Result<(), Status> {
    let (namespace, name) = (&call.target.namespace, &call.target.name);
    if !object["metadata"].is_object() && !object["metadata"].is_null() {
        return Err(Status::bad_request("metadata of the object is not an object"));
    }
    let Some(metadata) = storage::metadata_mut(object) else {
        return Err(Status::bad_request("the body of the request is not an object"));
    };
    metadata.remove("managedFields");
    metadata.remove("selfLink");
    if !call.row.namespaced() {
        metadata.remove("namespace");
    } else {
        let own = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
        if own.is_empty() {
            metadata.insert("namespace".into(), namespace.as_str().into());
        } else if own != namespace.as_str() {
            return Err(Status::bad_request(if name.is_empty() {
                "the namespace of the provided object does not match the namespace sent on the request".into()
            } else {
                format!(
                    "the namespace of the object ({own}) does not match the namespace on the request ({namespace})"
                )
            }));
        }
    }
    if !name.is_empty() {
        let own = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
        if own.is_empty() {
            return Err(Status::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        if own != name.as_str() {
            return Err(Status::bad_request(format!(
                "the name of the object ({own}) does not match the name on the URL ({name})"
            )));
        }
    }
    Ok(())
}

/// The refusals of validation as one status.
pub(super) fn refuse(row: &Resource, object: &Value, errors: &[FieldError]) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().filter(|name| !name.is_empty());
    let name = name.or_else(|| metadata["generateName"].as_str()).unwrap_or_default();
    Err(Status::invalid(row, name, errors))
}
