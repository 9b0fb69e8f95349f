//! The store: consensus, log, MVCC, watch, leases. It knows keys, bytes and revisions; never a kind.
//!
//! ```text
//!   propose ─▶ raft: leader? ──no──▶ forwarded to the leader            get, range, watch: local, no lock
//!                │ yes: batched, stamped with time                                ▲
//!                ▼                                                                │
//!              log (files, fsynced, one writer) ─▶ quorum ─▶ mvcc: apply ─▶ view ──┴─▶ hub ─▶ watchers
//!                                                              │
//!                                                              └─▶ checkpoint (sled, incremental)
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`types`](self) | keys, entries, transactions, changes, errors: the interface |
//! | `store` | [`Store`], the handle |
//! | `command` | what the log carries |
//! | `mvcc` | the pure state machine, its views and history |
//! | `lease`, `housekeeping` | leases; what the leader proposes of its own accord |
//! | `watch` | [`Watcher`] and the hub that feeds it |
//! | `life` | the tasks of one server, so that a simulated one can be killed |
//! | `replica` | one writer, readers without locks |
//! | `memory` | a cluster of one without disk or network |
//! | `simulation` | what a simulation exchanges and looks at; a feature
//! | `mutant` | defects that the simulation plants to test its checkers |
//! | `backup` | the state as a file that proves itself whole |
//! | `recovery` | a new cluster out of a backup, or of one survivor's directory |
//! | `codec` | version byte, checksum, bincode |
//! | `disk` | the data directory: log files, the checkpoint's database |
//! | `environment` | the seam between a server and its disk, exchanged by the simulation |
//! | `raft` | consensus between servers; no openraft type leaves it |
//!
//! **Invariants.** Nothing is acknowledged before it is durable on a quorum, a single server included; a failing fsync ends
//! the process. `apply` reads no clock, no random number, no environment. The revision never goes backwards. A watch
//! delivers every change after its start, once, in order, whole revisions together, or ends with an error that says to
//! list again. Every wait has a deadline, and an unknown outcome is reported as such. Member ids are never reused.

// What the tests share speaks of this crate by its name.
#[cfg(test)]
extern crate self as kontiki_store;

mod backup;
#[cfg(test)]
mod bugs;
mod codec;
mod command;
mod config;
mod disk;
mod environment;
mod housekeeping;
mod lease;
mod life;
mod memory;
mod mutant;
mod mvcc;
mod raft;
mod recovery;
mod replica;
#[cfg(feature = "simulation")]
pub mod simulation;
mod store;
mod types;
mod watch;

pub use backup::{Backup, BackupCheck, BackupError, BackupSummary, verify_backup};
pub use config::{Config, OpenError, PeerTls, Start, Timings};
pub use recovery::{Anew, Found, REVISION_STEP, RecoveryError, Survivor, restore_backup};
pub use store::Store;
pub use types::*;
pub use watch::Watcher;
