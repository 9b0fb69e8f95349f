//! Commands in a container, and attaching to its own process.

use kontiki_proto::pb::node_command::Command;
use kontiki_proto::pb::{ExecStart, NodeExec};
use kontiki_proto::resource::Resource;
use kontiki_proto::status::Status;
use kontiki_proto::{Registry, Target};
use serde_json::Value;

use super::{Session, logs};
use crate::admission::Operation;
use crate::auth::User;
use crate::server::Context;

fn pods() -> Result<&'static Resource, Status> {
    Registry::builtin()
        .find("", "v1", "pods")
        .map(|row| &**row)
        .ok_or_else(|| Status::internal("the resource table has no pods"))
}

/// Says where the command would run, for a user who may start it.
///
/// # Errors
/// Everything that [`open`] would refuse before it reaches the node.
pub async fn check(context: &Context, user: &User, start: &ExecStart) -> Result<logs::Place, Status> {
    if !start.attach && start.command.is_empty() {
        return Err(Status::bad_request("you must specify at least one command for the container"));
    }
    if !(start.stdin || start.stdout || start.stderr) {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let subresource = if start.attach { "attach" } else { "exec" };
    let at = (start.namespace.as_str(), start.pod.as_str(), subresource);
    let place = logs::place(context, user, "create", at, &start.container).await?;
    let target = Target {
        version: "v1".into(),
        resource: "pods".into(),
        namespace: start.namespace.as_str().into(),
        name: start.pod.as_str().into(),
        subresource: subresource.into(),
        ..Target::default()
    };
    let mut nothing = Value::Null;
    context.admission.admit(Operation::Connect, pods()?, &target, user, &mut nothing, None).await?;
    context.nodes.check(&place.node)?;
    Ok(place)
}

/// Starts the command on the node that runs the pod, for a user who may.
pub async fn open(context: &Context, user: &User, mut start: ExecStart) -> Result<Session, Status> {
    let place = check(context, user, &start).await?;
    start.container = place.container;
    let command = Command::Exec(NodeExec { pod_uid: place.uid, start: Some(start) });
    context.nodes.open(&place.node, command).await
}
