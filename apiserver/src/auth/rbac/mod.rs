//! Role-based access control: roles and bindings compiled for lookup.

pub mod follow;

/// Roles and bindings of the whole cluster.
#[derive(Default)]
pub struct Index {}
