//! Service-account tokens: JSON web tokens signed with the cluster's own key.
//!
//! A token counts while its signature, issuer and times are good, and while the account and whatever it is bound to
//! (a pod, a secret, a node) are still there with the same uid.

use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::objects::Identity;
use super::{AuthConfig, AuthError, Objects, User};

/// Name and uid of something a token speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    #[serde(default)]
    pub uid: String,
}

/// The `kubernetes.io` claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Private {
    pub namespace: String,
    pub serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
}

/// All claims of a token; times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub nbf: i64,
    pub iss: String,
    pub sub: String,
    #[serde(default)]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub private: Private,
}

/// What is wrong with a token. It reaches the log, never the caller.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("not a token of this cluster: {0}")]
    Signature(#[from] jsonwebtoken::errors::Error),
    #[error("the token is for {0:?}")]
    Audience(Vec<String>),
    #[error("the token has expired or is not valid yet")]
    Time,
    #[error("the subject does not fit the service account")]
    Subject,
    #[error("{what} {name:?} is gone or is another one")]
    Unbound { what: &'static str, name: String },
}

/// Signs service-account tokens and publishes the key they are checked with.
pub struct TokenSigner {
    algorithm: Algorithm,
    private: EncodingKey,
    public: DecodingKey,
    jwk: Jwk,
    key_id: String,
    issuer: String,
    audiences: Vec<String>,
}

fn key_error(error: impl ToString) -> AuthError {
    AuthError::SigningKey(error.to_string())
}

impl TokenSigner {
    pub fn new(config: &AuthConfig) -> Result<TokenSigner, AuthError> {
        let pem = config.service_account_key.as_bytes();
        let (algorithm, private) = match EncodingKey::from_ec_pem(pem) {
            Ok(key) => (Algorithm::ES256, key),
            Err(_) => (Algorithm::RS256, EncodingKey::from_rsa_pem(pem).map_err(key_error)?),
        };
        let mut jwk = Jwk::from_encoding_key(&private, algorithm).map_err(key_error)?;
        let public = DecodingKey::from_jwk(&jwk).map_err(key_error)?;
        let key_id = jwk.thumbprint(ThumbprintHash::SHA256).map_err(key_error)?;
        jwk.common.key_id = Some(key_id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(TokenSigner {
            algorithm,
            private,
            public,
            jwk,
            key_id,
            issuer: config.issuer.clone(),
            audiences: config.audiences.clone(),
        })
    }

    /// The audiences of this server: those of tokens asked for without any.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// A token for the account, good from now on for the lifetime. An empty `audiences` stands for this server's.
    pub fn issue(
        &self,
        private: Private,
        audiences: &[String],
        now: Timestamp,
        lifetime: SignedDuration,
    ) -> Result<String, AuthError> {
        let audiences = if audiences.is_empty() { &self.audiences } else { audiences };
        let Private { namespace, serviceaccount, .. } = &private;
        let claims = Claims {
            aud: audiences.to_vec(),
            exp: now.as_second().saturating_add(lifetime.as_secs()),
            iat: now.as_second(),
            nbf: now.as_second(),
            iss: self.issuer.clone(),
            sub: format!("system:serviceaccount:{namespace}:{}", serviceaccount.name),
            jti: uuid::Uuid::new_v4().to_string(),
            private,
        };
        let header = Header { typ: None, kid: Some(self.key_id.clone()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, &claims, &self.private).map_err(key_error)
    }

    /// The claims of a token that this cluster signed; time, audience and bindings are not looked at yet.
    pub fn read(&self, token: &str) -> Result<Claims, TokenError> {
        let mut validation = Validation::new(self.algorithm);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["exp", "iss", "sub", "aud"]);
        validation.set_issuer(&[&self.issuer]);
        let claims = jsonwebtoken::decode::<Claims>(token, &self.public, &validation)?.claims;
        let Private { namespace, serviceaccount, .. } = &claims.private;
        let subject = format!("system:serviceaccount:{namespace}:{}", serviceaccount.name);
        if claims.sub != subject || namespace.is_empty() || serviceaccount.name.is_empty() {
            return Err(TokenError::Subject);
        }
        Ok(claims)
    }

    /// `/openid/v1/jwks`.
    pub fn jwks(&self) -> Vec<u8> {
        serde_json::to_vec(&json!({"keys": [self.jwk]})).unwrap_or_default()
    }

    /// `/.well-known/openid-configuration`; `address` is the `https://host:port` under which the key set is found.
    pub fn openid_configuration(&self, address: &str) -> Vec<u8> {
        let algorithm = if self.algorithm == Algorithm::ES256 { "ES256" } else { "RS256" };
        let document = json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{address}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [algorithm],
        });
        serde_json::to_vec(&document).unwrap_or_default()
    }
}

impl Claims {
    /// Whether the token may be used now. One second of skew between servers is forgiven.
    pub fn check_time(&self, now: Timestamp) -> Result<(), TokenError> {
        let now = now.as_second();
        if self.exp <= now || self.nbf > now + 1 { Err(TokenError::Time) } else { Ok(()) }
    }

    /// Those of the accepted audiences that the token is for; an error where there is none.
    pub fn check_audience(&self, accepted: &[String]) -> Result<Vec<String>, TokenError> {
        let shared: Vec<_> = accepted.iter().filter(|a| self.aud.contains(a)).cloned().collect();
        if shared.is_empty() { Err(TokenError::Audience(self.aud.clone())) } else { Ok(shared) }
    }

    /// Whether the account and everything the token is bound to is still there.
    pub fn check_bindings(&self, objects: &dyn Objects, now: Timestamp) -> Result<(), TokenError> {
        let Private { namespace, serviceaccount, pod, secret, node } = &self.private;
        let bound = [
            ("serviceaccounts", namespace.as_str(), Some(serviceaccount)),
            ("pods", namespace, pod.as_ref()),
            ("secrets", namespace, secret.as_ref()),
            // A token of a pod names the node for information only: the pod's end is the token's end.
            ("nodes", "", node.as_ref().filter(|_| pod.is_none())),
        ];
        for (what, namespace, reference) in bound {
            let Some(reference) = reference else { continue };
            let found = objects.identity("", what, namespace, &reference.name);
            if !found.is_some_and(|found| found.uid == reference.uid && !long_gone(&found, now)) {
                return Err(TokenError::Unbound { what, name: reference.name.clone() });
            }
        }
        Ok(())
    }

    pub fn user(&self) -> User {
        let Private { namespace, serviceaccount, pod, node, .. } = &self.private;
        let mut user = User::new(
            self.sub.clone(),
            ["system:serviceaccounts".to_string(), format!("system:serviceaccounts:{namespace}")],
        );
        user.uid = serviceaccount.uid.clone();
        let mut extra = |name: &str, value: String| {
            user.extra.insert(format!("authentication.kubernetes.io/{name}"), vec![value]);
        };
        if !self.jti.is_empty() {
            extra("credential-id", format!("JTI={}", self.jti));
        }
        if let Some(pod) = pod {
            extra("pod-name", pod.name.clone());
            extra("pod-uid", pod.uid.clone());
        }
        if let Some(node) = node {
            extra("node-name", node.name.clone());
            extra("node-uid", node.uid.clone());
        }
        user.authenticated()
    }
}

/// A minute after its time to go, an object no longer carries tokens, whatever keeps it.
fn long_gone(found: &Identity, now: Timestamp) -> bool {
    let deletion = found.deletion.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
    deletion.is_some_and(|at| now.duration_since(at) > SignedDuration::from_secs(60))
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::Value;

    use super::*;
    use crate::auth::objects::fixture::Fixture;

    pub(crate) fn signer() -> TokenSigner {
        let key = rcgen::KeyPair::generate().expect("a key");
        TokenSigner::new(&AuthConfig::with_key(key.serialize_pem())).expect("a signer")
    }

    fn object(kind: &str, name: &str, uid: &str) -> Value {
        let namespace = if kind == "Node" { "" } else { "shop" };
        json!({"apiVersion": "v1", "kind": kind, "metadata": {"namespace": namespace, "name": name, "uid": uid}})
    }

    fn private() -> Private {
        Private {
            namespace: "shop".into(),
            serviceaccount: Reference { name: "web".into(), uid: "sa-1".into() },
            pod: Some(Reference { name: "web-0".into(), uid: "pod-1".into() }),
            ..Private::default()
        }
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    #[test]
    fn a_token_names_its_account_and_pod() {
        let signer = signer();
        let token = signer.issue(private(), &[], now(), HOUR).expect("signs");
        let claims = signer.read(&token).expect("reads");
        assert!(claims.check_time(now()).is_ok());
        assert_eq!(claims.check_audience(signer.audiences()).expect("fits"), signer.audiences());
        let user = claims.user();
        assert_eq!(user.name, "system:serviceaccount:shop:web");
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"]
        );
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["web-0"]);
    }

    #[test]
    fn expired_foreign_and_misdirected_tokens_are_refused() {
        let signer = signer();
        let token = signer.issue(private(), &["vault".into()], now(), HOUR).expect("signs");
        let claims = signer.read(&token).expect("reads");
        let later = now() + SignedDuration::from_secs(3600);
        assert!(matches!(claims.check_time(later), Err(TokenError::Time)));
        assert!(matches!(claims.check_time(now() - HOUR), Err(TokenError::Time)));
        assert!(matches!(claims.check_audience(signer.audiences()), Err(TokenError::Audience(_))));

        let other = self::signer();
        assert!(matches!(other.read(&token), Err(TokenError::Signature(_))));
        let mut tampered = token.clone();
        tampered.replace_range(token.len() - 4.., "AAAA");
        assert!(matches!(signer.read(&tampered), Err(TokenError::Signature(_))));
        assert!(signer.read("nonsense").is_err());
    }

    #[test]
    fn a_token_ends_with_what_it_is_bound_to() {
        let signer = signer();
        let token = signer.issue(private(), &[], now(), HOUR).expect("signs");
        let claims = signer.read(&token).expect("reads");
        let check =
            |objects: Vec<Value>| claims.check_bindings(&Fixture::default().with(objects), now()).is_ok();
        let (account, pod) = (object("ServiceAccount", "web", "sa-1"), object("Pod", "web-0", "pod-1"));
        assert!(check(vec![account.clone(), pod.clone()]));
        assert!(!check(vec![account.clone()]), "the pod is gone");
        assert!(!check(vec![pod.clone()]), "the account is gone");
        assert!(!check(vec![account.clone(), object("Pod", "web-0", "pod-2")]), "another pod of that name");
        let deleted = |at: &str| {
            let mut pod = pod.clone();
            pod["metadata"]["deletionTimestamp"] = at.into();
            vec![account.clone(), pod]
        };
        assert!(check(deleted("2025-12-31T23:59:30Z")), "a pod that is ending still has its token");
        assert!(!check(deleted("2025-12-31T23:58:00Z")), "but not for ever");
    }

    #[test]
    fn the_key_set_holds_the_key_that_signs() {
        let signer = signer();
        let token = signer.issue(private(), &[], now(), HOUR).expect("signs");
        let set: jsonwebtoken::jwk::JwkSet = serde_json::from_slice(&signer.jwks()).expect("a key set");
        let header = jsonwebtoken::decode_header(&token).expect("a header");
        let key = set.find(&header.kid.expect("a key id")).expect("the key");
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_exp = false;
        validation.set_audience(signer.audiences());
        let key = DecodingKey::from_jwk(key).expect("a public key");
        assert!(jsonwebtoken::decode::<Claims>(&token, &key, &validation).is_ok());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(TokenSigner::new(&AuthConfig::with_key("no key")).is_err());
    }
}
