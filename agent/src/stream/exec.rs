//! Further processes in running containers: for hooks, probes and `kubectl exec`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use crate::runtime::{Containerd, Result, RuntimeError, Streams};

/// What is wanted of a process.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub command: Vec<String>,
    pub stdin: bool,
    pub tty: bool,
}

/// A part of a process's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
}

/// A process that has been started in a container. Dropping it does not end it.
pub struct Running {
    containerd: Containerd,
    container: String,
    id: String,
    dir: PathBuf,
    pub stdin: Option<pipe::Sender>,
}

fn io_error(error: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::new("preparing a process's streams", error.to_string())
}

/// Starts a process with the user, environment and limits of the container. Its output comes on the channel; the channel
/// closes once all has been read after [`Running::wait`].
pub async fn start(
    containerd: &Containerd,
    root: &Path,
    container: &str,
    wanted: &Wanted,
) -> Result<(Running, mpsc::Receiver<Output>, Vec<oneshot::Sender<()>>)> {
    let process = process(containerd, container, wanted).await?;
    let id = format!("exec-{}", uuid::Uuid::new_v4().simple());
    let dir = root.join("io").join(&id);
    std::fs::create_dir_all(&dir).map_err(io_error)?;
    let fifo = |name: &str| -> Result<String> {
        let path = dir.join(name);
        mkfifo(&path, Mode::from_bits_truncate(0o600)).map_err(io_error)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let open = |path: &str| pipe::OpenOptions::new().read_write(true).open_receiver(path).map_err(io_error);
    let stdout = fifo("stdout")?;
    let (outputs, receiver) = mpsc::channel(64);
    let mut finish = Vec::new();
    let (done, finished) = oneshot::channel();
    tokio::spawn(copy(open(&stdout)?, outputs.clone(), finished, Output::Stdout));
    finish.push(done);
    let stderr = if wanted.tty {
        String::new()
    } else {
        let path = fifo("stderr")?;
        let (done, finished) = oneshot::channel();
        tokio::spawn(copy(open(&path)?, outputs, finished, Output::Stderr));
        finish.push(done);
        path
    };
    let (stdin, writer) = if wanted.stdin {
        let path = fifo("stdin")?;
        // Both ways, so that opening does not wait for the shim.
        let writer = pipe::OpenOptions::new().read_write(true).open_sender(&path).map_err(io_error)?;
        (path, Some(writer))
    } else {
        (String::new(), None)
    };
    let running = Running {
        containerd: containerd.clone(),
        container: container.into(),
        id: id.clone(),
        dir,
        stdin: writer,
    };
    let streams = Streams { stdin, stdout, stderr, terminal: wanted.tty };
    let started = async {
        containerd.exec(container, &id, process, streams).await?;
        containerd.start(container, &id).await
    };
    if let Err(error) = started.await {
        running.clean().await;
        return Err(error);
    }
    Ok((running, receiver, finish))
}

impl Running {
    /// What it takes to wait for the process from elsewhere: client, container id, process id.
    pub fn names(&self) -> (Containerd, String, String) {
        (self.containerd.clone(), self.container.clone(), self.id.clone())
    }

    /// Waits for the process's end and returns its exit code. Its output has to be read meanwhile.
    pub async fn wait(&self) -> Result<u32> {
        self.containerd.wait(&self.container, &self.id).await
    }

    pub async fn kill(&self) -> Result<()> {
        self.containerd.kill(&self.container, &self.id, libc::SIGKILL, false).await
    }

    pub async fn resize(&self, width: u32, height: u32) -> Result<()> {
        self.containerd.resize(&self.container, &self.id, width, height).await
    }

    pub async fn close_stdin(&mut self) -> Result<()> {
        self.stdin = None;
        self.containerd.close_stdin(&self.container, &self.id).await
    }

    /// Removes the process. The shim has copied all output before this returns.
    pub async fn clean(&self) {
        if let Err(error) = self.containerd.delete_exec(&self.container, &self.id).await {
            tracing::debug!(%error, "a process was not removed; it goes with its container");
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::debug!(%error, "the streams of a process were not removed");
        }
    }
}

async fn copy(
    mut from: pipe::Receiver,
    to: mpsc::Sender<Output>,
    mut finished: oneshot::Receiver<()>,
    wrap: fn(Vec<u8>) -> Output,
) {
    let mut buffer = vec![0u8; 32 * 1024];
    loop {
        tokio::select! {
            biased;
            read = from.read(&mut buffer) => match read {
                Ok(n) if n > 0 => {
                    if to.send(wrap(buffer[..n].to_vec())).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            _ = &mut finished => break,
        }
    }
    // The FIFO never ends by itself, as we hold both its ends: what is in it now is the rest.
    // Asked of the kernel itself: the runtime may not have heard yet that there is something.
    while let Ok(n) = nix::unistd::read(&from, &mut buffer) {
        if n == 0 || to.send(wrap(buffer[..n].to_vec())).await.is_err() {
            return;
        }
    }
}

/// The container's own process document with another command.
async fn process(containerd: &Containerd, container: &str, wanted: &Wanted) -> Result<Vec<u8>> {
    let found = containerd.container(container).await?.ok_or_else(|| {
        RuntimeError::new("adding a process", format!("container {container} is not there"))
    })?;
    let spec: Value = serde_json::from_slice(&found.spec).map_err(io_error)?;
    let mut process = spec["process"].clone();
    process["args"] = json!(wanted.command);
    process["terminal"] = json!(wanted.tty);
    if let (true, Some(env)) = (wanted.tty, process["env"].as_array_mut())
        && !env.iter().any(|e| e.as_str().is_some_and(|e| e.starts_with("TERM=")))
    {
        env.push(json!("TERM=xterm"));
    }
    serde_json::to_vec(&process).map_err(io_error)
}

/// Runs a command to its end and returns exit code and the first 10 KiB of its output. After the timeout it is killed.
pub async fn run(
    containerd: &Containerd,
    root: &Path,
    container: &str,
    command: &[String],
    timeout: Duration,
) -> Result<(u32, String)> {
    let wanted = Wanted { command: command.to_vec(), ..Wanted::default() };
    let (process, mut outputs, finish) = start(containerd, root, container, &wanted).await?;
    let reader = tokio::spawn(async move {
        let mut text = Vec::new();
        while let Some(Output::Stdout(part) | Output::Stderr(part)) = outputs.recv().await {
            if text.len() < 10 * 1024 {
                text.extend_from_slice(&part);
            }
        }
        text.truncate(10 * 1024);
        String::from_utf8_lossy(&text).into_owned()
    });
    let ended = tokio::time::timeout(timeout, process.wait()).await;
    if ended.is_err() {
        process.kill().await?;
        // Only the kernel can delay this; the process has been killed.
        let _ = tokio::time::timeout(Duration::from_secs(5), process.wait()).await;
    }
    process.clean().await;
    drop(finish);
    let text = reader.await.map_err(io_error)?;
    match ended {
        Ok(code) => Ok((code?, text)),
        Err(_) => Err(RuntimeError {
            action: "running a command",
            code: tonic::Code::DeadlineExceeded,
            message: format!("command timed out after {}s", timeout.as_secs()),
        }),
    }
}
