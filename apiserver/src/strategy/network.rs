//! Ingress, network policies, and address allocation.

use serde_json::{Value, json};

use super::names::NameRule;
use super::value::{default, has, list, list_mut, object, set};
use super::{Entry, PLAIN, Strategy};

pub(super) static KINDS: &[Entry] = &[
    ("networking.k8s.io", "ingresses", Strategy { generation: true, required: true, ..PLAIN }),
    (
        "networking.k8s.io",
        "ingressclasses",
        Strategy { default: class, generation: true, required: true, ..PLAIN },
    ),
    ("networking.k8s.io", "networkpolicies", Strategy { default: policy, generation: true, ..PLAIN }),
    ("networking.k8s.io", "ipaddresses", Strategy { names: NameRule::Own, required: true, ..PLAIN }),
    ("networking.k8s.io", "servicecidrs", Strategy { required: true, ..PLAIN }),
];

fn class(class: &mut Value) {
    if has(&class["spec"], "parameters") {
        default(&mut class["spec"]["parameters"], "scope", "Cluster");
    }
}

fn policy(policy: &mut Value) {
    let spec = object(policy, "spec");
    for rules in ["ingress", "egress"] {
        for rule in list_mut(spec, rules) {
            for port in list_mut(rule, "ports") {
                default(port, "protocol", "TCP");
            }
        }
    }
    if list(spec, "policyTypes").is_empty() {
        let types = match list(spec, "egress").is_empty() {
            true => json!(["Ingress"]),
            false => json!(["Ingress", "Egress"]),
        };
        set(spec, "policyTypes", types);
    }
}
