//! The user a client certificate names.

use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::User;

/// Common name and organisations of a certificate that TLS has already verified. `None` where it has no common
/// name or cannot be read: it then says nothing about the caller.
pub fn user(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().last()?.as_str().ok()?;
    if name.is_empty() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
    let mut user = User::new(name, groups);
    let fingerprint = format!("X509SHA256={}", hex::encode(Sha256::digest(der)));
    user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![fingerprint]);
    Some(user.authenticated())
}
