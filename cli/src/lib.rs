//! The composition root: everything the `kontiki` binary is made of.
//!
//! | module | holds |
//! |---|---|
//! | [`pki`] | the cluster's authority and what it signs |
//! | [`server`] | one control-plane process: store, API, controllers, scheduler |
//! | [`agent`] | one node |
//! | [`up`] | a whole cluster on this machine, and its removal |
//! | [`commands`] | the client commands, one file each |
//! | [`session`] | a command's connection, namespace and kinds |
//! | [`documents`] | files of JSON and YAML documents |
//! | [`merge`] | the three-way merge of `apply` |
//! | [`output`] | tables, JSONPath, YAML |
//!
//! **Invariant:** this crate joins the others and talks to people; it holds no logic of a kind. `anyhow` is for here.

pub mod agent;
pub mod commands;
pub mod documents;
pub mod kubeconfig;
pub mod merge;
pub mod output;
pub mod pki;
pub mod server;
pub mod session;
pub mod up;
