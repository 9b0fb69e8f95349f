//! The node's certificate: got with a bootstrap token the first time, renewed with itself before two thirds of its life are
//! over, kept under `pki/`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use kontiki_proto::client::{Client, ClientConfig};
use kontiki_proto::pb::RegisterRequest;
use rcgen::{CertificateParams, DnType, KeyPair};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Error, Options};

const DEADLINE: Duration = Duration::from_secs(10);

/// Certificate chain and key, PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
    /// When it is to be renewed, and when it is of no use any more.
    pub renew_at: Timestamp,
    pub expires_at: Timestamp,
}

fn files(root: &Path) -> (PathBuf, PathBuf) {
    (root.join("pki/node.crt"), root.join("pki/node.key"))
}

/// The identity on disk, where there is one that is still valid.
pub fn load(root: &Path) -> Option<Identity> {
    let (certificate, key) = files(root);
    let identity = parse(std::fs::read_to_string(certificate).ok()?, std::fs::read_to_string(key).ok()?)?;
    (identity.expires_at > Timestamp::now()).then_some(identity)
}

fn parse(certificate: String, key: String) -> Option<Identity> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).ok()?;
    let (_, parsed) = X509Certificate::from_der(&pem.contents).ok()?;
    let validity = parsed.validity();
    let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Some(Identity {
        renew_at: Timestamp::from_second(from + (to - from) * 2 / 3).ok()?,
        expires_at: Timestamp::from_second(to).ok()?,
        certificate,
        key,
    })
}

/// A new certificate for a new key: with the old identity, or else with the bootstrap token. Asks each server once.
///
/// # Errors
/// What the last server said, or that there is nothing to register with.
pub async fn register(options: &Options, old: Option<&Identity>) -> Result<Identity, Error> {
    let failed = |why: String| Error::Register { node: options.node_name.clone(), why };
    let mut config = ClientConfig::new(options.servers.clone(), &options.ca_pem).with_deadline(DEADLINE);
    config = match (old, &options.bootstrap_token) {
        (Some(old), _) => config.with_identity(&old.certificate, &old.key),
        (None, Some(token)) => config.with_token(token.clone()),
        (None, None) => return Err(Error::NoToken),
    };
    let client = Client::new(config).map_err(|e| failed(e.to_string()))?;
    let key = KeyPair::generate().map_err(|e| failed(e.to_string()))?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", options.node_name));
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    let request = params.serialize_request(&key).and_then(|r| r.pem()).map_err(|e| failed(e.to_string()))?;
    let message = RegisterRequest { node_name: options.node_name.clone(), csr_pem: request };
    let mut last = String::from("no server was asked");
    for _ in client.addresses() {
        let asked = tokio::time::timeout(DEADLINE, client.nodes().register(message.clone())).await;
        match asked {
            Ok(Ok(reply)) => {
                let certificate = reply.into_inner().certificate_pem;
                let identity = parse(certificate, key.serialize_pem())
                    .ok_or_else(|| failed("the server's answer holds no certificate".into()))?;
                save(&options.root_dir, &identity)
                    .map_err(|e| Error::Io("write the node's certificate", e))?;
                return Ok(identity);
            }
            Ok(Err(status)) => last = status.message().to_string(),
            Err(_) => last = format!("no answer within {} s", DEADLINE.as_secs()),
        }
        client.turn_away();
    }
    Err(failed(last))
}

fn save(root: &Path, identity: &Identity) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let (certificate, key) = files(root);
    let dir = root.join("pki");
    std::fs::create_dir_all(&dir)?;
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700))?;
    // The key first: a certificate without its key would be refused at the next start.
    crate::pod::dirs::write(&key, identity.key.as_bytes())?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
    crate::pod::dirs::write(&certificate, identity.certificate.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        let identity = parse(certificate.pem(), key.serialize_pem()).unwrap();
        assert!(identity.renew_at < identity.expires_at);
        let root = tempfile::tempdir().unwrap();
        assert!(load(root.path()).is_none());
        save(root.path(), &identity).unwrap();
        assert_eq!(load(root.path()).unwrap().key, identity.key);
    }
}
