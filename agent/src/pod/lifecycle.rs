//! Making what a pod's containers share, and taking it all away again.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::model::uid;
use super::worker::Worker;
use super::{qos, sandbox};
use crate::runtime::cgroup;
use crate::volume;

/// Reason and message of an event, where a step failed.
type Failure = (&'static str, String);

fn sandbox_failure(error: impl std::fmt::Display) -> Failure {
    ("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"))
}

/// Namespaces, network, cgroup, files and volumes. Idempotent: what is there is only checked.
pub(super) async fn prepare(w: &mut Worker) -> Result<(), Failure> {
    let pod = w.pod.clone();
    let Some(spec) = &pod.spec else { return Ok(()) };
    if spec.share_process_namespace == Some(true) {
        return Err(sandbox_failure("shareProcessNamespace is not supported by this node yet"));
    }
    let (dir, node) = (w.dir.clone(), w.ctx.options.node_name.clone());
    let for_sandbox = pod.clone();
    tokio::task::spawn_blocking(move || sandbox::make(&dir, &for_sandbox, &node))
        .await
        .map_err(sandbox_failure)?
        .map_err(sandbox_failure)?;
    w.ips = if sandbox::host_network(spec) {
        vec![w.ctx.options.node_ip]
    } else {
        let not_ready =
            || ("NetworkNotReady", "network is not ready: the node has no pod address range yet".to_string());
        // After a start of the agent it is only a moment away.
        let mut up = w.ctx.network.clone();
        let network = match tokio::time::timeout(Duration::from_secs(5), up.wait_for(Option::is_some)).await {
            Ok(Ok(network)) => network.clone(),
            _ => None,
        };
        let network = network.ok_or_else(not_ready)?;
        let netns = w.dir.namespace("net");
        let attached = network.attach(uid(&pod), &netns);
        tokio::time::timeout(Duration::from_secs(30), attached)
            .await
            .map_err(|_| sandbox_failure("attaching the network took longer than 30 s"))?
            .map_err(sandbox_failure)?
    };
    cgroup::make_pod(&w.ctx.pod_cgroup(uid(&pod)), qos::pod_limits(spec));
    let dns =
        sandbox::Dns { server: w.ctx.options.cluster_dns, domain: w.ctx.options.cluster_domain.clone() };
    sandbox::write_etc(&w.dir, &pod, &w.ctx.options.node_name, &w.ips, &dns).map_err(sandbox_failure)?;
    hold_inputs(w);
    volumes(w).await?;
    w.prepared = true;
    w.torn_down = false;
    Ok(())
}

/// Makes or refreshes the volumes.
pub(super) async fn volumes(w: &mut Worker) -> Result<(), Failure> {
    let fields = w.ctx.fields(w.ips.clone());
    let sourcing = volume::Sourcing {
        pod: &w.pod,
        dir: &w.dir,
        objects: &w.ctx.objects,
        tokens: &w.ctx.tokens,
        fields: &fields,
    };
    w.volumes = volume::make(&sourcing).await.map_err(|e| ("FailedMount", e.to_string()))?;
    Ok(())
}

/// Opens the inputs of containers that read, so that they do not see their end while nobody writes.
fn hold_inputs(w: &mut Worker) {
    let pod = w.pod.clone();
    let Some(spec) = &pod.spec else { return };
    for (_, c) in super::model::members(spec).filter(|(_, c)| c.stdin == Some(true)) {
        let path = w.dir.stdin(&c.name);
        let made = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| {
                match nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)) {
                    Err(nix::errno::Errno::EEXIST) | Ok(()) => Ok(()),
                    Err(errno) => Err(errno.into()),
                }
            })
            .and_then(|()| std::fs::OpenOptions::new().read(true).write(true).open(&path));
        match made {
            Ok(file) => {
                w.inputs.insert(c.name.clone(), OwnedFd::from(file));
            }
            Err(error) => tracing::warn!(%error, container = c.name, "a container's input was not opened"),
        }
    }
}

/// Everything of the pod on the node but its records and logs: containers, network, mounts, volumes, cgroups.
pub(super) async fn tear_down(w: &mut Worker) -> Result<(), Failure> {
    let failure = |error: &dyn std::fmt::Display| ("FailedKillPod", format!("error killing pod: {error}"));
    let uid = uid(&w.pod).to_string();
    w.inputs.clear();
    for found in
        w.ctx.containerd.containers(Some((super::start::LABEL_UID, &uid))).await.map_err(|e| failure(&e))?
    {
        w.ctx.containerd.remove(&found.id).await.map_err(|e| failure(&e))?;
    }
    let network = w.ctx.network.borrow().clone();
    if let Some(network) = network {
        network.detach(&uid).await.map_err(|e| failure(&e))?;
    }
    let dir = w.dir.clone();
    tokio::task::spawn_blocking(move || sandbox::unmake(&dir))
        .await
        .map_err(|e| failure(&e))?
        .map_err(|e| failure(&e))?;
    let left = cgroup::remove(&w.ctx.pod_cgroup(&uid));
    if let Some(dir) = left.first() {
        return Err(failure(&format!("{} still has processes", dir.display())));
    }
    w.volumes.clear();
    Ok(())
}
