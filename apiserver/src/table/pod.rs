//! Pods and nodes: the tables people look at most.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Entry;
use super::columns::{AGE, Cx, NAME, NONE, UNKNOWN, condition_true, join, or, string};
use super::time;
use crate::strategy::value::{entries, flag, has, int, list, text};

pub(super) static TABLES: &[Entry] = &[
    (
        "",
        "pods",
        &[
            NAME,
            string("Ready", |c| summary(c.object).ready().into()),
            string("Status", |c| summary(c.object).reason.into()),
            string("Restarts", |c| summary(c.object).restarts(c.now).into()),
            AGE,
            string("IP", |c| {
                let first = list(c.status(), "podIPs").first().map_or("", |ip| text(ip, "ip"));
                or(if first.is_empty() { text(c.status(), "podIP") } else { first }, NONE)
            })
            .wide(),
            string("Node", |c| or(text(c.spec(), "nodeName"), NONE)).wide(),
            string("Nominated Node", |c| or(text(c.status(), "nominatedNodeName"), NONE)).wide(),
            string("Readiness Gates", gates).wide(),
        ],
    ),
    (
        "",
        "nodes",
        &[
            NAME,
            string("Status", |c| node_status(c).into()),
            string("Roles", |c| or(&node_roles(c.object), NONE)),
            AGE,
            string("Version", |c| text(&c.status()["nodeInfo"], "kubeletVersion").into()),
            string("Internal-IP", |c| address(c, "InternalIP")).wide(),
            string("External-IP", |c| address(c, "ExternalIP")).wide(),
            string("OS-Image", |c| or(text(&c.status()["nodeInfo"], "osImage"), UNKNOWN)).wide(),
            string("Kernel-Version", |c| or(text(&c.status()["nodeInfo"], "kernelVersion"), UNKNOWN)).wide(),
            string("Container-Runtime", |c| {
                or(text(&c.status()["nodeInfo"], "containerRuntimeVersion"), UNKNOWN)
            })
            .wide(),
        ],
    ),
];

/// What one line says about a pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn ready(&self) -> String {
        format!("{}/{}", self.ready, self.total)
    }

    fn restarts(&self, now: Timestamp) -> String {
        match self.last_restart {
            Some(then) if self.restarts > 0 => {
                format!("{} ({} ago)", self.restarts, time::human(time::seconds_between(then, now)))
            }
            _ => self.restarts.to_string(),
        }
    }
}

/// Init containers first, in order; when all are through, the containers, of which the first one's trouble is shown.
pub(super) fn summary(pod: &Value) -> Summary {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let phase = text(status, "phase");
    let mut seen = Summary {
        ready: 0,
        total: list(spec, "containers").len(),
        reason: match text(status, "reason") {
            "" => phase.to_owned(),
            reason => reason.to_owned(),
        },
        restarts: 0,
        last_restart: None,
    };
    let gated = |condition: &Value| {
        text(condition, "type") == "PodScheduled" && text(condition, "reason") == "SchedulingGated"
    };
    if list(status, "conditions").iter().any(gated) {
        seen.reason = "SchedulingGated".into();
    }
    let sidecars: BTreeSet<&str> = list(spec, "initContainers")
        .iter()
        .filter(|container| text(container, "restartPolicy") == "Always")
        .map(|container| text(container, "name"))
        .collect();
    seen.total += sidecars.len();

    let (mut sidecar_restarts, mut sidecar_restart) = (0, None);
    let mut initializing = false;
    for (at, container) in list(status, "initContainerStatuses").iter().enumerate() {
        let sidecar = sidecars.contains(text(container, "name"));
        let (restarts, last) = restarts_of(container);
        seen.restarts += restarts;
        seen.last_restart = seen.last_restart.max(last);
        if sidecar {
            sidecar_restarts += restarts;
            sidecar_restart = sidecar_restart.max(last);
        }
        let state = &container["state"];
        let terminated = state.get("terminated").filter(|t| !t.is_null());
        if terminated.is_some_and(|t| int(t, "exitCode").unwrap_or(0) == 0) {
            continue;
        }
        if sidecar && flag(container, "started") {
            seen.ready += usize::from(flag(container, "ready"));
            continue;
        }
        seen.reason = match (terminated, text(&state["waiting"], "reason")) {
            (Some(terminated), _) => format!("Init:{}", ended(terminated)),
            (None, "" | "PodInitializing") => format!("Init:{at}/{}", list(spec, "initContainers").len()),
            (None, reason) => format!("Init:{reason}"),
        };
        initializing = true;
        break;
    }

    if !initializing || condition_true(status, "Initialized") {
        (seen.restarts, seen.last_restart) = (sidecar_restarts, sidecar_restart);
        containers(status, &mut seen);
    }
    if has(&pod["metadata"], "deletionTimestamp") {
        if text(status, "reason") == "NodeLost" {
            seen.reason = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            seen.reason = "Terminating".into();
        }
    }
    seen
}

fn containers(status: &Value, seen: &mut Summary) {
    let mut running = false;
    for container in list(status, "containerStatuses").iter().rev() {
        let (restarts, last) = restarts_of(container);
        seen.restarts += restarts;
        seen.last_restart = seen.last_restart.max(last);
        let state = &container["state"];
        let waiting = text(&state["waiting"], "reason");
        if !waiting.is_empty() {
            seen.reason = waiting.to_owned();
        } else if has(state, "terminated") {
            if !text(&state["terminated"], "reason").is_empty() || seen.reason.is_empty() {
                seen.reason = ended(&state["terminated"]);
            }
        } else if flag(container, "ready") && has(state, "running") {
            running = true;
            seen.ready += 1;
        }
    }
    // One container may have completed while another still runs.
    if seen.reason == "Completed" && running {
        let word = if condition_true(status, "Ready") { "Running" } else { "NotReady" };
        seen.reason = word.into();
    }
}

fn restarts_of(container: &Value) -> (i64, Option<Timestamp>) {
    let last = time::parse(&container["lastState"]["terminated"]["finishedAt"]);
    (int(container, "restartCount").unwrap_or(0), last)
}

fn ended(terminated: &Value) -> String {
    match (text(terminated, "reason"), int(terminated, "signal").unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", int(terminated, "exitCode").unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// The condition of a row whose pod has ended, by which clients may hide it.
pub(super) fn condition(pod: &Value) -> Option<Value> {
    let (phase, message) = match text(&pod["status"], "phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!({"type": "Completed", "status": "True", "reason": phase, "message": message}))
}

fn gates(c: &Cx) -> Value {
    let gates = list(c.spec(), "readinessGates");
    if gates.is_empty() {
        return NONE.into();
    }
    let open = gates.iter().filter(|gate| condition_true(c.status(), text(gate, "conditionType"))).count();
    format!("{open}/{}", gates.len()).into()
}

fn node_status(c: &Cx) -> String {
    let mut words = Vec::new();
    match super::columns::condition(c.status(), "Ready") {
        Some(condition) if text(condition, "status") == "True" => words.push("Ready"),
        Some(_) => words.push("NotReady"),
        None => words.push("Unknown"),
    }
    if flag(c.spec(), "unschedulable") {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

fn node_roles(node: &Value) -> String {
    let roles: BTreeSet<&str> = entries(&node["metadata"], "labels")
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some("") => None,
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str().filter(|role| !role.is_empty()),
            None => None,
        })
        .collect();
    join(roles.into_iter(), ",")
}

fn address(c: &Cx, kind: &str) -> Value {
    let found = list(c.status(), "addresses").iter().find(|address| text(address, "type") == kind);
    or(found.map_or("", |address| text(address, "address")), NONE)
}
