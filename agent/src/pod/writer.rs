//! Brings a pod's status to the API, and its end. One task per pod: what is newest is what is written, for as long as it
//! takes, also after all servers were away.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kontiki_proto::api::{Api, DeleteOptions, PatchType, WriteOptions, decode, encode};
use kontiki_proto::{DynApi, Status, Target};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// What the API is to hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    pub status: PodStatus,
    /// Addresses the object holds that the pod has no longer: lists of addresses are merged.
    pub stale_ips: Vec<String>,
    /// The pod is gone from the node: the object may go.
    pub delete: bool,
}

#[derive(Clone, Debug)]
pub enum Written {
    /// The object holds this status, at this revision.
    Status(Box<PodStatus>, u64),
    /// The object is gone, or is another's by now.
    Gone,
}

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Names the object a writer writes.
#[derive(Clone, Debug)]
pub struct Whose {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

pub fn start(
    api: DynApi,
    whose: Whose,
    shutdown: CancellationToken,
) -> (watch::Sender<Option<Wish>>, mpsc::Receiver<Written>) {
    let (wishes, mut wanted) = watch::channel(None::<Wish>);
    let (written, results) = mpsc::channel(16);
    tokio::spawn(async move {
        let work = async {
            while wanted.changed().await.is_ok() {
                let mut pause = FIRST_PAUSE;
                loop {
                    let Some(wish) = wanted.borrow_and_update().clone() else { break };
                    match fulfil(&*api, &whose, &wish).await {
                        Ok(result) => {
                            let gone = matches!(result, Written::Gone);
                            if written.send(result).await.is_err() || gone {
                                return;
                            }
                            break;
                        }
                        Err(error) => {
                            tracing::debug!(%error, pod = whose.name, "a pod's status was not written yet");
                            // A newer status need not wait for the older one's turn.
                            tokio::select! {
                                () = tokio::time::sleep(pause) => {}
                                changed = wanted.changed() => if changed.is_err() { return },
                            }
                            pause = (pause * 2).min(LONGEST_PAUSE);
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = shutdown.cancelled() => {}
        }
    });
    (wishes, results)
}

async fn fulfil(api: &dyn Api, whose: &Whose, wish: &Wish) -> Result<Written, Status> {
    let target = Target::kind::<Pod>().within(&whose.namespace).named(&whose.name);
    let patched = api
        .patch(
            &target.clone().sub("status"),
            PatchType::StrategicMerge,
            encode(&patch(whose, wish))?,
            &WriteOptions::default(),
        )
        .await;
    let revision = match patched {
        Ok(document) => revision(&decode::<Pod>(&document)?),
        Err(status) if another(&status) => return Ok(Written::Gone),
        Err(status) => return Err(status),
    };
    if !wish.delete {
        return Ok(Written::Status(Box::new(wish.status.clone()), revision));
    }
    match api.delete(&target, &DeleteOptions::default().grace(0).only(&whose.uid)).await {
        Ok(_) => Ok(Written::Gone),
        Err(status) if another(&status) => Ok(Written::Gone),
        Err(status) => Err(status),
    }
}

/// The object is gone, or one of the same name has taken its place: then the uid does not fit.
fn another(status: &Status) -> bool {
    let uid = || status.message.to_lowercase().contains("uid");
    status.is_not_found() || ((status.is_conflict() || status.code == 422) && uid())
}

/// The object's revision; 0 where it is not a number.
pub fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_ref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn patch(whose: &Whose, wish: &Wish) -> serde_json::Value {
    let mut status = serde_json::to_value(&wish.status).unwrap_or_default();
    if let Some(fields) = status.as_object_mut() {
        // A patch leaves alone what it does not name.
        for field in ["reason", "message", "podIP"] {
            fields.entry(field).or_insert(serde_json::Value::Null);
        }
        // Conditions merge by their type, field by field.
        for condition in fields.get_mut("conditions").and_then(|all| all.as_array_mut()).into_iter().flatten()
        {
            if let Some(condition) = condition.as_object_mut() {
                for field in ["reason", "message"] {
                    condition.entry(field).or_insert(serde_json::Value::Null);
                }
            }
        }
        let stale = wish.stale_ips.iter().map(|ip| json!({"ip": ip, "$patch": "delete"}));
        let mut ips = fields.get("podIPs").and_then(|l| l.as_array().cloned()).unwrap_or_default();
        ips.extend(stale);
        if !ips.is_empty() {
            fields.insert("podIPs".into(), json!(ips));
        }
    }
    json!({"metadata": {"uid": whose.uid}, "status": status})
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodCondition;

    #[test]
    fn a_condition_without_a_reason_takes_the_old_one_away() {
        let ready = PodCondition { type_: "Ready".into(), status: "True".into(), ..PodCondition::default() };
        let status = PodStatus { conditions: Some(vec![ready]), ..PodStatus::default() };
        let whose = Whose { namespace: "a".into(), name: "b".into(), uid: "c".into() };
        let patch = patch(&whose, &Wish { status, stale_ips: Vec::new(), delete: false });
        let condition = &patch["status"]["conditions"][0];
        assert!(condition.get("reason").is_some_and(|reason| reason.is_null()), "{condition}");
        assert!(condition.get("message").is_some_and(|message| message.is_null()), "{condition}");
    }
}
