//! Credentials to a user.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use kontiki_proto::Status;
use parking_lot::Mutex;

use super::service_account::{Claims, TokenError};
use super::token_file::{self, TokenFile};
use super::{AuthConfig, AuthError, Objects, TokenSigner, User, bootstrap_token, certificate};

/// Tokens whose signature has been found good; checking one again costs more than the rest of a request.
const REMEMBERED: usize = 4096;

/// What a call brought along.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials<'a> {
    /// DER of the leaf certificate, already verified against the cluster's CA.
    pub peer_certificate: Option<&'a [u8]>,
    /// What stood behind `Bearer ` in the `Authorization` header.
    pub bearer: Option<&'a str>,
}

/// A good token: who it stands for, and for which of the asked audiences.
#[derive(Clone, Debug)]
pub struct Authenticated {
    pub user: Arc<User>,
    /// Empty where the kind of token knows no audiences: it is then for this server alone.
    pub audiences: Vec<String>,
}

type Known = Arc<(Claims, Arc<User>)>;

/// Turns credentials into a user.
pub struct Authenticator {
    tokens: TokenFile,
    signer: Arc<TokenSigner>,
    objects: Arc<dyn Objects>,
    /// By the digest of the token.
    remembered: Mutex<HashMap<[u8; 32], Known>>,
}

impl Authenticator {
    pub fn new(
        config: &AuthConfig,
        signer: Arc<TokenSigner>,
        objects: Arc<dyn Objects>,
    ) -> Result<Authenticator, AuthError> {
        let tokens = match &config.token_file {
            None => TokenFile::default(),
            Some(path) => {
                let failed = |why| AuthError::TokenFile { path: path.clone(), why };
                let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
                TokenFile::parse(&text).map_err(failed)?
            }
        };
        Ok(Authenticator { tokens, signer, objects, remembered: Mutex::default() })
    }

    /// A certificate counts before a token. Without either the caller is `system:anonymous`; a token that is not
    /// good is 401, never anonymous.
    pub async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Arc<User>, Status> {
        if let Some(user) = credentials.peer_certificate.and_then(certificate::user) {
            return Ok(Arc::new(user));
        }
        match credentials.bearer {
            None => Ok(Arc::new(User::anonymous())),
            Some(token) => self
                .token(token, self.signer.audiences())
                .await
                .map(|good| good.user)
                .ok_or_else(Status::unauthorized),
        }
    }

    /// Who a token stands for, where it is good for one of the audiences.
    pub async fn token(&self, token: &str, audiences: &[String]) -> Option<Authenticated> {
        // Tokens that know no audiences are for this server alone.
        let local = || {
            let mine = self.signer.audiences();
            audiences.iter().filter(|audience| mine.contains(audience)).cloned().collect::<Vec<_>>()
        };
        let now = Timestamp::now();
        let user = match (self.tokens.user(token), bootstrap_token::parse(token)) {
            (Some(user), _) => Some(user),
            (None, Some((id, secret))) => {
                bootstrap_token::user(&*self.objects, id, secret, now).map(Arc::new)
            }
            (None, None) => {
                return match self.service_account(token, audiences, now).await {
                    Ok(good) => Some(good),
                    Err(error) => {
                        tracing::debug!(%error, "a token was refused");
                        None
                    }
                };
            }
        };
        let audiences = local();
        user.filter(|_| !audiences.is_empty()).map(|user| Authenticated { user, audiences })
    }

    async fn service_account(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Authenticated, TokenError> {
        let digest = token_file::digest(token);
        let known = self.remembered.lock().get(&digest).cloned();
        let known = match known {
            Some(known) => known,
            None => {
                let claims = self.signer.read(token)?;
                claims.check_time(now)?;
                let user = Arc::new(claims.user());
                let known = Arc::new((claims, user));
                self.remember(digest, known.clone(), now);
                known
            }
        };
        let (claims, user) = &*known;
        claims.check_time(now)?;
        let audiences = claims.check_audience(audiences)?;
        if claims.check_bindings(&*self.objects, now).is_err() {
            // Another server may have made the account a moment ago.
            if let Err(error) = self.objects.catch_up().await {
                tracing::debug!(%error, "cannot catch up to check a token");
            }
            claims.check_bindings(&*self.objects, now)?;
        }
        Ok(Authenticated { user: user.clone(), audiences })
    }

    fn remember(&self, digest: [u8; 32], known: Known, now: Timestamp) {
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBERED {
            remembered.retain(|_, known| known.0.check_time(now).is_ok());
        }
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(digest, known);
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use serde_json::json;

    use super::*;
    use crate::auth::objects::fixture::Fixture;
    use crate::auth::service_account::{Private, Reference, tests::signer};

    fn authenticator(objects: Fixture) -> Authenticator {
        let signer = Arc::new(signer());
        let config = AuthConfig::with_key("");
        let mut made = Authenticator::new(&config, signer, Arc::new(objects)).expect("made");
        made.tokens = TokenFile::parse("static,jane,u1,dev").expect("parses");
        made
    }

    fn bearer(token: &str) -> Credentials<'_> {
        Credentials { bearer: Some(token), ..Credentials::default() }
    }

    #[tokio::test]
    async fn nothing_is_anonymous_and_a_bad_token_is_not() {
        let authenticator = authenticator(Fixture::default());
        let nobody = authenticator.authenticate(Credentials::default()).await.expect("anonymous");
        assert_eq!(*nobody, User::anonymous());
        for bad in ["", "wrong", "a.b.c", "abcdef.0123456789abcdef"] {
            let refused = authenticator.authenticate(bearer(bad)).await.expect_err("refused");
            assert_eq!((refused.code, refused.message.as_str()), (401, "Unauthorized"), "{bad}");
        }
        let jane = authenticator.authenticate(bearer("static")).await.expect("known");
        assert_eq!(jane.name, "jane");
    }

    #[tokio::test]
    async fn a_certificate_names_the_user_and_counts_first() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:n1");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        let certificate = params.self_signed(&key).expect("a certificate");
        let authenticator = authenticator(Fixture::default());
        let credentials = Credentials { peer_certificate: Some(certificate.der()), bearer: Some("wrong") };
        let node = authenticator.authenticate(credentials).await.expect("known");
        assert_eq!(node.node(), Some("n1"));
        assert_eq!(node.groups, ["system:nodes", "system:authenticated"]);
    }

    #[tokio::test]
    async fn an_account_s_token_is_good_while_the_account_is_there() {
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"namespace": "shop", "name": "web", "uid": "sa-1"},
        });
        let private = Private {
            namespace: "shop".into(),
            serviceaccount: Reference { name: "web".into(), uid: "sa-1".into() },
            ..Private::default()
        };
        let objects = Arc::new(Fixture::default().with([account.clone()]));
        let signer = Arc::new(signer());
        let authenticator =
            Authenticator::new(&AuthConfig::with_key(""), signer.clone(), objects.clone()).expect("made");
        let hour = SignedDuration::from_hours(1);
        let token = signer.issue(private.clone(), &[], Timestamp::now(), hour).expect("signs");
        for _ in 0..2 {
            let user = authenticator.authenticate(bearer(&token)).await.expect("good");
            assert_eq!(user.name, "system:serviceaccount:shop:web");
        }
        let old = signer.issue(private.clone(), &[], Timestamp::now() - hour, hour).expect("signs");
        assert!(authenticator.authenticate(bearer(&old)).await.is_err());
        let other = signer.issue(private, &["vault".into()], Timestamp::now(), hour).expect("signs");
        assert!(authenticator.authenticate(bearer(&other)).await.is_err());
        assert!(authenticator.token(&other, &["vault".into()]).await.is_some());

        let mut successor = account;
        successor["metadata"]["uid"] = "sa-2".into();
        objects.put(successor);
        assert!(authenticator.authenticate(bearer(&token)).await.is_err(), "also when remembered");
    }
}
