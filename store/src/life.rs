//! The tasks of one server, so that a simulated process can be killed.
//!
//! ```text
//!   Life::within(future) ──▶ task ── life::spawn ──▶ task ── consensus spawns ──▶ task …
//!        │
//!        └─ end(): none of them is polled again; all are dropped when the runtime comes round
//! ```
//!
//! A life goes with the task: what a task of a life spawns belongs to it too, consensus' own tasks included. In the
//! product there is no life: the server has a thread of its own, and the process dies with it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinHandle};

tokio::task_local! {
    static CURRENT: Life;
}

/// Cheap to clone; all clones are the same life.
#[derive(Clone, Default)]
pub struct Life {
    tasks: Arc<Mutex<Tasks>>,
}

#[derive(Default)]
struct Tasks {
    ended: bool,
    next: u64,
    running: BTreeMap<u64, AbortHandle>,
}

#[cfg_attr(
    not(feature = "simulation"),
    allow(dead_code, reason = "no process of the product is killed by half")
)]
impl Life {
    pub fn new() -> Life {
        Life::default()
    }

    /// The life that the running task belongs to.
    pub fn current() -> Option<Life> {
        CURRENT.try_with(Life::clone).ok()
    }

    /// Runs the future within this life. Once that has ended, the future is not polled again and never resolves.
    pub fn within<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        CURRENT.scope(self.clone(), Mortal { life: self.clone(), id: None, future: Box::pin(future) })
    }

    /// Spawns a task of this life on the caller's runtime.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let id = {
            let mut tasks = self.tasks.lock();
            tasks.next += 1;
            tasks.next
        };
        let future = Mortal { life: self.clone(), id: Some(id), future: Box::pin(future) };
        let handle = tokio::spawn(CURRENT.scope(self.clone(), future));
        let mut tasks = self.tasks.lock();
        if tasks.ended {
            handle.abort();
        } else if !handle.is_finished() {
            tasks.running.insert(id, handle.abort_handle());
        }
        drop(tasks);
        handle
    }

    /// Kills: from now on no task of this life runs.
    pub fn end(&self) {
        let running = {
            let mut tasks = self.tasks.lock();
            tasks.ended = true;
            std::mem::take(&mut tasks.running)
        };
        for task in running.values() {
            task.abort();
        }
    }

    pub fn has_ended(&self) -> bool {
        self.tasks.lock().ended
    }
}

/// Spawns a task that belongs to the life of the running one, where there is one.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match Life::current() {
        Some(life) => life.spawn(future),
        None => tokio::spawn(future),
    }
}

/// A future that stands still once its life has ended.
struct Mortal<F> {
    life: Life,
    /// Its place among the life's tasks.
    id: Option<u64>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Mortal<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if self.life.has_ended() {
            return Poll::Pending;
        }
        self.future.as_mut().poll(cx)
    }
}

impl<F> Drop for Mortal<F> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.life.tasks.lock().running.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    /// What a task spawns, and what that spawns, ends with the life; others go on.
    #[tokio::test(start_paused = true)]
    async fn the_end_is_for_all_of_a_life_and_for_nothing_else() {
        let counts: [Arc<AtomicU64>; 2] = Default::default();
        let count = |number: usize| {
            let counter = counts[number].clone();
            async move {
                spawn(async move {
                    spawn(async move {
                        loop {
                            counter.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    });
                });
            }
        };
        let lives = [Life::new(), Life::new()];
        for (number, life) in lives.iter().enumerate() {
            life.spawn(count(number));
        }
        tokio::time::sleep(Duration::from_millis(95)).await;
        lives[0].end();
        let at_the_end = counts[0].load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(counts[0].load(Ordering::Relaxed), at_the_end);
        assert!(counts[1].load(Ordering::Relaxed) > at_the_end);
        assert!(lives[0].spawn(async {}).await.is_err(), "nothing begins in a life that has ended");
        assert!(lives[0].tasks.lock().running.is_empty());
    }

    #[tokio::test]
    async fn a_task_that_is_done_is_forgotten() {
        let life = Life::new();
        for _ in 0..10 {
            life.spawn(async {}).await.unwrap();
        }
        assert!(life.tasks.lock().running.is_empty());
    }
}
