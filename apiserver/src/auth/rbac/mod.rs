//! Role-based access control: roles and bindings compiled for lookup.
//!
//! | module | holds |
//! |---|---|
//! | [`rule`] | one rule, and whether it allows a request |
//! | [`index`] | roles by name, bindings by subject, aggregation |
//! | [`cover`] | whether some rules allow all that others allow: the check against privilege escalation |
//! | [`follow`] | the index kept up to date from the store |

pub mod cover;
pub mod follow;
pub mod index;
pub mod rule;

pub use index::Index;
pub use rule::Rule;

#[cfg(test)]
mod tests;

pub const GROUP: &str = "rbac.authorization.k8s.io";
