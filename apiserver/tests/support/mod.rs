//! A server on loopback over a store in memory, with certificates of its own, and clients for it.

pub mod agent;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kontiki_apiserver::{ApiServer, ServerConfig};
use kontiki_store::Store;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Issued {
    pub cert_pem: String,
    pub key_pem: String,
}

/// A certificate authority.
pub struct Ca {
    pub cert_pem: String,
    pub key_pem: String,
}

impl Ca {
    pub fn new() -> Ca {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "kontiki-ca");
        let cert_pem = params.self_signed(&key).expect("a certificate").pem();
        Ca { cert_pem, key_pem: key.serialize_pem() }
    }

    fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Issued {
        let ca_key = KeyPair::from_pem(&self.key_pem).expect("the CA's key");
        let issuer = Issuer::from_ca_cert_pem(&self.cert_pem, ca_key).expect("the CA");
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let cert_pem = params.signed_by(&key, &issuer).expect("signed").pem();
        Issued { cert_pem, key_pem: key.serialize_pem() }
    }

    pub fn server(&self) -> Issued {
        let names = ["localhost", "127.0.0.1"].map(String::from);
        self.sign(CertificateParams::new(names).expect("names"), ExtendedKeyUsagePurpose::ServerAuth)
    }

    pub fn client(&self, name: &str, groups: &[&str]) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)
    }
}

/// A running server. Stops when dropped.
pub struct Harness {
    pub ca: Ca,
    pub address: SocketAddr,
    pub server: ApiServer,
    pub store: Store,
    stop: CancellationToken,
    serving: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Harness {
    pub async fn start() -> Harness {
        Harness::start_on("127.0.0.1:0", |_| {}).await
    }

    pub async fn start_on(address: &str, change: impl FnOnce(&mut ServerConfig)) -> Harness {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let ca = Ca::new();
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let issued = ca.server();
        let mut config = ServerConfig {
            ca_pem: ca.cert_pem.clone(),
            ca_key_pem: ca.key_pem.clone(),
            cert_pem: issued.cert_pem,
            key_pem: issued.key_pem,
            service_account_key_pem: KeyPair::generate().expect("a key").serialize_pem(),
            advertise_addresses: vec![address.to_string()],
            ..ServerConfig::default()
        };
        change(&mut config);
        let store = Store::in_memory();
        let server = ApiServer::new(config, store.clone()).expect("a server");
        let stop = CancellationToken::new();
        let serving = server.clone();
        let until = stop.clone();
        let serving =
            tokio::spawn(async move { serving.serve(vec![listener], until).await.expect("serves") });
        let harness = Harness { ca, address, server, store, stop, serving: Some(serving) };
        let admin = harness.admin();
        admin.until_ready().await;
        // The server makes it too, in its own time.
        let namespace = serde_json::json!({"metadata": {"name": "default"}});
        let made = admin.post("/api/v1/namespaces", &namespace).await;
        assert!(matches!(made.code, 201 | 409), "{}", made.text());
        harness
    }

    /// Returns when the server has stopped.
    pub async fn shut_down(&mut self) {
        self.stop.cancel();
        if let Some(serving) = self.serving.take() {
            let ended = tokio::time::timeout(std::time::Duration::from_secs(10), serving).await;
            ended.expect("it stops within ten seconds").expect("without a panic");
        }
    }

    pub fn client(&self, name: &str, groups: &[&str]) -> Rest {
        Rest::new(&self.ca, self.address, Some(&self.ca.client(name, groups)))
    }

    pub fn admin(&self) -> Rest {
        self.client("admin", &["system:masters"])
    }

    pub fn anonymous(&self) -> Rest {
        Rest::new(&self.ca, self.address, None)
    }
}

/// A small HTTP client that opens a connection for each request.
#[derive(Clone)]
pub struct Rest {
    tls: Arc<rustls::ClientConfig>,
    address: SocketAddr,
    pub headers: HashMap<String, String>,
}

/// An answer read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The document of an answer that must have this code.
    #[track_caller]
    pub fn expect(&self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text());
        self.json()
    }
}

impl Rest {
    pub fn new(ca: &Ca, address: SocketAddr, identity: Option<&Issued>) -> Rest {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.cert_pem.as_bytes()).expect("PEM")).expect("a CA");
        let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
        let tls = match identity {
            None => builder.with_no_client_auth(),
            Some(issued) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).expect("PEM")],
                    PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).expect("PEM"),
                )
                .expect("an identity"),
        };
        Rest { tls: Arc::new(tls), address, headers: HashMap::new() }
    }

    #[must_use]
    pub fn with(mut self, header: &str, value: &str) -> Rest {
        self.headers.insert(header.into(), value.into());
        self
    }

    pub async fn open(&self, method: Method, path: &str, body: Bytes) -> http::Response<Incoming> {
        self.try_open(method, path, body).await.expect("an answer")
    }

    /// Fails where there is no HTTP answer at all.
    pub async fn try_get(&self, path: &str) -> Result<u16, Box<dyn std::error::Error>> {
        Ok(self.try_open(Method::GET, path, Bytes::new()).await?.status().as_u16())
    }

    async fn try_open(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<http::Response<Incoming>, Box<dyn std::error::Error>> {
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost")?;
        let tls = tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, tcp).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        Ok(sender.send_request(request.body(Full::new(body))?).await?)
    }

    pub async fn send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        let response = self.open(method, path, body.into()).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, body.to_string()).await
    }

    pub async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let client = self.clone().with("content-type", &format!("application/{kind}+json"));
        client.send(Method::PATCH, path, body.to_string()).await
    }

    pub async fn delete(&self, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(Method::DELETE, path, body).await
    }

    /// Follows a watch.
    pub async fn watch(&self, path: &str) -> Lines {
        let response = self.open(Method::GET, path, Bytes::new()).await;
        assert_eq!(response.status(), StatusCode::OK);
        Lines { body: response.into_body(), buffer: Vec::new() }
    }

    async fn until_ready(&self) {
        for _ in 0..200 {
            let answer = self.get("/readyz").await;
            if answer.code == 200 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("the server did not get ready");
    }
}

/// The lines of a streamed body, each a JSON document.
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next document, or `None` at the end. Fails after ten seconds of silence.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a JSON line"));
            }
            let frame = tokio::time::timeout(std::time::Duration::from_secs(10), self.body.frame())
                .await
                .expect("an event within ten seconds")?;
            if let Ok(data) = frame.expect("a frame").into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// Type, name and document of the next event.
    pub async fn event(&mut self) -> (String, String, Value) {
        let event = self.next().await.expect("an event");
        let object = event["object"].clone();
        (
            event["type"].as_str().unwrap_or_default().to_string(),
            object["metadata"]["name"].as_str().unwrap_or_default().to_string(),
            object,
        )
    }
}
