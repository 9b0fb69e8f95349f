//! The servers themselves: who is a member, who leads, and the state as a whole. No resource; guarded as the path
//! `/cluster/<what>`.

use std::time::Duration;

use bytes::Bytes;
use kontiki_proto::pb;
use kontiki_proto::pb::cluster_server::Cluster;
use kontiki_store::StoreError;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response};

use super::{Front, Streaming};
use crate::storage;

/// Each holds on to a state of the past while it streams.
static BACKUPS: Semaphore = Semaphore::const_new(2);
/// Bytes of one message.
const PIECE: usize = 256 << 10;
/// Messages that wait for a caller.
const WAITING: usize = 4;
/// A caller that takes nothing for so long gets no more.
const PATIENCE: Duration = Duration::from_secs(60);

fn refused(error: StoreError) -> tonic::Status {
    storage::store_error(error).into()
}

#[tonic::async_trait]
impl Cluster for Front {
    type BackupStream = Streaming<pb::BackupPart>;

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
        let id = store.join(&request.peer_address, &request.client_address).await.map_err(refused)?;
        Ok(Response::new(pb::JoinReply { id, cluster_id: store.cluster_id().to_string() }))
    }

    async fn leave(
        &self,
        request: Request<pb::LeaveRequest>,
    ) -> Result<Response<pb::LeaveReply>, tonic::Status> {
        self.may(&request, "post", "/cluster/leave").await?;
        self.context.store.leave(request.into_inner().id).await.map_err(refused)?;
        Ok(Response::new(pb::LeaveReply {}))
    }

    async fn transfer(
        &self,
        request: Request<pb::TransferRequest>,
    ) -> Result<Response<pb::TransferReply>, tonic::Status> {
        self.may(&request, "post", "/cluster/transfer").await?;
        let to = Some(request.into_inner().to).filter(|to| *to != 0);
        let leader = self.context.store.transfer(to).await.map_err(refused)?;
        Ok(Response::new(pb::TransferReply { leader }))
    }

    async fn replace(
        &self,
        request: Request<pb::ReplaceRequest>,
    ) -> Result<Response<pb::ReplaceReply>, tonic::Status> {
        self.may(&request, "post", "/cluster/replace").await?;
        let request = request.into_inner();
        let id = self.context.store.replace(request.id, &request.peer_address).await.map_err(refused)?;
        Ok(Response::new(pb::ReplaceReply { id }))
    }

    /// Everything there is, secrets included, so that reading the status is not permission enough.
    async fn backup(
        &self,
        request: Request<pb::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, tonic::Status> {
        self.may(&request, "post", "/cluster/backup").await?;
        let permit = BACKUPS.try_acquire().map_err(|_| refused(StoreError::Busy))?;
        let backup = self.context.store.backup().await.map_err(refused)?;
        let (parts, stream) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            let _permit = permit;
            for data in backup.flat_map(pieces) {
                match tokio::time::timeout(PATIENCE, parts.send(Ok(pb::BackupPart { data }))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return,
                    Err(_) => {
                        tracing::warn!("a backup is given up: its reader took nothing for {PATIENCE:?}");
                        return;
                    }
                }
            }
        });
        Ok(Response::new(self.until_stop(ReceiverStream::new(stream))))
    }
}

fn pieces(frame: Bytes) -> impl Iterator<Item = Bytes> {
    (0..frame.len()).step_by(PIECE).map(move |from| frame.slice(from..frame.len().min(from + PIECE)))
}
