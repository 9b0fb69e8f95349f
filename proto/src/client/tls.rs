//! Whom a client trusts over TLS, and how it shows who is calling.

use std::sync::Arc;

use rustls::ClientConfig as TlsConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::{ClientConfig, ClientError};

/// For HTTP/2 alone: gRPC speaks nothing else.
pub(super) fn config(config: &ClientConfig) -> Result<TlsConfig, ClientError> {
    let pem = |what, error: rustls::pki_types::pem::Error| ClientError::Pem(what, error.to_string());
    let certificates = |text: &str, what| {
        CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| pem(what, e))
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = TlsConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = if config.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAnyone(provider)))
    } else {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates(&config.ca_pem, "certificate authority")? {
            roots.add(certificate)?;
        }
        if roots.is_empty() {
            return Err(ClientError::Pem("certificate authority", "it holds no certificate".into()));
        }
        builder.with_root_certificates(roots)
    };
    let mut tls = match &config.identity {
        Some((certificate, key)) => builder.with_client_auth_cert(
            certificates(certificate, "client certificate")?,
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| pem("client key", e))?,
        )?,
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(tls)
}

/// For `insecure-skip-tls-verify`: signatures are checked, names and issuers are not.
#[derive(Debug)]
struct TrustAnyone(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
