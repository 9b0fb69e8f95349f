//! Paths that name no resource: discovery, OpenAPI, version, health, keys, metrics.

use axum::body::Body;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, header};
use kontiki_proto::status::Status;
use serde_json::json;

use super::path::Query;
use super::rest::{json, raw};
use crate::auth::{Access, User};
use crate::discovery::{self, Reply};
use crate::server::Context;

/// What clients parse as the version of Kubernetes.
pub const VERSION: &str = concat!("v1.36.0+kontiki.", env!("CARGO_PKG_VERSION"));

/// Checks of a health endpoint, by name.
static CHECKS: &[&str] = &["ping", "store"];

pub(super) async fn answer(
    context: &Context,
    user: &User,
    query: &Query,
    request: &Parts,
) -> Result<Response<Body>, Status> {
    let path = request.uri.path();
    let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
    let method = request.method.as_str().to_lowercase();
    context.auth.authorizer.check(&Access::path(user, &method, path))?;
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(Status::failure(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ));
    }
    let address = context.config.advertise_addresses.first().map(String::as_str).unwrap_or_default();
    let head = path.split('/').nth(1).unwrap_or_default();
    match head {
        "" => return Ok(json(&json!({"paths": paths(context)}))),
        "version" => return Ok(json(&version())),
        "healthz" | "livez" | "readyz" => return health(context, path, query).await,
        "metrics" => return Ok(raw(200, "text/plain; version=0.0.4", metrics(context))),
        ".well-known" if path == "/.well-known/openid-configuration" => {
            return Ok(raw(
                200,
                "application/json",
                context.auth.signer.openid_configuration(&format!("https://{address}")),
            ));
        }
        "openid" if path == "/openid/v1/jwks" => {
            return Ok(raw(200, "application/jwk-set+json", context.auth.signer.jwks()));
        }
        _ => {}
    }
    let accept =
        request.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let registry = context.registry();
    let reply = discovery::answer(&registry, path, accept, address)
        .or_else(|| context.openapi.answer(&registry, path))
        .or_else(|| context.openapi.answer_v2(&registry, path, accept))
        .ok_or_else(Status::no_such_path)?;
    Ok(cached(reply, request))
}

/// 304 where the client has the document already.
fn cached(reply: Reply, request: &Parts) -> Response<Body> {
    let known = request.headers.get(header::IF_NONE_MATCH).and_then(|tag| tag.to_str().ok());
    let unchanged = known.is_some_and(|known| reply.etag.as_deref() == Some(known));
    let mut response = if unchanged {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        raw(200, reply.content_type, reply.body)
    };
    if let Some(tag) = reply.etag.and_then(|tag| HeaderValue::from_str(&tag).ok()) {
        response.headers_mut().insert(header::ETAG, tag);
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    }
    response
}

fn version() -> serde_json::Value {
    json!({
        "major": "1", "minor": "36", "gitVersion": VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }),
    })
}

fn paths(context: &Context) -> Vec<String> {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ]
    .map(String::from)
    .into();
    for row in context.registry().rows() {
        if !row.group.is_empty() {
            paths.push(format!("/apis/{}", row.group));
            paths.push(format!("/apis/{}", row.api_version()));
        }
    }
    paths.sort();
    paths.dedup();
    paths
}

/// `None` where the check passes.
async fn check(context: &Context, endpoint: &str, name: &str) -> Option<String> {
    match name {
        // A server that cannot reach a quorum is alive all the same: a restart would not help it.
        "store" if endpoint != "livez" => context.store.barrier().await.err().map(|error| error.to_string()),
        _ => None,
    }
}

async fn health(context: &Context, path: &str, query: &Query) -> Result<Response<Body>, Status> {
    let mut segments = path.split('/').skip(1);
    let endpoint = segments.next().unwrap_or_default();
    let only = segments.next();
    if let Some(name) = only {
        if !CHECKS.contains(&name) || segments.next().is_some() {
            return Err(Status::no_such_path());
        }
        return Ok(match check(context, endpoint, name).await {
            None => raw(200, "text/plain; charset=utf-8", "ok"),
            Some(why) => raw(500, "text/plain; charset=utf-8", format!("internal server error: {why}\n")),
        });
    }
    let excluded = query.all("exclude");
    let mut lines = String::new();
    let mut failed = false;
    for name in CHECKS.iter().filter(|name| !excluded.iter().any(|excluded| excluded == *name)) {
        match check(context, endpoint, name).await {
            None => lines.push_str(&format!("[+]{name} ok\n")),
            Some(why) => {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: {why}\n"));
            }
        }
    }
    let verdict = if failed { "failed" } else { "passed" };
    let verbose = format!("{lines}{endpoint} check {verdict}\n");
    Ok(match (failed, query.has("verbose")) {
        (true, _) => raw(500, "text/plain; charset=utf-8", verbose),
        (false, true) => raw(200, "text/plain; charset=utf-8", verbose),
        (false, false) => raw(200, "text/plain; charset=utf-8", "ok"),
    })
}

fn metrics(context: &Context) -> String {
    let store = &context.store;
    [
        ("kontiki_store_revision", "gauge", "Newest revision applied on this server.", store.revision()),
        (
            "kontiki_store_oldest_revision",
            "gauge",
            "Oldest revision that can be read.",
            store.oldest_revision(),
        ),
        ("kontiki_store_leader", "gauge", "1 where this server leads.", u64::from(store.is_leader())),
    ]
    .iter()
    .map(|(name, kind, help, value)| format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"))
    .collect()
}
