//! Discovery documents, made from the resource table.

use bytes::Bytes;
use kontiki_proto::Registry;

/// A document ready to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub content_type: &'static str,
    /// Quoted, where the document has one; the front answers 304 to the same `If-None-Match`.
    pub etag: Option<String>,
    pub body: Bytes,
}

/// `/api`, `/apis`, `/api/v1`, `/apis/<group>`, `/apis/<group>/<version>`; `None` where the path is none of these or
/// names no group of the table. `accept` chooses between the legacy and the aggregated form of the first two.
/// `address` is the `host:port` clients are told for `/api`.
pub fn answer(_registry: &Registry, _path: &str, _accept: &str, _address: &str) -> Option<Reply> {
    None
}
