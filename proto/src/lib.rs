//! The vocabulary of Kontiki: what every other crate says and none of them owns.
//!
//! | module | holds |
//! |---|---|
//! | [`pb`] | the gRPC contract of `proto/kontiki.proto`, generated |
//! | [`resource`] | the resource table: kinds are data |
//! | [`status`] | the API's error document and field errors |
//! | [`api`] | the `Api` trait that controllers, agent and CLI see |
//! | [`client`] | the `Api` over gRPC, with fail-over between servers |
//! | [`wire`] | conversions between the two |
//! | [`selector`] | label and field selectors |
//! | [`quantity`] | resource quantities such as `100m` and `1Gi` |
//! | [`names`] | what names, labels and annotations may look like |
//!
//! **Invariant:** this crate depends on no other crate of the workspace, and holds no business logic of a kind.

pub mod api;
pub mod client;
pub mod names;
pub mod quantity;
pub mod resource;
pub mod selector;
pub mod status;
pub mod wire;

/// The generated gRPC messages, clients and servers.
#[allow(clippy::doc_markdown, clippy::large_enum_variant, missing_docs)]
pub mod pb {
    tonic::include_proto!("kontiki.v1");
}

pub use api::{Api, ApiExt, DynApi, Target};
pub use resource::{Registry, Resource};
pub use status::{FieldError, Status};
