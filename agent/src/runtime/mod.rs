//! containerd through its own API: containers, tasks, snapshots, content and images. No CRI between.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | the connection, errors, containers and their tasks |
//! | [`content`] | blobs, leases, image records, snapshots |
//! | [`spec`] | the OCI runtime spec of a container, as a pure function |
//! | [`cgroup`] | what is read from and written to cgroup files directly |
//!
//! **Invariant:** everything here is idempotent: making what is there and removing what is gone both succeed.

pub mod cgroup;
pub mod content;
pub mod spec;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_client::services::v1 as pb;
use containerd_client::types::Mount;
use containerd_client::types::v1::Status as TaskStatus;
use jiff::Timestamp;
use prost::Message;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

/// How long a call to containerd may take; creating a task under load is the slowest.
const CALL: Duration = Duration::from_secs(60);
const MAX_MESSAGE: usize = 64 << 20;

/// A call to containerd that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{action}: {message}")]
pub struct RuntimeError {
    pub action: &'static str,
    pub code: Code,
    pub message: String,
}

impl RuntimeError {
    pub fn new(action: &'static str, message: impl Into<String>) -> RuntimeError {
        RuntimeError { action, code: Code::Unknown, message: message.into() }
    }

    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }

    pub fn is_already_exists(&self) -> bool {
        self.code == Code::AlreadyExists
    }
}

pub type Result<T> = std::result::Result<T, RuntimeError>;

/// Bounds a call and names it in the error.
pub(crate) async fn call<T>(
    action: &'static str,
    future: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T> {
    match tokio::time::timeout(CALL, future).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => {
            Err(RuntimeError { action, code: status.code(), message: status.message().to_string() })
        }
        Err(_) => Err(RuntimeError {
            action,
            code: Code::DeadlineExceeded,
            message: format!("containerd did not answer within {} s", CALL.as_secs()),
        }),
    }
}

/// Turns "it is not there" into `None`.
pub(crate) fn optional<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A container record, without what runs in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub id: String,
    pub labels: HashMap<String, String>,
    pub snapshot_key: String,
    pub created_at: Option<Timestamp>,
    pub spec: Vec<u8>,
}

/// The main process of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    pub pid: u32,
    pub state: TaskState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    Created,
    Running,
    Stopped { code: u32, at: Option<Timestamp> },
}

/// What a new container is made of.
#[derive(Clone, Debug)]
pub struct NewContainer {
    pub id: String,
    pub image: String,
    pub labels: HashMap<String, String>,
    /// The OCI runtime spec, as JSON.
    pub spec: Vec<u8>,
}

/// Where a process's streams go: paths of FIFOs, or a `binary://` URI. Empty: nowhere.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

/// `containerd.runc.v1.Options`, of which only the state directory is ours to set.
#[derive(Clone, PartialEq, Message)]
struct RuncOptions {
    #[prost(string, tag = "7")]
    root: String,
}

/// A connection to one containerd, in one of its namespaces. Cheap to clone; it reconnects by itself.
#[derive(Clone)]
pub struct Containerd {
    channel: Channel,
    namespace: String,
    runc_root: PathBuf,
}

pub const SNAPSHOTTER: &str = "overlayfs";
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

impl Containerd {
    /// Does not connect yet: the first call does.
    pub fn new(socket: &Path, namespace: &str, runc_root: &Path) -> Containerd {
        let socket = socket.to_path_buf();
        let connector = tower::service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://containerd").connect_with_connector_lazy(connector);
        Containerd { channel, namespace: namespace.into(), runc_root: runc_root.into() }
    }

    pub fn runc_root(&self) -> &Path {
        &self.runc_root
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Ok(namespace) = self.namespace.parse() {
            request.metadata_mut().insert("containerd-namespace", namespace);
        }
        request
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    fn tasks(&self) -> pb::tasks_client::TasksClient<Channel> {
        pb::tasks_client::TasksClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn containers_client(&self) -> pb::containers_client::ContainersClient<Channel> {
        pb::containers_client::ContainersClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// containerd's version; also the way to ask whether it is there.
    pub async fn version(&self) -> Result<String> {
        let mut client = pb::version_client::VersionClient::new(self.channel());
        Ok(call("asking containerd for its version", client.version(self.request(()))).await?.version)
    }

    /// The containers with this label, or all of the namespace.
    pub async fn containers(&self, label: Option<(&str, &str)>) -> Result<Vec<Found>> {
        let filters = label.map(|(key, value)| format!("labels.\"{key}\"=={value}")).into_iter().collect();
        let request = self.request(pb::ListContainersRequest { filters });
        let reply = call("listing containers", self.containers_client().list(request)).await?;
        Ok(reply.containers.into_iter().map(found).collect())
    }

    pub async fn container(&self, id: &str) -> Result<Option<Found>> {
        let request = self.request(pb::GetContainerRequest { id: id.into() });
        let reply = optional(call("reading a container", self.containers_client().get(request)).await)?;
        Ok(reply.and_then(|r| r.container).map(found))
    }

    /// The container's task; `None` where it has none (never made, or its shim was killed).
    pub async fn task(&self, id: &str) -> Result<Option<Task>> {
        let request = self.request(pb::GetRequest { container_id: id.into(), exec_id: String::new() });
        let reply = optional(call("reading a task", self.tasks().get(request)).await)?;
        Ok(reply.and_then(|r| r.process).map(|process| Task {
            pid: process.pid,
            state: match process.status() {
                TaskStatus::Unknown | TaskStatus::Created => TaskState::Created,
                TaskStatus::Running | TaskStatus::Paused | TaskStatus::Pausing => TaskState::Running,
                TaskStatus::Stopped => TaskState::Stopped {
                    code: process.exit_status,
                    at: process.exited_at.and_then(timestamp),
                },
            },
        }))
    }

    /// Records the container over its prepared snapshot, whose key is the container's id.
    pub async fn create_container(&self, new: NewContainer) -> Result<()> {
        let options = RuncOptions { root: self.runc_root.to_string_lossy().into_owned() };
        let container = pb::Container {
            snapshot_key: new.id.clone(),
            id: new.id,
            labels: new.labels,
            image: new.image,
            runtime: Some(pb::container::Runtime {
                name: "io.containerd.runc.v2".into(),
                options: Some(prost_types::Any {
                    type_url: "containerd.runc.v1.Options".into(),
                    value: options.encode_to_vec(),
                }),
            }),
            spec: Some(prost_types::Any { type_url: SPEC_TYPE.into(), value: new.spec }),
            snapshotter: SNAPSHOTTER.into(),
            ..pb::Container::default()
        };
        let request = self.request(pb::CreateContainerRequest { container: Some(container) });
        call("recording a container", self.containers_client().create(request)).await?;
        Ok(())
    }

    pub async fn delete_container(&self, id: &str) -> Result<()> {
        let request = self.request(pb::DeleteContainerRequest { id: id.into() });
        optional(call("deleting a container", self.containers_client().delete(request)).await)?;
        Ok(())
    }

    /// Makes the container's main process, not yet running, and returns its pid.
    pub async fn create_task(&self, id: &str, rootfs: Vec<Mount>, streams: Streams) -> Result<u32> {
        let request = self.request(pb::CreateTaskRequest {
            container_id: id.into(),
            rootfs,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            terminal: streams.terminal,
            ..pb::CreateTaskRequest::default()
        });
        Ok(call("creating a task", self.tasks().create(request)).await?.pid)
    }

    /// Starts the main process, or with an exec id that process.
    pub async fn start(&self, id: &str, exec: &str) -> Result<()> {
        let request = self.request(pb::StartRequest { container_id: id.into(), exec_id: exec.into() });
        call("starting a process", self.tasks().start(request)).await?;
        Ok(())
    }

    /// Sends a signal; a process that is already gone is no error.
    pub async fn kill(&self, id: &str, exec: &str, signal: i32, all: bool) -> Result<()> {
        let request = self.request(pb::KillRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            signal: signal.unsigned_abs(),
            all,
        });
        match call("sending a signal", self.tasks().kill(request)).await {
            Err(error) if !error.is_not_found() && error.code != Code::FailedPrecondition => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits without a deadline of its own for the process's end, and returns its exit code.
    pub async fn wait(&self, id: &str, exec: &str) -> Result<u32> {
        let request = self.request(pb::WaitRequest { container_id: id.into(), exec_id: exec.into() });
        let reply = self.tasks().wait(request).await.map_err(|status| RuntimeError {
            action: "waiting for a process",
            code: status.code(),
            message: status.message().into(),
        })?;
        Ok(reply.into_inner().exit_status)
    }

    /// Removes an ended task.
    pub async fn delete_task(&self, id: &str) -> Result<()> {
        let request = self.request(pb::DeleteTaskRequest { container_id: id.into() });
        optional(call("deleting a task", self.tasks().delete(request)).await)?;
        Ok(())
    }

    /// Adds a process to a running container; `process` is an OCI process document.
    pub async fn exec(&self, id: &str, exec: &str, process: Vec<u8>, streams: Streams) -> Result<()> {
        let request = self.request(pb::ExecProcessRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            terminal: streams.terminal,
            spec: Some(prost_types::Any { type_url: PROCESS_TYPE.into(), value: process }),
        });
        call("adding a process", self.tasks().exec(request)).await?;
        Ok(())
    }

    pub async fn delete_exec(&self, id: &str, exec: &str) -> Result<()> {
        let request =
            self.request(pb::DeleteProcessRequest { container_id: id.into(), exec_id: exec.into() });
        optional(call("deleting a process", self.tasks().delete_process(request)).await)?;
        Ok(())
    }

    pub async fn resize(&self, id: &str, exec: &str, width: u32, height: u32) -> Result<()> {
        let request = self.request(pb::ResizePtyRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            width,
            height,
        });
        call("resizing a terminal", self.tasks().resize_pty(request)).await?;
        Ok(())
    }

    /// Closes the shim's side of a process's input.
    pub async fn close_stdin(&self, id: &str, exec: &str) -> Result<()> {
        let request =
            self.request(pb::CloseIoRequest { container_id: id.into(), exec_id: exec.into(), stdin: true });
        optional(call("closing an input", self.tasks().close_io(request)).await)?;
        Ok(())
    }

    /// The end of tasks, as hints: nothing is replayed, so after subscribing everything is to be looked at once.
    pub async fn exits(&self) -> Result<tonic::Streaming<containerd_client::types::Envelope>> {
        let filter = format!("namespace=={},topic~=\"^/tasks/(oom|exit)\"", self.namespace);
        let mut client = pb::events_client::EventsClient::new(self.channel());
        let request = self.request(pb::SubscribeRequest { filters: vec![filter] });
        call("subscribing to events", client.subscribe(request)).await
    }

    /// Everything of a container: process, task, record, snapshot. Order matters, and each step may find nothing.
    pub async fn remove(&self, id: &str) -> Result<()> {
        if let Some(task) = self.task(id).await? {
            if !matches!(task.state, TaskState::Stopped { .. }) {
                self.kill(id, "", libc::SIGKILL, true).await?;
                let ended = tokio::time::timeout(Duration::from_secs(10), self.wait(id, "")).await;
                if ended.is_err() {
                    return Err(RuntimeError::new(
                        "killing a container",
                        format!("container {id} did not end within 10 s of SIGKILL"),
                    ));
                }
            }
            self.delete_task(id).await?;
        }
        self.delete_container(id).await?;
        self.remove_snapshot(id).await
    }
}

fn found(c: pb::Container) -> Found {
    Found {
        id: c.id,
        labels: c.labels,
        snapshot_key: c.snapshot_key,
        created_at: c.created_at.and_then(timestamp),
        spec: c.spec.map(|spec| spec.value).unwrap_or_default(),
    }
}

/// A protobuf timestamp; the zero time means none.
pub(crate) fn timestamp(at: prost_types::Timestamp) -> Option<Timestamp> {
    (at.seconds > 0).then(|| Timestamp::new(at.seconds, at.nanos).ok()).flatten()
}
