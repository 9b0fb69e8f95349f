//! The API server: REST for `kubectl` and client libraries, gRPC for everything of ours, through one chain.
//!
//! ```text
//!  front::rest   front::grpc   front::local          bytes and streams become a Request, an Answer becomes bytes
//!        └────────────┼────────────┘
//!                   chain                            authenticate → authorize → room → decode → … → record
//!                     │
//!                   verb                             get list watch create update patch delete, any kind
//!        strategy · schema · patch · admission       what differs between kinds; what a body may hold
//!                     │
//!                  storage                           objects ↔ keys and bytes of the store
//! ```
//!
//! **Invariant:** no verb is reached but through [`chain`]: nothing is allowed by one front that another forbids.
//! **Invariant:** reads, lists and watches of an object at its stored version never parse it.

pub mod admission;
pub mod auth;
pub mod bootstrap;
pub mod chain;
pub mod config;
pub mod custom;
pub mod discovery;
pub mod front;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod request;
pub mod review;
pub mod schema;
mod server;
pub mod storage;
pub mod strategy;
pub mod streams;
pub mod table;
pub mod verb;

pub use config::ServerConfig;
pub use server::{ApiServer, Context, SetupError};
