//! Between the generated messages and the types of [`crate::api`], both ways.

use bytes::Bytes;
use tonic::Code;

use crate::api::{
    DeleteOptions, Event, EventType, GetOptions, ListOptions, PatchType, Shape, Target, VersionMatch, WatchOptions,
    WriteOptions,
};
use crate::pb;
use crate::status::Status;

impl From<&Target> for pb::Target {
    fn from(target: &Target) -> pb::Target {
        pb::Target {
            group: target.group.to_string(),
            version: target.version.to_string(),
            resource: target.resource.to_string(),
            namespace: target.namespace.to_string(),
            name: target.name.to_string(),
            subresource: target.subresource.to_string(),
        }
    }
}

impl From<pb::Target> for Target {
    fn from(target: pb::Target) -> Target {
        Target {
            group: target.group.into(),
            version: target.version.into(),
            resource: target.resource.into(),
            namespace: target.namespace.into(),
            name: target.name.into(),
            subresource: target.subresource.into(),
        }
    }
}

/// A message without a target is a client's mistake.
///
/// # Errors
/// 400.
pub fn target(target: Option<pb::Target>) -> Result<Target, Status> {
    target.map(Target::from).ok_or_else(|| Status::bad_request("the request names no target"))
}

impl From<Shape> for pb::Shape {
    fn from(shape: Shape) -> pb::Shape {
        match shape {
            Shape::Object => pb::Shape::Object,
            Shape::Table => pb::Shape::Table,
            Shape::Metadata => pb::Shape::Metadata,
        }
    }
}

impl From<pb::Shape> for Shape {
    fn from(shape: pb::Shape) -> Shape {
        match shape {
            pb::Shape::Object => Shape::Object,
            pb::Shape::Table => Shape::Table,
            pb::Shape::Metadata => Shape::Metadata,
        }
    }
}

/// A shape as it travels; an unknown number is the object itself.
pub fn shape(number: i32) -> Shape {
    pb::Shape::try_from(number).unwrap_or(pb::Shape::Object).into()
}

impl From<PatchType> for pb::PatchType {
    fn from(patch_type: PatchType) -> pb::PatchType {
        match patch_type {
            PatchType::Json => pb::PatchType::JsonPatch,
            PatchType::Merge => pb::PatchType::MergePatch,
            PatchType::StrategicMerge => pb::PatchType::StrategicMergePatch,
            PatchType::Apply => pb::PatchType::ApplyPatch,
        }
    }
}

/// # Errors
/// 400 for a number that is no patch type.
pub fn patch_type(number: i32) -> Result<PatchType, Status> {
    match pb::PatchType::try_from(number) {
        Ok(pb::PatchType::JsonPatch) => Ok(PatchType::Json),
        Ok(pb::PatchType::MergePatch) => Ok(PatchType::Merge),
        Ok(pb::PatchType::StrategicMergePatch) => Ok(PatchType::StrategicMerge),
        Ok(pb::PatchType::ApplyPatch) => Ok(PatchType::Apply),
        Err(_) => Err(Status::bad_request(format!("unknown patch type {number}"))),
    }
}

impl From<&WriteOptions> for pb::WriteOptions {
    fn from(options: &WriteOptions) -> pb::WriteOptions {
        pb::WriteOptions {
            dry_run: options.dry_run,
            field_manager: options.field_manager.clone(),
            field_validation: options.field_validation.clone(),
            force: options.force,
        }
    }
}

impl From<pb::WriteOptions> for WriteOptions {
    fn from(options: pb::WriteOptions) -> WriteOptions {
        WriteOptions {
            dry_run: options.dry_run,
            field_manager: options.field_manager,
            field_validation: options.field_validation,
            force: options.force,
        }
    }
}

pub fn write_options(options: Option<pb::WriteOptions>) -> WriteOptions {
    options.map(WriteOptions::from).unwrap_or_default()
}

fn match_name(version_match: VersionMatch) -> String {
    match version_match {
        VersionMatch::Unset => String::new(),
        VersionMatch::NotOlderThan => "NotOlderThan".into(),
        VersionMatch::Exact => "Exact".into(),
    }
}

/// `resourceVersionMatch` by its name.
///
/// # Errors
/// 400 for any other word.
pub fn version_match(name: &str) -> Result<VersionMatch, Status> {
    match name {
        "" => Ok(VersionMatch::Unset),
        "NotOlderThan" => Ok(VersionMatch::NotOlderThan),
        "Exact" => Ok(VersionMatch::Exact),
        other => Err(Status::bad_request(format!(
            "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
        ))),
    }
}

pub fn get_request(target: &Target, options: &GetOptions) -> pb::GetRequest {
    pb::GetRequest {
        target: Some(target.into()),
        resource_version: options.resource_version.clone(),
        shape: pb::Shape::from(options.shape).into(),
    }
}

pub fn get_options(request: &pb::GetRequest) -> GetOptions {
    GetOptions { resource_version: request.resource_version.clone(), shape: shape(request.shape) }
}

fn selection(label_selector: &str, field_selector: &str) -> Option<pb::Selection> {
    Some(pb::Selection { label_selector: label_selector.into(), field_selector: field_selector.into() })
}

pub fn list_request(target: &Target, options: &ListOptions) -> pb::ListRequest {
    pb::ListRequest {
        target: Some(target.into()),
        selection: selection(&options.label_selector, &options.field_selector),
        limit: i64::try_from(options.limit).unwrap_or(i64::MAX),
        continue_token: options.continue_token.clone(),
        resource_version: options.resource_version.clone(),
        resource_version_match: match_name(options.version_match),
        shape: pb::Shape::from(options.shape).into(),
    }
}

/// # Errors
/// 400 for a negative limit or an unknown `resourceVersionMatch`.
pub fn list_options(request: &pb::ListRequest) -> Result<ListOptions, Status> {
    let selection = request.selection.clone().unwrap_or_default();
    Ok(ListOptions {
        label_selector: selection.label_selector,
        field_selector: selection.field_selector,
        limit: u64::try_from(request.limit)
            .map_err(|_| Status::bad_request(format!("limit: {} is negative", request.limit)))?,
        continue_token: request.continue_token.clone(),
        resource_version: request.resource_version.clone(),
        version_match: version_match(&request.resource_version_match)?,
        shape: shape(request.shape),
    })
}

pub fn watch_request(target: &Target, options: &WatchOptions) -> pb::WatchRequest {
    pb::WatchRequest {
        target: Some(target.into()),
        selection: selection(&options.label_selector, &options.field_selector),
        resource_version: options.resource_version.clone(),
        allow_bookmarks: options.allow_bookmarks,
        timeout_seconds: options.timeout_seconds.and_then(|s| i64::try_from(s).ok()).unwrap_or(0),
        send_initial_events: options.send_initial_events,
        shape: pb::Shape::from(options.shape).into(),
        resource_version_match: match_name(options.version_match),
    }
}

/// # Errors
/// 400 for an unknown `resourceVersionMatch`.
pub fn watch_options(request: &pb::WatchRequest) -> Result<WatchOptions, Status> {
    let selection = request.selection.clone().unwrap_or_default();
    Ok(WatchOptions {
        label_selector: selection.label_selector,
        field_selector: selection.field_selector,
        resource_version: request.resource_version.clone(),
        version_match: version_match(&request.resource_version_match)?,
        allow_bookmarks: request.allow_bookmarks,
        send_initial_events: request.send_initial_events,
        timeout_seconds: u64::try_from(request.timeout_seconds).ok().filter(|&seconds| seconds > 0),
        shape: shape(request.shape),
    })
}

pub fn delete_request(target: &Target, options: &DeleteOptions) -> pb::DeleteRequest {
    pb::DeleteRequest {
        target: Some(target.into()),
        body: delete_body(options),
        dry_run: !options.dry_run.is_empty(),
    }
}

pub fn delete_collection_request(
    target: &Target,
    list: &ListOptions,
    options: &DeleteOptions,
) -> pb::DeleteCollectionRequest {
    pb::DeleteCollectionRequest {
        target: Some(target.into()),
        selection: selection(&list.label_selector, &list.field_selector),
        body: delete_body(options),
        dry_run: !options.dry_run.is_empty(),
    }
}

fn delete_body(options: &DeleteOptions) -> Bytes {
    serde_json::to_vec(options).unwrap_or_default().into()
}

/// The options of a delete's body; an empty body has none.
///
/// # Errors
/// 400 with what the parser found.
pub fn delete_options(body: &[u8], dry_run: bool) -> Result<DeleteOptions, Status> {
    let mut options: DeleteOptions = if body.is_empty() {
        DeleteOptions::default()
    } else {
        serde_json::from_slice(body)
            .map_err(|error| Status::bad_request(format!("the delete options cannot be decoded: {error}")))?
    };
    if dry_run && options.dry_run.is_empty() {
        options.dry_run = vec!["All".into()];
    }
    Ok(options)
}

impl From<EventType> for pb::EventType {
    fn from(event_type: EventType) -> pb::EventType {
        match event_type {
            EventType::Added => pb::EventType::Added,
            EventType::Modified => pb::EventType::Modified,
            EventType::Deleted => pb::EventType::Deleted,
            EventType::Bookmark => pb::EventType::Bookmark,
        }
    }
}

impl From<Event> for pb::WatchEvent {
    fn from(event: Event) -> pb::WatchEvent {
        pb::WatchEvent { r#type: pb::EventType::from(event.event_type).into(), object: event.object }
    }
}

/// An ERROR event ends a watch; it carries a `Status`.
pub fn error_event(status: &Status) -> pb::WatchEvent {
    pb::WatchEvent { r#type: pb::EventType::Error.into(), object: status.to_json().into() }
}

/// # Errors
/// The `Status` of an ERROR event.
pub fn event(message: pb::WatchEvent) -> Result<Event, Status> {
    let event_type = match pb::EventType::try_from(message.r#type) {
        Ok(pb::EventType::Added) => EventType::Added,
        Ok(pb::EventType::Modified) => EventType::Modified,
        Ok(pb::EventType::Deleted) => EventType::Deleted,
        Ok(pb::EventType::Bookmark) => EventType::Bookmark,
        Ok(pb::EventType::Error) => {
            return Err(serde_json::from_slice(&message.object)
                .unwrap_or_else(|_| Status::internal("a watch ended with an error that cannot be read")));
        }
        Err(_) => return Err(Status::internal(format!("unknown event type {}", message.r#type))),
    };
    Ok(Event { event_type, object: message.object })
}

/// The `Status` document travels in the details; the code is gRPC's nearest.
pub fn to_tonic(status: &Status) -> tonic::Status {
    let code = match (status.code, status.reason.as_str()) {
        (400 | 413 | 415 | 406 | 422, _) => Code::InvalidArgument,
        (401, _) => Code::Unauthenticated,
        (403, _) => Code::PermissionDenied,
        (404, _) => Code::NotFound,
        (409, "AlreadyExists") => Code::AlreadyExists,
        (409, _) => Code::Aborted,
        (410, _) => Code::OutOfRange,
        (405 | 501, _) => Code::Unimplemented,
        (429, _) => Code::ResourceExhausted,
        (503, _) => Code::Unavailable,
        (504, _) => Code::DeadlineExceeded,
        _ => Code::Internal,
    };
    tonic::Status::with_details(code, status.message.clone(), status.to_json().into())
}

impl From<Status> for tonic::Status {
    fn from(status: Status) -> tonic::Status {
        to_tonic(&status)
    }
}

/// A refusal of the API as it was sent, or what a failure of the transport means to a client.
pub fn from_tonic(status: &tonic::Status) -> Status {
    if let Ok(sent) = serde_json::from_slice::<Status>(status.details()) {
        return sent;
    }
    let message = status.message();
    match status.code() {
        Code::Unavailable => Status::unavailable(format!("the server cannot be reached: {message}")),
        Code::DeadlineExceeded | Code::Cancelled => {
            Status::timeout(format!("no answer in time; the outcome is unknown: {message}"))
        }
        Code::Unauthenticated => Status::unauthorized(),
        Code::ResourceExhausted | Code::OutOfRange => Status::too_many_requests(message, 1),
        Code::Unimplemented => Status::not_implemented("this call"),
        code => Status::internal(format!("{code}: {message}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Registry;

    #[test]
    fn a_refusal_arrives_as_it_was_sent() {
        let pods = Registry::builtin().find("", "v1", "pods").unwrap();
        for status in [
            Status::not_found(pods, "a"),
            Status::stale(pods, "a"),
            Status::already_exists(pods, "a"),
            Status::too_old(1, 2),
            Status::too_many_requests("slow down", 3),
            Status::unauthorized(),
            Status::not_implemented("this"),
        ] {
            assert_eq!(from_tonic(&to_tonic(&status)), status);
        }
    }

    #[test]
    fn a_failure_of_the_transport_tells_safe_retries_from_unknown_outcomes() {
        assert_eq!(from_tonic(&tonic::Status::unavailable("refused")).code, 503);
        assert_eq!(from_tonic(&tonic::Status::deadline_exceeded("late")).code, 504);
        assert_eq!(from_tonic(&tonic::Status::unknown("?")).code, 500);
    }

    #[test]
    fn requests_come_back_as_the_options_they_were_made_of() {
        let target = Target::kind::<k8s_openapi::api::core::v1::Pod>().within("a").named("b").sub("status");
        assert_eq!(Target::from(pb::Target::from(&target)), target);
        let list = ListOptions {
            label_selector: "a=b".into(),
            field_selector: "c=d".into(),
            limit: 5,
            continue_token: "t".into(),
            resource_version: "7".into(),
            version_match: VersionMatch::Exact,
            shape: Shape::Table,
        };
        assert_eq!(list_options(&list_request(&target, &list)).unwrap(), list);
        let watch = WatchOptions {
            label_selector: "a=b".into(),
            field_selector: "c=d".into(),
            resource_version: "7".into(),
            version_match: VersionMatch::NotOlderThan,
            allow_bookmarks: true,
            send_initial_events: true,
            timeout_seconds: Some(9),
            shape: Shape::Metadata,
        };
        assert_eq!(watch_options(&watch_request(&target, &watch)).unwrap(), watch);
        let delete = DeleteOptions::default().only("u").grace(3).propagate("Orphan");
        let request = delete_request(&target, &delete);
        assert_eq!(delete_options(&request.body, request.dry_run).unwrap(), delete);
    }

    #[test]
    fn an_error_event_ends_a_watch_with_its_status() {
        let status = Status::too_old(1, 9);
        assert_eq!(event(error_event(&status)).unwrap_err(), status);
    }
}
