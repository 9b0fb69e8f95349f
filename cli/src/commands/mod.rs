//! The client commands, one file each. All of them speak gRPC.

mod apply;
mod cluster;
mod create;
mod delete;
mod describe;
mod edit;
mod exec;
mod explain;
mod get;
mod logs;
mod meta;
mod misc;
mod rollout;
mod wait;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use kontiki_proto::Status;

use crate::session::Session;

/// Options of every client command.
#[derive(Args, Clone, Debug, Default)]
pub struct Global {
    /// Kubeconfig file [default: $KUBECONFIG, ~/.kube/config, .kontiki/kubeconfig]
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one]
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// Namespace [default: the context's]
    #[arg(long, short, global = true)]
    pub namespace: Option<String>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Show objects
    Get(get::GetArgs),
    /// Show objects and follow their changes
    Watch(get::WatchArgs),
    /// Show an object, its parts and its events for people
    Describe(describe::DescribeArgs),
    /// Create objects from files, or by kind
    Create(Box<create::CreateArgs>),
    /// Make objects what files say
    Apply(apply::ApplyArgs),
    /// Edit an object in $EDITOR
    Edit(edit::EditArgs),
    /// Change an object by a patch
    Patch(edit::PatchArgs),
    /// Set or remove labels
    Label(meta::MetaArgs),
    /// Set or remove annotations
    Annotate(meta::MetaArgs),
    /// Set the number of replicas
    Scale(meta::ScaleArgs),
    /// Set images of a workload's containers
    Set(meta::SetArgs),
    /// Follow, show, undo, restart or pause a rollout
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
    /// Delete objects
    Delete(delete::DeleteArgs),
    /// Show what a container wrote
    Logs(logs::LogsArgs),
    /// Run a command in a container
    Exec(exec::ExecArgs),
    /// Wait for a condition
    Wait(wait::WaitArgs),
    /// Servers of the cluster
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Fields of a kind: `explain pod.spec.containers`
    Explain(explain::ExplainArgs),
    /// What the cluster serves
    ApiResources(misc::ApiResourcesArgs),
    /// Versions of this program and of the server
    Version(misc::VersionArgs),
    /// Resource use (not built yet)
    Top,
    /// Print the completion script of a shell
    Completion(CompletionArgs),
}

impl Command {
    /// # Errors
    /// What the server said, in a form for people: see [`explain_error`].
    pub async fn run(self, global: &Global) -> Result<()> {
        match &self {
            Command::Explain(args) if explain::explain_builtin(args)? => return Ok(()),
            Command::Version(args) if args.client => return misc::client_version(args),
            Command::Cluster(command) => {
                if let Some(done) = cluster::run_offline(command) {
                    return done;
                }
            }
            _ => {}
        }
        let session = Session::open(global)?;
        match self {
            Command::Get(args) => get::get(&session, &args).await,
            Command::Watch(args) => get::watch(&session, &args).await,
            Command::Describe(args) => describe::describe(&session, &args).await,
            Command::Create(args) => create::create(&session, &args).await,
            Command::Apply(args) => apply::apply(&session, &args).await,
            Command::Edit(args) => edit::edit(&session, &args).await,
            Command::Patch(args) => edit::patch(&session, &args).await,
            Command::Label(args) => meta::set(&session, &args, "labels").await,
            Command::Annotate(args) => meta::set(&session, &args, "annotations").await,
            Command::Scale(args) => meta::scale(&session, &args).await,
            Command::Set(args) => meta::set_image(&session, &args).await,
            Command::Rollout(command) => rollout::run(&session, command).await,
            Command::Delete(args) => delete::delete(&session, &args).await,
            Command::Logs(args) => logs::logs(&session, &args).await,
            Command::Exec(args) => exec::exec(&session, args).await,
            Command::Wait(args) => wait::wait(&session, &args).await,
            Command::Cluster(command) => cluster::run(&session, command).await,
            Command::Explain(args) => explain::explain_custom(&session, &args).await,
            Command::ApiResources(args) => misc::api_resources(&session, &args).await,
            Command::Version(args) => misc::version(&session, &args).await,
            Command::Top => anyhow::bail!("top needs the metrics API, which is not built yet"),
            Command::Completion(_) => anyhow::bail!("the program's root prints completions"),
        }
    }
}

#[derive(Args, Clone, Debug)]
pub struct CompletionArgs {
    /// bash, zsh, fish, elvish or powershell
    pub shell: clap_complete::Shell,
}

/// Several objects failed, each with a reason of its own; the others are done.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Failures(Vec<String>);

impl Failures {
    /// # Errors
    /// The one error, or all of them together, if there are any.
    pub fn check(mut errors: Vec<anyhow::Error>) -> Result<()> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Failures(errors.iter().map(explain_error).collect()).into()),
        }
    }
}

/// A command in a container ended with this code, and so does this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("command terminated with exit code {0}")]
pub struct ExitCode(pub u8);

/// What the program ends with after an error.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<ExitCode>().map_or(1, |code| code.0)
}

/// An error as kubectl words it, and what to do next where that is known.
pub fn explain_error(error: &anyhow::Error) -> String {
    if let Some(failures) = error.downcast_ref::<Failures>() {
        return failures.to_string();
    }
    let Some(status) = error.chain().find_map(|cause| cause.downcast_ref::<Status>()) else {
        return format!("error: {error:#}");
    };
    let hint = match status.code {
        401 => "\n  the kubeconfig's certificate or token is not (or no longer) accepted",
        503 => {
            "\n  is the cluster up? `kontiki cluster status` says which servers answer, `kontiki up` starts them"
        }
        504 => "\n  the outcome is unknown; look before trying again",
        _ => "",
    };
    let context: String = error
        .chain()
        .take_while(|cause| cause.downcast_ref::<Status>().is_none())
        .map(|cause| format!("{cause}: "))
        .collect();
    format!("{context}Error from server ({}): {}{hint}", status.reason, status.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_refusal_reads_as_in_kubectl() {
        let row = kontiki_proto::Registry::builtin().find_name("pods").unwrap();
        let error = anyhow::Error::from(Status::not_found(row, "a"));
        assert_eq!(explain_error(&error), "Error from server (NotFound): pods \"a\" not found");
        let both = Failures::check(vec![error, anyhow::anyhow!("bad")]).unwrap_err();
        assert_eq!(explain_error(&both), "Error from server (NotFound): pods \"a\" not found\nerror: bad");
        assert!(explain_error(&Status::unavailable("no leader").into()).contains("kontiki up"));
    }
}
