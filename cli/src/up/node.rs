//! One node of a local cluster: its containerd and its agent, both in the node's network namespace.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::layout::Layout;
use super::process::Daemon;

/// Makes the node's directories and starts what does not run. Returns whether anything was started.
///
/// # Errors
/// What could not be written or started, with the end of its log.
pub fn ensure(layout: &Layout, node: u8) -> Result<bool> {
    let dir = layout.node_dir(node);
    for part in ["containerd", "containerd-state", "runc", "agent"] {
        fs::create_dir_all(dir.join(part)).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let config = dir.join("containerd.toml");
    fs::write(&config, containerd_config(&dir))?;

    let name = layout.node_name(node);
    let (run_dir, log_dir) = (layout.run_dir(), layout.log_dir());
    let containerd_name = format!("{name}-containerd");
    let containerd = Daemon { name: &containerd_name, run_dir: &run_dir, log_dir: &log_dir };
    let mut command = inside(layout, node, "containerd");
    command.arg("--config").arg(&config);
    let mut changed = containerd.start(command)?;
    let socket = dir.join("containerd.sock");
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        if containerd.pid().is_none() || Instant::now() > deadline {
            bail!("containerd of {name} does not answer:\n{}", containerd.log_tail(10));
        }
        std::thread::sleep(Duration::from_millis(20));
    }

    let agent_name = format!("{name}-agent");
    let agent = Daemon { name: &agent_name, run_dir: &run_dir, log_dir: &log_dir };
    let program = std::env::current_exe()?;
    let servers = (1..=layout.servers).map(|s| layout.server_address(s)).collect::<Vec<_>>().join(",");
    let mut command = inside(layout, node, &program.to_string_lossy());
    command.args(["agent", "--node-name", &name, "--servers", &servers]);
    command.args(["--node-ip", &layout.node_ip(node).to_string(), "--cgroup-parent", &layout.cgroup(node)]);
    command.arg("--ca-file").arg(layout.pki_dir().join("ca.crt"));
    command.arg("--token-file").arg(layout.token_file());
    command.arg("--root-dir").arg(dir.join("agent"));
    command.arg("--containerd").arg(&socket);
    command.arg("--runc-root").arg(dir.join("runc"));
    command.args(["--insecure-registry", &layout.registry()]);
    changed |= agent.start(command)?;
    Ok(changed)
}

/// `nsenter` and not `ip netns exec`, which mounts a fresh /sys that hides the cgroups.
fn inside(layout: &Layout, node: u8, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", layout.namespace(node))).arg(program);
    command
}

/// A containerd of the node's own. Kubernetes' runtime interface is not used, so its plug-in stays out.
fn containerd_config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"version = 2
root = "{dir}/containerd"
state = "{dir}/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]

[grpc]
address = "{dir}/containerd.sock"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerds_configuration_is_toml_with_all_paths_in_the_nodes_directory() {
        let config: toml::Table = containerd_config(Path::new("/x/node-1")).parse().unwrap();
        assert_eq!(config["root"].as_str(), Some("/x/node-1/containerd"));
        assert_eq!(config["grpc"]["address"].as_str(), Some("/x/node-1/containerd.sock"));
    }
}
