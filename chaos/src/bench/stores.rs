//! Stores as processes, one kind beside the other: our `kv` example, and Debian's etcd.
//!
//! Both are asked over plain HTTP/2, each by a client of its own on one connection, for what Kubernetes asks of etcd: a put
//! that is guarded by the key's absence, in one transaction. Kontiki's servers speak mutual TLS among themselves; etcd's
//! do not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{Compare, CompareOp, TxnOp};
use http::uri::PathAndQuery;
use tempfile::TempDir;
use tokio::process::Child;
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::load::Caller;
use crate::cluster::command;
use crate::world::{Place, Trouble};

#[path = "../../../store/examples/kv/message.rs"]
mod message;

const ETCD: &str = "/usr/bin/etcd";
const READY: Duration = Duration::from_secs(30);
const MB: f64 = 1_048_576.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Kontiki,
    Etcd,
}

/// Whether Debian's etcd is installed.
pub fn etcd_available() -> bool {
    Path::new(ETCD).exists()
}

/// `$KONTIKI_KV`, or the example `kv` beside this program.
fn kv_program() -> Result<PathBuf> {
    let program = match std::env::var_os("KONTIKI_KV") {
        Some(program) => PathBuf::from(program),
        None => std::env::current_exe()?.with_file_name("examples").join("kv"),
    };
    if !program.exists() {
        bail!(
            "{} does not exist; build it (`cargo build --release -p kontiki-store --example kv`) or set KONTIKI_KV",
            program.display()
        );
    }
    Ok(program)
}

struct Member {
    place: Option<Place>,
    /// Both `host:port`.
    client: String,
    peer: String,
    child: Option<Child>,
}

/// The processes of one cluster; they die with this, and their data with them.
pub struct Stores {
    kind: Kind,
    program: PathBuf,
    dir: TempDir,
    members: Vec<Member>,
}

impl Stores {
    /// Starts a cluster and waits until all of it takes writes. `apart`: each server in a network namespace of its own,
    /// so that it can be cut off.
    ///
    /// # Errors
    /// With the end of the log of the server that is at fault.
    pub async fn start(kind: Kind, size: usize, apart: bool) -> Result<Stores> {
        let dir = tempfile::Builder::new().prefix("kontiki-bench-").tempdir()?;
        let program = match kind {
            Kind::Kontiki => kv_program()?,
            Kind::Etcd => PathBuf::from(ETCD),
        };
        let (base, members) = (if kind == Kind::Etcd { 12379 } else { 13379 }, 0..size);
        let members = members.map(|number| {
            let place = if apart { Some(Place::new(number as u8 + 1)?) } else { None };
            let (host, port) = match &place {
                Some(place) => (place.address.to_string(), base),
                None => ("127.0.0.1".to_owned(), base + number * 10),
            };
            let (client, peer) = (format!("{host}:{port}"), format!("{host}:{}", port + 1));
            Ok(Member { place, client, peer, child: None })
        });
        let members = members.collect::<Result<Vec<_>>>()?;
        let mut stores = Stores { kind, program, dir, members };
        if kind == Kind::Kontiki {
            let made = std::process::Command::new(&stores.program)
                .arg("authority")
                .arg(stores.dir.path().join("tls"))
                .status()?;
            if !made.success() {
                bail!("no certificates were made: {made}");
            }
            // One by one: a member joins a cluster that is there.
            for number in 0..size {
                stores.start_member(number)?;
                stores.await_voters(number, number as u64 + 1).await?;
            }
        } else {
            for number in 0..size {
                stores.start_member(number)?;
            }
        }
        for number in 0..size {
            stores.await_write(number, "ready").await?;
        }
        Ok(stores)
    }

    /// # Errors
    /// When the program cannot be started.
    pub fn start_member(&mut self, number: usize) -> Result<()> {
        let member = &self.members[number];
        let netns = member.place.as_ref().map(Place::netns);
        let log = self.dir.path().join(format!("{number}.log"));
        let mut command = command(&self.program, netns, &log)?;
        let data = self.data(number);
        if self.kind == Kind::Kontiki {
            command.arg("serve").arg("--data").arg(data).arg("--tls").arg(self.dir.path().join("tls"));
            command.args(["--listen", &member.client, "--peer", &member.peer]);
            for other in &self.members[..number] {
                command.args(["--join", &other.peer]);
            }
        } else {
            let url = |address: &str| format!("http://{address}");
            let named = |(number, member): (usize, &Member)| format!("m{number}={}", url(&member.peer));
            let initial: Vec<String> = self.members.iter().enumerate().map(named).collect();
            let (client, peer) = (url(&member.client), url(&member.peer));
            command.args(["--name", &format!("m{number}"), "--data-dir"]).arg(data);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args([
                "--initial-cluster",
                &initial.join(","),
                "--log-level",
                "error",
                "--logger",
                "zap",
            ]);
        }
        let started = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        self.members[number].child = Some(started);
        Ok(())
    }

    fn data(&self, number: usize) -> PathBuf {
        self.dir.path().join(number.to_string())
    }

    fn last_words(&self, number: usize) -> String {
        let log = std::fs::read_to_string(self.dir.path().join(format!("{number}.log"))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(4)..].join(" / ")
    }

    async fn await_voters(&self, number: usize, count: u64) -> Result<()> {
        let deadline = Instant::now() + READY;
        let mut client = self.client(number).await?;
        while !client.voters().await.is_ok_and(|voters| voters >= count) {
            if Instant::now() > deadline {
                bail!("{count} servers do not all vote: {}", self.last_words(number));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits until the member takes a write.
    ///
    /// # Errors
    /// When it takes none within 30 s.
    pub async fn await_write(&self, number: usize, name: &str) -> Result<()> {
        let deadline = Instant::now() + READY;
        let mut client = self.client(number).await?;
        let mut attempt = 0;
        loop {
            let created = client.create(&format!("{name}-{number}-{attempt}"), &Bytes::new()).await;
            match created {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("no write is taken: {}", self.last_words(number))));
                }
                Err(_) => attempt += 1,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it without notice and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self, number: usize) -> Result<()> {
        if let Some(mut child) = self.members[number].child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Ends all members and waits, so that the next cluster finds its ports free.
    pub async fn stop(mut self) {
        for number in 0..self.members.len() {
            if let Err(error) = self.kill(number).await {
                tracing::warn!(%error, "a member was not ended");
            }
        }
    }

    /// The member that says that it leads.
    ///
    /// # Errors
    /// When none does within 30 s.
    pub async fn leader(&self) -> Result<usize> {
        let deadline = Instant::now() + READY;
        while Instant::now() < deadline {
            for number in (0..self.members.len()).filter(|number| self.members[*number].child.is_some()) {
                let asked = async { self.client(number).await?.leads().await };
                if matches!(tokio::time::timeout(Duration::from_secs(1), asked).await, Ok(Ok(true))) {
                    return Ok(number);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("{:?} has no leader", self.kind)
    }

    /// A connection of its own to one member; made when it is first used.
    ///
    /// # Errors
    /// Never for the addresses used here.
    pub async fn client(&self, number: usize) -> Result<Client> {
        let address = format!("http://{}", self.members[number].client);
        let endpoint = Endpoint::from_shared(address)?.tcp_nodelay(true).timeout(Duration::from_secs(10));
        let channel = endpoint.connect_lazy();
        Ok(match self.kind {
            Kind::Kontiki => Client::Kontiki(Grpc::new(channel)),
            Kind::Etcd => {
                let channel = etcd_client::Channel::Tonic(channel);
                Client::Etcd(Box::new(etcd_client::Client::from_channel(channel, None).await?))
            }
        })
    }

    /// As many clients as asked for, each with a connection of its own, spread over all members; the first at the leader.
    ///
    /// # Errors
    /// When nobody leads, or a member does not answer.
    pub async fn clients(&self, count: usize) -> Result<Vec<Client>> {
        let leader = self.leader().await?;
        let mut clients = Vec::new();
        for number in 0..count {
            let mut client = self.client((leader + number) % self.members.len()).await?;
            // Connected before the clock runs: with many at once a connection may be a second late.
            client.leads().await?;
            clients.push(client);
        }
        Ok(clients)
    }

    /// No packet gets through between the member and the others, in either direction; `None` mends that.
    ///
    /// # Errors
    /// What `nft` says; servers on loopback cannot be cut off.
    pub fn cut_off(&self, number: Option<usize>) -> Result<()> {
        let places: Option<Vec<&Place>> = self.members.iter().map(|member| member.place.as_ref()).collect();
        let places = places.context("servers on loopback cannot be cut off")?;
        tokio::task::block_in_place(|| {
            for (here, place) in places.iter().enumerate() {
                let apart = |there: &usize| number.is_some_and(|lost| (here == lost) != (*there == lost));
                let deaf_to = (0..places.len()).filter(apart).map(|there| places[there].address).collect();
                place.hurt(&Trouble { deaf_to, ..Trouble::default() })?;
            }
            Ok(())
        })
    }

    /// Resident memory of a member, in MB.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resident(&self, number: usize) -> Result<f64> {
        let pid =
            self.members[number].child.as_ref().and_then(Child::id).context("the server does not run")?;
        super::resident_of(pid)
    }

    /// What a member's data takes on disk, in MB.
    pub fn on_disk(&self, number: usize) -> f64 {
        blocks_below(&self.data(number)) as f64 * 512.0 / MB
    }
}

/// Blocks of 512 bytes; what disappears meanwhile counts as nothing.
fn blocks_below(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let blocks = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => blocks_below(&entry.path()),
        Ok(metadata) => metadata.blocks(),
        Err(_) => 0,
    });
    blocks.sum()
}

/// One connection; clones share it.
#[derive(Clone)]
pub enum Client {
    Kontiki(Grpc<Channel>),
    Etcd(Box<etcd_client::Client>),
}

async fn ask<Q, A>(grpc: &mut Grpc<Channel>, path: &'static str, question: Q) -> Result<A>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    grpc.ready().await.context("the server does not answer")?;
    let request = tonic::Request::new(question);
    let path = PathAndQuery::from_static(path);
    Ok(grpc.unary(request, path, ProstCodec::<Q, A>::default()).await?.into_inner())
}

impl Client {
    /// # Errors
    /// A key that exists, or the store's own.
    pub async fn create(&mut self, key: &str, value: &Bytes) -> Result<()> {
        let committed = match self {
            Client::Kontiki(grpc) => {
                let key = Bytes::copy_from_slice(key.as_bytes());
                let guards = vec![message::Guard { key: key.clone(), mod_revision: 0 }];
                let puts = vec![message::Put { key, value: value.clone() }];
                ask::<_, message::TxnReply>(grpc, message::TXN, message::Txn { guards, puts })
                    .await?
                    .committed
            }
            Client::Etcd(client) => {
                let txn = etcd_client::Txn::new()
                    .when([Compare::mod_revision(key, CompareOp::Equal, 0)])
                    .and_then([TxnOp::put(key, value.to_vec(), None)]);
                client.txn(txn).await?.succeeded()
            }
        };
        if committed { Ok(()) } else { bail!("the key {key} exists") }
    }

    /// # Errors
    /// The store's own.
    pub async fn put(&mut self, key: &str, value: &Bytes) -> Result<()> {
        match self {
            Client::Kontiki(grpc) => {
                let key = Bytes::copy_from_slice(key.as_bytes());
                let puts = vec![message::Put { key, value: value.clone() }];
                let txn = message::Txn { guards: Vec::new(), puts };
                ask::<_, message::TxnReply>(grpc, message::TXN, txn).await?;
            }
            Client::Etcd(client) => {
                client.put(key, value.to_vec(), None).await?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// The store's own.
    pub async fn get(&mut self, key: &str) -> Result<Option<Bytes>> {
        Ok(match self {
            Client::Kontiki(grpc) => {
                let key = Bytes::copy_from_slice(key.as_bytes());
                ask::<_, message::GetReply>(grpc, message::GET, message::Get { key }).await?.value
            }
            Client::Etcd(client) => {
                let reply = client.get(key, None).await?;
                reply.kvs().first().map(|held| Bytes::copy_from_slice(held.value()))
            }
        })
    }

    async fn leads(&mut self) -> Result<bool> {
        match self {
            Client::Kontiki(grpc) => {
                let reply: message::StatusReply =
                    ask(grpc, message::STATUS, message::StatusRequest {}).await?;
                Ok(reply.leads)
            }
            Client::Etcd(client) => {
                let reply = client.status().await?;
                let own = reply.header().context("a status without header")?.member_id();
                Ok(own == reply.leader())
            }
        }
    }

    /// Members that vote and answer; Kontiki alone counts them.
    async fn voters(&mut self) -> Result<u64> {
        match self {
            Client::Kontiki(grpc) => {
                let reply: message::StatusReply =
                    ask(grpc, message::STATUS, message::StatusRequest {}).await?;
                Ok(reply.voters)
            }
            Client::Etcd(_) => bail!("etcd is not asked for its voters"),
        }
    }
}

/// Creates keys with the value given.
pub struct Creates {
    pub client: Client,
    pub value: Bytes,
}

#[async_trait]
impl Caller for Creates {
    async fn call(&mut self, number: u64) -> Result<()> {
        self.client.create(&format!("/registry/configmaps/bench/object-{number}"), &self.value).await
    }
}
