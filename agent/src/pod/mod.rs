//! Pods.
pub mod model;
pub mod plan;
pub mod qos;
pub mod status;
