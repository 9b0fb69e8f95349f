//! The API as clients see it: a server on loopback with TLS, over a store in memory.

#[path = "../support/mod.rs"]
mod support;

mod basics;
mod every_kind;
mod samples;
