//! Nobody grants what they do not hold.
//!
//! A role may only contain rules its author has (or the right to `escalate`); a binding only a role whose rules its
//! author has (or the right to `bind` it).

use serde_json::Value;

use super::{Admission, Call, Operation, Refusal};
use crate::auth::rbac::{GROUP, Rule, cover};
use crate::auth::{Access, MASTERS};

pub(super) fn admit(admission: &Admission, call: &mut Call<'_>) -> Result<(), Refusal> {
    let writes = matches!(call.operation, Operation::Create | Operation::Update);
    if call.row.group != GROUP || !writes || call.user.is_in(MASTERS) {
        return Ok(());
    }
    match call.row.plural.as_str() {
        "roles" | "clusterroles" => role(admission, call),
        "rolebindings" | "clusterrolebindings" => binding(admission, call),
        _ => Ok(()),
    }
}

fn may(
    admission: &Admission,
    call: &Call<'_>,
    verb: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> bool {
    let access = Access {
        user: call.user,
        verb,
        group: GROUP,
        version: "v1",
        resource,
        subresource: "",
        namespace,
        name,
        path: None,
    };
    admission.authorizer.authorize(&access).allowed()
}

fn role(admission: &Admission, call: &Call<'_>) -> Result<(), Refusal> {
    let same = |field: &str| call.old.is_some_and(|old| old[field] == call.object[field]);
    if (same("rules") && same("aggregationRule"))
        || may(admission, call, "escalate", &call.row.plural, call.namespace(), call.name())
    {
        return Ok(());
    }
    let mut wanted = Rule::read_all(&call.object["rules"]);
    if call.object["aggregationRule"].is_object() && !same("aggregationRule") {
        // It may come to hold whatever others will be labelled with.
        let everything = ["*".into()];
        wanted.push(Rule {
            verbs: everything.to_vec(),
            groups: everything.to_vec(),
            resources: everything.to_vec(),
            ..Rule::default()
        });
    }
    covered(admission, call, &wanted)
}

fn binding(admission: &Admission, call: &Call<'_>) -> Result<(), Refusal> {
    let same = |field: &str| call.old.is_some_and(|old| old[field] == call.object[field]);
    if same("roleRef") && same("subjects") {
        return Ok(());
    }
    let reference = &call.object["roleRef"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let name = text(&reference["name"]);
    let (plural, namespace) = match reference["kind"].as_str() {
        Some("Role") => ("roles", call.namespace()),
        _ => ("clusterroles", ""),
    };
    if may(admission, call, "bind", plural, call.namespace(), &name) {
        return Ok(());
    }
    match admission.authorizer.index().role(namespace, &name) {
        Some(wanted) => covered(admission, call, &wanted),
        None => {
            let kind = plural.trim_end_matches('s');
            let why = format!(
                "{plural}.{GROUP} {name:?} not found: a {kind} that does not exist can be bound only with the right to bind it"
            );
            Err(call.forbidden(&why).into())
        }
    }
}

fn covered(admission: &Admission, call: &Call<'_>, wanted: &[Rule]) -> Result<(), Refusal> {
    let held = admission.authorizer.index().rules(call.user, call.namespace());
    let missing = cover::missing(&held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let user = call.user;
    let list: Vec<String> = missing.iter().map(describe).collect();
    let why = format!(
        "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        user.groups,
        list.join("\n")
    );
    Err(call.forbidden(&why).into())
}

fn describe(rule: &Rule) -> String {
    let fields = [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.names),
        ("NonResourceURLs", &rule.urls),
        ("Verbs", &rule.verbs),
    ];
    let fields = fields.iter().filter(|(_, list)| !list.is_empty());
    let fields: Vec<_> = fields.map(|(name, list)| format!("{name}:{list:?}")).collect();
    format!("{{{}}}", fields.join(", "))
}
