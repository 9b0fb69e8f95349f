//! Credentials to a user.

use std::sync::Arc;

use kontiki_proto::Status;

use super::{AuthConfig, AuthError, Objects, TokenSigner, User};

/// What a call brought along.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials<'a> {
    /// DER of the leaf certificate, already verified against the cluster's CA.
    pub peer_certificate: Option<&'a [u8]>,
    /// What stood behind `Bearer ` in the `Authorization` header.
    pub bearer: Option<&'a str>,
}

/// Turns credentials into a user.
pub struct Authenticator {}

impl Authenticator {
    pub fn new(
        _config: &AuthConfig,
        _signer: Arc<TokenSigner>,
        _objects: Arc<dyn Objects>,
    ) -> Result<Authenticator, AuthError> {
        Ok(Authenticator {})
    }

    /// A certificate counts before a token. Without either the caller is `system:anonymous`; a token that is not
    /// good is 401, never anonymous.
    pub async fn authenticate(&self, _credentials: Credentials<'_>) -> Result<Arc<User>, Status> {
        Err(Status::unauthorized())
    }
}
