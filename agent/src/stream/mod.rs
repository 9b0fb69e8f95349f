//! Streams into pods.
pub mod exec;
