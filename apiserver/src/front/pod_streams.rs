//! Logs, exec and attach over HTTP: logs as a plain body, the others over WebSocket with the `v5.channel.k8s.io`
//! protocol, in which the first byte of a message names its channel.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::IntoResponse;
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use http::{Method, Request, Response};
use kontiki_proto::pb::node_frame::Frame;
use kontiki_proto::pb::server_frame::Frame as ToNode;
use kontiki_proto::pb::{ExecStart, LogsRequest, ServerFrame, TerminalSize};
use kontiki_proto::status::Status;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::answer;
use super::path::{Query, ResourcePath};
use crate::auth::User;
use crate::server::Context;
use crate::streams::{Session, exec, logs};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// How long a client may take to close a stream that is over.
const LINGER: std::time::Duration = std::time::Duration::from_secs(5);
/// Followed by the channel that the client closes.
const CLOSE: u8 = 255;
/// The newest first; all frame their data alike, and the fifth can close stdin.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// Subresources of pods that stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Logs,
    Exec,
    Attach,
    PortForward,
}

impl Kind {
    pub fn of(path: &ResourcePath) -> Option<Kind> {
        let target = &path.target;
        if !target.group.is_empty() || target.resource != "pods" || target.version != "v1" {
            return None;
        }
        match target.subresource.as_str() {
            "log" => Some(Kind::Logs),
            "exec" => Some(Kind::Exec),
            "attach" => Some(Kind::Attach),
            "portforward" => Some(Kind::PortForward),
            _ => None,
        }
    }
}

pub(super) async fn answer(
    context: &Arc<Context>,
    stop: CancellationToken,
    user: &Arc<User>,
    kind: Kind,
    path: &ResourcePath,
    query: &Query,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    match (kind, request.method()) {
        (Kind::Logs, &Method::GET) => {
            let chunks = logs::open(context, user, logs_request(path, query)?).await?;
            let until_stop = chunks.take_until(async move { stop.cancelled().await });
            Ok(answer::plain(200, "text/plain", Body::from_stream(until_stop)))
        }
        (Kind::Exec | Kind::Attach, &Method::GET | &Method::POST) => {
            execute(context, stop, user, exec_start(kind, path, query), request).await
        }
        (Kind::PortForward, _) => Err(Status::not_implemented("port forwarding")),
        (_, method) => Err(Status::failure(
            405,
            "MethodNotAllowed",
            format!("the server does not allow the method {method} on the requested resource"),
        )),
    }
}

fn logs_request(path: &ResourcePath, query: &Query) -> Result<LogsRequest, Status> {
    let at_least = |name: &str, low: i64| match query.number::<i64>(name)? {
        Some(number) if number < low => Err(Status::failure(
            422,
            "Invalid",
            format!(
                "PodLogOptions \"\" is invalid: {name}: Invalid value: {number}: must be greater than or equal to {low}"
            ),
        )),
        number => Ok(number),
    };
    Ok(LogsRequest {
        namespace: path.target.namespace.to_string(),
        pod: path.target.name.to_string(),
        container: query.text("container").into(),
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        tail_lines: at_least("tailLines", 0)?.unwrap_or(-1),
        limit_bytes: at_least("limitBytes", 1)?.unwrap_or(0),
        since_seconds: at_least("sinceSeconds", 1)?.unwrap_or(0),
        since_time: query.text("sinceTime").into(),
    })
}

fn exec_start(kind: Kind, path: &ResourcePath, query: &Query) -> ExecStart {
    ExecStart {
        namespace: path.target.namespace.to_string(),
        pod: path.target.name.to_string(),
        container: query.text("container").into(),
        command: query.all("command").to_vec(),
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr") && !query.flag("tty"),
        tty: query.flag("tty"),
        attach: kind == Kind::Attach,
    }
}

async fn execute(
    context: &Arc<Context>,
    stop: CancellationToken,
    user: &Arc<User>,
    start: ExecStart,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let (mut parts, _) = request.into_parts();
    let Ok(upgrade) = WebSocketUpgrade::from_request_parts(&mut parts, &()).await else {
        // kubectl comes back with SPDY after any refusal, and shows only what it hears then.
        exec::check(context, user, &start).await?;
        return Err(Status::bad_request(
            "unable to upgrade: this server streams over WebSocket only; use kubectl 1.30 or newer",
        ));
    };
    let upgrade = upgrade.protocols(PROTOCOLS);
    if upgrade.selected_protocol().is_none() {
        return Err(Status::bad_request(format!(
            "unable to upgrade: none of the subprotocols is known; this server speaks {}",
            PROTOCOLS.join(", ")
        )));
    }
    let session = exec::open(context, user, start).await?;
    let response = upgrade.on_upgrade(async move |socket| {
        tokio::select! {
            () = pump(socket, session) => {}
            () = stop.cancelled() => {}
        }
    });
    Ok(response.into_response())
}

fn message(channel: u8, data: &[u8]) -> Message {
    let mut out = BytesMut::with_capacity(data.len() + 1);
    out.put_u8(channel);
    out.put_slice(data);
    Message::Binary(out.freeze())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Resize {
    width: u32,
    height: u32,
}

/// A client's message as the node gets it; `None` for what means nothing.
fn to_node(data: &Bytes) -> Option<ToNode> {
    let (&channel, rest) = data.split_first()?;
    match channel {
        STDIN => Some(ToNode::Stdin(data.slice(1..))),
        RESIZE => {
            let size: Resize = serde_json::from_slice(rest).ok()?;
            Some(ToNode::Resize(TerminalSize { width: size.width, height: size.height }))
        }
        CLOSE if rest == [STDIN] => Some(ToNode::StdinClosed(true)),
        _ => None,
    }
}

/// Carries messages both ways until either end is done.
async fn pump(mut socket: WebSocket, session: Session) {
    let Session { mut from_node, to_node: sender } = session;
    loop {
        tokio::select! {
            frame = from_node.recv() => {
                let Some(frame) = frame else {
                    let gone = Status::internal("the node ended the stream without a result");
                    let _ = socket.send(message(ERROR, &gone.to_json())).await;
                    break;
                };
                let (out, ends) = match frame.frame {
                    Some(Frame::Stdout(data)) => (message(STDOUT, &data), false),
                    Some(Frame::Stderr(data)) => (message(STDERR, &data), false),
                    Some(Frame::Status(json)) => (message(ERROR, &json), true),
                    Some(Frame::StreamId(_)) | None => continue,
                };
                if socket.send(out).await.is_err() || ends {
                    break;
                }
            }
            incoming = socket.recv() => {
                let data = match incoming {
                    Some(Ok(Message::Binary(data))) => data,
                    Some(Ok(Message::Text(text))) => Bytes::copy_from_slice(text.as_bytes()),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                };
                if let Some(frame) = to_node(&data)
                    && sender.send(ServerFrame { frame: Some(frame) }).await.is_err()
                {
                    // The node reads no more input; what it still says is worth having.
                    continue;
                }
            }
        }
    }
    let normal = CloseFrame { code: close_code::NORMAL, reason: "".into() };
    if socket.send(Message::Close(Some(normal))).await.is_ok() {
        // Closing with unread input would reset the connection, and what was sent last would be lost.
        let until_closed = async { while let Some(Ok(_)) = socket.recv().await {} };
        let _ = tokio::time::timeout(LINGER, until_closed).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_of_a_message_names_its_channel() {
        for (bytes, expected) in [
            (&b"\x00ls\n"[..], Some(ToNode::Stdin(Bytes::from_static(b"ls\n")))),
            (
                b"\x04{\"Width\":80,\"Height\":24}",
                Some(ToNode::Resize(TerminalSize { width: 80, height: 24 })),
            ),
            (b"\xff\x00", Some(ToNode::StdinClosed(true))),
            (b"\x01x", None),
            (b"", None),
        ] {
            assert_eq!(to_node(&Bytes::from_static(bytes)), expected);
        }
    }
}
