//! Kontiki's own protocol: the services of `kontiki.proto`, in front of the same chain as REST.

mod nodes;
mod resources;

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use http::HeaderMap;
use kontiki_proto::pb;
use kontiki_proto::pb::cluster_server::{Cluster, ClusterServer};
use kontiki_proto::pb::nodes_server::NodesServer;
use kontiki_proto::pb::pod_streams_server::PodStreamsServer;
use kontiki_proto::pb::resources_server::ResourcesServer;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response};

use super::tls::Peer;
use crate::auth::{Access, User};
use crate::server::Context;
use crate::storage;

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

impl Front {
    /// Membership is no resource; it is guarded as the path `/cluster/<what>`.
    async fn may<T>(&self, request: &Request<T>, verb: &str, path: &str) -> Result<(), tonic::Status> {
        let user = self.user(request).await?;
        self.context.auth.authorizer.check(&Access::path(&user, verb, path)).map_err(tonic::Status::from)
    }
}

#[tonic::async_trait]
impl Cluster for Front {
    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusReply>, tonic::Status> {
        self.may(&request, "get", "/cluster/status").await?;
        Ok(Response::new(self.context.store.status().await))
    }

    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinReply>, tonic::Status> {
        self.may(&request, "post", "/cluster/join").await?;
        let request = request.into_inner();
        let store = &self.context.store;
        let id = store
            .join(&request.peer_address, &request.client_address)
            .await
            .map_err(|error| tonic::Status::from(storage::store_error(error)))?;
        Ok(Response::new(pb::JoinReply { id, cluster_id: store.cluster_id().to_string() }))
    }

    async fn leave(
        &self,
        request: Request<pb::LeaveRequest>,
    ) -> Result<Response<pb::LeaveReply>, tonic::Status> {
        self.may(&request, "post", "/cluster/leave").await?;
        let id = request.into_inner().id;
        self.context
            .store
            .leave(id)
            .await
            .map_err(|error| tonic::Status::from(storage::store_error(error)))?;
        Ok(Response::new(pb::LeaveReply {}))
    }

    async fn transfer(
        &self,
        request: Request<pb::TransferRequest>,
    ) -> Result<Response<pb::TransferReply>, tonic::Status> {
        self.may(&request, "post", "/cluster/transfer").await?;
        let to = Some(request.into_inner().to).filter(|to| *to != 0);
        let leader = self
            .context
            .store
            .transfer(to)
            .await
            .map_err(|error| tonic::Status::from(storage::store_error(error)))?;
        Ok(Response::new(pb::TransferReply { leader }))
    }
}
