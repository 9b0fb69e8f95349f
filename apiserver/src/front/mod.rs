//! The fronts: what turns bytes, messages and method calls into requests for the chain.
//!
//! | module | speaks |
//! |---|---|
//! | [`tls`] | TLS, HTTP/1.1 and HTTP/2 on one port |
//! | [`rest`] | the Kubernetes API as `kubectl` and client libraries know it |
//! | [`grpc`] | Kontiki's own protocol, for agents, controllers and the command line |
//! | [`local`] | method calls within the process |

mod answer;
pub mod grpc;
pub mod local;
mod media;
mod path;
mod pod_streams;
pub mod rest;
pub mod tls;
mod well_known;

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderMap, Request, Response, header};
use hyper::body::Incoming;
use kontiki_proto::status::Status;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::auth::{Credentials, User, impersonate};
use crate::server::Context;
use tls::Peer;

/// REST and gRPC on one port, told apart by the content type.
#[derive(Clone)]
pub struct Service {
    context: Arc<Context>,
    grpc: axum::Router,
    stop: CancellationToken,
}

impl Service {
    pub fn new(context: Arc<Context>, stop: CancellationToken) -> Service {
        let grpc = grpc::router(context.clone(), stop.clone());
        Service { context, grpc, stop }
    }

    pub async fn call(&self, request: Request<Incoming>) -> Response<Body> {
        let is_grpc = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        if is_grpc {
            match self.grpc.clone().oneshot(request.map(Body::new)).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        } else {
            rest::handle(self.context.clone(), self.stop.clone(), request.map(Body::new)).await
        }
    }
}

/// Who sent a request with these headers over a connection of this peer, after impersonation.
pub(crate) async fn authenticate(
    context: &Context,
    peer: Option<&Peer>,
    headers: &HeaderMap,
) -> Result<Arc<User>, Status> {
    let bearer = match headers.get(header::AUTHORIZATION) {
        None => None,
        Some(value) => {
            let text = value.to_str().map_err(|_| Status::unauthorized())?;
            let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
            if scheme.eq_ignore_ascii_case("bearer") { Some(token.trim()) } else { None }
        }
    };
    let certificate = peer.and_then(|peer| peer.certificate.as_deref());
    let user = context
        .auth
        .authenticator
        .authenticate(Credentials { peer_certificate: certificate, bearer })
        .await?;
    impersonate::impersonate(&context.auth.authorizer, user, headers)
}
