//! Cluster DNS on every node: the names of Services and pods from the caches, other names from the node's own resolvers.
//!
//! Implements the Kubernetes DNS specification 1.1.0 (`dns-version.<domain>`): A, AAAA, SRV and PTR of Services, headless
//! Services with and without hostnames, `a-b-c-d.<namespace>.pod`, ExternalName as CNAME.

mod forward;
mod server;
mod zone;

pub(super) use server::{bind, follow};
