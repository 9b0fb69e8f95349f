//! Conversions between the gRPC messages and the vocabulary of [`crate::api`], in both directions.
//!
//! A failed call carries its [`Status`] document as JSON in the gRPC status details, so that nothing of an error is lost
//! between the server and whoever reads it; an error without one comes from the transport and becomes a `Status` by its
//! code.

use bytes::Bytes;
use tonic::Code;

use crate::api::{
    DeleteOptions, Event, EventType, GetOptions, List, ListOptions, PatchType, Shape, Target, VersionMatch,
    WatchOptions, WriteOptions,
};
use crate::pb;
use crate::resource::{Registry, Resource, Scope, Verbs};
use crate::status::Status;

/// No list item is held back for a chunk beyond this many bytes.
const CHUNK_BYTES: usize = 256 * 1024;
/// An error document travels in HTTP/2 trailers, whose size peers bound.
const DETAILS_BYTES: usize = 6 * 1024;
const MESSAGE_BYTES: usize = 2 * 1024;

// ------------------------------------------------------------------------------------------------------------ target

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

/// The target a request must have.
pub fn target(target: Option<pb::Target>) -> Result<Target, Status> {
    target.map(Target::from).ok_or_else(|| Status::bad_request("target: Required value"))
}

// ----------------------------------------------------------------------------------------------------------- options

impl From<Shape> for pb::Shape {
    fn from(shape: Shape) -> pb::Shape {
        match shape {
            Shape::Object => pb::Shape::Object,
            Shape::Table => pb::Shape::Table,
            Shape::Metadata => pb::Shape::Metadata,
        }
    }
}

/// The shape of that number.
pub fn shape(number: i32) -> Result<Shape, Status> {
    match pb::Shape::try_from(number) {
        Ok(pb::Shape::Object) => Ok(Shape::Object),
        Ok(pb::Shape::Table) => Ok(Shape::Table),
        Ok(pb::Shape::Metadata) => Ok(Shape::Metadata),
        Err(_) => Err(Status::bad_request(format!("shape: {number} is unknown to this server"))),
    }
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

/// The patch type of that number.
pub fn patch_type(number: i32) -> Result<PatchType, Status> {
    match pb::PatchType::try_from(number) {
        Ok(pb::PatchType::JsonPatch) => Ok(PatchType::Json),
        Ok(pb::PatchType::MergePatch) => Ok(PatchType::Merge),
        Ok(pb::PatchType::StrategicMergePatch) => Ok(PatchType::StrategicMerge),
        Ok(pb::PatchType::ApplyPatch) => Ok(PatchType::Apply),
        Err(_) => Err(Status::bad_request(format!("type: patch type {number} is unknown to this server"))),
    }
}

/// The word of the REST parameter `resourceVersionMatch`.
pub fn version_match_name(version_match: VersionMatch) -> &'static str {
    match version_match {
        VersionMatch::Unset => "",
        VersionMatch::NotOlderThan => "NotOlderThan",
        VersionMatch::Exact => "Exact",
    }
}

/// Reads the word of the REST parameter `resourceVersionMatch`.
pub fn version_match(word: &str) -> Result<VersionMatch, Status> {
    match word {
        "" => Ok(VersionMatch::Unset),
        "NotOlderThan" => Ok(VersionMatch::NotOlderThan),
        "Exact" => Ok(VersionMatch::Exact),
        other => Err(Status::bad_request(format!(
            "resourceVersionMatch: Unsupported value: \"{other}\": supported values: \"Exact\", \"NotOlderThan\""
        ))),
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

pub fn get_request(target: &Target, options: &GetOptions) -> pb::GetRequest {
    pb::GetRequest {
        target: Some(target.into()),
        resource_version: options.resource_version.clone(),
        shape: pb::Shape::from(options.shape).into(),
    }
}

pub fn get_options(request: &pb::GetRequest) -> Result<GetOptions, Status> {
    Ok(GetOptions { resource_version: request.resource_version.clone(), shape: shape(request.shape)? })
}

fn selection(label_selector: &str, field_selector: &str) -> pb::Selection {
    pb::Selection { label_selector: label_selector.into(), field_selector: field_selector.into() }
}

pub fn list_request(target: &Target, options: &ListOptions) -> pb::ListRequest {
    pb::ListRequest {
        target: Some(target.into()),
        selection: Some(selection(&options.label_selector, &options.field_selector)),
        limit: i64::try_from(options.limit).unwrap_or(i64::MAX),
        continue_token: options.continue_token.clone(),
        resource_version: options.resource_version.clone(),
        resource_version_match: version_match_name(options.version_match).into(),
        shape: pb::Shape::from(options.shape).into(),
    }
}

/// A negative limit is no limit, as in the REST API.
pub fn list_options(request: &pb::ListRequest) -> Result<ListOptions, Status> {
    let selection = request.selection.clone().unwrap_or_default();
    Ok(ListOptions {
        label_selector: selection.label_selector,
        field_selector: selection.field_selector,
        limit: u64::try_from(request.limit).unwrap_or(0),
        continue_token: request.continue_token.clone(),
        resource_version: request.resource_version.clone(),
        version_match: version_match(&request.resource_version_match)?,
        shape: shape(request.shape)?,
    })
}

pub fn watch_request(target: &Target, options: &WatchOptions) -> pb::WatchRequest {
    pb::WatchRequest {
        target: Some(target.into()),
        selection: Some(selection(&options.label_selector, &options.field_selector)),
        resource_version: options.resource_version.clone(),
        allow_bookmarks: options.allow_bookmarks,
        timeout_seconds: options.timeout_seconds.map_or(0, |s| i64::try_from(s).unwrap_or(i64::MAX)),
        send_initial_events: options.send_initial_events,
        shape: pb::Shape::from(options.shape).into(),
        resource_version_match: version_match_name(options.version_match).into(),
    }
}

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
        shape: shape(request.shape)?,
    })
}

pub fn write_request(target: &Target, body: Bytes, options: &WriteOptions) -> pb::WriteRequest {
    pb::WriteRequest {
        target: Some(target.into()),
        body,
        options: Some(options.into()),
        shape: pb::Shape::Object.into(),
    }
}

pub fn patch_request(
    target: &Target,
    patch_type: PatchType,
    body: Bytes,
    options: &WriteOptions,
) -> pb::PatchRequest {
    pb::PatchRequest {
        target: Some(target.into()),
        r#type: pb::PatchType::from(patch_type).into(),
        body,
        options: Some(options.into()),
        shape: pb::Shape::Object.into(),
    }
}

pub fn delete_request(target: &Target, options: &DeleteOptions) -> Result<pb::DeleteRequest, Status> {
    Ok(pb::DeleteRequest {
        target: Some(target.into()),
        body: crate::api::encode(options)?,
        dry_run: !options.dry_run.is_empty(),
    })
}

pub fn delete_collection_request(
    target: &Target,
    chosen: &ListOptions,
    options: &DeleteOptions,
) -> Result<pb::DeleteCollectionRequest, Status> {
    Ok(pb::DeleteCollectionRequest {
        target: Some(target.into()),
        selection: Some(selection(&chosen.label_selector, &chosen.field_selector)),
        body: crate::api::encode(options)?,
        dry_run: !options.dry_run.is_empty(),
    })
}

/// Reads a `DeleteOptions` document; none is the default. `dry_run` is the request's own flag.
pub fn delete_options(body: &[u8], dry_run: bool) -> Result<DeleteOptions, Status> {
    let mut options: DeleteOptions = if body.is_empty() {
        DeleteOptions::default()
    } else {
        serde_json::from_slice(body)
            .map_err(|error| Status::bad_request(format!("cannot read the DeleteOptions: {error}")))?
    };
    if dry_run && options.dry_run.is_empty() {
        options.dry_run.push("All".into());
    }
    Ok(options)
}

/// The selection of a `DeleteCollection`, as the list it deletes.
pub fn selected(selection: Option<pb::Selection>) -> ListOptions {
    let selection = selection.unwrap_or_default();
    ListOptions {
        label_selector: selection.label_selector,
        field_selector: selection.field_selector,
        ..ListOptions::default()
    }
}

// -------------------------------------------------------------------------------------------------- lists and events

/// A page as the stream's messages: the header first, then the items in chunks of bounded size.
pub fn list_chunks(list: List) -> Vec<pb::ListChunk> {
    let header = pb::ListHeader {
        resource_version: list.resource_version,
        continue_token: list.continue_token,
        remaining_item_count: list.remaining.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX)),
        document: list.document.unwrap_or_default(),
    };
    let mut chunks = vec![pb::ListChunk { header: Some(header), items: Vec::new() }];
    let mut size = 0;
    for item in list.items {
        if size > 0 && size + item.len() > CHUNK_BYTES {
            chunks.push(pb::ListChunk::default());
            size = 0;
        }
        size += item.len();
        if let Some(chunk) = chunks.last_mut() {
            chunk.items.push(item);
        }
    }
    chunks
}

/// Puts a page together again, a chunk at a time.
#[derive(Debug, Default)]
pub struct ListAssembly {
    list: List,
    begun: bool,
}

impl ListAssembly {
    pub fn push(&mut self, chunk: pb::ListChunk) {
        if let Some(header) = chunk.header {
            self.begun = true;
            self.list.resource_version = header.resource_version;
            self.list.continue_token = header.continue_token;
            self.list.remaining = u64::try_from(header.remaining_item_count).ok();
            self.list.document = Some(header.document).filter(|document| !document.is_empty());
        }
        self.list.items.extend(chunk.items);
    }

    /// A stream without a header is no list.
    pub fn finish(self) -> Result<List, Status> {
        if self.begun { Ok(self.list) } else { Err(Status::internal("the server's list has no header")) }
    }
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

/// An event, or the error that an event of type `ERROR` carries.
pub fn event(event: pb::WatchEvent) -> Result<Event, Status> {
    let event_type = match pb::EventType::try_from(event.r#type) {
        Ok(pb::EventType::Added) => EventType::Added,
        Ok(pb::EventType::Modified) => EventType::Modified,
        Ok(pb::EventType::Deleted) => EventType::Deleted,
        Ok(pb::EventType::Bookmark) => EventType::Bookmark,
        Ok(pb::EventType::Error) => {
            return Err(serde_json::from_slice(&event.object)
                .unwrap_or_else(|_| Status::internal("the watch ended with an unreadable error")));
        }
        Err(_) => {
            return Err(Status::internal(format!("event type {} is unknown to this client", event.r#type)));
        }
    };
    Ok(Event { event_type, object: event.object })
}

// --------------------------------------------------------------------------------------------------------- discovery

impl From<&Resource> for pb::ResourceRow {
    fn from(row: &Resource) -> pb::ResourceRow {
        let texts = |list: &[smol_str::SmolStr]| list.iter().map(ToString::to_string).collect();
        pb::ResourceRow {
            group: row.group.to_string(),
            version: row.version.to_string(),
            kind: row.kind.to_string(),
            plural: row.plural.to_string(),
            singular: row.singular.to_string(),
            namespaced: row.namespaced(),
            verbs: row.verbs.names().map(String::from).collect(),
            short_names: texts(&row.short_names),
            categories: texts(&row.categories),
            subresources: row.subresources.iter().map(|sub| sub.name.to_string()).collect(),
        }
    }
}

/// The rows a server discovers, as a registry of names.
pub fn registry(reply: &pb::DiscoverReply) -> Registry {
    let rows = reply.rows.iter().map(|row| {
        let scope = if row.namespaced { Scope::Namespaced } else { Scope::Cluster };
        let verbs = row.verbs.iter().fold(Verbs::NONE, |verbs, name| verbs.with(Verbs::named(name)));
        let mut resource = Resource::new(&row.group, &row.version, &row.kind, &row.plural, scope, verbs)
            .with_short_names(row.short_names.iter().map(String::as_str))
            .with_categories(row.categories.iter().map(String::as_str))
            .with_subresources(row.subresources.iter().map(String::as_str));
        resource.singular = row.singular.as_str().into();
        std::sync::Arc::new(resource)
    });
    Registry::new(rows.collect())
}

// ------------------------------------------------------------------------------------------------------------ errors

fn code_of(status: &Status) -> Code {
    match status.code {
        400 | 406 | 415 | 422 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        405 | 501 => Code::Unimplemented,
        409 if status.is_already_exists() => Code::AlreadyExists,
        409 => Code::Aborted,
        410 => Code::OutOfRange,
        413 | 429 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        500 => Code::Internal,
        _ => Code::Unknown,
    }
}

fn shorten(text: &mut String, limit: usize) {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

/// A document too large for trailers loses its last causes and the end of its message, never its reason.
fn details(status: &Status) -> Bytes {
    let whole = status.to_json();
    if whole.len() <= DETAILS_BYTES {
        return whole.into();
    }
    let mut short = status.clone();
    shorten(&mut short.message, MESSAGE_BYTES);
    while let Some(details) = short.details.as_mut()
        && !details.causes.is_empty()
        && short.to_json().len() > DETAILS_BYTES
    {
        if let Some(details) = short.details.as_mut() {
            details.causes.truncate(details.causes.len() / 2);
        }
    }
    short.to_json().into()
}

impl From<&Status> for tonic::Status {
    fn from(status: &Status) -> tonic::Status {
        let mut message = status.message.clone();
        shorten(&mut message, MESSAGE_BYTES / 2);
        tonic::Status::with_details(code_of(status), message, details(status))
    }
}

impl From<Status> for tonic::Status {
    fn from(status: Status) -> tonic::Status {
        tonic::Status::from(&status)
    }
}

/// The document a server put into an error, if one did.
pub fn carried(error: &tonic::Status) -> Option<Status> {
    let status: Status = serde_json::from_slice(error.details()).ok()?;
    (status.code != 0).then_some(status)
}

impl From<&tonic::Status> for Status {
    fn from(error: &tonic::Status) -> Status {
        if let Some(status) = carried(error) {
            return status;
        }
        let message = error.message().to_string();
        match error.code() {
            Code::InvalidArgument | Code::FailedPrecondition => Status::bad_request(message),
            Code::Unauthenticated => Status::unauthorized(),
            Code::PermissionDenied => Status::failure(403, "Forbidden", message),
            Code::NotFound => Status::failure(404, "NotFound", message),
            Code::AlreadyExists => Status::failure(409, "AlreadyExists", message),
            Code::Aborted => Status::failure(409, "Conflict", message),
            Code::OutOfRange => match message.as_str() {
                // tonic's own words for a message above its size limit.
                m if m.contains("message length too large") => {
                    Status::failure(413, "RequestEntityTooLarge", message)
                }
                _ => Status::expired(message),
            },
            Code::ResourceExhausted => Status::too_many_requests(message, 1),
            Code::Unimplemented => {
                Status::not_implemented(if message.is_empty() { "this call" } else { &message })
            }
            Code::Unavailable => Status::unavailable(message),
            Code::DeadlineExceeded | Code::Cancelled => Status::timeout(message),
            Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => Status::internal(message),
        }
    }
}

impl From<tonic::Status> for Status {
    fn from(error: tonic::Status) -> Status {
        Status::from(&error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(name: &str) -> &'static Resource {
        Registry::builtin().find_name(name).unwrap()
    }

    #[test]
    fn an_error_crosses_the_wire_whole() {
        let pods = row("pods");
        for status in [
            Status::bad_request("no"),
            Status::unauthorized(),
            Status::forbidden(pods, "a", "because"),
            Status::method_not_supported(pods, "patch"),
            Status::not_implemented("x"),
            Status::too_large(5),
            Status::too_old(1, 2),
            Status::too_many_requests("slow down", 3),
            Status::unavailable("no leader"),
            Status::timeout("unknown outcome"),
            Status::internal("broken"),
        ] {
            assert_eq!(Status::from(tonic::Status::from(&status)), status);
        }
    }

    #[test]
    fn an_error_too_large_for_trailers_keeps_its_reason() {
        let mut status = Status::bad_request("ä".repeat(10_000));
        for index in 0..1000 {
            status =
                status.with_cause("FieldValueInvalid", "a rather long message", &format!("spec.x[{index}]"));
        }
        let wire = tonic::Status::from(&status);
        assert!(wire.details().len() <= DETAILS_BYTES);
        let back = Status::from(wire);
        assert_eq!((back.code, back.reason.as_str()), (400, "BadRequest"));
        assert!(!back.details.unwrap().causes.is_empty());
    }

    #[test]
    fn an_error_of_the_transport_becomes_a_status_by_its_code() {
        for (error, code, reason) in [
            (tonic::Status::unavailable("gone"), 503, "ServiceUnavailable"),
            (tonic::Status::deadline_exceeded("late"), 504, "Timeout"),
            (tonic::Status::unauthenticated("who"), 401, "Unauthorized"),
            (tonic::Status::unimplemented(""), 501, "NotImplemented"),
            (tonic::Status::unknown("?"), 500, "InternalError"),
            (tonic::Status::with_details(Code::NotFound, "x", Bytes::from_static(b"junk")), 404, "NotFound"),
        ] {
            let status = Status::from(error);
            assert_eq!((status.code, status.reason.as_str()), (code, reason));
        }
    }

    #[test]
    fn options_survive_the_way_there_and_back() {
        let target = Target::of(row("deployments")).within("default").named("web").sub("scale");
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
            label_selector: "a".into(),
            resource_version: "9".into(),
            allow_bookmarks: true,
            send_initial_events: true,
            version_match: VersionMatch::NotOlderThan,
            timeout_seconds: Some(3),
            shape: Shape::Metadata,
            ..WatchOptions::default()
        };
        assert_eq!(watch_options(&watch_request(&target, &watch)).unwrap(), watch);

        let delete = DeleteOptions { dry_run: vec!["All".into()], ..DeleteOptions::default() }
            .only("u")
            .grace(0)
            .propagate("Orphan");
        let request = delete_request(&target, &delete).unwrap();
        assert_eq!(delete_options(&request.body, request.dry_run).unwrap(), delete);
        assert_eq!(delete_options(b"", true).unwrap().dry_run, ["All"]);
        assert_eq!(delete_options(b"{", false).unwrap_err().code, 400);
        assert_eq!(shape(77).unwrap_err().code, 400);
        assert_eq!(patch_type(77).unwrap_err().code, 400);
        assert_eq!(version_match("Near").unwrap_err().code, 400);
    }

    #[test]
    fn a_discovered_registry_finds_what_the_builtin_one_finds() {
        let builtin = Registry::builtin();
        let reply = pb::DiscoverReply {
            rows: builtin.rows().iter().map(|row| (&**row).into()).collect(),
            server_version: String::new(),
        };
        assert_eq!(registry(&reply).rows(), builtin.rows());
    }

    #[test]
    fn an_error_event_is_an_error() {
        let expired = Status::too_old(1, 2);
        let wire = pb::WatchEvent { r#type: pb::EventType::Error.into(), object: expired.to_json().into() };
        assert_eq!(event(wire).unwrap_err(), expired);
    }

    proptest! {
        #[test]
        fn a_list_is_the_same_after_chunking(sizes in proptest::collection::vec(0usize..200_000, 0..20), remaining in proptest::option::of(0u64..9)) {
            let items: Vec<Bytes> = sizes.iter().map(|&n| Bytes::from(vec![b'x'; n])).collect();
            let list = List { resource_version: "3".into(), continue_token: "c".into(), remaining, items, document: None };
            let chunks = list_chunks(list.clone());
            for chunk in &chunks {
                let size: usize = chunk.items.iter().map(Bytes::len).sum();
                prop_assert!(size <= CHUNK_BYTES);
            }
            let mut assembly = ListAssembly::default();
            chunks.into_iter().for_each(|chunk| assembly.push(chunk));
            let back = assembly.finish().unwrap();
            prop_assert_eq!(back.items, list.items);
            prop_assert_eq!(back.remaining, list.remaining);
            prop_assert_eq!(back.continue_token, list.continue_token);
        }
    }
}
