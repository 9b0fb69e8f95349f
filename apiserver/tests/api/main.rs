//! The API as clients see it: a server on loopback with TLS, over a store in memory.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod bad_input;
mod basics;
mod cluster;
mod custom_resources;
mod deletes;
mod every_kind;
mod lists;
mod nodes;
mod openapi;
mod samples;
mod watches;
mod writes;
