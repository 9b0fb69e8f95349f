//! Streams to nodes: agents dial in and wait; a request for logs or exec goes out on their standing stream, and comes
//! back as a call of its own.
//!
//! ```text
//!   agent ── Nodes.Listen ──▶ server        standing, one per server
//!   client ── logs, exec ──▶ server ── NodeCommand{stream_id} ──▶ agent
//!   agent ── Nodes.Serve{stream_id} ──▶ server ⇄ client
//! ```

pub mod exec;
pub mod logs;
pub mod register;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kontiki_proto::pb::node_command::Command;
use kontiki_proto::pb::{NodeCommand, NodeFrame, ServerFrame};
use kontiki_proto::status::Status;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

/// Commands a node may be behind with.
const COMMANDS: usize = 64;
/// Frames a stream may be behind with, each way.
pub const FRAMES: usize = 32;
/// How long a node may take to answer a command.
const PATIENCE: Duration = Duration::from_secs(10);
/// Streams one node may serve at one time.
const MAX_STREAMS: usize = 1024;

/// Both ends of a stream that a node serves. Dropping it ends the stream.
#[derive(Debug)]
pub struct Session {
    pub from_node: mpsc::Receiver<NodeFrame>,
    pub to_node: mpsc::Sender<ServerFrame>,
}

#[derive(Debug)]
struct Listener {
    id: u64,
    commands: mpsc::Sender<NodeCommand>,
}

#[derive(Debug)]
struct Pending {
    node: String,
    answer: oneshot::Sender<Session>,
}

#[derive(Debug, Default)]
struct State {
    listeners: HashMap<String, Listener>,
    pending: HashMap<u64, Pending>,
}

/// The nodes that listen to this server.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    state: Arc<Mutex<State>>,
    next: Arc<AtomicU64>,
}

/// A node's presence; it is gone when this is dropped.
#[derive(Debug)]
pub struct Presence {
    nodes: Nodes,
    node: String,
    id: u64,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut state = self.nodes.state.lock();
        // A node that has dialled in again is another listener.
        if state.listeners.get(&self.node).is_some_and(|listener| listener.id == self.id) {
            state.listeners.remove(&self.node);
        }
    }
}

/// Forgets a command nobody answered.
struct Asked<'a> {
    nodes: &'a Nodes,
    id: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.nodes.state.lock().pending.remove(&self.id);
    }
}

fn absent(node: &str) -> Status {
    Status::unavailable(format!(
        "the node {node} is not connected to this server; it is down or has just been restarted"
    ))
}

impl Nodes {
    /// Commands for a node from now on, in place of an earlier listener of the same name.
    pub fn listen(&self, node: &str) -> (mpsc::Receiver<NodeCommand>, Presence) {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.state.lock().listeners.insert(node.into(), Listener { id, commands });
        (receiver, Presence { nodes: self.clone(), node: node.into(), id })
    }

    /// 503 unless the node listens to this server.
    pub fn check(&self, node: &str) -> Result<(), Status> {
        if self.state.lock().listeners.contains_key(node) { Ok(()) } else { Err(absent(node)) }
    }

    /// Asks a node for a stream and waits for it.
    ///
    /// # Errors
    /// 503 where the node is not connected to this server or does not answer, 429 where it serves too many streams.
    pub async fn open(&self, node: &str, command: Command) -> Result<Session, Status> {
        let stream_id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, session) = oneshot::channel();
        let commands = {
            let mut state = self.state.lock();
            let Some(listener) = state.listeners.get(node) else {
                return Err(absent(node));
            };
            let commands = listener.commands.clone();
            if state.pending.values().filter(|pending| pending.node == node).count() >= MAX_STREAMS {
                return Err(Status::too_many_requests(
                    format!("too many streams wait for the node {node}"),
                    1,
                ));
            }
            state.pending.insert(stream_id, Pending { node: node.into(), answer });
            commands
        };
        let _asked = Asked { nodes: self, id: stream_id };
        let command = NodeCommand { stream_id, command: Some(command) };
        let asked = async {
            commands.send(command).await.ok()?;
            session.await.ok()
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Some(session)) => Ok(session),
            Ok(None) => Err(Status::unavailable(format!("the node {node} has gone away"))),
            Err(_) => Err(Status::unavailable(format!(
                "the node {node} did not answer within {} seconds",
                PATIENCE.as_secs()
            ))),
        }
    }

    /// Joins a node's answer to the request that asked for it; the node gets its own ends of the stream.
    ///
    /// # Errors
    /// 404 where nobody waits for that stream of that node any more.
    pub fn serve(
        &self,
        node: &str,
        stream_id: u64,
    ) -> Result<(mpsc::Sender<NodeFrame>, mpsc::Receiver<ServerFrame>), Status> {
        let gone =
            || Status::failure(404, "NotFound", format!("nobody waits for stream {stream_id} of {node}"));
        let pending = {
            let mut state = self.state.lock();
            match state.pending.get(&stream_id) {
                Some(pending) if pending.node == node => state.pending.remove(&stream_id),
                _ => None,
            }
        };
        let pending = pending.ok_or_else(gone)?;
        let (to_client, from_node) = mpsc::channel(FRAMES);
        let (to_node, from_client) = mpsc::channel(FRAMES);
        pending.answer.send(Session { from_node, to_node }).map_err(|_| gone())?;
        Ok((to_client, from_client))
    }
}

#[cfg(test)]
mod tests {
    use kontiki_proto::pb::NodeLogs;
    use kontiki_proto::pb::node_frame::Frame;

    use super::*;

    #[tokio::test]
    async fn a_command_reaches_its_node_and_the_answer_its_asker() {
        let nodes = Nodes::default();
        let (mut commands, presence) = nodes.listen("n1");
        let asking = {
            let nodes = nodes.clone();
            tokio::spawn(async move { nodes.open("n1", Command::Logs(NodeLogs::default())).await })
        };
        let command = commands.recv().await.expect("a command");
        assert!(nodes.serve("n2", command.stream_id).is_err(), "another node must not answer");
        let (to_client, _from_client) = nodes.serve("n1", command.stream_id).expect("joined");
        to_client.send(NodeFrame { frame: Some(Frame::Stdout(b"x".to_vec().into())) }).await.expect("sent");
        let mut session = asking.await.expect("no panic").expect("a session");
        assert!(session.from_node.recv().await.is_some());
        drop(presence);
        assert_eq!(nodes.open("n1", Command::Logs(NodeLogs::default())).await.expect_err("gone").code, 503);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_does_not_answer_is_given_up() {
        let nodes = Nodes::default();
        let (_commands, _presence) = nodes.listen("n1");
        let status = nodes.open("n1", Command::Logs(NodeLogs::default())).await.expect_err("no answer");
        assert_eq!(status.code, 503);
        assert!(nodes.state.lock().pending.is_empty());
    }
}
