//! Debian's etcd, asked as Kubernetes asks it: a put guarded by the key's absence, in one transaction.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use http::uri::PathAndQuery;
use tempfile::TempDir;
use tokio::process::Child;
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::load::Caller;
use crate::cluster::command;

const PROGRAM: &str = "/usr/bin/etcd";

/// The part of etcd's v3 messages a create needs; numbers as its protocol has them.
mod message {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Compare {
        /// 0: equal.
        #[prost(int32, tag = "1")]
        pub result: i32,
        /// 1: the create revision.
        #[prost(int32, tag = "2")]
        pub target: i32,
        #[prost(bytes = "vec", tag = "3")]
        pub key: Vec<u8>,
        #[prost(int64, optional, tag = "5")]
        pub create_revision: Option<i64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Put {
        #[prost(bytes = "vec", tag = "1")]
        pub key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Operation {
        #[prost(message, optional, tag = "2")]
        pub put: Option<Put>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Txn {
        #[prost(message, repeated, tag = "1")]
        pub compare: Vec<Compare>,
        #[prost(message, repeated, tag = "2")]
        pub success: Vec<Operation>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct TxnReply {
        #[prost(bool, tag = "2")]
        pub succeeded: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct StatusRequest {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Header {
        #[prost(uint64, tag = "2")]
        pub member_id: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct StatusReply {
        #[prost(message, optional, tag = "1")]
        pub header: Option<Header>,
        #[prost(uint64, tag = "4")]
        pub leader: u64,
    }
}

pub fn available() -> bool {
    Path::new(PROGRAM).exists()
}

/// etcd processes on loopback; they die with this.
pub struct Etcd {
    dir: TempDir,
    members: Vec<Option<Child>>,
}

fn client_url(member: usize) -> String {
    format!("http://127.0.0.1:{}", 12379 + member * 10)
}

fn peer_url(member: usize) -> String {
    format!("http://127.0.0.1:{}", 12380 + member * 10)
}

impl Etcd {
    /// Starts a cluster and waits until it takes a write.
    ///
    /// # Errors
    /// With the end of etcd's log.
    pub async fn start(size: usize) -> Result<Etcd> {
        let dir = tempfile::Builder::new().prefix("kontiki-etcd-").tempdir()?;
        let mut etcd = Etcd { dir, members: (0..size).map(|_| None).collect() };
        for member in 0..size {
            etcd.start_member(member)?;
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut client = Client::connect(0)?;
        while client.create("ready", b"").await.is_err() {
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(etcd.dir.path().join("0.log")).unwrap_or_default();
                bail!("etcd takes no write: {}", log.lines().rev().take(3).collect::<Vec<_>>().join(" / "));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(etcd)
    }

    /// # Errors
    /// When the program cannot be started.
    pub fn start_member(&mut self, member: usize) -> Result<()> {
        let initial: Vec<String> =
            (0..self.members.len()).map(|other| format!("m{other}={}", peer_url(other))).collect();
        let mut command = command(Path::new(PROGRAM), None, &self.dir.path().join(format!("{member}.log")))?;
        command
            .args(["--name", &format!("m{member}"), "--data-dir"])
            .arg(self.dir.path().join(member.to_string()));
        command.args([
            "--listen-client-urls",
            &client_url(member),
            "--advertise-client-urls",
            &client_url(member),
        ]);
        command.args([
            "--listen-peer-urls",
            &peer_url(member),
            "--initial-advertise-peer-urls",
            &peer_url(member),
        ]);
        command.args(["--initial-cluster", &initial.join(","), "--log-level", "error", "--logger", "zap"]);
        self.members[member] = Some(command.spawn().context("cannot start etcd")?);
        Ok(())
    }

    /// Ends all members and waits, so that the next cluster finds its ports free.
    pub async fn stop(mut self) {
        for member in self.members.iter_mut().filter_map(Option::take) {
            let mut member = member;
            if let Err(error) = member.kill().await {
                tracing::warn!(%error, "an etcd member was not ended");
            }
        }
    }

    /// # Errors
    /// When the member cannot be killed.
    pub async fn kill(&mut self, member: usize) -> Result<()> {
        if let Some(mut child) = self.members[member].take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// # Errors
    /// When no member says that it leads within 20 s.
    pub async fn leader(&self) -> Result<usize> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            for member in 0..self.members.len() {
                if self.members[member].is_some()
                    && let Ok(mut client) = Client::connect(member)
                    && let Ok((own, leader)) = client.status().await
                    && own == leader
                {
                    return Ok(member);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("etcd has no leader")
    }
}

/// One connection; clones share it.
#[derive(Clone)]
pub struct Client {
    grpc: Grpc<Channel>,
}

impl Client {
    /// Connects when it is first used.
    ///
    /// # Errors
    /// Never for the addresses used here.
    pub fn connect(member: usize) -> Result<Client> {
        let endpoint =
            Endpoint::from_shared(client_url(member))?.tcp_nodelay(true).timeout(Duration::from_secs(5));
        Ok(Client { grpc: Grpc::new(endpoint.connect_lazy()) })
    }

    async fn ask<Q, A>(&mut self, path: &'static str, question: Q) -> Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.grpc.ready().await.context("etcd does not answer")?;
        let request = tonic::Request::new(question);
        Ok(self
            .grpc
            .unary(request, PathAndQuery::from_static(path), ProstCodec::<Q, A>::default())
            .await?
            .into_inner())
    }

    /// # Errors
    /// A key that exists, or etcd's own.
    pub async fn create(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let key = key.as_bytes().to_vec();
        let absent = message::Compare { result: 0, target: 1, key: key.clone(), create_revision: Some(0) };
        let put = message::Operation { put: Some(message::Put { key, value: value.to_vec() }) };
        let txn = message::Txn { compare: vec![absent], success: vec![put] };
        let reply: message::TxnReply = self.ask("/etcdserverpb.KV/Txn", txn).await?;
        if reply.succeeded { Ok(()) } else { bail!("the key exists") }
    }

    async fn status(&mut self) -> Result<(u64, u64)> {
        let reply: message::StatusReply =
            self.ask("/etcdserverpb.Maintenance/Status", message::StatusRequest {}).await?;
        Ok((reply.header.context("a status without header")?.member_id, reply.leader))
    }
}

/// Creates keys with a value of the size given.
pub struct Creates {
    pub client: Client,
    pub value: Vec<u8>,
}

#[async_trait]
impl Caller for Creates {
    async fn call(&mut self, number: u64) -> Result<()> {
        self.client.create(&format!("/registry/configmaps/bench/object-{number}"), &self.value).await
    }
}
