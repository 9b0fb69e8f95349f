//! Starting one attempt of a container: image, environment, spec, snapshot, task, postStart hook.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use tokio_util::sync::CancellationToken;

use super::dirs::PodDir;
use super::env::{self, Sources};
use super::identity::{self, Layers};
use super::model::{self, Attempt, Exit, definition, namespace, uid};
use super::{hooks, qos, sandbox};
use crate::ctx::Ctx;
use crate::image::{self, Image, ImageError};
use crate::runtime::spec::{self, BindMount, Namespaces};
use crate::runtime::{NewContainer, RuntimeError, Streams};
use crate::volume::host::sub_path;

/// Labels that lead from a container back to its pod.
pub const LABEL_UID: &str = "kontiki.pod.uid";
pub const LABEL_POD: &str = "kontiki.pod.name";
pub const LABEL_NAMESPACE: &str = "kontiki.pod.namespace";
pub const LABEL_CONTAINER: &str = "kontiki.container.name";
pub const LABEL_ATTEMPT: &str = "kontiki.container.attempt";

/// A log is begun anew at this size; one older part is kept.
const LOG_BYTES: u64 = 10 << 20;

/// What a start is given.
#[derive(Clone)]
pub struct Starting {
    pub ctx: Arc<Ctx>,
    pub pod: Arc<Pod>,
    pub dir: PodDir,
    pub container: Container,
    pub number: u32,
    pub backoff: u32,
    pub volumes: BTreeMap<String, PathBuf>,
    pub ips: Vec<IpAddr>,
    /// The pod is being deleted: what can be left off is.
    pub cancel: CancellationToken,
}

/// Why there is no running container. The reason stands in its waiting status.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct StartError {
    pub reason: &'static str,
    pub message: String,
}

fn config(message: impl ToString) -> StartError {
    StartError { reason: "CreateContainerConfigError", message: message.to_string() }
}

fn create(error: impl ToString) -> StartError {
    StartError { reason: "CreateContainerError", message: error.to_string() }
}

/// Starts the attempt. Either its record says that it runs, or that it ended at once, or there is no trace of it and the
/// error says why.
pub async fn start(s: &Starting) -> Result<(), StartError> {
    let image = tokio::select! {
        image = obtain(s) => image?,
        () = s.cancel.cancelled() => return Err(create("the pod is being deleted")),
    };
    let sources = sources(s).await?;
    {
        let _permit = s.ctx.starts.acquire().await.map_err(create)?;
        if s.cancel.is_cancelled() {
            return Err(create("the pod is being deleted"));
        }
        run(s, &image, &sources).await?;
    }
    hooks::post_start(s).await;
    Ok(())
}

fn event(s: &Starting, kind: &'static str, reason: &str, message: String) {
    s.ctx.events.pod(&s.pod, Some(&s.container.name), kind, reason, message);
}

async fn obtain(s: &Starting) -> Result<Image, StartError> {
    let name = s.container.image.clone().unwrap_or_default();
    let failed = |error: ImageError| {
        let reason = match &error {
            ImageError::Name { .. } => "InvalidImageName",
            ImageError::NeverPulled(_) => "ErrImageNeverPull",
            _ => "ErrImagePull",
        };
        event(s, "Warning", "Failed", format!("Failed to pull image \"{name}\": {error}"));
        event(s, "Warning", "Failed", format!("Error: {reason}"));
        StartError { reason, message: error.to_string() }
    };
    let policy = s.container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
    if policy != "Always" {
        if let Some(image) = image::find(&s.ctx.containerd, &name).await.map_err(failed)? {
            event(s, "Normal", "Pulled", format!("Container image \"{name}\" already present on machine"));
            return Ok(image);
        }
        if policy == "Never" {
            return Err(failed(ImageError::NeverPulled(name.clone())));
        }
    }
    let began = std::time::Instant::now();
    event(s, "Normal", "Pulling", format!("Pulling image \"{name}\""));
    let credentials = credentials(s, &name).await;
    let _permit = s.ctx.pulls.acquire().await.map_err(create)?;
    let pulled =
        image::pull::pull(&s.ctx.containerd, &name, &credentials, &s.ctx.options.insecure_registries).await;
    let image = pulled.map_err(failed)?;
    let took = began.elapsed().as_millis();
    event(s, "Normal", "Pulled", format!("Successfully pulled image \"{name}\" in {took}ms"));
    Ok(image)
}

async fn credentials(s: &Starting, name: &str) -> Vec<oci_client::secrets::RegistryAuth> {
    let Ok(reference) = image::reference(name) else { return Vec::new() };
    let mut found = Vec::new();
    for secret in s.pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()) {
        // A secret that cannot be read is no reason not to try the others, or none.
        let read = s.ctx.objects.secret(namespace(&s.pod), &secret.name).await;
        let data = read.ok().flatten().and_then(|s| s.data).unwrap_or_default();
        if data.is_empty() {
            let message =
                format!("Unable to retrieve the image pull secret {}; the image pull may fail", secret.name);
            s.ctx.events.pod(&s.pod, None, "Warning", "FailedToRetrieveImagePullSecret", message);
        }
        for key in [".dockerconfigjson", ".dockercfg"] {
            if let Some(document) = data.get(key) {
                found.extend(image::credentials::for_image(
                    &document.0,
                    reference.registry(),
                    reference.repository(),
                ));
            }
        }
    }
    found
}

async fn sources(s: &Starting) -> Result<Sources, StartError> {
    let mut sources = s.ctx.fields(s.ips.clone());
    let (maps, secrets) = env::references(&s.container);
    for name in maps {
        let map = s.ctx.objects.config_map(namespace(&s.pod), &name).await.map_err(config)?;
        sources.config_maps.insert(name, map);
    }
    for name in secrets {
        let secret = s.ctx.objects.secret(namespace(&s.pod), &name).await.map_err(config)?;
        sources.secrets.insert(name, secret);
    }
    sources.services = s.ctx.objects.services(namespace(&s.pod)).await.map_err(config)?;
    Ok(sources)
}

async fn run(s: &Starting, image: &Image, sources: &Sources) -> Result<(), StartError> {
    let id = model::container_id(uid(&s.pod), &s.container.name, s.number);
    let containerd = &s.ctx.containerd;
    // A start that was broken off may have left parts under the same id.
    containerd.remove(&id).await.map_err(create)?;
    let lease = format!("kontiki-start-{id}");
    containerd.lease(&lease).await.map_err(create)?;
    let made = make(s, image, sources, &id, &lease).await;
    if let Err(error) = containerd.release(&lease).await {
        tracing::debug!(%error, "a lease was not dropped; it expires by itself");
    }
    if made.is_err() {
        clean(s, &id).await;
    }
    made
}

async fn clean(s: &Starting, id: &str) {
    if let Err(error) = s.ctx.containerd.remove(id).await {
        tracing::warn!(%error, container = id, "a container that did not start was not removed; it is tried again");
    }
    s.dir.discard(&s.container.name, s.number);
}

async fn make(
    s: &Starting,
    image: &Image,
    sources: &Sources,
    id: &str,
    lease: &str,
) -> Result<(), StartError> {
    let pod_spec = s.pod.spec.as_ref().ok_or_else(|| config("the pod has no spec"))?;
    let mounts = s.ctx.containerd.prepare_snapshot(lease, id, &image.chain).await.map_err(create)?;
    let container = assemble(s, pod_spec, image, sources, &Layers::of(&mounts), id)?;
    let document = serde_json::to_vec(&spec::document(&container)).map_err(create)?;
    let labels = HashMap::from([
        (LABEL_UID.to_string(), uid(&s.pod).to_string()),
        (LABEL_POD.to_string(), model::name(&s.pod).to_string()),
        (LABEL_NAMESPACE.to_string(), namespace(&s.pod).to_string()),
        (LABEL_CONTAINER.to_string(), s.container.name.clone()),
        (LABEL_ATTEMPT.to_string(), s.number.to_string()),
    ]);
    let mut attempt = Attempt {
        number: s.number,
        container_id: id.into(),
        image: image.name.clone(),
        image_id: image.id(),
        definition: definition(&s.container),
        created_at: Timestamp::now(),
        started_at: None,
        backoff: s.backoff,
        exit: None,
    };
    s.dir.save(&s.container.name, &attempt).map_err(create)?;
    let new = NewContainer { id: id.into(), image: image.name.clone(), labels, spec: document };
    s.ctx.containerd.create_container(new).await.map_err(create)?;
    let stdin = stdin(s).map_err(create)?;
    let log = format!(
        "binary://{}?path={}&max={LOG_BYTES}",
        s.ctx.options.logger.display(),
        s.dir.log(&s.container.name, s.number).display()
    );
    let streams = Streams {
        stdin,
        stdout: log.clone(),
        stderr: if container.terminal { String::new() } else { log },
        terminal: container.terminal,
    };
    let started = async {
        s.ctx.containerd.create_task(id, mounts, streams).await?;
        event(s, "Normal", "Created", format!("Created container: {}", s.container.name));
        s.ctx.containerd.start(id, "").await
    };
    match started.await {
        Ok(()) => {
            attempt.started_at = Some(Timestamp::now());
            s.dir.save(&s.container.name, &attempt).map_err(create)?;
            event(s, "Normal", "Started", format!("Started container {}", s.container.name));
            Ok(())
        }
        Err(error) if is_the_containers(&error) => {
            // What the image or the command is to blame for counts as a run that failed at once.
            let message = format!("failed to create containerd task: {}", error.message);
            event(s, "Warning", "Failed", format!("Error: {message}"));
            s.ctx.containerd.remove(id).await.map_err(create)?;
            let now = Timestamp::now();
            attempt.started_at = Some(now);
            attempt.exit = Some(Exit { code: 128, at: now, reason: "StartError".into(), message });
            s.dir.save(&s.container.name, &attempt).map_err(create)
        }
        Err(error) => Err(create(error)),
    }
}

/// runc refused the command, and not the node the container.
fn is_the_containers(error: &RuntimeError) -> bool {
    let text = &error.message;
    text.contains("OCI runtime")
        && [
            "executable file not found",
            "no such file or directory",
            "permission denied",
            "is a directory",
            "exec format error",
        ]
        .iter()
        .any(|cause| text.contains(cause))
}

/// A container that reads gets a FIFO that the agent holds open, or it would see its end at once.
fn stdin(s: &Starting) -> std::io::Result<String> {
    if s.container.stdin != Some(true) {
        return Ok(String::new());
    }
    let path = s.dir.stdin(&s.container.name);
    match nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)) {
        Err(nix::errno::Errno::EEXIST) | Ok(()) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(path.to_string_lossy().into_owned())
}

fn assemble(
    s: &Starting,
    pod_spec: &PodSpec,
    image: &Image,
    sources: &Sources,
    layers: &Layers,
    id: &str,
) -> Result<spec::Container, StartError> {
    let c = &s.container;
    let user = identity::resolve(pod_spec, c, &image.config.user, layers).map_err(config)?;
    let variables = env::environment(&s.pod, c, sources).map_err(config)?;
    let args = env::arguments(c, &image.config.entrypoint, &image.config.cmd, &variables);
    if args.is_empty() {
        return Err(create("neither the container nor its image names a command"));
    }
    let hostname = sandbox::hostname(&s.pod, &s.ctx.options.node_name);
    let mut environment = image.config.env.clone();
    if !environment.iter().any(|e| e.starts_with("PATH=")) {
        environment.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    }
    environment.push(format!("HOSTNAME={hostname}"));
    // A name that is set twice is given once.
    environment.retain(|e| !variables.contains_key(e.split('=').next().unwrap_or_default()));
    environment.extend(variables.iter().map(|(k, v)| format!("{k}={v}")));

    let security = c.security_context.as_ref();
    let privileged = security.and_then(|s| s.privileged) == Some(true);
    let caps = security.and_then(|s| s.capabilities.as_ref());
    let list = |l: Option<&Vec<String>>| l.cloned().unwrap_or_default();
    let mut capabilities = spec::capabilities(
        privileged,
        &list(caps.and_then(|c| c.add.as_ref())),
        &list(caps.and_then(|c| c.drop.as_ref())),
        &s.ctx.machine.capabilities,
    );
    capabilities.dedup();
    let namespace = |kind: &str| Some(s.dir.namespace(kind).to_string_lossy().into_owned());
    let host_network = sandbox::host_network(pod_spec);
    let sysctls = pod_spec
        .security_context
        .iter()
        .flat_map(|p| p.sysctls.iter().flatten())
        .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
        .collect();
    Ok(spec::Container {
        args,
        env: environment,
        working_dir: c.working_dir.clone().unwrap_or_else(|| image.config.working_dir.clone()),
        user,
        terminal: c.tty == Some(true),
        read_only_root: security.and_then(|s| s.read_only_root_filesystem) == Some(true),
        privileged,
        capabilities,
        no_new_privileges: security.and_then(|s| s.allow_privilege_escalation) == Some(false),
        oom_score_adj: qos::oom_score(pod_spec, c, s.ctx.machine.memory_bytes, s.ctx.machine.oom_floor),
        mounts: mounts(s, pod_spec, &variables)?,
        namespaces: Namespaces {
            net: if host_network { None } else { namespace("net") },
            ipc: if pod_spec.host_ipc == Some(true) { None } else { namespace("ipc") },
            uts: namespace("uts"),
            host_pid: pod_spec.host_pid == Some(true),
        },
        cgroup: format!("{}/{id}", s.ctx.pod_cgroup(uid(&s.pod))),
        limits: qos::container_limits(c),
        sysctls,
        pod_uid: uid(&s.pod).into(),
    })
}

fn mounts(
    s: &Starting,
    pod_spec: &PodSpec,
    variables: &indexmap::IndexMap<String, String>,
) -> Result<Vec<BindMount>, StartError> {
    let mut mounts = Vec::new();
    for mount in s.container.volume_mounts.iter().flatten() {
        let volume = s
            .volumes
            .get(&mount.name)
            .ok_or_else(|| config(format!("volume {} of the pod is not there", mount.name)))?;
        let sub = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(sub), _) if !sub.is_empty() => Some(sub.clone()),
            (_, Some(expression)) if !expression.is_empty() => Some(env::expand(expression, variables)),
            _ => None,
        };
        let source = match sub {
            Some(sub) => sub_path(volume, &sub).map_err(config)?,
            None => volume.clone(),
        };
        mounts.push(BindMount {
            source: source.to_string_lossy().into_owned(),
            destination: mount.mount_path.clone(),
            read_only: mount.read_only == Some(true),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => "rslave",
                Some("Bidirectional") => "rshared",
                _ => "rprivate",
            },
        });
    }
    let message = s.dir.message(&s.container.name, s.number);
    super::dirs::write(&message, b"").map_err(create)?;
    std::fs::set_permissions(&message, std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .map_err(create)?;
    let message_path = s.container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    let mut own = vec![
        (s.dir.etc("hosts"), "/etc/hosts"),
        (s.dir.etc("hostname"), "/etc/hostname"),
        (s.dir.etc("resolv.conf"), "/etc/resolv.conf"),
        (message, message_path),
    ];
    if pod_spec.host_ipc == Some(true) {
        own.push((PathBuf::from("/dev/shm"), "/dev/shm"));
    } else {
        own.push((s.dir.shm(), "/dev/shm"));
    }
    for (source, destination) in own {
        // A volume of the pod at the same place is what the pod wants.
        if mounts.iter().all(|m| m.destination.trim_end_matches('/') != destination) {
            mounts.push(BindMount {
                source: source.to_string_lossy().into_owned(),
                destination: destination.into(),
                read_only: false,
                propagation: "rprivate",
            });
        }
    }
    Ok(mounts)
}
