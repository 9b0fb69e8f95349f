//! What is said to the example server: the part of a key-value store's calls that a benchmark needs. Also compiled into
//! `kontiki-chaos`, which asks.

use bytes::Bytes;

pub const TXN: &str = "/kontiki.bench.Kv/Txn";
pub const GET: &str = "/kontiki.bench.Kv/Get";
pub const STATUS: &str = "/kontiki.bench.Kv/Status";

#[derive(Clone, PartialEq, prost::Message)]
pub struct Guard {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// 0: the key is absent.
    #[prost(uint64, tag = "2")]
    pub mod_revision: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Txn {
    #[prost(message, repeated, tag = "1")]
    pub guards: Vec<Guard>,
    #[prost(message, repeated, tag = "2")]
    pub puts: Vec<Put>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct TxnReply {
    #[prost(bool, tag = "1")]
    pub committed: bool,
    #[prost(uint64, tag = "2")]
    pub revision: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Get {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct GetReply {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub value: Option<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusReply {
    #[prost(bool, tag = "1")]
    pub leads: bool,
    /// Members that vote and answer.
    #[prost(uint64, tag = "2")]
    pub voters: u64,
    #[prost(uint64, tag = "3")]
    pub revision: u64,
}
