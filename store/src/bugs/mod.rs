//! Bugs that other stores had: a test each, named after it, with the property that has to hold.

mod alone;
mod checkpoint;
mod durability;
mod history;
mod replicas;
mod restore;
mod sled;
