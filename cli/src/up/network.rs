//! The machine's part of a local cluster's network: a bridge, a namespace for each node, and no way out.

use anyhow::Result;

use super::layout::Layout;
use super::process::run;

/// Routes that let no packet to a pod or a Service leave the machine where nothing else takes it.
const GUARDED: [&str; 2] = ["10.244.0.0/16", "10.96.0.0/16"];

/// Makes what is missing. Returns whether anything was.
///
/// # Errors
/// What `ip` said.
pub fn ensure(layout: &Layout) -> Result<bool> {
    let mut changed = false;
    let bridge = layout.bridge();
    if !link_exists(&bridge) {
        run("ip", &["link", "add", &bridge, "type", "bridge"])?;
        changed = true;
    }
    for server in 1..=layout.servers.max(1) {
        let address = format!("{}/24", layout.server_ip(server));
        // An address that is there already is what was asked for.
        changed |= run("ip", &["address", "add", &address, "dev", &bridge]).is_ok();
    }
    run("ip", &["link", "set", &bridge, "up"])?;
    for range in GUARDED {
        let metric = metric(layout);
        changed |= run("ip", &["route", "add", "unreachable", range, "metric", &metric]).is_ok();
    }
    for node in 1..=layout.nodes {
        changed |= ensure_node(layout, node)?;
    }
    Ok(changed)
}

fn ensure_node(layout: &Layout, node: u8) -> Result<bool> {
    let namespace = layout.namespace(node);
    if namespace_exists(&namespace) {
        return Ok(false);
    }
    let cable = layout.cable(node);
    let address = format!("{}/24", layout.node_ip(node));
    run("ip", &["netns", "add", &namespace])?;
    let inside = |arguments: &[&str]| run("ip", &[&["-n", namespace.as_str()], arguments].concat());
    inside(&["link", "set", "lo", "up"])?;
    if link_exists(&cable) {
        run("ip", &["link", "delete", &cable])?;
    }
    run("ip", &["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
    run("ip", &["link", "set", &cable, "master", &layout.bridge(), "up"])?;
    inside(&["address", "add", &address, "dev", "eth0"])?;
    inside(&["link", "set", "eth0", "up"])?;
    Ok(true)
}

/// Removes all of it; what is gone already is no error.
pub fn remove(layout: &Layout) {
    for node in 1..=layout.nodes {
        let _ = run("ip", &["netns", "delete", &layout.namespace(node)]);
        let _ = run("ip", &["link", "delete", &layout.cable(node)]);
    }
    let _ = run("ip", &["link", "delete", &layout.bridge()]);
    for range in GUARDED {
        let _ = run("ip", &["route", "delete", "unreachable", range, "metric", &metric(layout)]);
    }
}

/// Clusters on one machine guard the same ranges; the metric tells their routes apart.
fn metric(layout: &Layout) -> String {
    (60_000 + u32::from(layout.lan)).to_string()
}

fn link_exists(name: &str) -> bool {
    std::path::Path::new("/sys/class/net").join(name).exists()
}

fn namespace_exists(name: &str) -> bool {
    std::path::Path::new("/run/netns").join(name).exists()
}
