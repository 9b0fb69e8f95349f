//! `kontiki cluster`: the servers.
//!
//! | file | holds |
//! |---|---|
//! | here | who is a member, who leads, and changes of both |
//! | `backup` | the state into a file, and that file's check |
//! | `offline` | a new cluster out of a backup, or of one survivor |

mod backup;
mod offline;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use kontiki_proto::{Status, pb};
use serde_json::{Value, json};

use crate::output::table::align;
use crate::session::Session;

/// Membership changes wait for a server to catch up.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Subcommand)]
pub enum ClusterCommand {
    /// Every server: who leads, how far each is
    Status(StatusArgs),
    /// The servers' ids and addresses
    Members(StatusArgs),
    /// Admit the server that waits at a peer address: learner first, then voter
    Join(JoinArgs),
    /// Remove a server for good; its id is never used again
    Leave(LeaveArgs),
    /// Hand leadership to another server
    Transfer(TransferArgs),
    /// Exchange a dead server for a new one, which waits with an empty data directory and --join
    Replace(ReplaceArgs),
    /// Write everything the cluster holds, at one revision, to a file
    Backup(backup::BackupArgs),
    /// Check a backup; needs no cluster
    Verify(backup::VerifyArgs),
    /// Make an empty data directory a new cluster of one server that holds what a backup holds
    Restore(offline::RestoreArgs),
    /// Make one survivor's data directory a new cluster of one server, when the quorum is lost for good
    Recover(offline::RecoverArgs),
}

#[derive(Args)]
pub struct StatusArgs {
    /// json
    #[arg(long, short)]
    output: Option<JsonFormat>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum JsonFormat {
    Json,
}

#[derive(Args)]
pub struct JoinArgs {
    /// Peer address of the new server, host:port
    peer_address: String,
    /// Its API address, host:port
    #[arg(long)]
    client_address: String,
}

#[derive(Args)]
pub struct LeaveArgs {
    /// Id of the server, as `cluster members` shows it
    id: u64,
}

#[derive(Args)]
pub struct TransferArgs {
    /// Id of the new leader [default: any other voter]
    id: Option<u64>,
}

#[derive(Args)]
pub struct ReplaceArgs {
    /// Id of the dead server, as `cluster members` shows it
    member: u64,
    /// Peer address of the new server, host:port
    #[arg(long = "with", value_name = "ADDRESS")]
    peer_address: String,
}

/// What needs no cluster.
///
/// # Errors
/// What is wrong with the file or directory, and the way out.
pub fn run_offline(command: &ClusterCommand) -> Option<Result<()>> {
    match command {
        ClusterCommand::Verify(args) => Some(backup::verify(args)),
        ClusterCommand::Restore(args) => Some(offline::restore(args)),
        ClusterCommand::Recover(args) => Some(offline::recover(args)),
        _ => None,
    }
}

/// # Errors
/// What the server said.
pub async fn run(session: &Session, command: ClusterCommand) -> Result<()> {
    match command {
        ClusterCommand::Status(args) => {
            let status = session.client.cluster_status().await?;
            show(&status, args.output, &status_table(&status))
        }
        ClusterCommand::Members(args) => {
            let status = session.client.cluster_status().await?;
            show(&status, args.output, &members_table(&status))
        }
        ClusterCommand::Join(args) => {
            let request = pb::JoinRequest {
                peer_address: args.peer_address.clone(),
                client_address: args.client_address,
            };
            eprintln!("waiting for {} to catch up", args.peer_address);
            let reply = bounded(session.client.cluster().join(request)).await?;
            println!("member {} of cluster {} votes", reply.id, reply.cluster_id);
            Ok(())
        }
        ClusterCommand::Leave(args) => {
            bounded(session.client.cluster().leave(pb::LeaveRequest { id: args.id })).await?;
            println!("member {} has left; stop its process and remove its data", args.id);
            Ok(())
        }
        ClusterCommand::Transfer(args) => {
            let request = pb::TransferRequest { to: args.id.unwrap_or(0) };
            let reply = bounded(session.client.cluster().transfer(request)).await?;
            println!("member {} leads", reply.leader);
            Ok(())
        }
        ClusterCommand::Replace(args) => {
            let ReplaceArgs { member, peer_address } = args;
            eprintln!("waiting for {peer_address} to catch up");
            let request = pb::ReplaceRequest { id: member, peer_address };
            let reply = bounded(session.client.cluster().replace(request)).await?;
            println!("member {} votes in place of member {member}, whose id is never used again", reply.id);
            Ok(())
        }
        ClusterCommand::Backup(args) => backup::backup(session, &args).await,
        offline => run_offline(&offline).unwrap_or(Ok(())),
    }
}

async fn bounded<T>(call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Result<T> {
    let answer = tokio::time::timeout(PATIENCE, call).await.with_context(|| {
        format!("no answer within {PATIENCE:?}; `kontiki cluster status` shows how far it is")
    })?;
    Ok(answer.map_err(Status::from)?.into_inner())
}

fn show(status: &pb::StatusReply, format: Option<JsonFormat>, table: &str) -> Result<()> {
    if format == Some(JsonFormat::Json) {
        println!("{}", serde_json::to_string_pretty(&document(status))?);
    } else {
        print!("{table}");
    }
    Ok(())
}

fn document(status: &pb::StatusReply) -> Value {
    let members: Vec<Value> = status
        .members
        .iter()
        .map(|m| {
            json!({
                "id": m.id,
                "address": m.address,
                "client_address": m.client_address,
                "leader": m.leader,
                "voter": m.voter,
                "reachable": m.reachable,
                "term": m.term,
                "applied": m.applied,
                "revision": m.revision,
                "db_bytes": m.db_bytes,
                "pid": m.pid,
                "version": m.version,
                // Hexadecimal, because JSON numbers lose bits past 53.
                "state_hash": format!("{:016x}", m.state_hash),
            })
        })
        .collect();
    json!({ "cluster_id": status.cluster_id, "answered_by": status.answered_by, "members": members })
}

fn role(member: &pb::MemberStatus) -> &'static str {
    match (member.reachable, member.leader, member.voter) {
        (false, ..) => "unreachable",
        (_, true, _) => "leader",
        (_, _, true) => "follower",
        _ => "learner",
    }
}

fn status_table(status: &pb::StatusReply) -> String {
    let header = ["ID", "ROLE", "TERM", "APPLIED", "REVISION", "SIZE", "PID", "ADDRESS"];
    let mut lines = vec![header.map(String::from).to_vec()];
    for m in &status.members {
        let known = |number: u64| if m.reachable { number.to_string() } else { "-".into() };
        lines.push(vec![
            m.id.to_string(),
            role(m).into(),
            known(m.term),
            known(m.applied),
            known(m.revision),
            if m.reachable { bytes(m.db_bytes) } else { "-".into() },
            known(m.pid.into()),
            m.client_address.clone(),
        ]);
    }
    align(&lines)
}

fn members_table(status: &pb::StatusReply) -> String {
    let mut lines = vec![["ID", "ROLE", "PEER", "API"].map(String::from).to_vec()];
    for m in &status.members {
        lines.push(vec![m.id.to_string(), role(m).into(), m.address.clone(), m.client_address.clone()]);
    }
    align(&lines)
}

fn bytes(size: u64) -> String {
    match size {
        0..1024 => format!("{size} B"),
        1024..1_048_576 => format!("{:.1} KiB", size as f64 / 1024.0),
        _ => format!("{:.1} MiB", size as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_what_scripts_rely_on() {
        let member = pb::MemberStatus { id: 1, leader: true, voter: true, pid: 7, ..Default::default() };
        let document = document(&pb::StatusReply { members: vec![member], ..Default::default() });
        for key in ["id", "address", "leader", "voter", "term", "applied", "revision", "db_bytes", "pid"] {
            assert!(!document["members"][0][key].is_null(), "{key}");
        }
    }

    #[test]
    fn a_server_that_does_not_answer_is_shown_without_numbers() {
        let member = pb::MemberStatus { id: 3, term: 0, reachable: false, ..Default::default() };
        let table = status_table(&pb::StatusReply { members: vec![member], ..Default::default() });
        assert!(table.lines().nth(1).unwrap().starts_with("3    unreachable   -"), "{table}");
    }
}
