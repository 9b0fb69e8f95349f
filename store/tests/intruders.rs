//! What the peer port is told by those who have no business there, or who speak otherwise: each is refused with a
//! reason, and the cluster goes on as if nothing had been.

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use hyper_util::rt::TokioIo;
use kontiki_proto::pb::peer_client::PeerClient;
use kontiki_proto::pb::{JoinRequest, PeerMessage};
use kontiki_store::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Uri};

const PATIENCE: Duration = Duration::from_secs(20);

/// A TLS client of the cluster's authority, with the certificate or without any.
fn client(ca: &str, own: Option<&PeerTls>) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(tls) => {
            let chain = vec![CertificateDer::from_pem_slice(tls.cert_pem.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(tls.key_pem.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

async fn dial(
    address: &str,
    config: Arc<rustls::ClientConfig>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(config).connect(name, stream).await
}

async fn peer(
    address: &str,
    config: Arc<rustls::ClientConfig>,
) -> Result<PeerClient<Channel>, tonic::transport::Error> {
    let target = address.to_string();
    let connector = tower::service_fn(move |_: Uri| {
        let (target, config) = (target.clone(), config.clone());
        async move { dial(&target, config).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_timeout(PATIENCE);
    Ok(PeerClient::new(endpoint.connect_with_connector(connector).await?))
}

/// Nothing that the visit could have changed has changed.
async fn unharmed(cluster: &Cluster, before: &[(MemberId, bool, u64)]) {
    write(cluster.store(0), "/after", "x").await;
    cluster.converge().await;
    assert_eq!(members(cluster).await, before);
}

async fn members(cluster: &Cluster) -> Vec<(MemberId, bool, u64)> {
    let status = cluster.store(0).status().await;
    status.members.iter().map(|member| (member.id, member.voter, member.term)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_servers_certificate_nobody_gets_a_word_in() {
    let cluster = Cluster::start(1).await;
    let before = members(&cluster).await;
    let address = &cluster.servers[0].address;
    let own = cluster.authority.peer();

    // No TLS at all: garbage, and HTTP.
    for noise in [&[0u8, 255, 17, 4, 200, 13, 10][..], b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(noise).await.unwrap();
        let mut answer = Vec::new();
        // Reset or closed; what TLS says before that is an alert.
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it hangs up");
        assert!(answer.len() < 32, "{answer:?}");
    }

    let stranger = Authority::new().peer();
    let user = cluster.authority.issue("system:masters");
    for (who, certificate) in [
        ("no certificate", None),
        ("a certificate of another authority", Some(&stranger)),
        ("a user's certificate", Some(&user)),
    ] {
        let asked = async {
            let mut peer = peer(address, client(&own.ca_pem, certificate)).await.map_err(|_| ())?;
            peer.status(kontiki_proto::pb::StatusRequest {}).await.map_err(|_| ())
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await.expect("it hangs up");
        assert!(answer.is_err(), "{who} was let in");
    }

    // A server of the cluster, as far as TLS knows, that speaks no HTTP/2.
    let mut stream = dial(address, client(&own.ca_pem, Some(&own))).await.unwrap();
    stream.write_all(&[0x5a; 4096]).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it hangs up");

    unharmed(&cluster, &before).await;
}

/// A message for another cluster or another member, of a newer version, damaged, or not a message at all is refused with
/// words that say what is wrong with it, on every call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_wrong_are_refused_with_the_reason() {
    let cluster = Cluster::start(3).await;
    let before = members(&cluster).await;
    let own = cluster.authority.peer();
    let server = cluster.store(1);
    let mut peer = peer(&cluster.servers[1].address, client(&own.ca_pem, Some(&own))).await.unwrap();

    let message = |cluster_id: &str, to: MemberId, payload: &[u8]| PeerMessage {
        cluster_id: cluster_id.to_string(),
        from: 1,
        to,
        payload: Bytes::copy_from_slice(payload),
    };
    let (here, me) = (server.cluster_id(), server.member_id());
    let cases = [
        (message("0000", me, &[]), "belongs to cluster"),
        (message("", me, &[]), "belongs to cluster"),
        (message(here, 77, &[]), "the message is for member 77"),
        (message(here, me, &[]), "too short"),
        (message(here, me, &[200, 0, 0, 0, 0, 1, 2, 3]), "version 200"),
        (message(here, me, &[1, 9, 9, 9, 9, 1, 2, 3]), "checksum"),
        (message(here, me, &[1, 0, 0, 0, 0]), "cannot be read"),
    ];
    for (message, reason) in cases {
        let stream = || futures::stream::iter([message.clone()]);
        let refusals = [
            ("vote", peer.vote(message.clone()).await.err()),
            ("pre-vote", peer.pre_vote(message.clone()).await.err()),
            ("transfer", peer.transfer_leader(message.clone()).await.err()),
            ("forward", peer.forward(message.clone()).await.err()),
            ("snapshot", peer.snapshot(stream()).await.err()),
            (
                "append",
                match peer.append(stream()).await {
                    Ok(answers) => answers.into_inner().message().await.err(),
                    Err(status) => Some(status),
                },
            ),
        ];
        for (call, refusal) in refusals {
            let refusal = refusal.unwrap_or_else(|| panic!("{call} took {message:?}"));
            assert_eq!(refusal.code(), tonic::Code::FailedPrecondition, "{call}: {refusal}");
            assert!(refusal.message().contains(reason), "{call} of {message:?}: {}", refusal.message());
        }
    }
    let asked = JoinRequest { peer_address: "nowhere".to_string(), client_address: String::new() };
    let refusal = peer.admit(asked).await.unwrap_err();
    assert!(refusal.message().contains("is not host:port"), "{refusal}");
    unharmed(&cluster, &before).await;
}

/// A copy of a member's directory does not become a second server of the same id: two of them could be elected by
/// different votes in one term.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_member_is_refused() {
    let mut cluster = Cluster::start(3).await;
    write(cluster.store(0), "/a", "x").await;
    cluster.converge().await;
    let copied = (cluster.leader().await + 1) % 3;
    cluster.stop(copied).await;
    let copy = tempfile::tempdir().unwrap();
    copy_directory(cluster.servers[copied].dir.path(), copy.path());
    cluster.start_again(copied).await;
    let before = members(&cluster).await;

    // At an address of its own.
    let elsewhere = free_address();
    let tls = cluster.authority.peer();
    let other = config(copy.path(), &elsewhere, Start::Bootstrap, tls.clone());
    let error = Store::open(other).await.err().expect("a second server of one id was opened");
    let known = &cluster.servers[copied].address;
    assert!(error.to_string().contains(known.as_str()), "{error}");

    // It claims the other's address, but listens elsewhere.
    let mut same = config(copy.path(), known, Start::Bootstrap, tls);
    same.peer_listen = elsewhere;
    let error = loop {
        match Store::open(same.clone()).await {
            // The first attempt's thread may hold the directory for a moment.
            Err(OpenError::InUse { .. } | OpenError::Listen { .. }) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            opened => break opened.err().expect("a second server of one id was opened"),
        }
    };
    assert!(error.to_string().contains("is running"), "{error}");
    unharmed(&cluster, &before).await;
}

fn copy_directory(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
