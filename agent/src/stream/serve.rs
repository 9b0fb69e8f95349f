//! One stream that a server has asked for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kontiki_proto::Status;
use kontiki_proto::client::Service;
use kontiki_proto::pb::node_command::Command;
use kontiki_proto::pb::node_frame::Frame;
use kontiki_proto::pb::nodes_client::NodesClient;
use kontiki_proto::pb::server_frame::Frame as Input;
use kontiki_proto::pb::{NodeCommand, NodeExec, NodeFrame, NodeLogs, NodePortForward, ServerFrame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::exec::{self, Output, Wanted};
use super::log;
use crate::ctx::Ctx;
use crate::pod::dirs::PodDir;

type Frames = mpsc::Sender<NodeFrame>;
type Inputs = tonic::Streaming<ServerFrame>;

pub async fn serve(mut nodes: NodesClient<Service>, ctx: Arc<Ctx>, command: NodeCommand) {
    let (frames, outgoing) = mpsc::channel(32);
    let first = NodeFrame { frame: Some(Frame::StreamId(command.stream_id)) };
    if frames.send(first).await.is_err() {
        return;
    }
    let mut inputs =
        match tokio::time::timeout(Duration::from_secs(10), nodes.serve(ReceiverStream::new(outgoing))).await
        {
            Ok(Ok(answer)) => answer.into_inner(),
            // Nobody waits for the answer any more.
            Ok(Err(error)) => return tracing::debug!(%error, "a server did not take an answer"),
            Err(_) => return,
        };
    let outcome = match command.command {
        Some(Command::Logs(logs)) => send_log(&ctx, logs, &frames, &mut inputs).await,
        Some(Command::Exec(exec)) => run(&ctx, exec, &frames, &mut inputs).await,
        Some(Command::PortForward(forward)) => forward_port(&ctx, forward, &frames, &mut inputs).await,
        None => Err(Status::not_implemented("this command of a newer server")),
    };
    let status = match outcome {
        Ok(status) | Err(status) => status,
    };
    // Where the client is gone, nobody needs the status.
    let _ = frames.send(NodeFrame { frame: Some(Frame::Status(status.to_json().into())) }).await;
    drop(frames);
    // Letting go of the answers resets the call, and with it what has not been sent yet: the server ends it first.
    let end = async { while let Ok(Some(_)) = inputs.message().await {} };
    let _ = tokio::time::timeout(Duration::from_secs(5), end).await;
}

async fn send_log(ctx: &Ctx, logs: NodeLogs, frames: &Frames, inputs: &mut Inputs) -> Result<Status, Status> {
    let request = logs.request.unwrap_or_default();
    let dir = PodDir::new(&ctx.options.root_dir, &logs.pod_uid);
    let attempt = log::attempt(&dir, &request.pod, &request.container, request.previous)?;
    let options = log::Options::of(&request, Timestamp::now())?;
    let (to, mut chunks) = mpsc::channel(16);
    let container = request.container.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let ended = || {
            // A newer attempt, or the pod's end, is the end of this one too.
            let now = dir.attempts(&container).0;
            now.is_none_or(|a| a.number != attempt.number || a.exit.is_some())
        };
        log::send(&dir.log(&container, attempt.number), &options, ended, &to);
    });
    loop {
        tokio::select! {
            chunk = chunks.recv() => match chunk {
                Some(data) => {
                    if frames.send(NodeFrame { frame: Some(Frame::Stdout(data.into())) }).await.is_err() {
                        break;
                    }
                }
                None => break,
            },
            // A client says nothing on a log stream, but its end is heard here.
            input = inputs.message() => if !matches!(input, Ok(Some(_))) && frames.is_closed() {
                break;
            } else if !matches!(input, Ok(Some(_))) {
                drain(&mut chunks, frames).await;
                break;
            },
        }
    }
    drop(chunks);
    reading.await.map_err(|e| Status::internal(format!("reading the log failed: {e}")))?;
    Ok(Status::success())
}

/// The server has closed its side only: what is there is still wanted, as long as it can be sent.
async fn drain(chunks: &mut mpsc::Receiver<Vec<u8>>, frames: &Frames) {
    while let Some(data) = chunks.recv().await {
        if frames.send(NodeFrame { frame: Some(Frame::Stdout(data.into())) }).await.is_err() {
            return;
        }
    }
}

async fn run(ctx: &Ctx, exec: NodeExec, frames: &Frames, inputs: &mut Inputs) -> Result<Status, Status> {
    let start = exec.start.unwrap_or_default();
    if start.attach {
        return Err(Status::not_implemented("attaching to a container"));
    }
    let dir = PodDir::new(&ctx.options.root_dir, &exec.pod_uid);
    let attempt = dir.attempts(&start.container).0.filter(|a| a.exit.is_none() && a.started_at.is_some());
    let attempt = attempt.ok_or_else(|| {
        Status::bad_request(format!("container {} of pod {} is not running", start.container, start.pod))
    })?;
    let wanted = Wanted { command: start.command.clone(), stdin: start.stdin, tty: start.tty };
    let failed = |e: crate::runtime::RuntimeError| {
        Status::internal(format!("error executing command in container: {e}"))
    };
    let started = exec::start(&ctx.containerd, &ctx.options.root_dir, &attempt.container_id, &wanted).await;
    let (mut process, mut outputs, finish) = started.map_err(failed)?;
    let frame = |output: Output| match output {
        Output::Stdout(data) => NodeFrame { frame: Some(Frame::Stdout(data.into())) },
        Output::Stderr(data) => NodeFrame { frame: Some(Frame::Stderr(data.into())) },
    };
    let (containerd, container, id) = process.names();
    let mut ended = tokio::spawn(async move { containerd.wait(&container, &id).await });
    let mut hearing = true;
    let code = loop {
        tokio::select! {
            code = &mut ended => break code,
            Some(output) = outputs.recv() => {
                if frames.send(frame(output)).await.is_err() {
                    hearing = false;
                    process.kill().await.map_err(failed)?;
                }
            }
            input = inputs.message(), if hearing => match input {
                Ok(Some(ServerFrame { frame: Some(Input::Stdin(data)) })) => {
                    if let Some(stdin) = &mut process.stdin {
                        // A process that has closed its input is not to blame the client for.
                        let _ = stdin.write_all(&data).await;
                    }
                }
                Ok(Some(ServerFrame { frame: Some(Input::Resize(size)) })) => {
                    if let Err(error) = process.resize(size.width, size.height).await {
                        tracing::debug!(%error, "a terminal was not resized");
                    }
                }
                Ok(Some(ServerFrame { frame: Some(Input::StdinClosed(_)) })) => {
                    process.close_stdin().await.map_err(failed)?;
                }
                Ok(Some(ServerFrame { frame: None })) => {}
                Ok(None) | Err(_) => {
                    hearing = false;
                    if frames.is_closed() {
                        process.kill().await.map_err(failed)?;
                    }
                }
            },
            () = frames.closed(), if hearing => {
                hearing = false;
                process.kill().await.map_err(failed)?;
            }
        }
    };
    // Output goes on being read while the shim hands over the rest.
    let rest = async {
        while let Some(output) = outputs.recv().await {
            if frames.send(frame(output)).await.is_err() {
                outputs.close();
            }
        }
    };
    let clean = async {
        process.clean().await;
        drop(finish);
    };
    tokio::join!(rest, clean);
    let code = code.map_err(|e| Status::internal(e.to_string()))?.map_err(failed)?;
    Ok(exit_status(code))
}

/// As kubectl reads an exit code out of a status.
fn exit_status(code: u32) -> Status {
    if code == 0 {
        return Status::success();
    }
    let message = format!("command terminated with non-zero exit code: exit status {code}");
    let mut status =
        Status::failure(500, "NonZeroExitCode", message).with_cause("ExitCode", &code.to_string(), "");
    status.code = 0;
    status
}

async fn forward_port(
    ctx: &Ctx,
    forward: NodePortForward,
    frames: &Frames,
    inputs: &mut Inputs,
) -> Result<Status, Status> {
    let refused = |why: String| {
        Status::failure(500, "InternalError", format!("error forwarding port {}: {why}", forward.port))
    };
    let netns = PodDir::new(&ctx.options.root_dir, &forward.pod_uid).namespace("net");
    let port = u16::try_from(forward.port).map_err(|e| refused(e.to_string()))?;
    // The socket belongs to the namespace it is made in, and stays in it.
    let connected = tokio::task::spawn_blocking(move || -> std::io::Result<std::net::TcpStream> {
        std::thread::spawn(move || {
            if netns.exists() {
                nix::sched::setns(std::fs::File::open(&netns)?, nix::sched::CloneFlags::CLONE_NEWNET)?;
            }
            let stream = std::net::TcpStream::connect_timeout(
                &SocketAddr::from(([127, 0, 0, 1], port)),
                Duration::from_secs(5),
            )?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        })
        .join()
        .map_err(|_| std::io::Error::other("the connecting thread panicked"))?
    })
    .await
    .map_err(|e| refused(e.to_string()))?
    .and_then(tokio::net::TcpStream::from_std)
    .map_err(|e| refused(e.to_string()))?;
    let (mut from_pod, mut to_pod) = connected.into_split();
    let mut buffer = vec![0u8; 32 * 1024];
    let mut hearing = true;
    loop {
        tokio::select! {
            read = from_pod.read(&mut buffer) => match read {
                Ok(n) if n > 0 => {
                    let frame = Frame::Stdout(buffer[..n].to_vec().into());
                    if frames.send(NodeFrame { frame: Some(frame) }).await.is_err() {
                        break;
                    }
                }
                Ok(_) => break,
                Err(error) => return Err(refused(error.to_string())),
            },
            input = inputs.message(), if hearing => match input {
                Ok(Some(ServerFrame { frame: Some(Input::Stdin(data)) })) => {
                    to_pod.write_all(&data).await.map_err(|e| refused(e.to_string()))?;
                }
                Ok(Some(ServerFrame { frame: Some(Input::StdinClosed(_)) })) => {
                    to_pod.shutdown().await.map_err(|e| refused(e.to_string()))?;
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => hearing = false,
            },
            () = frames.closed() => break,
        }
    }
    Ok(Status::success())
}
