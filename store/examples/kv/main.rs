//! A key-value server of one process and one [`Store`]: what `kontiki-chaos bench` measures beside etcd.
//!
//! ```text
//!   kv authority DIR                      a certificate authority, and a server's certificate, for a test
//!   kv serve --data DIR --tls DIR --listen ADDRESS --peer ADDRESS [--join PEER]…
//! ```
//!
//! Clients speak gRPC without TLS, as they do to the etcd beside it; the servers among themselves use mutual TLS.

mod message;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use clap::Parser;
use futures::future::BoxFuture;
use kontiki_store::{Config, Guard, Op, Outcome, PeerTls, Start, Store, StoreError, Timings, Txn};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// As the `kontiki` program: see there.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Few arenas, and pages that are given back within a second: a server's memory is what it holds.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8; 69] = b"narenas:2,dirty_decay_ms:500,muzzy_decay_ms:0,background_thread:true\0";

type Failure = Box<dyn std::error::Error>;

#[derive(Parser)]
enum Command {
    Authority { dir: PathBuf },
    Serve(Serve),
}

#[derive(clap::Args)]
struct Serve {
    #[arg(long)]
    data: PathBuf,
    #[arg(long)]
    tls: PathBuf,
    #[arg(long)]
    listen: String,
    #[arg(long)]
    peer: String,
    #[arg(long)]
    join: Vec<String>,
}

fn main() -> Result<(), Failure> {
    match Command::parse() {
        Command::Authority { dir } => make_authority(&dir),
        Command::Serve(serve) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(serve))
        }
    }
}

fn make_authority(dir: &Path) -> Result<(), Failure> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "kontiki-bench-ca");
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    // Loopback, and the addresses of the chaos suite's private network.
    let hosts = ["localhost", "127.0.0.1"].map(str::to_string).into_iter();
    let places = (1..=9).map(|number| format!("10.77.0.{number}"));
    let mut params = CertificateParams::new(hosts.chain(places).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::OrganizationName, "kontiki:peers");
    let certificate = params.signed_by(&key, &issuer)?;
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("ca.pem"), issuer.pem())?;
    std::fs::write(dir.join("cert.pem"), certificate.pem())?;
    std::fs::write(dir.join("key.pem"), key.serialize_pem())?;
    Ok(())
}

async fn run(serve: Serve) -> Result<(), Failure> {
    let pem = |name: &str| std::fs::read_to_string(serve.tls.join(name));
    let start = if serve.join.is_empty() { Start::Bootstrap } else { Start::Join(serve.join) };
    let config = Config {
        data_dir: serve.data,
        start,
        peer_listen: serve.peer.clone(),
        peer_advertise: serve.peer,
        client_advertise: serve.listen.clone(),
        tls: PeerTls { ca_pem: pem("ca.pem")?, cert_pem: pem("cert.pem")?, key_pem: pem("key.pem")? },
        timings: Timings::default(),
        max_txn_bytes: 2 << 20,
        history: Duration::from_secs(300),
        history_bytes: 64 << 20,
    };
    let store = Store::open(config).await?;
    let server = tonic::transport::Server::builder().tcp_nodelay(true).add_service(Kv { store });
    server.serve(serve.listen.parse()?).await?;
    Ok(())
}

#[derive(Clone)]
struct Kv {
    store: Store,
}

impl NamedService for Kv {
    const NAME: &'static str = "kontiki.bench.Kv";
}

impl tower::Service<http::Request<Body>> for Kv {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let store = self.store.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                message::TXN => unary(request, |question| txn(store.clone(), question)).await,
                message::GET => unary(request, |question| get(store.clone(), question)).await,
                message::STATUS => unary(request, |question| status(store.clone(), question)).await,
                _ => Status::unimplemented("no such call").into_http(),
            })
        })
    }
}

async fn unary<Q, A, F>(request: http::Request<Body>, answer: impl Fn(Q) -> F) -> http::Response<Body>
where
    Q: prost::Message + Default + Send + 'static,
    A: prost::Message + Default + Send + 'static,
    F: Future<Output = Result<A, Status>>,
{
    let service = tower::service_fn(|question: Request<Q>| {
        let answered = answer(question.into_inner());
        async move { answered.await.map(Response::new) }
    });
    tonic::server::Grpc::new(ProstCodec::<A, Q>::default()).unary(service, request).await
}

fn refused(error: StoreError) -> Status {
    match error {
        StoreError::TooLarge { .. } => Status::invalid_argument(error.to_string()),
        StoreError::Busy => Status::resource_exhausted(error.to_string()),
        StoreError::Unknown(_) => Status::deadline_exceeded(error.to_string()),
        error => Status::unavailable(error.to_string()),
    }
}

async fn txn(store: Store, question: message::Txn) -> Result<message::TxnReply, Status> {
    let guards = question.guards.into_iter();
    let puts = question.puts.into_iter();
    let txn = Txn {
        guards: guards.map(|guard| Guard { key: guard.key, mod_revision: guard.mod_revision }).collect(),
        ops: puts
            .map(|put| Op::Put { key: put.key, value: put.value, attributes: Arc::from([]), lease: None })
            .collect(),
    };
    let (committed, revision) = match store.propose(txn).await.map_err(refused)? {
        Outcome::Committed { revision } => (true, revision),
        Outcome::Conflict { revision, .. } => (false, revision),
    };
    Ok(message::TxnReply { committed, revision })
}

/// Linearizable, as etcd's is.
async fn get(store: Store, question: message::Get) -> Result<message::GetReply, Status> {
    store.barrier().await.map_err(refused)?;
    Ok(message::GetReply { value: store.get(&question.key).map(|entry| entry.value.clone()) })
}

async fn status(store: Store, _: message::StatusRequest) -> Result<message::StatusReply, Status> {
    let members = store.status().await.members;
    let voters = members.iter().filter(|member| member.voter && member.reachable).count() as u64;
    Ok(message::StatusReply { leads: store.is_leader(), voters, revision: store.revision() })
}
