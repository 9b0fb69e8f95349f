//! The `continue` token: where a list goes on, and at which revision.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use kontiki_proto::status::Status;
use kontiki_store::Revision;
use serde::{Deserialize, Serialize};

/// Opaque to clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    #[serde(rename = "v")]
    version: String,
    /// The revision all pages are read at; `None` when the first one is gone and the client accepts a newer one.
    #[serde(rename = "rv")]
    pub revision: Option<Revision>,
    /// The last key of the page before, without the collection's prefix.
    #[serde(rename = "start")]
    pub after: String,
}

const VERSION: &str = "kontiki/1";

impl Token {
    pub fn new(revision: Option<Revision>, prefix: &[u8], last: &[u8]) -> Token {
        let rest = last.strip_prefix(prefix).unwrap_or(last);
        Token { version: VERSION.into(), revision, after: String::from_utf8_lossy(rest).into_owned() }
    }

    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    pub fn decode(text: &str) -> Result<Token, Status> {
        let bad = |why: String| Status::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| bad(error.to_string()))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if token.version != VERSION {
            return Err(bad(format!("server does not recognize this encoded version {:?}", token.version)));
        }
        Ok(token)
    }

    /// The key to go on behind; always under the prefix, whatever the token says.
    pub fn after(&self, prefix: &[u8]) -> Bytes {
        [prefix, self.after.as_bytes()].concat().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_was_and_others_are_refused() {
        let token = Token::new(Some(7), b"/registry/core/pods/", b"/registry/core/pods/a/b");
        assert_eq!(Token::decode(&token.encode()).expect("decodes"), token);
        assert_eq!(token.after(b"/registry/core/pods/"), "/registry/core/pods/a/b");
        for text in ["%", "bm9uc2Vuc2U", ""] {
            let status = Token::decode(text).expect_err("refused");
            assert_eq!(status.code, 400);
            assert!(status.message.starts_with("continue key is not valid"), "{}", status.message);
        }
    }
}
