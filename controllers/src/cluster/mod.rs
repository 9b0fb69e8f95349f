//! Controllers that keep the cluster itself in order: nodes, namespaces, and what nobody owns any more.

pub mod garbage;
mod garbage_graph;
pub mod namespace;
pub mod namespace_content;
pub mod node_addresses;
pub mod node_lifecycle;
pub mod pod_collector;
pub mod taint_eviction;
