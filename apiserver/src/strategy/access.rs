//! Roles, bindings, and certificates.

use serde_json::Value;

use super::names::NameRule;
use super::value::{default, is_set, list_mut, object, text};
use super::{Entry, PLAIN, Strategy};

const RBAC: &str = "rbac.authorization.k8s.io";
const ROLE: Strategy = Strategy { names: NameRule::PathSegment, ..PLAIN };
const BINDING: Strategy = Strategy { names: NameRule::PathSegment, default: binding, ..PLAIN };

pub(super) static KINDS: &[Entry] = &[
    (RBAC, "roles", ROLE),
    (RBAC, "clusterroles", ROLE),
    (RBAC, "rolebindings", BINDING),
    (RBAC, "clusterrolebindings", BINDING),
    ("certificates.k8s.io", "certificatesigningrequests", Strategy { names: NameRule::Own, ..PLAIN }),
];

fn binding(binding: &mut Value) {
    default(object(binding, "roleRef"), "apiGroup", RBAC);
    for subject in list_mut(binding, "subjects") {
        if !is_set(subject, "apiGroup") && matches!(text(subject, "kind"), "User" | "Group") {
            default(subject, "apiGroup", RBAC);
        }
    }
}
