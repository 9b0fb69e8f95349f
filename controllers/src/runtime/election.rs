//! Leader election by a Lease: at most one instance works, and it stops in time when it cannot renew.
//!
//! ```text
//!   standing by ──lease free or not renewed for its duration──▶ leading ──cannot renew for `renew_deadline`──▶ standing by
//!                                                                  └──shutdown: gives the lease back──▶ (end)
//! ```
//! A lease counts as expired by this process's own clock, from when its last change was seen: no clocks are compared.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kontiki_proto::Status;
use kontiki_proto::api::{ApiExt, DynApi};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Clock;
use crate::LeaseTimings;

#[derive(Clone)]
pub struct Election {
    pub api: DynApi,
    pub namespace: &'static str,
    pub name: &'static str,
    pub identity: String,
    pub timings: LeaseTimings,
    pub clock: Clock,
}

/// What the holder of a lease does next.
#[derive(Debug, PartialEq)]
pub enum Lead {
    /// Write this lease; success means to lead for another duration.
    Take(Box<Lease>),
    /// Somebody else leads.
    Wait,
}

/// The pure part: whether the lease may be taken, given how long ago its last change was seen.
fn decide(lease: Option<&Lease>, unchanged_for: Duration, election: &Election) -> Lead {
    let now = MicroTime(election.clock.now());
    let spec = lease.and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let mine = holder == election.identity;
    let duration = Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0));
    if !mine && !holder.is_empty() && unchanged_for < duration {
        return Lead::Wait;
    }
    let transitions = spec.lease_transitions.unwrap_or(0);
    let seconds = i32::try_from(election.timings.duration.as_secs()).unwrap_or(i32::MAX).max(1);
    let new = LeaseSpec {
        holder_identity: Some(election.identity.clone()),
        lease_duration_seconds: Some(seconds),
        acquire_time: if mine { spec.acquire_time } else { Some(now.clone()) },
        renew_time: Some(now),
        lease_transitions: Some(if mine || lease.is_none() { transitions } else { transitions + 1 }),
        ..LeaseSpec::default()
    };
    let metadata = lease.map_or_else(
        || ObjectMeta {
            namespace: Some(election.namespace.into()),
            name: Some(election.name.into()),
            ..ObjectMeta::default()
        },
        |lease| lease.metadata.clone(),
    );
    Lead::Take(Box::new(Lease { metadata, spec: Some(new) }))
}

/// What was last seen of the lease.
#[derive(Default)]
struct Seen {
    version: Option<String>,
    at: Option<Instant>,
}

impl Election {
    /// Leads again and again: whenever elected, runs `work` until the lease is lost, then drops it. Returns when
    /// `shutdown` is cancelled, after giving the lease back.
    pub async fn run<F: Future<Output = ()>>(&self, shutdown: CancellationToken, work: impl Fn() -> F) {
        let mut seen = Seen::default();
        while !shutdown.is_cancelled() {
            let mut pause = self.timings.retry;
            match self.attempt(&mut seen).await {
                Ok(true) => {
                    tracing::info!(lease = self.name, identity = self.identity, "leads");
                    tokio::select! {
                        () = work() => tracing::warn!(lease = self.name, "the work ended by itself"),
                        () = self.hold(&mut seen) => tracing::warn!(lease = self.name, "lost the lease"),
                        () = shutdown.cancelled() => {}
                    }
                    if shutdown.is_cancelled() {
                        self.release().await;
                        return;
                    }
                }
                Ok(false) => {}
                Err(status) => {
                    // A server that is just starting is ready in a moment.
                    pause /= 5;
                    tracing::debug!(lease = self.name, %status, "cannot reach the lease");
                }
            }
            let pause = pause.mul_f64(1.0 + 0.2 * rand::random::<f64>());
            tokio::select! { () = tokio::time::sleep(pause) => {}, () = shutdown.cancelled() => {} }
        }
    }

    /// Renews; returns when the lease is lost or could not be renewed in time.
    async fn hold(&self, seen: &mut Seen) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.timings.renew).await;
            let deadline = renewed + self.timings.renew_deadline;
            loop {
                match tokio::time::timeout_at(deadline, self.attempt(seen)).await {
                    Ok(Ok(true)) => break,
                    Ok(Ok(false)) | Err(_) => return,
                    Ok(Err(status)) => {
                        tracing::debug!(lease = self.name, %status, "cannot renew, tries again");
                        if Instant::now() + self.timings.retry >= deadline {
                            return;
                        }
                        tokio::time::sleep(self.timings.retry / 4).await;
                    }
                }
            }
            renewed = Instant::now();
        }
    }

    /// Takes or renews the lease once; whether it is ours now.
    async fn attempt(&self, seen: &mut Seen) -> Result<bool, Status> {
        let lease: Option<Lease> = self.api.find_as(self.namespace, self.name).await?;
        let version = lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if seen.at.is_none() || seen.version != version {
            *seen = Seen { version, at: Some(Instant::now()) };
        }
        let unchanged_for = seen.at.map(|at| at.elapsed()).unwrap_or_default();
        let Lead::Take(new) = decide(lease.as_ref(), unchanged_for, self) else { return Ok(false) };
        let written = match lease {
            None => self.api.create_as(new.as_ref()).await,
            Some(_) => self.api.update_as(new.as_ref()).await,
        };
        match written {
            Ok(_) => Ok(true),
            // Somebody was faster; who it was shows at the next look.
            Err(status) if status.is_conflict() || status.is_already_exists() => Ok(false),
            Err(status) => Err(status),
        }
    }

    /// Lets the next one lead at once. Best effort: the lease runs out anyway.
    async fn release(&self) {
        let release = async {
            let Some(mut lease) = self.api.find_as::<Lease>(self.namespace, self.name).await? else {
                return Ok(());
            };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(self.identity.as_str()) {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                self.api.update_as(&lease).await?;
            }
            Ok::<_, Status>(())
        };
        match tokio::time::timeout(Duration::from_secs(2), release).await {
            Ok(Ok(())) => {}
            Ok(Err(status)) => tracing::debug!(lease = self.name, %status, "could not give the lease back"),
            Err(_) => tracing::debug!(lease = self.name, "could not give the lease back in time"),
        }
    }
}
