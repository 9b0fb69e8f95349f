//! `kontiki logs`.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use kontiki_proto::api::{Api, GetOptions, ListOptions, decode};
use kontiki_proto::selector::Selector;
use kontiki_proto::{Registry, Status, Target, pb};
use serde_json::Value;

use super::wait::duration;
use crate::session::Session;

/// Between attempts to follow on after a server went away.
const RETRY: Duration = Duration::from_millis(500);
/// How often following on is tried without a line in between.
const MOST_RETRIES: u32 = 20;

#[derive(Args, Clone, Debug)]
pub struct LogsArgs {
    /// A pod, or a workload of which one pod is taken: `web-1`, `deployment/web`
    pod: Option<String>,
    /// The container [default: the first]
    container_name: Option<String>,
    #[arg(long, short)]
    container: Option<String>,
    /// Every container of the pod, one after another
    #[arg(long, conflicts_with_all = ["container", "container_name"])]
    all_containers: bool,
    /// All pods with these labels
    #[arg(long, short = 'l', default_value = "", conflicts_with = "pod")]
    selector: String,
    /// Go on as more is written
    #[arg(long, short)]
    follow: bool,
    /// The container's run before this one
    #[arg(long, short)]
    previous: bool,
    /// The last lines only; -1 is all
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    tail: i64,
    /// The time in front of each line
    #[arg(long)]
    timestamps: bool,
    /// Only what is younger, such as 5m
    #[arg(long, value_parser = duration)]
    since: Option<Duration>,
    /// Only what is younger than an RFC 3339 time
    #[arg(long, conflicts_with = "since")]
    since_time: Option<String>,
    /// Stop after so many bytes
    #[arg(long, default_value_t = 0)]
    limit_bytes: i64,
    /// Pod and container in front of each line
    #[arg(long)]
    prefix: bool,
}

/// # Errors
/// No such pod or container, or what the node said.
pub async fn logs(session: &Session, args: &LogsArgs) -> Result<()> {
    let pods = pods(session, args).await?;
    if pods.is_empty() {
        bail!("No resources found in {} namespace.", session.namespace);
    }
    let mut sources = Vec::new();
    for pod in &pods {
        for container in containers(pod, args)? {
            sources.push((name_of(pod), container));
        }
    }
    if args.follow && sources.len() > 1 {
        let following = sources.iter().map(|(pod, container)| follow(session, args, pod, container));
        futures::future::try_join_all(following).await?;
        return Ok(());
    }
    for (pod, container) in &sources {
        if args.follow {
            follow(session, args, pod, container).await?;
        } else {
            copy(session, args, pod, container).await?;
        }
    }
    Ok(())
}

fn name_of(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap_or_default().to_string()
}

async fn pods(session: &Session, args: &LogsArgs) -> Result<Vec<Value>> {
    if !args.selector.is_empty() {
        return list(session, &args.selector).await;
    }
    let Some(word) = &args.pod else {
        bail!("name a pod, or a workload as TYPE/NAME, or pods by -l SELECTOR")
    };
    pod_of(session, word).await.map(|pod| vec![pod])
}

/// The pod of that name, or a running one of the workload `TYPE/NAME`.
///
/// # Errors
/// There is none, or what the server said.
pub async fn pod_of(session: &Session, word: &str) -> Result<Value> {
    let (kind, name) = word.split_once('/').unwrap_or(("pods", word));
    let row = session.kind(kind).await?;
    let object: Value =
        decode(&session.client.get(&session.object(&row, name), &GetOptions::default()).await?)?;
    if row.plural == "pods" {
        return Ok(object);
    }
    let selector = match &object["spec"]["selector"] {
        // Services and replication controllers select by plain labels.
        plain if plain.get("matchLabels").is_none() && plain.get("matchExpressions").is_none() => {
            serde_json::from_value(plain.clone()).map(|labels| Selector::from_labels(&labels)).ok()
        }
        structured => serde_json::from_value(structured.clone())
            .ok()
            .and_then(|selector| Selector::from_label_selector(&selector).ok()),
    };
    let selector = selector.filter(|selector| !selector.is_empty());
    let selector = selector.with_context(|| format!("{word} selects no pods"))?;
    let pods = list(session, &selector.to_string()).await?;
    let is_running = |pod: &&Value| pod["status"]["phase"] == "Running";
    let chosen = pods.iter().find(is_running).or(pods.first());
    let chosen = chosen.with_context(|| format!("{word} has no pods"))?;
    if pods.len() > 1 {
        eprintln!("Found {} pods, using pod/{}", pods.len(), name_of(chosen));
    }
    Ok(chosen.clone())
}

async fn list(session: &Session, selector: &str) -> Result<Vec<Value>> {
    let row = Registry::builtin().find("", "v1", "pods").context("pods are built in")?;
    let options = ListOptions { label_selector: selector.into(), ..ListOptions::default() };
    let target = Target::of(row).within(&session.namespace);
    let list = session.client.list(&target, &options).await?;
    Ok(list.items.iter().map(|item| decode(item)).collect::<Result<_, Status>>()?)
}

/// The asked-for container, or the first, whose choice is said where there are others.
///
/// # Errors
/// The pod has no container of the name.
pub fn container_of(pod: &Value, asked: Option<&str>) -> Result<String> {
    let names = |field: &str| -> Vec<String> {
        let list = pod["spec"][field].as_array().into_iter().flatten();
        list.filter_map(|container| Some(container["name"].as_str()?.to_string())).collect()
    };
    let main = names("containers");
    let all = [main.clone(), names("initContainers"), names("ephemeralContainers")].concat();
    if let Some(asked) = asked {
        if all.iter().any(|name| name == asked) {
            return Ok(asked.to_string());
        }
        bail!("container {asked} is not valid for pod {}; it has {}", name_of(pod), all.join(", "));
    }
    let marked = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    let first = marked.map(String::from).filter(|name| all.contains(name)).or(main.first().cloned());
    let first = first.with_context(|| format!("pod {} has no containers", name_of(pod)))?;
    if all.len() > 1 && marked.is_none() {
        eprintln!("Defaulted container \"{first}\" out of: {}", all.join(", "));
    }
    Ok(first)
}

fn containers(pod: &Value, args: &LogsArgs) -> Result<Vec<String>> {
    if args.all_containers {
        let names = |field: &str| pod["spec"][field].as_array().cloned().unwrap_or_default();
        let all = [names("initContainers"), names("containers")].concat();
        return Ok(all.iter().filter_map(|c| Some(c["name"].as_str()?.to_string())).collect());
    }
    let asked = args.container.as_deref().or(args.container_name.as_deref());
    Ok(vec![container_of(pod, asked)?])
}

fn request(session: &Session, args: &LogsArgs, pod: &str, container: &str) -> pb::LogsRequest {
    pb::LogsRequest {
        namespace: session.namespace.clone(),
        pod: pod.into(),
        container: container.into(),
        follow: args.follow,
        previous: args.previous,
        timestamps: args.timestamps,
        tail_lines: args.tail,
        limit_bytes: args.limit_bytes,
        since_seconds: args.since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX)),
        since_time: args.since_time.clone().unwrap_or_default(),
    }
}

fn prefix(args: &LogsArgs, pod: &str, container: &str) -> String {
    if args.prefix { format!("[pod/{pod}/{container}] ") } else { String::new() }
}

async fn copy(session: &Session, args: &LogsArgs, pod: &str, container: &str) -> Result<()> {
    let reply = session.client.pod_streams().logs(request(session, args, pod, container)).await;
    let mut chunks = reply.map_err(Status::from)?.into_inner();
    let prefix = prefix(args, pod, container);
    let mut lines = Lines::default();
    while let Some(chunk) = chunks.message().await.map_err(Status::from)? {
        if prefix.is_empty() {
            write_out(&chunk.data)?;
        } else {
            for line in lines.push(&chunk.data) {
                write_out(format!("{prefix}{line}").as_bytes())?;
            }
        }
    }
    match lines.rest() {
        Some(line) => write_out(format!("{prefix}{line}").as_bytes()),
        None => Ok(()),
    }
}

/// Follows on at another server when one goes away. Lines are asked for with their times, so that none comes twice.
async fn follow(session: &Session, args: &LogsArgs, pod: &str, container: &str) -> Result<()> {
    let mut request = pb::LogsRequest { timestamps: true, ..request(session, args, pod, container) };
    let prefix = prefix(args, pod, container);
    let mut last_time = String::new();
    let mut retries = 0;
    loop {
        let skip_until = last_time.clone();
        let mut lines = Lines::default();
        let outcome: Result<(), Status> = async {
            let reply = session.client.pod_streams().logs(request.clone()).await.map_err(Status::from)?;
            let mut chunks = reply.into_inner();
            while let Some(chunk) = chunks.message().await.map_err(Status::from)? {
                for line in lines.push(&chunk.data) {
                    let (time, text) = line.split_once(' ').unwrap_or(("", &line));
                    if !skip_until.is_empty() && time <= skip_until.as_str() {
                        continue;
                    }
                    last_time = time.to_string();
                    retries = 0;
                    let shown = if args.timestamps { &line } else { text };
                    write_out(format!("{prefix}{shown}").as_bytes())
                        .map_err(|error| Status::bad_request(error.to_string()))?;
                }
            }
            Ok(())
        }
        .await;
        match outcome {
            Ok(()) => return Ok(()),
            // What the transport breaks off has no document, and comes as 500 or 503.
            Err(status) if matches!(status.code, 500 | 503 | 504) && retries < MOST_RETRIES => {
                retries += 1;
                session.client.turn_away();
                tokio::time::sleep(RETRY).await;
            }
            Err(status) => return Err(status.into()),
        }
        if !last_time.is_empty() {
            request.since_time.clone_from(&last_time);
            request.since_seconds = 0;
            request.tail_lines = -1;
        }
    }
}

fn write_out(data: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(data)?;
    out.flush()?;
    Ok(())
}

/// Puts chunks together to lines, which keep their line feed.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    fn push(&mut self, data: &[u8]) -> Vec<String> {
        self.partial.extend_from_slice(data);
        let end = self.partial.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = self.partial.drain(..end).collect();
        whole
            .split_inclusive(|&b| b == b'\n')
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect()
    }

    fn rest(&self) -> Option<String> {
        (!self.partial.is_empty()).then(|| String::from_utf8_lossy(&self.partial).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn chunks_become_lines_wherever_they_are_cut() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"a\nb"), ["a\n"]);
        assert_eq!(lines.push(b"c\n\n"), ["bc\n", "\n"]);
        assert_eq!(lines.push("ä".as_bytes().get(..1).unwrap()), Vec::<String>::new());
        assert_eq!(lines.push("ä\n".as_bytes().get(1..).unwrap()), ["ä\n"]);
        lines.push(b"end");
        assert_eq!(lines.rest().as_deref(), Some("end"));
    }

    #[test]
    fn a_container_is_the_one_asked_for_the_marked_or_the_first() {
        let mut pod = json!({
            "metadata": { "name": "p", "annotations": {} },
            "spec": { "initContainers": [{ "name": "i" }], "containers": [{ "name": "a" }, { "name": "b" }] },
        });
        assert_eq!(container_of(&pod, None).unwrap(), "a");
        assert_eq!(container_of(&pod, Some("i")).unwrap(), "i");
        let error = container_of(&pod, Some("x")).unwrap_err().to_string();
        assert!(error.contains("a, b, i"), "{error}");
        pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] = json!("b");
        assert_eq!(container_of(&pod, None).unwrap(), "b");
    }
}
