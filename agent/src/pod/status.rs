//! A pod's status from what is known of its containers. Pure.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::model::{Attempt, Observed, Role, full_name, members, restarts};
use super::plan::{View, deleting, ended, init_done, initialized, past_deadline, run_out};
use super::qos;

/// What the status holds beside the containers' states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub node: Option<IpAddr>,
    pub pod: Vec<IpAddr>,
}

/// The status as it should be. Conditions of others (`PodScheduled`, readiness gates) are kept as the object has them.
pub fn status(view: &View, addresses: &Addresses) -> PodStatus {
    let pod = view.pod;
    let Some(spec) = pod.spec.as_ref() else { return PodStatus::default() };
    let old = pod.status.clone().unwrap_or_default();
    let (phase, failure) = phase(view, spec, &old);
    let list = |wanted: fn(Role) -> bool| {
        let list = members(spec)
            .filter(|(role, _)| wanted(*role))
            .map(|(role, c)| container_status(view, spec, role, c, &phase))
            .collect::<Vec<_>>();
        (!list.is_empty()).then_some(list)
    };
    let init = list(|role| role != Role::Main);
    let main = list(|role| role == Role::Main);
    let conditions = conditions(view, spec, &old, &phase, init.as_deref(), main.as_deref());
    let (reason, message) = match failure {
        Some((reason, message)) => (Some(reason), Some(message)),
        None => (old.reason.clone(), old.message.clone()),
    };
    PodStatus {
        phase: Some(phase),
        reason,
        message,
        conditions: Some(conditions),
        container_statuses: main,
        init_container_statuses: init,
        host_ip: addresses.node.map(|ip| ip.to_string()),
        host_ips: addresses.node.map(|ip| vec![HostIP { ip: ip.to_string() }]),
        pod_ip: addresses.pod.first().map(ToString::to_string),
        pod_ips: (!addresses.pod.is_empty())
            .then(|| addresses.pod.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        qos_class: Some(old.qos_class.unwrap_or_else(|| qos::class(spec).to_string())),
        start_time: Some(old.start_time.unwrap_or(Time(view.started_at))),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

fn phase(view: &View, spec: &PodSpec, old: &PodStatus) -> (String, Option<(String, String)>) {
    // An end is final, whatever is seen afterwards.
    if let Some(end @ ("Succeeded" | "Failed")) = old.phase.as_deref() {
        return (end.into(), None);
    }
    if past_deadline(view) {
        let why = (
            "DeadlineExceeded".to_string(),
            "Pod was active on the node longer than the specified deadline".to_string(),
        );
        return ("Failed".into(), Some(why));
    }
    let observed = |c: &Container| view.containers.get(&c.name);
    let all_ended = spec.containers.iter().all(|c| observed(c).is_some_and(|o| o.exit().is_some()));
    let all_succeeded = spec.containers.iter().all(|c| observed(c).is_some_and(Observed::succeeded));
    let over = if deleting(view) { view.torn_down && all_ended } else { run_out(spec, view.containers) };
    let phase = if over {
        if all_succeeded { "Succeeded" } else { "Failed" }
    } else if !initialized(spec, view.containers)
        || spec.containers.iter().any(|c| observed(c).is_none_or(|o| o.last.is_none()))
    {
        "Pending"
    } else {
        "Running"
    };
    (phase.into(), None)
}

fn container_status(view: &View, spec: &PodSpec, role: Role, c: &Container, phase: &str) -> ContainerStatus {
    let none = Observed::default();
    let observed = view.containers.get(&c.name).unwrap_or(&none);
    let waiting = |reason: &str, message: Option<String>| ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.into()), message }),
        ..ContainerState::default()
    };
    let mut last = observed.previous.as_ref().and_then(terminated);
    let state = match &observed.last {
        Some(attempt) if observed.running() => ContainerState {
            running: Some(ContainerStateRunning { started_at: attempt.started_at.map(Time) }),
            ..ContainerState::default()
        },
        Some(attempt) => {
            let end = terminated(attempt);
            let again = attempt.exit.as_ref().is_some_and(|e| restarts(spec, role, c, e))
                && !ended(view)
                && !deleting(view);
            let held = attempt.next_at().is_some_and(|at| at > view.now);
            match (&observed.trouble, end) {
                (Some(trouble), Some(end)) if again => {
                    last = Some(end);
                    waiting(&trouble.reason, Some(trouble.message.clone()))
                }
                (_, Some(end)) if again && held => {
                    last = Some(end);
                    let message = format!(
                        "back-off {} restarting failed container={} pod={}",
                        go_duration(attempt.delay()),
                        c.name,
                        full_name(view.pod)
                    );
                    waiting("CrashLoopBackOff", Some(message))
                }
                (_, Some(end)) => ContainerState { terminated: Some(end), ..ContainerState::default() },
                (_, None) => waiting("ContainerCreating", None),
            }
        }
        None => match (&observed.trouble, view.trouble) {
            (Some(trouble), _) => waiting(&trouble.reason, Some(trouble.message.clone())),
            _ if !initialized(spec, view.containers) || has_unstarted_before(view, spec, c) => {
                waiting("PodInitializing", None)
            }
            _ => waiting("ContainerCreating", None),
        },
    };
    let attempt = observed.last.as_ref();
    let running = observed.running();
    let started = running && observed.health.started;
    let ready = match role {
        Role::Init => observed.succeeded(),
        _ => started && observed.health.ready && !matches!(phase, "Succeeded" | "Failed"),
    };
    ContainerStatus {
        name: c.name.clone(),
        image: attempt.map_or_else(|| c.image.clone().unwrap_or_default(), |a| a.image.clone()),
        image_id: attempt.map(|a| a.image_id.clone()).unwrap_or_default(),
        container_id: attempt.map(|a| containerd_id(&a.container_id)),
        ready,
        started: Some(started),
        restart_count: attempt.map_or(0, |a| i32::try_from(a.number).unwrap_or(i32::MAX)),
        state: Some(state),
        last_state: Some(ContainerState { terminated: last, ..ContainerState::default() }),
        ..ContainerStatus::default()
    }
}

/// A regular container of a pod that is still held up by its init containers, or an init container behind another.
fn has_unstarted_before(view: &View, spec: &PodSpec, c: &Container) -> bool {
    !initialized(spec, view.containers)
        || (spec.init_containers.iter().flatten().any(|i| i.name == c.name)
            && members(spec)
                .take_while(|(_, m)| m.name != c.name)
                .any(|(role, m)| !init_done(role, view.containers.get(&m.name))))
}

fn containerd_id(id: &str) -> String {
    format!("containerd://{id}")
}

/// `10s`, `2m40s`, `5m0s`, as Go prints durations.
fn go_duration(seconds: u32) -> String {
    match (seconds / 60, seconds % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    }
}

fn terminated(attempt: &Attempt) -> Option<ContainerStateTerminated> {
    let exit = attempt.exit.as_ref()?;
    Some(ContainerStateTerminated {
        container_id: Some(containerd_id(&attempt.container_id)),
        exit_code: exit.code,
        finished_at: Some(Time(exit.at)),
        started_at: attempt.started_at.map(Time),
        reason: Some(exit.reason.clone()),
        message: (!exit.message.is_empty()).then(|| exit.message.clone()),
        signal: None,
    })
}

fn conditions(
    view: &View,
    spec: &PodSpec,
    old: &PodStatus,
    phase: &str,
    init: Option<&[ContainerStatus]>,
    main: Option<&[ContainerStatus]>,
) -> Vec<PodCondition> {
    let old = old.conditions.as_deref().unwrap_or_default();
    let mut all = old.to_vec();
    let mut set = |kind: &str, holds: bool, reason: Option<&str>, message: Option<String>| {
        let status = if holds { "True" } else { "False" };
        let before = old.iter().find(|c| c.type_ == kind);
        let since = match before {
            Some(before) if before.status == status => before.last_transition_time.clone(),
            _ => Some(Time(view.now)),
        };
        let condition = PodCondition {
            type_: kind.into(),
            status: status.into(),
            reason: reason.map(Into::into),
            message,
            last_transition_time: since,
            last_probe_time: None,
            observed_generation: view.pod.metadata.generation,
        };
        match all.iter_mut().find(|c| c.type_ == kind) {
            Some(slot) => *slot = condition,
            None => all.push(condition),
        }
        holds
    };
    set("PodReadyToStartContainers", view.prepared && !view.torn_down, None, None);

    let behind = members(spec)
        .filter(|(role, c)| !init_done(*role, view.containers.get(&c.name)))
        .map(|(_, c)| c.name.clone())
        .collect::<Vec<_>>();
    let _ = init;
    if phase == "Succeeded" {
        set("Initialized", true, Some("PodCompleted"), None);
    } else if initialized(spec, view.containers) {
        set("Initialized", true, None, None);
    } else {
        let message = format!("containers with incomplete status: [{}]", behind.join(" "));
        set("Initialized", false, Some("ContainersNotInitialized"), Some(message));
    }

    let unready =
        main.unwrap_or_default().iter().filter(|s| !s.ready).map(|s| s.name.clone()).collect::<Vec<_>>();
    let (ready, reason, message) = match phase {
        "Succeeded" => (false, Some("PodCompleted"), None),
        "Failed" => (false, Some("PodFailed"), None),
        _ if unready.is_empty() => (true, None, None),
        _ => {
            let message = format!("containers with unready status: [{}]", unready.join(" "));
            (false, Some("ContainersNotReady"), Some(message))
        }
    };
    set("ContainersReady", ready, reason, message.clone());

    let gates = spec
        .readiness_gates
        .iter()
        .flatten()
        .filter(|gate| !old.iter().any(|c| c.type_ == gate.condition_type && c.status == "True"))
        .map(|gate| {
            format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist or is not true",
                gate.condition_type
            )
        })
        .collect::<Vec<_>>();
    if ready && !gates.is_empty() {
        set("Ready", false, Some("ReadinessGatesNotReady"), Some(gates.join(", ")));
    } else {
        set("Ready", ready, reason, message);
    }
    all
}

/// Whether two statuses say the same, but for what the API server or others fill in.
pub fn same(a: &PodStatus, b: &PodStatus) -> bool {
    let plain = |s: &PodStatus| {
        let mut s = s.clone();
        let sort = |list: &mut Option<Vec<PodCondition>>| {
            if let Some(list) = list {
                list.sort_by(|x, y| x.type_.cmp(&y.type_));
            }
        };
        sort(&mut s.conditions);
        (
            (s.phase, s.reason, s.message, s.conditions, s.host_ip, s.pod_ip, s.pod_ips),
            (
                s.container_statuses,
                s.init_container_statuses,
                s.qos_class,
                s.start_time,
                s.observed_generation,
            ),
        )
    };
    // Timestamps travel with a precision of seconds.
    let rounded = |s: &PodStatus| -> serde_json::Value { serde_json::to_value(s).unwrap_or_default() };
    let through = |s: &PodStatus| serde_json::from_value::<PodStatus>(rounded(s)).unwrap_or_default();
    plain(&through(a)) == plain(&through(b))
}

/// The time with whole seconds, as the API keeps it.
pub fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::{at, attempt};
    use super::super::model::{Containers, Health};
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn pod(policy: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]},
            "status": {"conditions": [{"type": "PodScheduled", "status": "True"}]},
        }))
        .unwrap()
    }

    fn of(pod: &Pod, observed: Option<Observed>) -> PodStatus {
        let containers = observed.map(|o| ("a".to_string(), o)).into_iter().collect::<Containers>();
        let view = View {
            pod,
            containers: &containers,
            removed: false,
            prepared: true,
            torn_down: false,
            trouble: None,
            started_at: at(0),
            now: at(100),
        };
        status(&view, &Addresses { node: None, pod: vec!["10.0.0.7".parse().unwrap()] })
    }

    fn condition<'a>(status: &'a PodStatus, kind: &str) -> &'a PodCondition {
        status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == kind).unwrap()
    }

    fn observed(a: Attempt, ready: bool) -> Observed {
        Observed {
            last: Some(a),
            health: Health { started: true, ready, failed: None },
            ..Observed::default()
        }
    }

    #[test]
    fn a_pod_is_pending_running_ready_in_turn() {
        let pod = pod("Always");
        let s = of(&pod, None);
        assert_eq!(s.phase.as_deref(), Some("Pending"));
        let waiting = s.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
        assert_eq!(waiting.reason.as_deref(), Some("ContainerCreating"));
        let s = of(&pod, Some(observed(attempt(0, 0, 0, None), false)));
        assert_eq!((s.phase.as_deref(), condition(&s, "Ready").status.as_str()), (Some("Running"), "False"));
        assert_eq!(condition(&s, "Ready").message.as_deref(), Some("containers with unready status: [a]"));
        let s = of(&pod, Some(observed(attempt(0, 0, 0, None), true)));
        assert_eq!(condition(&s, "Ready").status, "True");
        assert_eq!(condition(&s, "PodScheduled").status, "True");
    }

    #[test]
    fn a_container_in_back_off_waits_and_shows_its_last_end() {
        let pod = pod("Always");
        let s = of(&pod, Some(observed(attempt(3, 160, 90, Some((95, 7))), true)));
        let c = &s.container_statuses.as_ref().unwrap()[0];
        let waiting = c.state.as_ref().unwrap().waiting.as_ref().unwrap();
        assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
        assert_eq!(
            waiting.message.as_deref(),
            Some("back-off 2m40s restarting failed container=a pod=p_d(u)")
        );
        assert_eq!(c.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 7);
        assert_eq!((c.restart_count, s.phase.as_deref()), (3, Some("Running")));
    }

    #[test]
    fn a_pod_that_is_not_restarted_ends_with_its_containers() {
        for (code, phase, reason) in [(0, "Succeeded", "PodCompleted"), (1, "Failed", "PodFailed")] {
            let s = of(&pod("Never"), Some(observed(attempt(0, 0, 0, Some((5, code))), true)));
            assert_eq!(s.phase.as_deref(), Some(phase));
            assert_eq!(condition(&s, "Ready").reason.as_deref(), Some(reason));
        }
    }

    #[test]
    fn a_status_equals_itself_after_the_wire() {
        let mut s = of(&pod("Always"), Some(observed(attempt(0, 0, 0, None), true)));
        s.start_time = Some(Time("2026-01-01T00:00:00.123456789Z".parse().unwrap()));
        let back = serde_json::from_slice(&serde_json::to_vec(&s).unwrap()).unwrap();
        assert!(same(&s, &back));
    }
}
