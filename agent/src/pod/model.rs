//! What is known about a pod's containers, and the words for it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How long a container must have run for its back-off to be forgotten.
const RESET: SignedDuration = SignedDuration::from_mins(10);
const FIRST_DELAY: u32 = 10;
const LONGEST_DELAY: u32 = 300;

/// One run of a container, from its creation to its end. Kept as a file in the pod's directory, so that it outlives the
/// agent, containerd and the container itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// 0 for the first; also the restart count.
    pub number: u32,
    pub container_id: String,
    pub image: String,
    pub image_id: String,
    /// Of the container's definition: another one means that it has to be restarted.
    pub definition: String,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    /// Seconds to wait after this attempt's end before the next.
    pub backoff: u32,
    pub exit: Option<Exit>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub code: i32,
    pub at: Timestamp,
    /// `Completed`, `Error`, `OOMKilled`, `ContainerStatusUnknown`, `StartError`.
    pub reason: String,
    pub message: String,
}

impl Attempt {
    /// When the next attempt may begin; `None` while this one runs.
    pub fn next_at(&self) -> Option<Timestamp> {
        let exit = self.exit.as_ref()?;
        Some(exit.at + SignedDuration::from_secs(self.delay().into()))
    }

    /// Seconds between this attempt's end and the next one's start.
    pub fn delay(&self) -> u32 {
        if self.ran_long() { 0 } else { self.backoff }
    }

    fn ran_long(&self) -> bool {
        match (&self.exit, self.started_at) {
            (Some(exit), Some(started)) => exit.at.duration_since(started) >= RESET,
            _ => false,
        }
    }
}

/// The back-off the next attempt carries: none after the first end, then 10 s, doubling up to 5 min.
pub fn next_backoff(previous: Option<&Attempt>) -> u32 {
    match previous {
        Some(p) if p.exit.is_some() && !p.ran_long() => (p.backoff * 2).clamp(FIRST_DELAY, LONGEST_DELAY),
        _ => 0,
    }
}

/// Why a container or a pod is not where it should be, and when to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// As in a waiting container's status: `ErrImagePull`, `CreateContainerConfigError`, …
    pub reason: String,
    pub message: String,
    pub retry_at: Timestamp,
    /// Seconds; doubles with each failure.
    pub delay: u32,
}

/// What is going on with a container right now, besides running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    Starting,
    Stopping,
}

/// What the probes say of the running attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The startup probe has passed, or there is none, and the postStart hook is done.
    pub started: bool,
    /// The readiness probe passes, or there is none.
    pub ready: bool,
    /// A liveness or startup probe has failed for good: why the container is to be killed.
    pub failed: Option<String>,
}

/// All that planning needs to know of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub last: Option<Attempt>,
    pub previous: Option<Attempt>,
    pub health: Health,
    pub trouble: Option<Trouble>,
    pub busy: Option<Busy>,
}

impl Observed {
    pub fn running(&self) -> bool {
        self.last.as_ref().is_some_and(|a| a.exit.is_none() && a.started_at.is_some())
    }

    pub fn exit(&self) -> Option<&Exit> {
        self.last.as_ref()?.exit.as_ref()
    }

    pub fn succeeded(&self) -> bool {
        self.exit().is_some_and(|e| e.code == 0)
    }
}

pub type Containers = BTreeMap<String, Observed>;

/// The part a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next begins.
    Init,
    /// An init container that goes on running beside the others.
    Sidecar,
    Main,
}

/// All containers in the order of their start.
pub fn members(spec: &PodSpec) -> impl Iterator<Item = (Role, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|c| {
        let role = if c.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init };
        (role, c)
    });
    init.chain(spec.containers.iter().map(|c| (Role::Main, c)))
}

pub fn container<'a>(spec: &'a PodSpec, name: &str) -> Option<(Role, &'a Container)> {
    members(spec).find(|(_, c)| c.name == name)
}

/// Whether an ended container is started again.
pub fn restarts(spec: &PodSpec, role: Role, container: &Container, exit: &Exit) -> bool {
    let pod = spec.restart_policy.as_deref().unwrap_or("Always");
    match role {
        Role::Sidecar => true,
        // An init container that has succeeded is done, whatever the policy.
        Role::Init => exit.code != 0 && pod != "Never",
        Role::Main => match container.restart_policy.as_deref().unwrap_or(pod) {
            "Always" => true,
            "OnFailure" => exit.code != 0,
            _ => false,
        },
    }
}

/// A fingerprint of what cannot change without a restart: of a running pod's containers the image alone may.
pub fn definition(container: &Container) -> String {
    hex::encode(
        &Sha256::digest(format!("{}\0{}", container.name, container.image.as_deref().unwrap_or("")))[..8],
    )
}

/// The id of an attempt's container: the same for the same attempt, so that trying again finds what is there.
pub fn container_id(uid: &str, name: &str, attempt: u32) -> String {
    hex::encode(Sha256::digest(format!("{uid}/{name}/{attempt}")))
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, as events and log lines name a pod.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    pub fn attempt(number: u32, backoff: u32, started: i64, exit: Option<(i64, i32)>) -> Attempt {
        Attempt {
            number,
            container_id: container_id("u", "c", number),
            image: "i".into(),
            image_id: "i@sha256:1".into(),
            definition: String::new(),
            created_at: at(started),
            started_at: Some(at(started)),
            backoff,
            exit: exit.map(|(second, code)| Exit {
                code,
                at: at(second),
                reason: if code == 0 { "Completed" } else { "Error" }.into(),
                message: String::new(),
            }),
        }
    }

    #[test]
    fn the_back_off_doubles_from_ten_seconds_to_five_minutes() {
        let mut delays = Vec::new();
        let mut last: Option<Attempt> = None;
        for number in 0..9 {
            let backoff = next_backoff(last.as_ref());
            delays.push(backoff);
            last = Some(attempt(number, backoff, 0, Some((1, 1))));
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn ten_minutes_of_running_forget_the_back_off() {
        let long = attempt(5, 160, 0, Some((600, 1)));
        assert_eq!((long.delay(), next_backoff(Some(&long))), (0, 0));
        let short = attempt(5, 160, 0, Some((599, 1)));
        assert_eq!((short.delay(), next_backoff(Some(&short))), (160, 300));
    }
}
