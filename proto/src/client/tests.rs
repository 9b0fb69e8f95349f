//! A client against servers that can be killed, in this process, over TLS.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{Stream, StreamExt};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response};

use super::*;
use crate::pb::resources_server::{Resources, ResourcesServer};

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, tonic::Status>> + Send>>;

/// How the fake server takes a write.
#[derive(Clone, Copy, Default, PartialEq)]
enum Mood {
    #[default]
    Fine,
    /// Says that it cannot serve, having done nothing.
    Refuses,
    /// Takes the request and never answers.
    Hangs,
}

#[derive(Default)]
struct Fake {
    name: &'static str,
    mood: Mutex<Mood>,
    calls: AtomicUsize,
    tokens: Mutex<Vec<String>>,
}

impl Fake {
    async fn answer<T>(&self, request: &Request<T>) -> Result<pb::Document, tonic::Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if let Some(token) = request.metadata().get("authorization") {
            self.tokens.lock().push(token.to_str().unwrap_or_default().to_string());
        }
        let mood = *self.mood.lock();
        match mood {
            Mood::Fine => Ok(pb::Document { json: self.name.into(), warnings: Vec::new() }),
            Mood::Refuses => Err(Status::unavailable("no leader").into()),
            Mood::Hangs => std::future::pending().await,
        }
    }
}

#[tonic::async_trait]
impl Resources for Arc<Fake> {
    type ListStream = Streamed<pb::ListChunk>;
    type WatchStream = Streamed<pb::WatchEvent>;

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::Document>, tonic::Status> {
        self.answer(&request).await.map(Response::new)
    }

    async fn list(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<Self::ListStream>, tonic::Status> {
        self.answer(&request).await?;
        let items = (0..3000).map(|n| Bytes::from(format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(1000))));
        let list = List { resource_version: "7".into(), items: items.collect(), ..List::default() };
        Ok(Response::new(Box::pin(futures::stream::iter(wire::list_chunks(list).into_iter().map(Ok)))))
    }

    async fn watch(
        &self,
        request: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, tonic::Status> {
        self.answer(&request).await?;
        let event = pb::WatchEvent { r#type: pb::EventType::Added.into(), object: self.name.into() };
        let endless = futures::stream::iter([Ok(event)]).chain(futures::stream::pending());
        Ok(Response::new(Box::pin(endless)))
    }

    async fn create(
        &self,
        request: Request<pb::WriteRequest>,
    ) -> Result<Response<pb::Document>, tonic::Status> {
        self.answer(&request).await.map(Response::new)
    }

    async fn update(&self, _: Request<pb::WriteRequest>) -> Result<Response<pb::Document>, tonic::Status> {
        Err(Status::bad_request("spec: wrong").into())
    }

    async fn patch(
        &self,
        request: Request<pb::PatchRequest>,
    ) -> Result<Response<pb::Document>, tonic::Status> {
        self.answer(&request).await.map(Response::new)
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::Document>, tonic::Status> {
        self.answer(&request).await.map(Response::new)
    }

    async fn delete_collection(
        &self,
        request: Request<pb::DeleteCollectionRequest>,
    ) -> Result<Response<pb::Document>, tonic::Status> {
        self.answer(&request).await.map(Response::new)
    }

    async fn discover(
        &self,
        _: Request<pb::DiscoverRequest>,
    ) -> Result<Response<pb::DiscoverReply>, tonic::Status> {
        let rows = Registry::builtin().rows().iter().map(|row| (&**row).into()).collect();
        Ok(Response::new(pb::DiscoverReply { rows, server_version: "v1".into() }))
    }
}

struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

fn authority() -> Authority {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { issuer: rcgen::Issuer::new(params, key), pem }
}

struct Running {
    address: String,
    fake: Arc<Fake>,
    stop: CancellationToken,
}

impl Running {
    /// As if the process had been killed: connections break, the port is closed.
    async fn kill(&self) {
        self.stop.cancel();
        while tokio::net::TcpStream::connect(&self.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn serve(authority: &Authority, name: &'static str) -> Running {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_string()]).unwrap();
    let certificate = params.signed_by(&key, &authority.issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let fake = Arc::new(Fake { name, ..Fake::default() });
    let stop = CancellationToken::new();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let service = ResourcesServer::new(fake.clone());
    let stopped = stop.clone();
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => accepted.unwrap().0,
                () = stopped.cancelled() => return,
            };
            let (acceptor, service, stopped) = (acceptor.clone(), service.clone(), stopped.clone());
            tokio::spawn(async move {
                let serving = async {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper_util::service::TowerToHyperService::new(service);
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                };
                tokio::select! {
                    () = serving => {}
                    () = stopped.cancelled() => {}
                }
            });
        }
    });
    Running { address, fake, stop }
}

fn config(authority: &Authority, servers: &[&Running]) -> ClientConfig {
    ClientConfig::new(servers.iter().map(|s| s.address.clone()), &authority.pem)
}

fn client(authority: &Authority, servers: &[&Running]) -> Client {
    Client::new(config(authority, servers)).unwrap()
}

fn pods() -> Target {
    Target::kind::<k8s_openapi::api::core::v1::Pod>().within("default").named("a")
}

async fn get(client: &Client) -> Result<Bytes, Status> {
    client.get(&pods(), &GetOptions::default()).await
}

async fn create(client: &Client) -> Result<Bytes, Status> {
    client.create(&pods(), Bytes::from_static(b"{}"), &WriteOptions::default()).await
}

#[tokio::test]
async fn a_call_goes_to_the_first_server_and_brings_its_answer() {
    let authority = authority();
    let (one, two) = (serve(&authority, "one").await, serve(&authority, "two").await);
    let client = client(&authority, &[&one, &two]);
    assert_eq!(get(&client).await.unwrap(), "one");
    assert_eq!(create(&client).await.unwrap(), "one");
    assert_eq!(two.fake.calls.load(Ordering::SeqCst), 0);

    let list = client.list(&pods(), &ListOptions::default()).await.unwrap();
    assert_eq!((list.items.len(), list.resource_version.as_str()), (3000, "7"));

    let error = client.update(&pods(), Bytes::new(), &WriteOptions::default()).await.unwrap_err();
    assert_eq!(error, Status::bad_request("spec: wrong"));

    let (registry, version) = client.discover().await.unwrap();
    assert_eq!((registry.rows().len(), version.as_str()), (Registry::builtin().rows().len(), "v1"));
}

#[tokio::test]
async fn reads_and_writes_move_on_when_a_server_is_killed() {
    let authority = authority();
    let (one, two) = (serve(&authority, "one").await, serve(&authority, "two").await);
    let client = client(&authority, &[&one, &two]);
    assert_eq!(get(&client).await.unwrap(), "one");
    one.kill().await;
    assert_eq!(get(&client).await.unwrap(), "two");
    assert_eq!(create(&client).await.unwrap(), "two");
    assert_eq!(client.current_address(), two.address);
}

#[tokio::test]
async fn a_client_starts_though_its_first_server_is_dead() {
    let authority = authority();
    let (one, two) = (serve(&authority, "one").await, serve(&authority, "two").await);
    one.kill().await;
    assert_eq!(create(&client(&authority, &[&one, &two])).await.unwrap(), "two");
}

#[tokio::test]
async fn a_refused_write_is_sent_to_another_server() {
    let authority = authority();
    let (one, two) = (serve(&authority, "one").await, serve(&authority, "two").await);
    *one.fake.mood.lock() = Mood::Refuses;
    let mut config = config(&authority, &[&one, &two]);
    config.patience = Duration::from_millis(300);
    let both = Client::new(config).unwrap();
    assert_eq!(create(&both).await.unwrap(), "two");

    *two.fake.mood.lock() = Mood::Refuses;
    assert_eq!(create(&both).await.unwrap_err(), Status::unavailable("no leader"));
}

#[tokio::test]
async fn a_write_that_may_have_been_taken_is_not_repeated() {
    let authority = authority();
    let (one, two) = (serve(&authority, "one").await, serve(&authority, "two").await);
    *one.fake.mood.lock() = Mood::Hangs;
    let client = client(&authority, &[&one, &two]);
    let writing = tokio::spawn({
        let client = client.clone();
        async move { create(&client).await }
    });
    while one.fake.calls.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    one.kill().await;
    let error = writing.await.unwrap().unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (504, "Timeout"), "{error}");
    assert_eq!(two.fake.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_read_does_not_wait_for_a_server_that_hangs() {
    let authority = authority();
    let (one, two) = (serve(&authority, "one").await, serve(&authority, "two").await);
    *one.fake.mood.lock() = Mood::Hangs;
    let config = config(&authority, &[&one, &two]).with_deadline(Duration::from_secs(9));
    assert_eq!(get(&Client::new(config).unwrap()).await.unwrap(), "two");
}

#[tokio::test]
async fn a_watch_ends_with_an_error_when_its_server_dies_and_begins_anew_at_another() {
    let authority = authority();
    let (one, two) = (serve(&authority, "one").await, serve(&authority, "two").await);
    let client = client(&authority, &[&one, &two]);
    let mut events = client.watch(&pods(), &WatchOptions::default()).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().object, "one");
    one.kill().await;
    assert_eq!(events.next().await.unwrap().unwrap_err().code, 503);
    assert!(events.next().await.is_none());
    let mut events = client.watch(&pods(), &WatchOptions::default()).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().object, "two");
}

#[tokio::test]
async fn the_token_is_read_anew_for_every_call() {
    let authority = authority();
    let one = serve(&authority, "one").await;
    let count = AtomicUsize::new(0);
    let config = config(&authority, &[&one])
        .with_token_source(Arc::new(move || Some(format!("t{}", count.fetch_add(1, Ordering::SeqCst)))));
    let client = Client::new(config).unwrap();
    get(&client).await.unwrap();
    create(&client).await.unwrap();
    assert_eq!(*one.fake.tokens.lock(), ["Bearer t0", "Bearer t1"]);
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused_at_once() {
    let (ours, foreign) = (authority(), authority());
    let one = serve(&foreign, "one").await;
    let mut config = config(&ours, &[&one]).with_deadline(Duration::from_secs(3600));
    config.patience = Duration::from_secs(3600);
    let error = get(&Client::new(config.clone()).unwrap()).await.unwrap_err();
    assert_eq!(error.code, 503);
    assert!(error.message.contains("certificate"), "{error}");

    config.insecure = true;
    assert_eq!(get(&Client::new(config).unwrap()).await.unwrap(), "one");
}

#[tokio::test]
async fn no_server_at_all_is_said_with_the_addresses_tried() {
    let authority = authority();
    let one = serve(&authority, "one").await;
    one.kill().await;
    let mut config = config(&authority, &[&one]);
    config.patience = Duration::from_millis(200);
    let error = create(&Client::new(config).unwrap()).await.unwrap_err();
    assert_eq!(error.code, 503);
    assert!(error.message.contains(&one.address), "{error}");
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_with_its_cause() {
    let pem = authority().pem;
    let message = |servers: &[&str], ca: &str| {
        let made = Client::new(ClientConfig::new(servers.iter().copied(), ca));
        made.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(message(&[], &pem), "no server address was given");
    assert_eq!(message(&["localhost"], &pem), "server address \"localhost\" is not host:port");
    assert_eq!(message(&["localhost:x"], &pem), "server address \"localhost:x\" is not host:port");
    assert!(message(&["localhost:1"], "").contains("certificate authority"));
    assert_eq!(message(&["[::1]:1", "localhost:1"], &pem), "");
}
