//! Custom resources: a CustomResourceDefinition becomes rows of the resource table while the server runs.
//!
//! | module | holds |
//! |---|---|
//! | [`definition`] | a definition to rows, and the status that accepts its names |
//! | [`structural`] | pruning, defaulting and validation by the schema a definition declares |
//! | [`follow`] | the table kept up to date on every server; objects removed with their definition |
//!
//! Not built: rules in CEL (`x-kubernetes-validations`) and conversion by webhook. A definition that asks for either is
//! refused rather than served halfway.

pub mod definition;
pub mod follow;
pub mod structural;

pub use follow::registry;

pub const GROUP: &str = "apiextensions.k8s.io";
pub const PLURAL: &str = "customresourcedefinitions";
/// Keeps a definition until its objects are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
