//! Who is calling, and may they: authentication and authorization.
//!
//! ```text
//!  certificate, bearer token ── Authenticator ──▶ User ── Authorizer ──▶ Allow | Deny
//!                                  │                         │
//!                       secrets, accounts, pods      RBAC index, node's own objects
//!                                  └────── Objects: the newest state applied on this server
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`authenticate`] | credentials to a user: certificate, token file, service account, bootstrap token |
//! | [`service_account`] | signing and checking service-account tokens, and the key set others check them with |
//! | [`authorize`] | one question, asked of system:masters, the node authorizer and RBAC in turn |
//! | [`rbac`] | roles and bindings compiled for lookup, fed by a watch |
//! | [`node`] | what a node may do beyond RBAC |
//! | [`impersonate`] | acting as another user |
//! | [`objects`] | the view of the store that all of these read |
//!
//! **Invariant:** no request reaches a verb without one `User` and one `Allow`; both fronts ask here.

pub mod authenticate;
pub mod authorize;
pub mod bootstrap_token;
pub mod certificate;
pub mod impersonate;
pub mod node;
pub mod objects;
pub mod rbac;
pub mod service_account;
pub mod token_file;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use kontiki_store::Store;
use tokio_util::sync::CancellationToken;

pub use authenticate::{Authenticator, Credentials};
pub use authorize::{Access, Authorizer, Decision};
pub use objects::{Objects, Stored};
pub use service_account::TokenSigner;

/// In this group everything is allowed, whatever the roles say.
pub const MASTERS: &str = "system:masters";
/// Every caller that proved who it is.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Every caller that did not try to.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Nodes with a certificate of their own.
pub const NODES: &str = "system:nodes";

/// Who is calling, as `authentication.k8s.io` `UserInfo` describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    /// What the authenticator knows besides, such as the pod a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> User {
        User { name: name.into(), groups: groups.into_iter().map(Into::into).collect(), ..User::default() }
    }

    pub fn anonymous() -> User {
        User::new("system:anonymous", [UNAUTHENTICATED])
    }

    /// The identity of the server's own controllers: allowed everything.
    pub fn controllers() -> User {
        User::new("system:kontiki:controllers", [MASTERS, AUTHENTICATED])
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The name of the node that calls, where the caller is one.
    pub fn node(&self) -> Option<&str> {
        if !self.is_in(NODES) {
            return None;
        }
        self.name.strip_prefix("system:node:").filter(|name| !name.is_empty())
    }

    /// Adds `system:authenticated` where it is missing, as every authenticated user is in it.
    pub(crate) fn authenticated(mut self) -> User {
        if !self.is_in(AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.into());
        }
        self
    }
}

/// What authentication is set up with.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// Lines of `token,user,uid,"group1,group2"`.
    pub token_file: Option<PathBuf>,
    /// PEM of the private key (EC P-256 or RSA) that signs service-account tokens; the same on every server.
    pub service_account_key: String,
    /// The `iss` of service-account tokens, an https URL.
    pub issuer: String,
    /// Audiences this server answers to; the first is that of tokens asked for without one.
    pub audiences: Vec<String>,
}

impl AuthConfig {
    /// The usual issuer and audience, with this key.
    pub fn with_key(service_account_key: impl Into<String>) -> AuthConfig {
        let issuer = "https://kubernetes.default.svc.cluster.local";
        AuthConfig {
            token_file: None,
            service_account_key: service_account_key.into(),
            issuer: issuer.into(),
            audiences: vec![issuer.into()],
        }
    }
}

/// Why authentication could not be set up; the message names the file or key.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("the token file {path}: {why}")]
    TokenFile { path: PathBuf, why: String },
    #[error("the service-account signing key: {0}")]
    SigningKey(String),
}

/// Authentication and authorization of one server.
pub struct Auth {
    pub authenticator: Arc<Authenticator>,
    pub authorizer: Arc<Authorizer>,
    pub signer: Arc<TokenSigner>,
    pub objects: Arc<dyn Objects>,
    store: Store,
}

impl Auth {
    /// Reads the token file and the key, and the roles the store holds now.
    pub fn new(config: &AuthConfig, store: Store) -> Result<Auth, AuthError> {
        let objects = Arc::new(Stored::new(store.clone()));
        let auth = Auth::with_objects(config, store, objects)?;
        if let Err(error) = rbac::follow::load(&auth.store, auth.authorizer.index()) {
            tracing::warn!(%error, "roles cannot be read yet");
        }
        Ok(auth)
    }

    pub(crate) fn with_objects(
        config: &AuthConfig,
        store: Store,
        objects: Arc<dyn Objects>,
    ) -> Result<Auth, AuthError> {
        let signer = Arc::new(TokenSigner::new(config)?);
        let authenticator = Arc::new(Authenticator::new(config, signer.clone(), objects.clone())?);
        let authorizer = Arc::new(Authorizer::new(objects.clone()));
        Ok(Auth { authenticator, authorizer, signer, objects, store })
    }

    /// Keeps the RBAC index up to date until cancelled.
    pub async fn follow(&self, stop: CancellationToken) {
        rbac::follow::follow(self.store.clone(), self.authorizer.index().clone(), stop).await;
    }
}
