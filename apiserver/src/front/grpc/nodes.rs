//! Nodes: agents register, listen for commands and serve streams.

use futures::{StreamExt, stream};
use kontiki_proto::pb;
use kontiki_proto::pb::node_frame::Frame;
use kontiki_proto::pb::nodes_server::Nodes;
use kontiki_proto::status::Status;
use tokio::sync::mpsc;
use tonic::{Request, Response};

use super::{Front, Streaming};
use crate::auth::{MASTERS, User};
use crate::streams::register;

/// How long a listening node may be silent; it says hello every 10 seconds.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(45);

/// 403 unless the caller is that node.
fn check_node(user: &User, name: &str) -> Result<(), tonic::Status> {
    if !name.is_empty() && (user.node() == Some(name) || user.is_in(MASTERS)) {
        return Ok(());
    }
    let message = format!("User {:?} is not the node {name:?}", user.name);
    Err(tonic::Status::from(Status::failure(403, "Forbidden", message)))
}

#[tonic::async_trait]
impl Nodes for Front {
    type ListenStream = Streaming<pb::NodeCommand>;
    type ServeStream = Streaming<pb::ServerFrame>;

    async fn register(
        &self,
        mut request: Request<pb::RegisterRequest>,
    ) -> Result<Response<pb::RegisterReply>, tonic::Status> {
        let message = std::mem::take(request.get_mut());
        let user = self.user(&request).await?;
        let mut servers = self.context.store.client_addresses();
        if servers.is_empty() {
            servers.clone_from(&self.context.config.advertise_addresses);
        }
        let reply = register::register(&self.context, &user, &message, servers)?;
        tracing::info!(node = message.node_name, "a node has registered");
        Ok(Response::new(reply))
    }

    async fn listen(
        &self,
        request: Request<tonic::Streaming<pb::NodeHello>>,
    ) -> Result<Response<Self::ListenStream>, tonic::Status> {
        let user = self.user(&request).await?;
        let mut hellos = request.into_inner();
        let first = tokio::time::timeout(SILENCE, hellos.message()).await;
        let Ok(Ok(Some(hello))) = first else {
            return Err(tonic::Status::from(Status::bad_request("a listening node says its name first")));
        };
        check_node(&user, &hello.node_name)?;
        let (commands, presence) = self.context.nodes.listen(&hello.node_name);
        let node = hello.node_name;
        tracing::debug!(node, "a node listens");
        let (gone, mut is_gone) = mpsc::channel::<()>(1);
        tokio::spawn(async move {
            // Ends with the node's silence, its hanging up, or ours.
            loop {
                tokio::select! {
                    () = gone.closed() => return,
                    hello = tokio::time::timeout(SILENCE, hellos.message()) => {
                        if !matches!(hello, Ok(Ok(Some(_)))) {
                            return;
                        }
                    }
                }
            }
        });
        let until_gone = async move {
            is_gone.recv().await;
        };
        let commands = stream::unfold((commands, presence), async |(mut commands, presence)| {
            let command = commands.recv().await?;
            Some((Ok(command), (commands, presence)))
        })
        .boxed()
        .take_until(Box::pin(until_gone));
        Ok(Response::new(self.until_stop(commands)))
    }

    async fn serve(
        &self,
        request: Request<tonic::Streaming<pb::NodeFrame>>,
    ) -> Result<Response<Self::ServeStream>, tonic::Status> {
        let user = self.user(&request).await?;
        let node = user.node().map(String::from).ok_or_else(|| {
            tonic::Status::from(Status::failure(
                403,
                "Forbidden",
                format!("User {:?} is not a node", user.name),
            ))
        })?;
        let mut frames = request.into_inner();
        let Some(pb::NodeFrame { frame: Some(Frame::StreamId(stream_id)) }) = frames.message().await? else {
            return Err(tonic::Status::from(Status::bad_request(
                "the first frame of a stream must hold its id",
            )));
        };
        let (to_client, from_client) = self.context.nodes.serve(&node, stream_id)?;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    // The client has gone: dropping the call tells the node.
                    () = to_client.closed() => return,
                    frame = frames.message() => match frame {
                        Ok(Some(frame)) => {
                            if to_client.send(frame).await.is_err() {
                                return;
                            }
                        }
                        Ok(None) | Err(_) => return,
                    }
                }
            }
        });
        let frames = stream::unfold(from_client, async |mut from_client| {
            let frame = from_client.recv().await?;
            Some((Ok(frame), from_client))
        });
        Ok(Response::new(self.until_stop(frames)))
    }
}
