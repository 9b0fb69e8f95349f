//! Nothing is made in a namespace that is missing or going; some namespaces stay.

use std::time::Duration;

use kontiki_proto::{Registry, Status};

use super::{Admission, Call, Operation, Refusal};

/// Namespaces the cluster cannot do without.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub(super) fn admit(admission: &Admission, call: &mut Call<'_>) -> Result<(), Refusal> {
    if call.is("", "namespaces", &[Operation::Delete]) && IMMORTAL.contains(&call.name()) {
        return Err(call.forbidden("this namespace may not be deleted").into());
    }
    let access_review = call.row.group == "authorization.k8s.io";
    let writes = matches!(call.operation, Operation::Create | Operation::Update);
    if !call.row.namespaced() || call.namespace().is_empty() || access_review || !writes {
        return Ok(());
    }
    let name = call.namespace();
    let Some(namespace) = admission.objects.get("", "namespaces", "", name) else {
        let row = Registry::builtin().find("", "v1", "namespaces");
        let status = row.map_or_else(Status::no_such_path, |row| Status::not_found(row, name));
        return Err(Refusal::Missing(status, Duration::ZERO));
    };
    let going = namespace["metadata"].get("deletionTimestamp").is_some()
        || namespace["status"]["phase"] == "Terminating";
    if going && call.operation == Operation::Create && call.target.subresource.is_empty() {
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let cause = format!("namespace {name} is being terminated");
        let status = call.forbidden(&why).with_cause("NamespaceTerminating", &cause, "metadata.namespace");
        return Err(status.into());
    }
    Ok(())
}
