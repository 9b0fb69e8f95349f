//! One server's process: a tokio runtime of its own, so that everything in it can be dropped at once, with a clock of its
//! own, so that it can be stopped, run fast or slow, or jump.
//!
//! ```text
//!   world, every tick ──▶ Host::step ── its tasks run; its clock goes on by tick × rate ──▶ idle until the next step
//!                         Host::kill ── the runtime is dropped: no task of the process runs again
//! ```
//!
//! The runtime's clock is paused: it jumps from timer to timer and never waits. Servers meet nowhere but in the simulated
//! network, whose messages take a tick at least, so the order in which they are stepped within one tick is of no account.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

pub struct Host {
    runtime: Option<Runtime>,
    /// How fast its clock runs, in parts of a thousand.
    pub rate_permille: u32,
    /// Virtual time its clock has come to, since the run began.
    local: Duration,
    /// Time it was stopped for and has not been told of.
    owed: Duration,
    pub stopped: bool,
}

impl Default for Host {
    fn default() -> Host {
        Host {
            runtime: None,
            rate_permille: 1000,
            local: Duration::ZERO,
            owed: Duration::ZERO,
            stopped: false,
        }
    }
}

impl Host {
    /// Starts a process without tasks.
    ///
    /// # Errors
    /// When the runtime cannot be made.
    pub fn start(&mut self) -> std::io::Result<Handle> {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let handle = runtime.handle().clone();
        self.runtime = Some(runtime);
        self.stopped = false;
        self.owed = Duration::ZERO;
        Ok(handle)
    }

    pub fn runs(&self) -> bool {
        self.runtime.is_some()
    }

    /// What its clock shows.
    pub fn local(&self) -> Duration {
        self.local
    }

    /// Its clock jumps forward at the next step, as that of a virtual machine which was moved.
    pub fn jump(&mut self, by: Duration) {
        self.owed += by;
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            drop(runtime.spawn(task));
        }
    }

    /// Lets it run for one tick of the world's time.
    pub fn step(&mut self, tick: Duration) {
        let Some(runtime) = &self.runtime else { return };
        let own = tick * self.rate_permille / 1000;
        if self.stopped {
            self.owed += own;
            return;
        }
        let owed = std::mem::take(&mut self.owed);
        self.local += owed + own;
        kontiki_store::simulation::set_clock(self.local.as_millis() as u64);
        runtime.block_on(async {
            if !owed.is_zero() {
                // A process that was stopped wakes with all of its timers due.
                tokio::time::advance(owed).await;
            }
            tokio::time::sleep(own).await;
        });
    }

    /// Ends the process: its tasks are dropped where they are.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            drop(runtime);
        }
    }
}
