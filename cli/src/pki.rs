//! The cluster's certificates: one authority, and what it signs.
//!
//! ```text
//! ca.crt ca.key   the authority; signs servers, peers, nodes and people
//! sa.key          signs service-account tokens
//! admin.crt .key  a person in system:masters
//! ```
//!
//! Every server of a cluster needs the first three; they are copied to a new server before it joins.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Years a certificate of the authority itself is good for.
const CA_YEARS: i16 = 10;
/// Years what it signs is good for; servers sign theirs anew at each start.
const LEAF_YEARS: i16 = 1;

/// A certificate with its key, as PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    pub cert_pem: String,
    pub key_pem: String,
}

/// The authority of one cluster.
#[derive(Clone, Debug)]
pub struct Pki {
    pub ca: Identity,
    /// EC P-256 key in PKCS#8 PEM.
    pub service_account_key_pem: String,
}

/// What a certificate is for; decides its subject and its usages.
pub enum Subject<'a> {
    /// The API port. Names and addresses clients may dial.
    Server(&'a [String]),
    /// The peer port, both ends of it.
    Peer(&'a [String]),
    /// A client: user name and group.
    User(&'a str, &'a str),
}

impl Pki {
    /// Reads the authority from a directory, making it first where the directory has none.
    ///
    /// # Errors
    /// Names the file that is missing, unreadable, or not PEM.
    pub fn open_or_create(dir: &Path) -> Result<Pki> {
        if dir.join("ca.crt").exists() { Pki::open(dir) } else { Pki::create(dir) }
    }

    /// Reads the authority from a directory.
    ///
    /// # Errors
    /// Names the file that is missing, unreadable, or not PEM.
    pub fn open(dir: &Path) -> Result<Pki> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).with_context(|| {
                format!("cannot read {}: every server needs ca.crt, ca.key and sa.key there", path.display())
            })
        };
        let pki = Pki {
            ca: Identity { cert_pem: read("ca.crt")?, key_pem: read("ca.key")? },
            service_account_key_pem: read("sa.key")?,
        };
        pki.issuer().with_context(|| format!("{} holds no usable authority", dir.display()))?;
        Ok(pki)
    }

    fn create(dir: &Path) -> Result<Pki> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        for name in ["ca.key", "sa.key"] {
            if dir.join(name).exists() {
                bail!("{} has {name} but no ca.crt; restore ca.crt or empty the directory", dir.display());
            }
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "kontiki-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, CA_YEARS);
        let certificate = params.self_signed(&key)?;
        let pki = Pki {
            ca: Identity { cert_pem: certificate.pem(), key_pem: key.serialize_pem() },
            service_account_key_pem: KeyPair::generate()?.serialize_pem(),
        };
        write_secret(&dir.join("ca.key"), &pki.ca.key_pem)?;
        write_secret(&dir.join("sa.key"), &pki.service_account_key_pem)?;
        write_secret(&dir.join("ca.crt"), &pki.ca.cert_pem)?;
        Ok(pki)
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>> {
        let key = KeyPair::from_pem(&self.ca.key_pem).context("ca.key is not a private key in PEM")?;
        Issuer::from_ca_cert_pem(&self.ca.cert_pem, key).context("ca.crt is not a certificate in PEM")
    }

    /// Signs a new key for the subject, good for a year.
    ///
    /// # Errors
    /// A name that cannot stand in a certificate, or an unusable authority.
    pub fn issue(&self, subject: &Subject<'_>) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let mut params = match subject {
            Subject::Server(names) | Subject::Peer(names) => {
                CertificateParams::new(names.to_vec()).context("a name or address for a certificate")?
            }
            Subject::User(..) => CertificateParams::default(),
        };
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let name = &mut params.distinguished_name;
        match subject {
            Subject::Server(_) => {
                name.push(DnType::CommonName, "kontiki-server");
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }
            Subject::Peer(_) => {
                name.push(DnType::CommonName, "kontiki-peer");
                name.push(DnType::OrganizationName, "kontiki:peers");
                params.extended_key_usages =
                    vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            }
            Subject::User(user, group) => {
                name.push(DnType::CommonName, *user);
                name.push(DnType::OrganizationName, *group);
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }
        }
        set_validity(&mut params, LEAF_YEARS);
        let certificate = params.signed_by(&key, &self.issuer()?)?;
        Ok(Identity { cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

/// From a day ago, for clocks that run behind.
fn set_validity(params: &mut CertificateParams, years: i16) {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let day = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(date.year().into(), date.month() as u8, date.day() as u8)
    };
    let yesterday = now.date().yesterday().unwrap_or(now.date());
    // The 28th exists in every month of every year.
    let end = jiff::civil::date(now.year() + years, now.month(), now.day().min(28));
    params.not_before = day(yesterday);
    params.not_after = day(end);
}

/// Writes a file only its owner may read, complete or not at all.
///
/// # Errors
/// Names the file.
pub fn write_secret(path: &Path, content: &str) -> Result<()> {
    let partial = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_made_once_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::open_or_create(dir.path()).unwrap();
        let again = Pki::open_or_create(dir.path()).unwrap();
        assert_eq!(first.ca.cert_pem, again.ca.cert_pem);
        assert_eq!(first.service_account_key_pem, again.service_account_key_pem);
    }

    #[test]
    fn a_missing_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        Pki::open_or_create(dir.path()).unwrap();
        fs::remove_file(dir.path().join("sa.key")).unwrap();
        let error = Pki::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("sa.key"), "{error}");
    }

    #[test]
    fn certificates_carry_user_and_group() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open_or_create(dir.path()).unwrap();
        let admin = pki.issue(&Subject::User("kubernetes-admin", "system:masters")).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(admin.cert_pem.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        let subject = certificate.subject();
        assert_eq!(subject.iter_common_name().next().unwrap().as_str().unwrap(), "kubernetes-admin");
        assert_eq!(subject.iter_organization().next().unwrap().as_str().unwrap(), "system:masters");
        assert!(certificate.validity().is_valid());
    }
}
