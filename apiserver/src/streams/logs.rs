//! Logs of a container, read by the node that runs it.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use kontiki_proto::pb::node_command::Command;
use kontiki_proto::pb::node_frame::Frame;
use kontiki_proto::pb::{LogsRequest, NodeFrame, NodeLogs};
use kontiki_proto::status::Status;
use kontiki_proto::{Registry, Target};
use serde_json::Value;

use super::Session;
use crate::auth::User;
use crate::server::Context;
use crate::{chain, storage};

/// How long the first frame is waited for, so that a refusal can still become the answer's status.
const FIRST: Duration = Duration::from_secs(2);

/// A running pod as streams need it.
#[derive(Debug)]
pub struct Place {
    pub node: String,
    pub uid: String,
    pub container: String,
}

/// What is streamed: chunks, or the status that ended it badly.
pub type Chunks = BoxStream<'static, Result<Bytes, Status>>;

fn target(namespace: &str, pod: &str, subresource: &str) -> Target {
    Target {
        version: "v1".into(),
        resource: "pods".into(),
        namespace: namespace.into(),
        name: pod.into(),
        subresource: subresource.into(),
        ..Target::default()
    }
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let containers = pod["spec"][list].as_array().into_iter().flatten();
    containers.filter_map(|container| container["name"].as_str().map(String::from)).collect()
}

/// The container a request means: the named one, the annotated default, or the only one.
fn container(pod: &Value, name: &str, asked: &str) -> Result<String, Status> {
    let containers = names(pod, "containers");
    let hidden: Vec<String> =
        ["initContainers", "ephemeralContainers"].iter().flat_map(|list| names(pod, list)).collect();
    if !asked.is_empty() {
        if containers.iter().chain(&hidden).any(|known| known == asked) {
            return Ok(asked.into());
        }
        return Err(Status::bad_request(format!("container {asked} is not valid for pod {name}")));
    }
    let default = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    match (containers.as_slice(), default) {
        (_, Some(default)) if containers.iter().any(|known| known == default) => Ok(default.into()),
        ([only], _) => Ok(only.clone()),
        _ => {
            let choice = containers.join(" ");
            let inits = names(pod, "initContainers").join(" ");
            let inits = if inits.is_empty() {
                String::new()
            } else {
                format!(" or one of the init containers: [{inits}]")
            };
            Err(Status::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{choice}]{inits}"
            )))
        }
    }
}

/// Where a pod runs, for a user who may use the subresource of it.
pub async fn place(
    context: &Context,
    user: &User,
    verb: &str,
    (namespace, pod, subresource): (&str, &str, &str),
    asked: &str,
) -> Result<Place, Status> {
    chain::authorize(context, user, verb, &target(namespace, pod, subresource))?;
    context.store.barrier().await.map_err(storage::store_error)?;
    let row = Registry::builtin()
        .find("", "v1", "pods")
        .ok_or_else(|| Status::internal("the resource table has no pods"))?;
    let object =
        storage::find(&context.store, row, namespace, pod)?.ok_or_else(|| Status::not_found(row, pod))?;
    let container = container(&object, pod, asked)?;
    let node = object["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {pod} does not have a host assigned")));
    }
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    Ok(Place { node: node.into(), uid: uid.into(), container })
}

/// The status in a frame that ends a stream; `None` for a good end.
pub fn ending(json: &[u8]) -> Option<Status> {
    match serde_json::from_slice::<Status>(json) {
        Ok(status) if status.status == "Failure" => Some(status),
        Ok(_) => None,
        Err(error) => Some(Status::internal(format!("the node's answer cannot be read: {error}"))),
    }
}

fn chunk(frame: NodeFrame) -> Option<Result<Bytes, Status>> {
    match frame.frame? {
        Frame::Stdout(data) | Frame::Stderr(data) => Some(Ok(data)),
        Frame::Status(json) => ending(&json).map(Err),
        Frame::StreamId(_) => None,
    }
}

/// Logs as the node sends them. A refusal that comes at once is an error of this call, a later one of the stream.
pub async fn open(context: &Context, user: &User, mut request: LogsRequest) -> Result<Chunks, Status> {
    let at = (request.namespace.as_str(), request.pod.as_str(), "log");
    let place = place(context, user, "get", at, &request.container).await?;
    request.container.clone_from(&place.container);
    let command = Command::Logs(NodeLogs { pod_uid: place.uid, request: Some(request) });
    let mut session = context.nodes.open(&place.node, command).await?;
    let first = match tokio::time::timeout(FIRST, session.from_node.recv()).await {
        Ok(None) => return Ok(stream::empty().boxed()),
        Ok(Some(frame)) => {
            let ends = matches!(frame.frame, Some(Frame::Status(_)));
            match chunk(frame) {
                Some(Err(status)) => return Err(status),
                None if ends => return Ok(stream::empty().boxed()),
                first => first,
            }
        }
        Err(_) => None,
    };
    Ok(stream::iter(first).chain(follow(session)).boxed())
}

fn follow(session: Session) -> impl futures::Stream<Item = Result<Bytes, Status>> + Send + 'static {
    // The sender is kept: a node takes its end for the client's going away.
    stream::unfold(session, async |mut session| {
        loop {
            let frame = session.from_node.recv().await?;
            let ends = matches!(frame.frame, Some(Frame::Status(_)));
            match chunk(frame) {
                Some(item) => return Some((item, session)),
                None if ends => return None,
                None => {}
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_is_named_annotated_or_the_only_one() {
        let pod = |names: &[&str], default: &str| {
            json!({
                "metadata": {"annotations": {"kubectl.kubernetes.io/default-container": default}},
                "spec": {
                    "containers": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>(),
                    "initContainers": [{"name": "init"}],
                },
            })
        };
        for (names, default, asked, expected) in [
            (&["a"][..], "", "", Some("a")),
            (&["a", "b"], "b", "", Some("b")),
            (&["a", "b"], "", "b", Some("b")),
            (&["a"], "", "init", Some("init")),
            (&["a", "b"], "", "", None),
            (&["a"], "", "x", None),
        ] {
            let found = container(&pod(names, default), "p", asked);
            match (found, expected) {
                (Ok(found), Some(expected)) => assert_eq!(found, expected),
                (Err(status), None) => assert_eq!(status.code, 400),
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
        }
    }
}
