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
//! | `disk` | a disk that loses power, fails, fills, slows and stalls on command |
//! | `power_cut` | one server on such a disk, cut a thousand times |
//! | [`history`] | what clients did, when, and what they were told |
//! | `traffic` | clients and watchers |
//! | [`observe`] | what was seen of the servers, and what was done to them |
//! | [`report`] | what each side of a partition told its clients |
//! | [`check`] | what must hold of every history |
//! | `scenario` | one file for each way to hurt a cluster |
//! | `bench` | the budget table |
//!
//! Feature `processes` (the default) has what needs real servers; the features `simulation` and `power` need the store alone.
//!
//! **Invariant:** an operation whose outcome its client does not know stays open in the history for ever; no checker takes
//! silence for refusal. **Invariant:** whatever a run makes dies with its process: namespaces have no names, servers
//! are killed with their parent, data is in a temporary directory.

#[cfg(feature = "processes")]
pub mod bench;
pub mod check;
#[cfg(feature = "processes")]
pub mod cluster;
#[cfg(feature = "power")]
pub mod disk;
pub mod history;
pub mod observe;
#[cfg(feature = "power")]
pub mod power_cut;
pub mod report;
#[cfg(feature = "processes")]
pub mod scenario;
#[cfg(feature = "simulation")]
pub mod sim;
#[cfg(feature = "processes")]
pub mod traffic;
#[cfg(feature = "power")]
pub mod world;
