//! Logs, exec and port-forward: the node keeps a stream to every server, and answers what comes over it with calls of its
//! own. A node needs no open port for this.

pub mod exec;
pub mod log;
mod serve;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kontiki_proto::client::Client;
use kontiki_proto::pb::nodes_client::NodesClient;
use kontiki_proto::pb::{NodeCommand, NodeHello};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::IntervalStream;
use tokio_util::sync::CancellationToken;

use crate::ctx::Ctx;

const HELLO: Duration = Duration::from_secs(10);
/// Streams a node serves at one time.
const STREAMS: usize = 256;

/// Listens to every server until the shutdown.
pub async fn listen(client: Client, ctx: Arc<Ctx>, shutdown: CancellationToken) {
    let limit = Arc::new(Semaphore::new(STREAMS));
    let all = (0..client.addresses().len())
        .map(|index| listen_to(client.clone(), index, ctx.clone(), limit.clone()))
        .collect::<Vec<_>>();
    tokio::select! {
        _ = futures::future::join_all(all) => {}
        () = shutdown.cancelled() => {}
    }
}

async fn listen_to(client: Client, index: usize, ctx: Arc<Ctx>, limit: Arc<Semaphore>) {
    loop {
        let hello = NodeHello { node_name: ctx.options.node_name.clone() };
        let hellos = IntervalStream::new(tokio::time::interval(HELLO)).map(move |_| hello.clone());
        let mut nodes = NodesClient::new(client.service_at(index));
        match tokio::time::timeout(HELLO, nodes.listen(hellos)).await {
            Ok(Ok(answer)) => {
                let mut commands = answer.into_inner();
                loop {
                    match commands.message().await {
                        Ok(Some(command)) => answer_command(&client, index, &ctx, &limit, command),
                        Ok(None) => break,
                        Err(error) => {
                            tracing::debug!(%error, index, "a server's stream of commands has ended");
                            break;
                        }
                    }
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, index, "a server does not take this node's stream"),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn answer_command(
    client: &Client,
    index: usize,
    ctx: &Arc<Ctx>,
    limit: &Arc<Semaphore>,
    command: NodeCommand,
) {
    let Ok(permit) = limit.clone().try_acquire_owned() else {
        // The server waits in vain, and says so to its client.
        tracing::warn!("too many streams are being served; one was refused");
        return;
    };
    let nodes = NodesClient::new(client.service_at(index));
    let ctx = ctx.clone();
    tokio::spawn(async move {
        serve::serve(nodes, ctx, command).await;
        drop(permit);
    });
}
