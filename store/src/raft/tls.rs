//! Mutual TLS between servers: a certificate of the cluster's CA whose organisation is [`PEERS`], on both sides.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::config::{OpenError, PeerTls};

/// The organisation in a peer's certificate.
const PEERS: &str = "kontiki:peers";

pub(crate) struct Tls {
    pub acceptor: TlsAcceptor,
    pub connector: TlsConnector,
    /// SHA-256 of the CA certificate.
    pub authority: Vec<u8>,
}

fn tls_error(field: &'static str) -> impl Fn(&dyn std::fmt::Display) -> OpenError {
    move |problem| OpenError::Tls { field, problem: problem.to_string() }
}

fn authorities(ca_pem: &str) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let ca = tls_error("ca_pem");
    let found = CertificateDer::pem_slice_iter(ca_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| ca(&error))?;
    if found.is_empty() {
        return Err(ca(&"it holds no certificate"));
    }
    Ok(found)
}

/// SHA-256 of the CA certificate.
pub(crate) fn authority(ca_pem: &str) -> Result<Vec<u8>, OpenError> {
    Ok(Sha256::digest(&authorities(ca_pem)?[0]).to_vec())
}

impl Tls {
    pub fn new(config: &PeerTls) -> Result<Tls, OpenError> {
        let (ca, cert, key) = (tls_error("ca_pem"), tls_error("cert_pem"), tls_error("key_pem"));
        let authorities = authorities(&config.ca_pem)?;
        let authority = authority(&config.ca_pem)?;
        let mut roots = RootCertStore::empty();
        for one in &authorities {
            roots.add(one.clone()).map_err(|error| ca(&error))?;
        }
        let roots = Arc::new(roots);
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(config.cert_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| cert(&error))?;
        let own = chain.first().ok_or_else(|| cert(&"it holds no certificate"))?;
        if !is_peer(own) {
            return Err(cert(&format!("its subject's organisation is not {PEERS}")));
        }
        let private =
            PrivateKeyDer::from_pem_slice(config.key_pem.as_bytes()).map_err(|error| key(&error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());

        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| ca(&error))?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| cert(&error))?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), private.clone_key())
            .map_err(|error| cert(&error))?;
        server.alpn_protocols = vec![b"h2".to_vec()];

        let inner = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| ca(&error))?;
        let verifier = PeerVerifier { roots, inner, provider: provider.clone() };
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| cert(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(chain, private)
            .map_err(|error| cert(&error))?;
        client.alpn_protocols = vec![b"h2".to_vec()];

        Ok(Tls {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
            authority,
        })
    }
}

/// Whether the certificate, already verified, is a server's.
pub(crate) fn is_peer(certificate: &[u8]) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    parsed.subject().iter_organization().any(|organisation| organisation.as_str() == Ok(PEERS))
}

/// Checks chain, time and organisation. Not the host name: a peer is any server of the cluster, wherever it runs, and
/// every message names the member it is for.
#[derive(Debug)]
struct PeerVerifier {
    roots: Arc<RootCertStore>,
    inner: Arc<WebPkiServerVerifier>,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        if !is_peer(end_entity) {
            return Err(rustls::Error::General(format!("the server's certificate is not one of {PEERS}")));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
