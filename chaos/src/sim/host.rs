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

/// Rounds of its tasks that a process runs in a tick in which its clock stands still.
const PASSES: usize = 8;

fn whole(time: Duration) -> Duration {
    Duration::from_millis(time.as_millis() as u64)
}

pub struct Host {
    runtime: Option<Runtime>,
    /// How fast its clock runs, in parts of a thousand.
    pub rate_permille: u32,
    /// What its clock should show, since the run began.
    due: Duration,
    /// What it shows: whole milliseconds, as tokio's timers count.
    shown: Duration,
    pub stopped: bool,
}

impl Default for Host {
    fn default() -> Host {
        Host {
            runtime: None,
            rate_permille: 1000,
            due: Duration::ZERO,
            shown: Duration::ZERO,
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
        self.shown = whole(self.due);
        Ok(handle)
    }

    pub fn runs(&self) -> bool {
        self.runtime.is_some()
    }

    /// Its clock jumps forward at the next step, as that of a virtual machine which was moved.
    pub fn jump(&mut self, by: Duration) {
        self.due += by;
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            drop(runtime.spawn(task));
        }
    }

    /// Lets it run for one tick of the world's time.
    pub fn step(&mut self, tick: Duration) {
        let Some(runtime) = &self.runtime else { return };
        self.due += tick * self.rate_permille / 1000;
        if self.stopped {
            return;
        }
        let step = whole(self.due).saturating_sub(self.shown);
        self.shown += step;
        kontiki_store::simulation::set_clock(self.shown.as_millis() as u64);
        runtime.block_on(async {
            if step.is_zero() {
                // A slow clock: what has arrived is worked on all the same.
                for _ in 0..PASSES {
                    tokio::task::yield_now().await;
                }
                return;
            }
            if step > tick * 4 {
                // A process that was stopped wakes with all of its timers due.
                tokio::time::advance(step - tick).await;
            }
            tokio::time::sleep(if step > tick * 4 { tick } else { step }).await;
        });
    }

    /// Ends the process: its tasks are dropped where they are.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            drop(runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const TICK: Duration = Duration::from_millis(2);

    /// A process that counts its own tens of milliseconds.
    fn counting() -> (Host, Arc<AtomicU64>) {
        let mut host = Host::default();
        host.start().unwrap();
        let count = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&count);
        host.spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        (host, count)
    }

    #[track_caller]
    fn check(act: impl FnOnce(&mut Host), expected: u64) {
        let (mut host, count) = counting();
        act(&mut host);
        (0..501).for_each(|_| host.step(TICK));
        assert_eq!(count.load(Ordering::Relaxed), expected);
    }

    #[test]
    fn a_clock_runs_at_its_rate() {
        check(|_| {}, 100);
        check(|host| host.rate_permille = 1100, 110);
        check(|host| host.rate_permille = 400, 40);
    }

    #[test]
    fn a_stopped_process_does_nothing_and_then_finds_that_it_is_late() {
        let (mut host, count) = counting();
        host.stopped = true;
        (0..500).for_each(|_| host.step(TICK));
        assert_eq!(count.load(Ordering::Relaxed), 0);
        host.stopped = false;
        host.step(TICK);
        assert_eq!(count.load(Ordering::Relaxed), 1);
        (0..6).for_each(|_| host.step(TICK));
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn nothing_of_a_killed_process_runs() {
        let (mut host, count) = counting();
        (0..51).for_each(|_| host.step(TICK));
        host.kill();
        (0..50).for_each(|_| host.step(TICK));
        assert_eq!((host.runs(), count.load(Ordering::Relaxed)), (false, 10));
    }
}
