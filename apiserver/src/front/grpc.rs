//! Kontiki's own protocol: the services of `kontiki.proto`, in front of the same chain as REST.

mod cluster;
mod nodes;
mod resources;

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use http::HeaderMap;
use kontiki_proto::pb::cluster_server::ClusterServer;
use kontiki_proto::pb::nodes_server::NodesServer;
use kontiki_proto::pb::pod_streams_server::PodStreamsServer;
use kontiki_proto::pb::resources_server::ResourcesServer;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use super::tls::Peer;
use crate::auth::{Access, User};
use crate::server::Context;

/// Room for what a message holds beside its object.
const OVERHEAD: usize = 512 * 1024;

/// What every service needs to answer a call.
#[derive(Clone)]
pub(super) struct Front {
    context: Arc<Context>,
    stop: CancellationToken,
}

type Streaming<T> = BoxStream<'static, Result<T, tonic::Status>>;

impl Front {
    /// Who calls.
    async fn user<T>(&self, request: &Request<T>) -> Result<Arc<User>, tonic::Status> {
        let headers: HeaderMap = request.metadata().clone().into_headers();
        let peer = request.extensions().get::<Peer>();
        super::authenticate(&self.context, peer, &headers).await.map_err(tonic::Status::from)
    }

    /// What is no resource is guarded as a path.
    async fn may<T>(&self, request: &Request<T>, verb: &str, path: &str) -> Result<(), tonic::Status> {
        let user = self.user(request).await?;
        self.context.auth.authorizer.check(&Access::path(&user, verb, path)).map_err(tonic::Status::from)
    }

    /// Ends with the server.
    fn until_stop<T: Send + 'static>(
        &self,
        stream: impl futures::Stream<Item = Result<T, tonic::Status>> + Send + 'static,
    ) -> Streaming<T> {
        let stop = self.stop.clone();
        stream.take_until(async move { stop.cancelled().await }).boxed()
    }
}

/// All services on one router.
pub fn router(context: Arc<Context>, stop: CancellationToken) -> axum::Router {
    let limit = context.config.max_object_bytes + OVERHEAD;
    let front = Front { context, stop };
    tonic::service::Routes::new(
        ResourcesServer::new(front.clone())
            .max_decoding_message_size(limit)
            .max_encoding_message_size(usize::MAX),
    )
    .add_service(PodStreamsServer::new(front.clone()).max_decoding_message_size(limit))
    .add_service(NodesServer::new(front.clone()).max_decoding_message_size(limit))
    .add_service(ClusterServer::new(front))
    .prepare()
    .into_axum_router()
}
