//! A node's way in: a bootstrap token and a certificate request for a certificate of its own.

use kontiki_proto::names;
use kontiki_proto::pb::{RegisterReply, RegisterRequest};
use kontiki_proto::status::Status;
use rcgen::{
    CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
};

use crate::auth::{MASTERS, User};
use crate::server::Context;

/// Callers with a bootstrap token.
const BOOTSTRAPPERS: &str = "system:bootstrappers";
/// How long a node's certificate is good.
const DAYS: i64 = 365;

/// Signs a certificate for the node: `CN=system:node:<name>`, `O=system:nodes`, whatever the request's subject says.
///
/// # Errors
/// 403 unless the caller has a bootstrap token, is an administrator or is that very node; 400 for a name or request
/// that cannot be used.
pub fn register(
    context: &Context,
    user: &User,
    request: &RegisterRequest,
    servers: Vec<String>,
) -> Result<RegisterReply, Status> {
    let name = request.node_name.as_str();
    let allowed = user.is_in(BOOTSTRAPPERS) || user.is_in(MASTERS) || user.node() == Some(name);
    if !allowed {
        return Err(Status::failure(
            403,
            "Forbidden",
            format!("User {:?} may not register the node {name:?}: a bootstrap token is needed", user.name),
        ));
    }
    if let Some(problem) = names::dns1123_subdomain(name).first() {
        return Err(Status::bad_request(format!("the node name {name:?} cannot be used: {problem}")));
    }
    let certificate_pem = sign(&context.config.ca_pem, &context.config.ca_key_pem, name, &request.csr_pem)?;
    Ok(RegisterReply { certificate_pem, ca_pem: context.config.ca_pem.clone(), servers })
}

fn sign(ca_pem: &str, ca_key_pem: &str, name: &str, csr_pem: &str) -> Result<String, Status> {
    let broken = |error: rcgen::Error| Status::internal(format!("the cluster's CA cannot sign: {error}"));
    let key = KeyPair::from_pem(ca_key_pem).map_err(broken)?;
    let issuer = Issuer::from_ca_cert_pem(ca_pem, key).map_err(broken)?;
    let mut request = CertificateSigningRequestParams::from_pem(csr_pem)
        .map_err(|error| Status::bad_request(format!("the certificate request cannot be read: {error}")))?;
    let params = &mut request.params;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, crate::auth::NODES);
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{name}"));
    params.subject_alt_names.clear();
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let now = std::time::SystemTime::now();
    // A clock that is a little behind must not refuse its own new certificate.
    params.not_before = (now - std::time::Duration::from_secs(300)).into();
    params.not_after = (now + std::time::Duration::from_secs(DAYS.unsigned_abs() * 86_400)).into();
    let certificate = request.signed_by(&issuer).map_err(broken)?;
    Ok(certificate.pem())
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa};
    use x509_parser::prelude::*;

    use super::*;

    #[test]
    fn a_node_cannot_choose_its_subject() {
        let ca_key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).expect("a CA").pem();

        let key = KeyPair::generate().expect("a key");
        let mut wanted = CertificateParams::new(vec!["evil".to_string()]).expect("params");
        wanted.distinguished_name.push(DnType::CommonName, "admin");
        wanted.distinguished_name.push(DnType::OrganizationName, "system:masters");
        let csr = wanted.serialize_request(&key).expect("a request").pem().expect("PEM");

        let signed = sign(&ca_pem, &ca_key.serialize_pem(), "n1", &csr).expect("signed");
        let (_, pem) = parse_x509_pem(signed.as_bytes()).expect("PEM");
        let certificate = pem.parse_x509().expect("a certificate");
        assert_eq!(certificate.subject().to_string(), "O=system:nodes, CN=system:node:n1");
        assert!(!certificate.is_ca());
        assert!(certificate.subject_alternative_name().expect("readable").is_none());
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let ca_key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).expect("a CA").pem();
        let status = sign(&ca_pem, &ca_key.serialize_pem(), "n1", "nonsense").expect_err("refused");
        assert_eq!(status.code, 400);
    }
}
