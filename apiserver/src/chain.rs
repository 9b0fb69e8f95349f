//! The one ordered way from a caller to a verb, the same for every front.
//!
//! authenticate (the network fronts) → authorize → room → decode → default → admit → validate → store → record.
//! Decoding and what follows differs by verb and stands in [`crate::verb`]; what is common stands here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kontiki_proto::Target;
use kontiki_proto::selector::FieldSelector;
use kontiki_proto::status::Status;
use smol_str::SmolStr;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::auth::{Access, MASTERS, User};
use crate::request::{Action, Answer, Body, Request};
use crate::server::Context;
use crate::verb::{self, Call};

/// How long a request waits for room.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many requests wait for room, for each of those that have it.
const QUEUE: usize = 10;
/// How long a request may take; watches, logs and other streams are exempt.
const DEADLINE: Duration = Duration::from_secs(60);

/// Bounds how many requests are served at one time.
#[derive(Debug)]
pub struct Room {
    reads: Lane,
    writes: Lane,
    /// For those the cluster's life hangs on: its own controllers, and heartbeats.
    reserved: Lane,
}

#[derive(Debug)]
struct Lane {
    permits: Semaphore,
    waiting: AtomicUsize,
    max_waiting: usize,
}

impl Lane {
    fn new(size: usize) -> Lane {
        let size = size.max(1);
        Lane { permits: Semaphore::new(size), waiting: AtomicUsize::new(0), max_waiting: size * QUEUE }
    }

    async fn enter(&self) -> Result<SemaphorePermit<'_>, Status> {
        let full = || Status::too_many_requests("Too many requests, please try again later.", 1);
        if let Ok(permit) = self.permits.try_acquire() {
            return Ok(permit);
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.max_waiting {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(full());
        }
        let waiting = Waiting(&self.waiting);
        let permit = tokio::time::timeout(PATIENCE, self.permits.acquire()).await;
        drop(waiting);
        permit.ok().and_then(Result::ok).ok_or_else(full)
    }
}

/// Counts down also when the caller goes away while it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Room {
    pub fn new(reads: usize, writes: usize) -> Room {
        Room { reads: Lane::new(reads), writes: Lane::new(writes), reserved: Lane::new(reads + writes) }
    }

    async fn enter(&self, request: &Request) -> Result<Option<SemaphorePermit<'_>>, Status> {
        let lane = if matches!(request.action, Action::Watch(_)) {
            return Ok(None);
        } else if request.target.resource == "leases" || request.user.is_in(MASTERS) {
            &self.reserved
        } else if request.action.writes() {
            &self.writes
        } else {
            &self.reads
        };
        lane.enter().await.map(Some)
    }
}

/// The one object a collection's request is about, where its field selector names one: rules for single names hold
/// for it, too.
fn selected_name(action: &Action) -> Option<SmolStr> {
    let fields = match action {
        Action::List(options) | Action::DeleteCollection(options, _) => &options.field_selector,
        Action::Watch(options) => &options.field_selector,
        _ => return None,
    };
    // A selector that cannot be read is refused later, with its own words.
    let selector = FieldSelector::parse(fields).ok()?;
    selector.required_value("metadata.name").map(SmolStr::from)
}

/// 403 unless the user may do the verb on the target.
pub fn authorize(context: &Context, user: &User, verb: &str, target: &Target) -> Result<(), Status> {
    // A namespace is the scope of requests for itself.
    let namespace = if target.resource == "namespaces" && target.group.is_empty() {
        target.name.as_str()
    } else {
        target.namespace.as_str()
    };
    context.auth.authorizer.check(&Access {
        user,
        verb,
        group: &target.group,
        version: &target.version,
        resource: &target.resource,
        subresource: &target.subresource,
        namespace,
        name: &target.name,
        path: None,
    })
}

fn check_size(context: &Context, body: &Body) -> Result<(), Status> {
    let limit = context.config.max_object_bytes;
    if body.bytes.len() > limit { Err(Status::too_large(limit)) } else { Ok(()) }
}

/// Carries a request of a known user through the chain.
pub async fn run(context: &Context, request: Request) -> Result<Answer, Status> {
    let since = Instant::now();
    let verb = request.action.verb();
    let (user, target) = (request.user.clone(), request.target.clone());
    let answer = steps(context, request).await;
    record(&user, verb, &target, since, answer.as_ref().err());
    answer
}

async fn steps(context: &Context, request: Request) -> Result<Answer, Status> {
    let target = &request.target;
    match selected_name(&request.action).filter(|_| target.name.is_empty()) {
        Some(name) => {
            let one = Target { name, ..target.clone() };
            authorize(context, &request.user, request.action.verb(), &one)?;
        }
        None => authorize(context, &request.user, request.action.verb(), target)?,
    }
    let registry = context.registry();
    let row = registry
        .find(&target.group, &target.version, &target.resource)
        .cloned()
        .ok_or_else(Status::no_such_path)?;
    if !row.namespaced() && !target.namespace.is_empty() {
        return Err(Status::no_such_path());
    }
    if let Action::Create(body, _) | Action::Update(body, _) | Action::Patch(_, body, _) = &request.action {
        check_size(context, body)?;
    }
    let _permit = context.room.enter(&request).await?;
    let call = Call { row, user: request.user, target: request.target, include: request.include };
    match tokio::time::timeout(DEADLINE, verb::run(context, &call, request.action)).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::timeout(format!(
            "the request did not finish within {} seconds; whether it took effect is unknown",
            DEADLINE.as_secs()
        ))),
    }
}

/// The audit line of a request. Reads are recorded at a finer level than writes.
fn record(user: &User, verb: &str, target: &Target, since: Instant, error: Option<&Status>) {
    let code = error.map_or(200, |status| status.code);
    let elapsed_us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
    let Target { group, resource, namespace, name, subresource, .. } = target;
    let reads = matches!(verb, "get" | "list" | "watch");
    if reads || user.is_in(MASTERS) {
        tracing::trace!(target: "audit", user = user.name, verb, %group, %resource, %subresource, %namespace, %name, code, elapsed_us);
    } else {
        tracing::debug!(target: "audit", user = user.name, verb, %group, %resource, %subresource, %namespace, %name, code, elapsed_us);
    }
    if let Some(error) = error.filter(|error| error.code >= 500) {
        tracing::warn!(verb, %resource, %namespace, %name, code, %error, "a request failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_full_lane_lets_some_wait_and_refuses_the_rest() {
        let lane = Lane::new(1);
        let held = lane.enter().await.expect("room");
        let status = lane.enter().await.expect_err("nobody leaves");
        assert_eq!((status.code, lane.waiting.load(Ordering::Relaxed)), (429, 0));
        drop(held);
        drop(lane.enter().await.expect("room again"));
    }
}
