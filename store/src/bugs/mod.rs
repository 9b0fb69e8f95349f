//! Bugs that other stores had: a test each, named after it, with the property that has to hold. Those of the
//! checkpoint speak consensus' own language and stand in `raft/checkpoint_bugs`.

pub(crate) mod alone;
mod cluster;
mod consensus;
mod durability;
mod failover;
mod history;
mod leases;
mod net;
mod replicas;
mod restore;
mod sled;
mod snapshots;
mod watches;
