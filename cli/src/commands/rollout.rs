//! `kontiki rollout`.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use kontiki_proto::api::{Api, GetOptions, ListOptions, PatchType, WriteOptions, decode, encode};
use kontiki_proto::{Registry, Target};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::wait::duration;
use crate::output::table::align;
use crate::session::Session;

const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
const POLL: Duration = Duration::from_millis(200);

#[derive(Subcommand)]
pub enum RolloutCommand {
    /// Follow a rollout to its end
    Status(StatusArgs),
    /// Show the revisions there are
    History(HistoryArgs),
    /// Go back to an earlier revision
    Undo(UndoArgs),
    /// Replace all pods
    Restart(WorkloadArgs),
    /// Hold a rollout
    Pause(WorkloadArgs),
    /// Let a rollout go on
    Resume(WorkloadArgs),
}

#[derive(Args)]
pub struct WorkloadArgs {
    /// `deployment/web`
    #[arg(required = true)]
    words: Vec<String>,
}

#[derive(Args)]
pub struct StatusArgs {
    #[command(flatten)]
    workload: WorkloadArgs,
    /// How long to wait; 0s waits as long as it takes
    #[arg(long, default_value = "0s", value_parser = duration)]
    timeout: Duration,
}

#[derive(Args)]
pub struct HistoryArgs {
    #[command(flatten)]
    workload: WorkloadArgs,
    /// Show this revision's template
    #[arg(long)]
    revision: Option<i64>,
}

#[derive(Args)]
pub struct UndoArgs {
    #[command(flatten)]
    workload: WorkloadArgs,
    /// The revision to go back to [default: the one before]
    #[arg(long)]
    to_revision: Option<i64>,
}

/// # Errors
/// A rollout that failed or took too long, or what the server said.
pub async fn run(session: &Session, command: RolloutCommand) -> Result<()> {
    match command {
        RolloutCommand::Status(args) => status(session, &args).await,
        RolloutCommand::History(args) => history(session, &args).await,
        RolloutCommand::Undo(args) => undo(session, &args).await,
        RolloutCommand::Restart(args) => {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let annotations = json!({ "kubectl.kubernetes.io/restartedAt": now });
            let patch = json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
            change(session, &args, &patch, "restarted").await
        }
        RolloutCommand::Pause(args) => {
            must_be_paused(session, &args, false).await?;
            change(session, &args, &json!({ "spec": { "paused": true } }), "paused").await
        }
        RolloutCommand::Resume(args) => {
            must_be_paused(session, &args, true).await?;
            change(session, &args, &json!({ "spec": { "paused": null } }), "resumed").await
        }
    }
}

async fn must_be_paused(session: &Session, args: &WorkloadArgs, expected: bool) -> Result<()> {
    let (target, label) = workload(session, args).await?;
    if target.resource != "deployments" {
        bail!("only deployments can be paused and resumed");
    }
    let live: Value = decode(&session.client.get(&target, &GetOptions::default()).await?)?;
    match (live["spec"]["paused"] == true, expected) {
        (true, false) => bail!("{label} is already paused"),
        (false, true) => bail!("{label} is not paused"),
        _ => Ok(()),
    }
}

async fn workload(session: &Session, args: &WorkloadArgs) -> Result<(Target, String)> {
    let selected = session.select(&args.words).await?;
    let [one] = selected.as_slice() else { bail!("one workload at a time") };
    let [name] = one.names.as_slice() else { bail!("name one workload, such as deployment/web") };
    if !matches!(one.row.plural.as_str(), "deployments" | "daemonsets" | "statefulsets") {
        bail!("{} have no rollouts; deployments, daemonsets and statefulsets do", one.row.plural);
    }
    Ok((session.object(&one.row, name), format!("{}.{}/{name}", one.row.singular, one.row.group)))
}

async fn change(session: &Session, args: &WorkloadArgs, patch: &Value, word: &str) -> Result<()> {
    let (target, label) = workload(session, args).await?;
    session.client.patch(&target, PatchType::Merge, encode(patch)?, &WriteOptions::default()).await?;
    println!("{label} {word}");
    Ok(())
}

/// How far a rollout is.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Waiting(String),
    Done(String),
}

async fn status(session: &Session, args: &StatusArgs) -> Result<()> {
    let (target, _) = workload(session, &args.workload).await?;
    let deadline = (!args.timeout.is_zero()).then(|| Instant::now() + args.timeout);
    let mut last = String::new();
    loop {
        match session.client.get(&target, &GetOptions::default()).await {
            Ok(document) => match progress(&decode(&document)?)? {
                Progress::Done(text) => {
                    println!("{text}");
                    return Ok(());
                }
                Progress::Waiting(text) => {
                    if text != last {
                        println!("{text}");
                        last = text;
                    }
                }
            },
            // A server that has just died is no failed rollout.
            Err(status) if status.is_retriable() => {}
            Err(status) => return Err(status.into()),
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            bail!("timed out waiting for the rollout");
        }
        tokio::time::sleep(POLL).await;
    }
}

fn progress(object: &Value) -> Result<Progress> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64);
    let seen = number("/status/observedGeneration").unwrap_or(0);
    if seen < number("/metadata/generation").unwrap_or(0) {
        return Ok(Progress::Waiting(format!("Waiting for {name} spec update to be observed...")));
    }
    let status = |field: &str| number(&format!("/status/{field}")).unwrap_or(0);
    let waiting =
        |text: String| Ok(Progress::Waiting(format!("Waiting for \"{name}\" rollout to finish: {text}...")));
    if object["kind"] == "DaemonSet" {
        let (wanted, updated) = (status("desiredNumberScheduled"), status("updatedNumberScheduled"));
        if updated < wanted {
            return waiting(format!("{updated} out of {wanted} new pods have been updated"));
        }
        if status("numberAvailable") < wanted {
            return waiting(format!("{} of {wanted} updated pods are available", status("numberAvailable")));
        }
        return Ok(Progress::Done(format!("daemon set \"{name}\" successfully rolled out")));
    }
    let conditions = object["status"]["conditions"].as_array();
    let failed =
        conditions.into_iter().flatten().any(|condition| condition["reason"] == "ProgressDeadlineExceeded");
    if failed {
        bail!(
            "{name} exceeded its progress deadline; `kontiki describe` shows why, `rollout undo` goes back"
        );
    }
    let wanted = number("/spec/replicas").unwrap_or(1);
    let updated = status("updatedReplicas");
    if updated < wanted {
        return waiting(format!("{updated} out of {wanted} new replicas have been updated"));
    }
    if object["kind"] == "Deployment" {
        if status("replicas") > updated {
            return waiting(format!("{} old replicas are pending termination", status("replicas") - updated));
        }
        if status("availableReplicas") < updated {
            return waiting(format!(
                "{} of {updated} updated replicas are available",
                status("availableReplicas")
            ));
        }
        return Ok(Progress::Done(format!("deployment \"{name}\" successfully rolled out")));
    }
    if status("readyReplicas") < wanted {
        return waiting(format!("{} of {wanted} pods are ready", status("readyReplicas")));
    }
    Ok(Progress::Done(format!("{name} successfully rolled out")))
}

/// Revisions of a deployment, oldest first, with the replica set of each.
async fn revisions(session: &Session, target: &Target) -> Result<Vec<(i64, Value)>> {
    if target.resource != "deployments" {
        bail!("history and undo are built for deployments alone");
    }
    let deployment: Value = decode(&session.client.get(target, &GetOptions::default()).await?)?;
    let uid = &deployment["metadata"]["uid"];
    let row = Registry::builtin().find("apps", "v1", "replicasets").context("replica sets are built in")?;
    let collection = Target::of(row).within(&target.namespace);
    let list = session.client.list(&collection, &ListOptions::default()).await?;
    let mut found = Vec::new();
    for item in &list.items {
        let set: Value = decode(item)?;
        let owners = set["metadata"]["ownerReferences"].as_array();
        let owned =
            owners.into_iter().flatten().any(|owner| &owner["uid"] == uid && owner["controller"] == true);
        let revision = set["metadata"]["annotations"][REVISION].as_str().and_then(|text| text.parse().ok());
        if let (true, Some(revision)) = (owned, revision) {
            found.push((revision, set));
        }
    }
    found.sort_by_key(|(revision, _)| *revision);
    Ok(found)
}

async fn history(session: &Session, args: &HistoryArgs) -> Result<()> {
    let (target, label) = workload(session, &args.workload).await?;
    let revisions = revisions(session, &target).await?;
    if let Some(wanted) = args.revision {
        let (_, set) = revisions
            .iter()
            .find(|(revision, _)| *revision == wanted)
            .with_context(|| format!("unable to find the specified revision {wanted}"))?;
        println!("{label} with revision #{wanted}");
        print!("{}", serde_saphyr::to_string(&set["spec"]["template"])?);
        return Ok(());
    }
    let mut lines = vec![vec!["REVISION".to_string(), "CHANGE-CAUSE".to_string()]];
    for (revision, set) in &revisions {
        let cause = set["metadata"]["annotations"][CHANGE_CAUSE].as_str().unwrap_or("<none>");
        lines.push(vec![revision.to_string(), cause.to_string()]);
    }
    println!("{label}");
    if revisions.is_empty() {
        println!("No rollout history found.");
        return Ok(());
    }
    print!("{}", align(&lines));
    Ok(())
}

async fn undo(session: &Session, args: &UndoArgs) -> Result<()> {
    let (target, label) = workload(session, &args.workload).await?;
    let revisions = revisions(session, &target).await?;
    let set = match args.to_revision {
        Some(wanted) => revisions
            .iter()
            .find(|(revision, _)| *revision == wanted)
            .with_context(|| format!("unable to find the specified revision {wanted}"))?,
        None => {
            revisions.iter().rev().nth(1).context("no rollout history found: there is no earlier revision")?
        }
    };
    let mut template = set.1["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove("pod-template-hash");
    }
    // A JSON patch replaces the template as a whole, where a merge would mix two.
    let patch = json!([{ "op": "replace", "path": "/spec/template", "value": template }]);
    session.client.patch(&target, PatchType::Json, encode(&patch)?, &WriteOptions::default()).await?;
    println!("{label} rolled back");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(generation: i64, seen: i64, status: [i64; 3]) -> Value {
        let [replicas, updated, available] = status;
        json!({
            "kind": "Deployment",
            "metadata": { "name": "web", "generation": generation },
            "spec": { "replicas": 3 },
            "status": {
                "observedGeneration": seen,
                "replicas": replicas, "updatedReplicas": updated, "availableReplicas": available,
            },
        })
    }

    #[test]
    fn a_rollout_is_done_when_all_replicas_are_new_and_available() {
        for (object, waits_for) in [
            (deployment(2, 1, [3, 3, 3]), "observed"),
            (deployment(2, 2, [4, 2, 3]), "2 out of 3 new"),
            (deployment(2, 2, [4, 3, 3]), "1 old replicas"),
            (deployment(2, 2, [3, 3, 2]), "2 of 3 updated"),
        ] {
            let Progress::Waiting(text) = progress(&object).unwrap() else { panic!("{object} is not done") };
            assert!(text.contains(waits_for), "{text} has {waits_for}");
        }
        assert!(matches!(progress(&deployment(2, 2, [3, 3, 3])).unwrap(), Progress::Done(_)));
    }

    #[test]
    fn a_missed_deadline_fails_and_says_what_to_do() {
        let mut object = deployment(1, 1, [3, 1, 1]);
        object["status"]["conditions"] =
            json!([{ "type": "Progressing", "reason": "ProgressDeadlineExceeded" }]);
        assert!(progress(&object).unwrap_err().to_string().contains("rollout undo"));
    }
}
