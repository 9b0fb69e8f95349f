//! Clusters that can be hurt, traffic on them, and judges of what was recorded.
//!
//! ```text
//!  scenario ── hurts ──▶ Cluster (real processes in network namespaces)
//!     │                     ▲
//!     └── starts ─▶ traffic ┘── records ──▶ History ──▶ checkers ──▶ verdict
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`cluster`] | the `Cluster` trait, and `kontiki server` processes behind it |
//! | [`traffic`] | clients that write, read and watch, and write down what happened |
//! | [`history`] | what was asked, answered, and when |
//! | [`check`] | one judge for each guarantee |
//! | [`scenario`] | faults, each named by the bug it would catch |
//!
//! **Invariant:** a scenario's verdict comes from the checkers alone. An operation whose outcome is unknown stays open
//! for ever: it may have happened, or may happen yet.
// WORK SPLIT (remove when done): the lead writes cluster, traffic, history, check, scenario and main's `run`/`list`;
// helper N2 writes bench/ (`kontiki-chaos bench`, everything of the budget table) and may reuse cluster.

pub mod check;
pub mod cluster;
pub mod history;
pub mod scenario;
pub mod traffic;
