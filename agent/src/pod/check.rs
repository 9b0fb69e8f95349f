//! One look at a container from outside or inside: what probes and lifecycle hooks do.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, ExecAction, GRPCAction, HTTPGetAction, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use prost::Message;
use tokio::net::TcpStream;

use crate::runtime::Containerd;
use crate::stream::exec;

/// Where the container is.
#[derive(Clone)]
pub struct Place {
    pub containerd: Containerd,
    pub root: Arc<Path>,
    pub container_id: String,
    /// The pod's address, or the node's for host-network pods.
    pub ip: Option<IpAddr>,
}

/// What is looked at.
#[derive(Clone, Debug)]
pub enum Action {
    Exec(ExecAction),
    Http(HTTPGetAction),
    Tcp(TCPSocketAction),
    Grpc(GRPCAction),
}

/// `Ok` is success, the error says what a person wants to know. Never takes longer than the timeout by much.
pub async fn check(place: &Place, c: &Container, action: &Action, timeout: Duration) -> Result<(), String> {
    let look = async {
        match action {
            Action::Exec(exec) => {
                let command = exec.command.clone().unwrap_or_default();
                let run = exec::run(&place.containerd, &place.root, &place.container_id, &command, timeout);
                match run.await {
                    Ok((0, _)) => Ok(()),
                    Ok((code, text)) if text.trim().is_empty() => {
                        Err(format!("command exited with code {code}"))
                    }
                    Ok((_, text)) => Err(text),
                    Err(error) => Err(error.message),
                }
            }
            Action::Http(get) => http(place, c, get).await,
            Action::Tcp(tcp) => {
                let (host, port) = address(place, c, tcp.host.as_deref(), &tcp.port)?;
                connect(&host, port).await.map(|_| ())
            }
            Action::Grpc(grpc) => health(place, grpc).await,
        }
    };
    // A command has its own deadline, and has to be killed after it.
    let limit = if matches!(action, Action::Exec(_)) { timeout + Duration::from_secs(10) } else { timeout };
    tokio::time::timeout(limit, look)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {}s", timeout.as_secs())))
}

fn address(
    place: &Place,
    c: &Container,
    host: Option<&str>,
    port: &IntOrString,
) -> Result<(String, u16), String> {
    let host = match host.filter(|h| !h.is_empty()) {
        Some(host) => host.to_string(),
        None => place.ip.ok_or("the pod has no address")?.to_string(),
    };
    let number = match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => c
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref() == Some(name))
            .and_then(|p| u16::try_from(p.container_port).ok())
            .or_else(|| name.parse().ok()),
    };
    Ok((host, number.filter(|n| *n > 0).ok_or_else(|| format!("couldn't find port: {port:?}"))?))
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|e| format!("dial tcp {host}:{port}: {e}"))
}

async fn http(place: &Place, c: &Container, get: &HTTPGetAction) -> Result<(), String> {
    let (host, port) = address(place, c, get.host.as_deref(), &get.port)?;
    let path = get.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
    let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let mut request = http::Request::get(path).header("connection", "close");
    let headers = get.http_headers.iter().flatten();
    let has = |name: &str| get.http_headers.iter().flatten().any(|h| h.name.eq_ignore_ascii_case(name));
    if !has("host") {
        request = request.header("host", format!("{shown}:{port}"));
    }
    if !has("user-agent") {
        request = request.header("user-agent", "kube-probe/1.36");
    }
    if !has("accept") {
        request = request.header("accept", "*/*");
    }
    for header in headers {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|e| e.to_string())?;
    let stream = connect(&host, port).await?;
    let status = if get.scheme.as_deref() == Some("HTTPS") {
        let name = rustls::pki_types::ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(unverified::config()?);
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|e| format!("Get \"https://{shown}:{port}\": {e}"))?;
        send(request, stream).await?
    } else {
        send(request, stream).await?
    };
    if (200..400).contains(&status) {
        Ok(())
    } else {
        Err(format!("HTTP probe failed with statuscode: {status}"))
    }
}

async fn send<S>(request: http::Request<Empty<bytes::Bytes>>, stream: S) -> Result<u16, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|e| e.to_string());
    let status = match answer {
        Ok(answer) => {
            let status = answer.status().as_u16();
            // Reading the body lets the server end in peace; more than 10 KiB are not waited for.
            let _ = Limited::new(answer.into_body(), 10 * 1024).collect().await;
            Ok(status)
        }
        Err(error) => Err(error),
    };
    driver.abort();
    status
}

/// Probes look whether something answers, not whom: certificates of pods are not checked, as upstream does.
mod unverified {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    struct Anyone;

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            rustls::crypto::aws_lc_rs::default_provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    }

    pub fn config() -> Result<Arc<rustls::ClientConfig>, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`; status 1 is SERVING.
#[derive(Clone, PartialEq, Message)]
struct HealthReply {
    #[prost(int32, tag = "1")]
    status: i32,
}

async fn health(place: &Place, grpc: &GRPCAction) -> Result<(), String> {
    let ip = place.ip.ok_or("the pod has no address")?;
    let address = std::net::SocketAddr::new(ip, u16::try_from(grpc.port).map_err(|e| e.to_string())?);
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| e.to_string())?
        .connect()
        .await
        .map_err(|e| format!("failed to connect to {address}: {e}"))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|e| e.to_string())?;
    let codec = tonic_prost::ProstCodec::<HealthRequest, HealthReply>::default();
    let request = tonic::Request::new(HealthRequest { service: grpc.service.clone().unwrap_or_default() });
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let reply = client.unary(request, path, codec).await.map_err(|e| e.message().to_string())?;
    match reply.into_inner().status {
        1 => Ok(()),
        other => Err(format!("service unhealthy (responded with status {other})")),
    }
}
