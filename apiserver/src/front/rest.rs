//! The Kubernetes API over HTTP.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kontiki_proto::api::{DeleteOptions, GetOptions};
use kontiki_proto::status::Status;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::answer::{self, Style};
use super::media::{self, Wanted};
use super::path::{self, Query, ResourcePath};
use super::tls::Peer;
use super::{authenticate, pod_streams, well_known};
use crate::auth::User;
use crate::chain;
use crate::request::{self, Action, Answer, Document};
use crate::server::Context;
use crate::table::Include;

/// Answers one HTTP request, whatever it asks.
pub async fn handle(
    context: Arc<Context>,
    stop: CancellationToken,
    request: Request<Body>,
) -> Response<Body> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let style = Style { pretty: pretty(&query, request.headers()), ..Style::default() };
    let mut response = match answer(&context, stop, request, query, style).await {
        Ok(response) => response,
        Err(status) => answer::failure(&status, style),
    };
    let id = uuid::Uuid::new_v4().to_string();
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("audit-id", id);
    }
    response
}

/// Browsers and curl get indented documents unless they say otherwise.
fn pretty(query: &Query, headers: &HeaderMap) -> bool {
    if query.has("pretty") {
        return query.flag("pretty");
    }
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/"].iter().any(|prefix| agent.starts_with(prefix))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Result<String, Status> {
    let mut values = Vec::new();
    for value in headers.get_all(&name) {
        let value =
            value.to_str().map_err(|_| Status::bad_request(format!("the {name} header is not text")))?;
        values.push(value);
    }
    Ok(values.join(","))
}

async fn answer(
    context: &Arc<Context>,
    stop: CancellationToken,
    request: Request<Body>,
    query: Query,
    style: Style,
) -> Result<Response<Body>, Status> {
    let peer = request.extensions().get::<Peer>().cloned();
    let user = authenticate(context, peer.as_ref(), request.headers()).await?;
    let Some(path) = path::parse(request.uri().path()) else {
        let (request, _) = request.into_parts();
        return well_known::answer(context, &user, &query, &request).await;
    };
    if let Some(streamed) = pod_streams::Kind::of(&path) {
        return pod_streams::answer(context, stop, &user, streamed, &path, &query, request).await;
    }
    let wanted = media::accept(&text(request.headers(), header::ACCEPT)?)?;
    let action = action(context, &path, &query, request, wanted).await?;
    let style = Style { format: wanted.format, ..style };
    finish(context, user, path, action, &query, style, stop).await
}

async fn finish(
    context: &Context,
    user: Arc<User>,
    path: ResourcePath,
    action: Action,
    query: &Query,
    style: Style,
    stop: CancellationToken,
) -> Result<Response<Body>, Status> {
    let include = Include::parse(query.text("includeObject")).ok_or_else(|| {
        Status::bad_request(format!("unrecognized includeObject value: {:?}", query.text("includeObject")))
    })?;
    let registry = context.registry();
    let row = registry.find(&path.target.group, &path.target.version, &path.target.resource).cloned();
    let request = request::Request { user, target: path.target, action, include };
    Ok(match chain::run(context, request).await? {
        Answer::Document(document) => answer::document(&document, style),
        Answer::List(list) => {
            let row = row.ok_or_else(Status::no_such_path)?;
            answer::list(&row, list, style)
        }
        Answer::Watch(events) => {
            use futures::StreamExt;
            let until_stop = events.take_until(async move { stop.cancelled().await });
            answer::watch(until_stop.boxed())
        }
    })
}

/// Reads a body up to the configured limit.
async fn body(context: &Context, body: Body) -> Result<Bytes, Status> {
    let limit = context.config.max_object_bytes;
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => Err(Status::too_large(limit)),
        Err(error) => Err(Status::bad_request(format!("the body of the request could not be read: {error}"))),
    }
}

/// The body of a delete, where there is one, before what the query says.
fn delete_options(bytes: &[u8], format: request::Format, query: &Query) -> Result<DeleteOptions, Status> {
    if bytes.is_empty() {
        return query.delete_options();
    }
    let unreadable = |error: &dyn std::fmt::Display| {
        Status::bad_request(format!("the delete options cannot be read: {error}"))
    };
    let value: Value = match format {
        request::Format::Json => serde_json::from_slice(bytes).map_err(|error| unreadable(&error))?,
        request::Format::Protobuf => crate::protobuf::decode(bytes)?,
        request::Format::Yaml => {
            let text = std::str::from_utf8(bytes).map_err(|error| unreadable(&error))?;
            serde_saphyr::from_str(text).map_err(|error| unreadable(&error))?
        }
    };
    if value["kind"].as_str().is_some_and(|kind| kind != "DeleteOptions") {
        return Err(Status::bad_request(format!(
            "decoded object cannot be converted to DeleteOptions: {}",
            value["kind"]
        )));
    }
    let mut options: DeleteOptions = serde_json::from_value(value).map_err(|error| unreadable(&error))?;
    if options.dry_run.is_empty() {
        options.dry_run = query.delete_options()?.dry_run;
    }
    Ok(options)
}

async fn action(
    context: &Context,
    path: &ResourcePath,
    query: &Query,
    request: Request<Body>,
    wanted: Wanted,
) -> Result<Action, Status> {
    let shape = wanted.shape;
    let on_object = !path.target.name.is_empty();
    let content = text(request.headers(), header::CONTENT_TYPE)?;
    Ok(match *request.method() {
        Method::GET | Method::HEAD if path.watch || (!on_object && query.flag("watch")) => {
            let mut options = query.watch_options()?;
            options.shape = shape;
            Action::Watch(options)
        }
        Method::GET | Method::HEAD if on_object => {
            Action::Get(GetOptions { resource_version: query.text("resourceVersion").into(), shape })
        }
        Method::GET | Method::HEAD => {
            let mut options = query.list_options()?;
            options.shape = shape;
            Action::List(options)
        }
        Method::POST => {
            let format = media::content(&content)?;
            let bytes = body(context, request.into_body()).await?;
            Action::Create(request::Body { format, bytes }, query.write_options()?)
        }
        Method::PUT => {
            let format = media::content(&content)?;
            let bytes = body(context, request.into_body()).await?;
            Action::Update(request::Body { format, bytes }, query.write_options()?)
        }
        Method::PATCH => {
            let (patch_type, format) = media::patch(&content)?;
            let bytes = body(context, request.into_body()).await?;
            Action::Patch(patch_type, request::Body { format, bytes }, query.write_options()?)
        }
        Method::DELETE => {
            let bytes = body(context, request.into_body()).await?;
            let format = if bytes.is_empty() { request::Format::Json } else { media::content(&content)? };
            let options = delete_options(&bytes, format, query)?;
            if on_object {
                Action::Delete(options)
            } else {
                Action::DeleteCollection(query.list_options()?, options)
            }
        }
        ref other => {
            return Err(Status::failure(
                405,
                "MethodNotAllowed",
                format!("the server does not allow the method {other} on the requested resource"),
            ));
        }
    })
}

/// A document that is no answer of the chain.
pub(super) fn raw(code: u16, content_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    answer::plain(code, content_type, bytes.into())
}

/// A JSON document that is no answer of the chain.
pub(super) fn json(value: &Value) -> Response<Body> {
    answer::document(&Document::ok(value.to_string().into()), Style::default())
}
