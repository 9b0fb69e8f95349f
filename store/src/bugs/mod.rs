//! Bugs that other stores had: a test each, named after it, with the property that has to hold.

mod alone;
mod checkpoint;
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
