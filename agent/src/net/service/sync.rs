//! Keeps the kernel's table equal to the compiled ruleset.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::super::NetError;
use super::super::reflector::Cache;
use super::ruleset::{Ruleset, TABLE};
use super::{View, compile, conntrack};

const DEADLINE: Duration = Duration::from_secs(30);
/// Changes that come close together make one transaction.
const GATHER: Duration = Duration::from_millis(20);
/// How often to look whether somebody took the table away.
const AUDIT: Duration = Duration::from_secs(60);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Follows the caches for ever. Does nothing before each of them has been filled: what an earlier agent left works on.
pub(in crate::net) async fn follow(
    services: Arc<Cache<Service>>,
    slices: Arc<Cache<EndpointSlice>>,
    nodes: Arc<Cache<Node>>,
    view: View,
) {
    let mut versions = (services.version(), slices.version(), nodes.version());
    let filled = async {
        versions.0.wait_for(|version| *version > 0).await?;
        versions.1.wait_for(|version| *version > 0).await?;
        versions.2.wait_for(|version| *version > 0).await
    };
    if filled.await.is_err() {
        return;
    }
    let mut applied: Option<Ruleset> = None;
    let mut retry = FIRST_RETRY;
    loop {
        versions.0.mark_unchanged();
        versions.1.mark_unchanged();
        versions.2.mark_unchanged();
        let wanted = compile(&services.all(), &slices.all(), &nodes.all(), &view);
        match apply(applied.as_ref(), &wanted).await {
            Ok(()) => {
                applied = Some(wanted);
                retry = FIRST_RETRY;
            }
            Err(error) => {
                tracing::warn!(%error, "services are not up to date; trying again");
                applied = None;
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(LONGEST_RETRY);
                continue;
            }
        }
        tokio::select! {
            changed = versions.0.changed() => if changed.is_err() { return },
            changed = versions.1.changed() => if changed.is_err() { return },
            changed = versions.2.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AUDIT) => {
                if !present(applied.as_ref()).await {
                    tracing::warn!("the service table is gone; loading it again");
                    applied = None;
                }
                continue;
            }
        }
        tokio::time::sleep(GATHER).await;
    }
}

/// Brings the kernel from what it has to `wanted`, in one transaction.
pub(super) async fn apply(applied: Option<&Ruleset>, wanted: &Ruleset) -> Result<(), NetError> {
    match applied {
        Some(previous) if previous.schema() == wanted.schema() => {
            let script = wanted.change_from(previous);
            if !script.is_empty() {
                nft(&script).await?;
                conntrack::end(conntrack::stale(previous, wanted)).await;
            }
            Ok(())
        }
        None if present(Some(wanted)).await => match nft(&wanted.take_over()).await {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "cannot take the service table over; loading it anew");
                nft(&wanted.load()).await
            }
        },
        _ => nft(&wanted.load()).await,
    }
}

/// Whether the kernel has a table of the ruleset's schema.
async fn present(rules: Option<&Ruleset>) -> bool {
    let Some(rules) = rules else { return false };
    let mut command = Command::new("nft");
    command.args(["list", "chain"]).args(TABLE.split(' ')).arg(rules.schema());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let status = tokio::time::timeout(DEADLINE, command.status()).await;
    status.is_ok_and(|status| status.is_ok_and(|status| status.success()))
}

/// Runs one transaction.
async fn nft(script: &str) -> Result<(), NetError> {
    let io = |what: &'static str| move |source| NetError::Io { what: what.to_owned(), source };
    let run = async {
        let mut command = Command::new("nft");
        command
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(io("cannot run nft (Debian package nftables)"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.as_bytes()).await.map_err(io("cannot write to nft"))?;
        }
        let output = child.wait_with_output().await.map_err(io("cannot wait for nft"))?;
        if output.status.success() {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        let head: String = complaint.chars().take(500).collect();
        Err(NetError::Nft(head))
    };
    tokio::time::timeout(DEADLINE, run).await.unwrap_or(Err(NetError::Deadline("nft", DEADLINE.as_secs())))
}
