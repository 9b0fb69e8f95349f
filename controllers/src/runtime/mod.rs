//! What all controllers share: the world they see, the queue that wakes them, and the hands that carry out their plans.
//!
//! ```text
//!   Api ──list, watch──▶ informer ──▶ hub (World) ──keys──▶ queue ──▶ worker: reconcile(&World, &Key, &Now) -> Plan
//!    ▲                                                                  │
//!    └───────────────────────────── executor ◀──────────────────────────┘
//! ```

mod controller;
mod election;
mod events;
mod execute;
mod hub;
pub mod informer;
mod plan;
mod queue;
mod world;

use std::sync::Arc;

use jiff::Timestamp;

pub use controller::Controller;
pub use election::{Election, Lead};
pub use events::Recorder;
pub use execute::{Executor, Outcome};
pub use hub::{Change, Expectation, Hub, Step};
pub use plan::{Action, EventSpec, Now, Observed, Operation, Plan, Severity, seconds};
pub use queue::Queue;
pub use world::{Key, Kind, KindId, Store, Visitor, World, revision_of, visit_kinds};

/// Where the time comes from; tests put their own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    pub fn system() -> Clock {
        Clock(Arc::new(Timestamp::now))
    }

    /// Follows tokio's clock, which tests may pause and advance, from `start` on.
    pub fn tokio(start: Timestamp) -> Clock {
        let origin = tokio::time::Instant::now();
        Clock(Arc::new(move || start + origin.elapsed()))
    }

    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}
