//! The whole system as a person meets it: `kontiki up`, the stock kubectl, our own command line, and then the hammer.
//!
//! One cluster serves all scenarios, one after the other, because making it is the slow part.

mod hammer;
mod harness;
mod tour;

use harness::{Cluster, reason_to_skip};

type Scenario = (&'static str, fn(&Cluster));

/// The property of each scenario stands at its function.
#[test]
fn root_a_cluster_is_made_used_hurt_and_removed() {
    if let Some(reason) = reason_to_skip() {
        eprintln!("SKIPPED end-to-end tests: {reason}");
        return;
    }
    let cluster = Cluster::new();
    let scenarios: [Scenario; 12] = [
        ("up makes a cluster, and a second up changes nothing", tour::up_is_idempotent),
        ("kubectl looks around", tour::kubectl_looks_around),
        ("kubectl applies, changes and applies again", tour::kubectl_applies),
        ("kubectl creates, scales, rolls out and undoes", tour::kubectl_rolls_out),
        ("kubectl patches, labels and watches", tour::kubectl_patches_and_watches),
        ("kontiki does the same", tour::kontiki_does_the_same),
        ("a service is reached by name across nodes", hammer::a_service_is_reached_by_name_across_nodes),
        ("a failing readiness probe takes the endpoint out", hammer::a_failing_probe_takes_the_endpoint_out),
        ("the leader is killed", hammer::the_leader_is_killed),
        ("agent and containerd are killed", hammer::agent_and_containerd_are_killed),
        ("a node is stopped and comes back", hammer::a_node_is_stopped_and_comes_back),
        ("down leaves nothing behind", tour::down_leaves_nothing_behind),
    ];
    for (title, scenario) in scenarios {
        let started = std::time::Instant::now();
        eprintln!("=== {title}");
        scenario(&cluster);
        eprintln!("    ok ({:.1} s)", started.elapsed().as_secs_f64());
    }
}
