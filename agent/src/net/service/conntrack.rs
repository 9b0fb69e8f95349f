//! UDP flows outlive their endpoints in connection tracking; this finds and ends them.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::process::Command;

use super::compile::Front;
use super::ruleset::Ruleset;

const DEADLINE: Duration = Duration::from_secs(10);

/// Flows to a front: those to one endpoint, or (`None`) those that were never rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stale {
    pub front: Front,
    pub endpoint: Option<Ipv4Addr>,
}

/// What the change from `old` to `new` leaves behind: flows to endpoints that are gone, and flows that began before
/// their front had any endpoint.
pub(super) fn stale(old: &Ruleset, new: &Ruleset) -> BTreeSet<Stale> {
    let mut stale = BTreeSet::new();
    for (front, backs) in &old.udp {
        let left = new.udp.get(front);
        let gone = backs.iter().filter(|back| !left.is_some_and(|left| left.contains(back)));
        stale.extend(gone.map(|back| Stale { front: *front, endpoint: Some(back.address) }));
    }
    let fresh = new.udp.keys().filter(|front| !old.udp.contains_key(front));
    stale.extend(fresh.map(|front| Stale { front: *front, endpoint: None }));
    stale
}

/// Ends the flows with the `conntrack` tool. Without the tool they end by the kernel's timeout (30 to 120 s), which is said
/// once.
pub(super) async fn end(flows: BTreeSet<Stale>) {
    static SAID: AtomicBool = AtomicBool::new(false);
    for Stale { front, endpoint } in flows {
        let mut command = Command::new("conntrack");
        command.args(["-D", "-p", "udp", "--orig-dst", &front.address.to_string()]);
        command.args(["--orig-port-dst", &front.port.to_string()]);
        if let Some(endpoint) = endpoint {
            command.args(["--reply-src", &endpoint.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        // Exit status 1 says that there were none.
        match tokio::time::timeout(DEADLINE, command.status()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                if !SAID.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "no conntrack tool: UDP flows to removed endpoints last until the kernel forgets them"
                    );
                }
                return;
            }
            Ok(Err(error)) => tracing::warn!(%error, "cannot run conntrack"),
            Err(_) => tracing::warn!("conntrack took longer than {} s", DEADLINE.as_secs()),
        }
    }
}
