//! The composition root: everything the `kontiki` binary is made of.
//!
//! | module | holds |
//! |---|---|
//! | [`pki`] | the cluster's authority and what it signs |
//! | [`server`] | one control-plane process: store, API, controllers, scheduler |
//! | [`agent`] | one node |
//! | [`up`] | a whole cluster on this machine, and its removal |
//!
//! **Invariant:** this crate joins the others and talks to people; it holds no logic of a kind. `anyhow` is for here.

pub mod agent;
pub mod pki;
pub mod server;
pub mod up;
