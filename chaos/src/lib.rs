//! Clusters that can be hurt, traffic that remembers, and checkers that judge.
//!
//! ```text
//!  scenario ── hurts ──► cluster (real processes, each in a network namespace of its own)
//!     │                     ▲
//!     └── runs ──► traffic ─┘ ── records ──► history ──► check ──► verdict, with the seed
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `cluster` | the `Cluster` trait, and real `kontiki server` processes behind it |
//! | `world` | the private network they live in |
//! | `sim` | clusters in one process, in virtual time |
//! | [`history`] | what clients did, when, and what they were told |
//! | `traffic` | clients and watchers |
//! | [`check`] | what must hold of every history |
//! | `scenario` | one file for each way to hurt a cluster |
//! | `bench` | the budget table |
//!
//! Feature `processes` (the default) has what needs real servers; feature `simulation` needs the store alone.
//!
//! **Invariant:** an operation whose outcome its client does not know stays open in the history for ever; no checker takes
//! silence for refusal. **Invariant:** whatever a run makes dies with its process: namespaces have no names, servers
//! are killed with their parent, data is in a temporary directory.

#[cfg(feature = "processes")]
pub mod bench;
pub mod check;
#[cfg(feature = "processes")]
pub mod cluster;
pub mod history;
pub mod observe;
#[cfg(feature = "processes")]
pub mod scenario;
#[cfg(feature = "simulation")]
pub mod sim;
#[cfg(feature = "processes")]
pub mod traffic;
#[cfg(feature = "processes")]
pub mod world;
