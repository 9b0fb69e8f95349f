//! The API server: REST for `kubectl` and client libraries, gRPC for everything of ours, through one chain.

pub mod admission;
pub mod auth;
pub mod bootstrap;
pub mod chain;
pub mod discovery;
pub mod front;
pub mod openapi;
pub mod patch;
pub mod request;
pub mod review;
pub mod schema;
pub mod storage;
pub mod strategy;
pub mod streams;
pub mod table;
pub mod verb;
