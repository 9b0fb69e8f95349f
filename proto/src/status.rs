//! The API's error document, `metav1.Status`, with one constructor for each reason upstream uses.

use serde::{Deserialize, Serialize};

use crate::resource::Resource;

/// An error as the Kubernetes API words it, and the answer to a successful delete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct Status {
    #[serde(default = "status_kind")]
    pub kind: String,
    #[serde(default = "status_api_version")]
    pub api_version: String,
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// `Success` or `Failure`.
    #[serde(default)]
    pub status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Details>>,
    /// HTTP status code.
    #[serde(default)]
    pub code: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The plural resource name for most reasons, the kind for `Invalid`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retry_after_seconds: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

fn status_kind() -> String {
    "Status".into()
}

fn status_api_version() -> String {
    "v1".into()
}

fn is_zero(value: &i32) -> bool {
    *value == 0
}

/// One problem with one field, as `field.Error` upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path such as `spec.containers[0].image`.
    pub field: String,
    /// `FieldValueInvalid`, `FieldValueRequired`, …: the machine-readable cause.
    pub reason: &'static str,
    /// Everything behind `field: `, for example `Required value`.
    pub message: String,
}

impl FieldError {
    fn new(field: impl Into<String>, reason: &'static str, message: String) -> FieldError {
        FieldError { field: field.into(), reason, message }
    }

    /// `bad` is printed as JSON, as upstream prints the offending value.
    pub fn invalid(field: impl Into<String>, bad: impl Serialize, detail: &str) -> FieldError {
        let bad = serde_json::to_string(&bad).unwrap_or_default();
        Self::new(field, "FieldValueInvalid", format!("Invalid value: {bad}: {detail}"))
    }

    pub fn required(field: impl Into<String>, detail: &str) -> FieldError {
        let message = if detail.is_empty() {
            "Required value".to_string()
        } else {
            format!("Required value: {detail}")
        };
        Self::new(field, "FieldValueRequired", message)
    }

    pub fn forbidden(field: impl Into<String>, detail: &str) -> FieldError {
        Self::new(field, "FieldValueForbidden", format!("Forbidden: {detail}"))
    }

    pub fn duplicate(field: impl Into<String>, bad: impl Serialize) -> FieldError {
        let bad = serde_json::to_string(&bad).unwrap_or_default();
        Self::new(field, "FieldValueDuplicate", format!("Duplicate value: {bad}"))
    }

    pub fn not_found(field: impl Into<String>, bad: impl Serialize) -> FieldError {
        let bad = serde_json::to_string(&bad).unwrap_or_default();
        Self::new(field, "FieldValueNotFound", format!("Not found: {bad}"))
    }

    pub fn not_supported(field: impl Into<String>, bad: impl Serialize, valid: &[&str]) -> FieldError {
        let bad = serde_json::to_string(&bad).unwrap_or_default();
        let valid = valid.iter().map(|v| format!("\"{v}\"")).collect::<Vec<_>>().join(", ");
        Self::new(
            field,
            "FieldValueNotSupported",
            format!("Unsupported value: {bad}: supported values: {valid}"),
        )
    }

    pub fn too_long(field: impl Into<String>, max: usize) -> FieldError {
        Self::new(field, "FieldValueTooLong", format!("Too long: may not be more than {max} bytes"))
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl Status {
    pub fn success() -> Status {
        Status {
            kind: status_kind(),
            api_version: status_api_version(),
            metadata: Default::default(),
            status: "Success".into(),
            message: String::new(),
            reason: String::new(),
            details: None,
            code: 200,
        }
    }

    /// A failure; the helpers below give reason and code for the usual ones.
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Status {
        Status {
            status: "Failure".into(),
            message: message.into(),
            reason: reason.into(),
            code,
            ..Status::success()
        }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Status {
        self.details = Some(Box::new(Details {
            name: name.into(),
            group: resource.group.to_string(),
            kind: resource.plural.to_string(),
            ..Details::default()
        }));
        self
    }

    pub fn not_found(resource: &Resource, name: &str) -> Status {
        Self::failure(404, "NotFound", format!("{} \"{name}\" not found", resource.qualified()))
            .about(resource, name)
    }

    /// The path leads nowhere: no such group, version or resource.
    pub fn no_such_path() -> Status {
        Self::failure(404, "NotFound", "the server could not find the requested resource")
    }

    pub fn already_exists(resource: &Resource, name: &str) -> Status {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::failure(409, "AlreadyExists", message).about(resource, name)
    }

    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Status {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
        Self::failure(409, "Conflict", message).about(resource, name)
    }

    /// The optimistic-concurrency conflict, in upstream's words.
    pub fn stale(resource: &Resource, name: &str) -> Status {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> Status {
        let list = match errors {
            [one] => one.to_string(),
            many => {
                format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
        };
        let kind = if resource.group.is_empty() {
            resource.kind.to_string()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let mut status = Self::failure(422, "Invalid", format!("{kind} \"{name}\" is invalid: {list}"));
        status.details = Some(Box::new(Details {
            name: name.into(),
            group: resource.group.to_string(),
            kind: resource.kind.to_string(),
            causes: errors
                .iter()
                .map(|e| Cause {
                    reason: e.reason.into(),
                    message: e.message.clone(),
                    field: e.field.clone(),
                })
                .collect(),
            ..Details::default()
        }));
        status
    }

    pub fn bad_request(message: impl Into<String>) -> Status {
        Self::failure(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Status {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }

    /// `why` in upstream's words, such as `User "a" cannot get resource "pods" in API group "" …`.
    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> Status {
        let message = if name.is_empty() {
            format!("{} is forbidden: {why}", resource.qualified())
        } else {
            format!("{} \"{name}\" is forbidden: {why}", resource.qualified())
        };
        Self::failure(403, "Forbidden", message).about(resource, name)
    }

    pub fn forbidden_path(path: &str, why: &str) -> Status {
        Self::failure(403, "Forbidden", format!("forbidden: {why}")).with_cause("", path, "")
    }

    pub fn method_not_supported(resource: &Resource, verb: &str) -> Status {
        let message = format!("{verb} is not supported on resources of kind \"{}\"", resource.qualified());
        Self::failure(405, "MethodNotAllowed", message).about(resource, "")
    }

    /// Asked for and not built: what it is goes into the message.
    pub fn not_implemented(what: &str) -> Status {
        Self::failure(501, "NotImplemented", format!("{what} is not implemented by this server"))
    }

    pub fn unsupported_media_type(got: &str, accepted: &str) -> Status {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}; got: {got}"
        );
        Self::failure(415, "UnsupportedMediaType", message)
    }

    pub fn not_acceptable(accepted: &str) -> Status {
        let message = format!("only the following media types are accepted: {accepted}");
        Self::failure(406, "NotAcceptable", message)
    }

    pub fn too_large(limit: usize) -> Status {
        Self::failure(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit} bytes"),
        )
    }

    /// 410: the asked-for revision has been compacted; the client has to list again.
    pub fn expired(message: impl Into<String>) -> Status {
        Self::failure(410, "Expired", message)
    }

    /// 410 in the form a watch and an old `resourceVersion` get.
    pub fn too_old(asked: u64, oldest: u64) -> Status {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Status {
        let mut status = Self::failure(429, "TooManyRequests", message);
        status.details = Some(Box::new(Details { retry_after_seconds, ..Details::default() }));
        status
    }

    /// The server is not able to serve now; trying again is safe.
    pub fn unavailable(message: impl Into<String>) -> Status {
        let mut status = Self::failure(503, "ServiceUnavailable", message);
        status.details = Some(Box::new(Details { retry_after_seconds: 1, ..Details::default() }));
        status
    }

    /// The outcome of a write is unknown, or a read took too long.
    pub fn timeout(message: impl Into<String>) -> Status {
        Self::failure(504, "Timeout", message)
    }

    pub fn internal(message: impl Into<String>) -> Status {
        Self::failure(500, "InternalError", format!("Internal error occurred: {}", message.into()))
    }

    pub fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Status {
        self.details.get_or_insert_default().causes.push(Cause {
            reason: reason.into(),
            message: message.into(),
            field: field.into(),
        });
        self
    }

    pub fn is(&self, reason: &str) -> bool {
        self.reason == reason
    }

    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// Whether the request may be sent again as it was, after a pause.
    pub fn is_retriable(&self) -> bool {
        matches!(self.code, 429 | 503 | 504)
    }

    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}
