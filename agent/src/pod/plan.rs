//! What to do next for a pod. Pure: the same view gives the same steps, and once they have been carried out, none.
//!
//! ```text
//!             Prepare                Start …                     all ended, none restarts
//!   (new) ──────────────► prepared ───────────► running ─────────────────────────────────┐
//!     │                      │                     │  ▲                                   ▼
//!     │                      │            ended    ▼  │ Start, after the back-off        ended
//!     │                      │                   (restart)                                │ Stop what is left
//!     │ deleted, or its deadline has passed: Stop every container                         │
//!     └──────────────────────┴──────────────► stopping ──────► TearDown ──► (ended) ──────┘
//!                                                                   └── deleted: Remove
//! ```

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::model::{Busy, Containers, Observed, Role, Trouble, definition, members, restarts};

/// Everything a decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub pod: &'a Pod,
    pub containers: &'a Containers,
    /// The object is gone from the API, or is not this node's any more.
    pub removed: bool,
    /// Namespaces, network and volumes are there.
    pub prepared: bool,
    /// Something of the pod may be left on the node.
    pub torn_down: bool,
    /// Why preparing failed last.
    pub trouble: Option<&'a Trouble>,
    /// When the node first took the pod up.
    pub started_at: Timestamp,
    pub now: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Makes namespaces, network, directories and volumes.
    Prepare,
    /// Pulls the image where that is needed, creates the container and starts it.
    Start { container: String },
    /// Runs the preStop hook, asks the process to end, and kills it when the grace is over.
    Stop { container: String, grace_seconds: u32, why: String },
    /// Removes everything of the pod from the node but its records.
    TearDown,
    /// Deletes the object, forgets the records.
    Remove,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// When to plan again, if nothing happens before.
    pub wake: Option<Timestamp>,
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }
}

pub fn plan(view: &View) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = view.pod.spec.as_ref() else { return plan };
    if deleting(view) || ended(view) {
        stop_all(view, spec, &mut plan);
        return plan;
    }
    if let Some(deadline) = deadline(view.pod, view.started_at) {
        plan.wake(deadline);
    }
    stop_unfit(view, spec, &mut plan);
    if !view.prepared {
        match view.trouble {
            Some(trouble) if trouble.retry_at > view.now => plan.wake(trouble.retry_at),
            _ => plan.steps.push(Step::Prepare),
        }
        return plan;
    }
    start_next(view, spec, &mut plan);
    plan
}

pub fn deleting(view: &View) -> bool {
    view.removed || view.pod.metadata.deletion_timestamp.is_some()
}

/// Whether the pod has run its course: no container of it will be started again.
pub fn ended(view: &View) -> bool {
    let phase = view.pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
        || past_deadline(view)
        || view.pod.spec.as_ref().is_some_and(|spec| run_out(spec, view.containers))
}

pub fn past_deadline(view: &View) -> bool {
    deadline(view.pod, view.started_at).is_some_and(|at| at <= view.now)
}

fn deadline(pod: &Pod, started_at: Timestamp) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    Some(started_at + SignedDuration::from_secs(seconds))
}

/// An init container failed for good, or all main containers have ended for good.
pub fn run_out(spec: &PodSpec, containers: &Containers) -> bool {
    let for_good = |role: Role, c: &k8s_openapi::api::core::v1::Container| {
        let exit = containers.get(&c.name).and_then(Observed::exit);
        exit.is_some_and(|exit| !restarts(spec, role, c, exit))
    };
    let init_failed = members(spec).any(|(role, c)| {
        role == Role::Init && for_good(role, c) && !containers.get(&c.name).is_some_and(Observed::succeeded)
    });
    init_failed || spec.containers.iter().all(|c| for_good(Role::Main, c))
}

/// Whether all init containers have done their part.
pub fn initialized(spec: &PodSpec, containers: &Containers) -> bool {
    let begun = spec.containers.iter().any(|c| containers.get(&c.name).is_some_and(|o| o.last.is_some()));
    begun || members(spec).all(|(role, c)| init_done(role, containers.get(&c.name)))
}

pub fn init_done(role: Role, observed: Option<&Observed>) -> bool {
    match (role, observed) {
        (Role::Main, _) => true,
        (Role::Init, Some(o)) => o.succeeded(),
        (Role::Sidecar, Some(o)) => o.running() && o.health.started,
        (_, None) => false,
    }
}

/// The seconds a container gets between being asked to end and being killed.
pub fn grace(pod: &Pod) -> u32 {
    let spec = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    let seconds = pod.metadata.deletion_grace_period_seconds.or(spec).unwrap_or(30);
    u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
}

fn stop_all(view: &View, spec: &PodSpec, plan: &mut Plan) {
    let live = |o: &Observed| o.running() || o.busy.is_some();
    let main_live = spec.containers.iter().any(|c| view.containers.get(&c.name).is_some_and(live));
    let grace_seconds = if view.removed { grace(view.pod).min(30) } else { grace(view.pod) };
    let mut sidecar_asked = false;
    // Sidecars end last, in the reverse order of their start.
    for (role, c) in members(spec).collect::<Vec<_>>().into_iter().rev() {
        let Some(observed) = view.containers.get(&c.name) else { continue };
        if role == Role::Sidecar {
            if main_live || sidecar_asked {
                continue;
            }
            sidecar_asked = live(observed);
        }
        if observed.running() && observed.busy.is_none() {
            plan.steps.push(Step::Stop {
                container: c.name.clone(),
                grace_seconds,
                why: format!("Stopping container {}", c.name),
            });
        }
    }
    if view.containers.values().any(live) {
        return;
    }
    if !view.torn_down {
        match view.trouble {
            Some(trouble) if trouble.retry_at > view.now => plan.wake(trouble.retry_at),
            _ => plan.steps.push(Step::TearDown),
        }
    } else if deleting(view) {
        match view.trouble {
            Some(trouble) if trouble.retry_at > view.now => plan.wake(trouble.retry_at),
            _ => plan.steps.push(Step::Remove),
        }
    }
}

/// Containers that are to be replaced: their definition changed, or a probe has given them up.
fn stop_unfit(view: &View, spec: &PodSpec, plan: &mut Plan) {
    for (_, c) in members(spec) {
        let Some(observed) = view.containers.get(&c.name) else { continue };
        if !observed.running() || observed.busy.is_some() {
            continue;
        }
        let changed = observed.last.as_ref().is_some_and(|a| a.definition != definition(c));
        let why = match &observed.health.failed {
            Some(why) => why.clone(),
            None if changed => format!("Container {} definition changed, will be restarted", c.name),
            None => continue,
        };
        plan.steps.push(Step::Stop { container: c.name.clone(), grace_seconds: grace(view.pod), why });
    }
}

fn start_next(view: &View, spec: &PodSpec, plan: &mut Plan) {
    let begun = initialized(spec, view.containers);
    // One start at a time within a pod: containers begin in the order of the spec, and share one shim.
    let mut busy = view.containers.values().any(|o| o.busy == Some(Busy::Starting));
    let none = Observed::default();
    for (role, c) in members(spec) {
        if role == Role::Main && !begun {
            return;
        }
        let observed = view.containers.get(&c.name).unwrap_or(&none);
        let wanted = match (role, observed.exit()) {
            _ if observed.running() || observed.busy.is_some() => None,
            (_, None) => Some(view.now),
            (Role::Init, Some(_)) if begun => None,
            (_, Some(exit)) if restarts(spec, role, c, exit) => {
                observed.last.as_ref().and_then(super::model::Attempt::next_at)
            }
            _ => None,
        };
        let wanted = match (&observed.trouble, wanted) {
            (Some(trouble), Some(at)) => Some(at.max(trouble.retry_at)),
            (_, wanted) => wanted,
        };
        match wanted {
            Some(at) if at > view.now => plan.wake(at),
            Some(_) if !busy && (role != Role::Init || !begun) => {
                plan.steps.push(Step::Start { container: c.name.clone() });
                busy = true;
            }
            _ => {}
        }
        if !begun && !init_done(role, Some(observed)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::{at, attempt};
    use super::super::model::{Attempt, Health};
    use super::*;
    use serde_json::{Value, json};

    /// `init` and `main` list names; a name ending in `*` is a sidecar.
    fn pod(policy: &str, init: &[&str], main: &[&str]) -> Pod {
        let init = init.iter().map(|n| match n.strip_suffix('*') {
            Some(name) => json!({"name": name, "image": "i", "restartPolicy": "Always"}),
            None => json!({"name": n, "image": "i"}),
        });
        let main = main.iter().map(|n| json!({"name": n, "image": "i"}));
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {
                "restartPolicy": policy,
                "initContainers": init.collect::<Vec<Value>>(),
                "containers": main.collect::<Vec<Value>>(),
            }
        }))
        .unwrap()
    }

    fn of(pod: &Pod, name: &str, mut a: Attempt) -> (String, Observed) {
        let (_, c) = super::super::model::container(pod.spec.as_ref().unwrap(), name).unwrap();
        a.definition = definition(c);
        let health = Health { started: true, ready: true, failed: None };
        (name.into(), Observed { last: Some(a), health, ..Observed::default() })
    }

    fn running(pod: &Pod, name: &str) -> (String, Observed) {
        of(pod, name, attempt(0, 0, 0, None))
    }

    fn exited(pod: &Pod, name: &str, code: i32) -> (String, Observed) {
        of(pod, name, attempt(0, 0, 0, Some((5, code))))
    }

    fn view<'a>(pod: &'a Pod, containers: &'a Containers) -> View<'a> {
        View {
            pod,
            containers,
            removed: false,
            prepared: true,
            torn_down: false,
            trouble: None,
            started_at: at(0),
            now: at(100),
        }
    }

    fn start(name: &str) -> Step {
        Step::Start { container: name.into() }
    }

    fn check(pod: &Pod, containers: impl IntoIterator<Item = (String, Observed)>, expected: &[Step]) {
        let containers = containers.into_iter().collect();
        assert_eq!(plan(&view(pod, &containers)).steps, expected);
    }

    fn stops(plan: &Plan) -> Vec<&str> {
        plan.steps
            .iter()
            .map(|s| match s {
                Step::Stop { container, .. } => container.as_str(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_new_pod_is_prepared_before_anything_starts() {
        let pod = pod("Always", &[], &["a"]);
        let none = Containers::new();
        let new = View { prepared: false, ..view(&pod, &none) };
        assert_eq!(plan(&new).steps, [Step::Prepare]);
        check(&pod, [], &[start("a")]);
    }

    #[test]
    fn init_containers_run_one_after_the_other_before_the_others() {
        let pod = pod("Always", &["i", "j"], &["a", "b"]);
        check(&pod, [], &[start("i")]);
        check(&pod, [running(&pod, "i")], &[]);
        check(&pod, [exited(&pod, "i", 0)], &[start("j")]);
        check(&pod, [exited(&pod, "i", 1)], &[start("i")]);
        check(&pod, [exited(&pod, "i", 0), exited(&pod, "j", 0)], &[start("a")]);
        check(&pod, [exited(&pod, "i", 0), exited(&pod, "j", 0), running(&pod, "a")], &[start("b")]);
    }

    #[test]
    fn a_sidecar_runs_beside_the_others_and_is_restarted() {
        let pod = pod("Never", &["s*", "i"], &["a"]);
        check(&pod, [], &[start("s")]);
        check(&pod, [running(&pod, "s")], &[start("i")]);
        check(&pod, [running(&pod, "s"), exited(&pod, "i", 0)], &[start("a")]);
        check(&pod, [exited(&pod, "s", 1), exited(&pod, "i", 0), running(&pod, "a")], &[start("s")]);
    }

    #[test]
    fn the_policy_says_who_is_restarted() {
        for (policy, code, restarted) in [
            ("Always", 0, true),
            ("Always", 1, true),
            ("OnFailure", 0, false),
            ("OnFailure", 1, true),
            ("Never", 1, false),
        ] {
            let pod = pod(policy, &[], &["a", "b"]);
            let expected = if restarted { vec![start("a")] } else { vec![] };
            check(&pod, [exited(&pod, "a", code), running(&pod, "b")], &expected);
        }
    }

    #[test]
    fn a_restart_waits_for_its_back_off() {
        let pod = pod("Always", &[], &["a"]);
        let containers = Containers::from([of(&pod, "a", attempt(3, 40, 90, Some((95, 1))))]);
        let waiting = plan(&view(&pod, &containers));
        assert_eq!((waiting.steps, waiting.wake), (vec![], Some(at(135))));
        let later = View { now: at(135), ..view(&pod, &containers) };
        assert_eq!(plan(&later).steps, [start("a")]);
    }

    #[test]
    fn a_failed_start_waits_for_its_retry_and_holds_up_no_other() {
        let pod = pod("Always", &[], &["a", "b"]);
        let trouble =
            Trouble { reason: "ErrImagePull".into(), message: String::new(), retry_at: at(120), delay: 20 };
        let a = Observed { trouble: Some(trouble), ..Observed::default() };
        let containers = Containers::from([("a".to_string(), a)]);
        let plan = plan(&view(&pod, &containers));
        assert_eq!((plan.steps, plan.wake), (vec![start("b")], Some(at(120))));
    }

    #[test]
    fn one_container_starts_at_a_time() {
        let pod = pod("Always", &[], &["a", "b"]);
        let a = Observed { busy: Some(Busy::Starting), ..Observed::default() };
        check(&pod, [("a".to_string(), a)], &[]);
    }

    #[test]
    fn deleting_stops_the_containers_then_tears_down_then_removes() {
        let mut pod = pod("Always", &["s*", "t*"], &["a", "b"]);
        pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(90)));
        let all = Containers::from(["s", "t", "a", "b"].map(|n| running(&pod, n)));
        assert_eq!(stops(&plan(&view(&pod, &all))), ["b", "a"]);
        let sidecars = Containers::from(["s", "t"].map(|n| running(&pod, n)));
        assert_eq!(stops(&plan(&view(&pod, &sidecars))), ["t"]);
        let mut stopping = sidecars.clone();
        stopping.get_mut("t").unwrap().busy = Some(Busy::Stopping);
        assert_eq!(plan(&view(&pod, &stopping)).steps, []);
        check(&pod, [exited(&pod, "a", 137)], &[Step::TearDown]);
        let none = Containers::new();
        let gone = View { torn_down: true, ..view(&pod, &none) };
        assert_eq!(plan(&gone).steps, [Step::Remove]);
    }

    #[test]
    fn a_finished_pod_is_torn_down_and_left_to_the_api() {
        let pod = pod("Never", &["s*"], &["a"]);
        let containers = Containers::from([running(&pod, "s"), exited(&pod, "a", 0)]);
        assert_eq!(stops(&plan(&view(&pod, &containers))), ["s"]);
        let containers = Containers::from([exited(&pod, "s", 137), exited(&pod, "a", 0)]);
        assert_eq!(plan(&view(&pod, &containers)).steps, [Step::TearDown]);
        let done = View { torn_down: true, ..view(&pod, &containers) };
        assert_eq!(plan(&done), Plan::default());
    }

    #[test]
    fn the_active_deadline_ends_the_pod() {
        let mut pod = pod("Always", &[], &["a"]);
        pod.spec.as_mut().unwrap().active_deadline_seconds = Some(60);
        let containers = Containers::from([running(&pod, "a")]);
        let before = View { now: at(59), ..view(&pod, &containers) };
        assert_eq!(plan(&before), Plan { steps: vec![], wake: Some(at(60)) });
        assert_eq!(stops(&plan(&view(&pod, &containers))), ["a"]);
    }

    #[test]
    fn an_unhealthy_or_changed_container_is_stopped() {
        let pod = pod("Always", &[], &["a", "b"]);
        let (a, mut unhealthy) = running(&pod, "a");
        unhealthy.health.failed = Some("failed".into());
        let (b, mut changed) = running(&pod, "b");
        changed.last.as_mut().unwrap().definition = "other".into();
        let containers = Containers::from([(a, unhealthy), (b, changed)]);
        assert_eq!(stops(&plan(&view(&pod, &containers))), ["a", "b"]);
    }
}
