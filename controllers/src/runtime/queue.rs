//! The work queue: each key at most once, never two workers on one key, failures later and later.
//!
//! ```text
//!            add                next                 done
//!   (idle) ───────▶ waiting ───────────▶ processing ───────▶ (idle)
//!      ▲               ▲                     │ add: marked dirty,
//!      │ due           └─────────────────────┘ waits again when done
//!   delayed
//! ```
//! Its size is bounded by the number of keys, for no key is held twice.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The first pause after a failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub struct Queue<T> {
    state: Mutex<State<T>>,
    ready: Notify,
}

struct State<T> {
    waiting: VecDeque<T>,
    /// Keys that are waiting, or are to wait again when their worker is done.
    dirty: HashSet<T>,
    processing: HashSet<T>,
    delayed: BTreeSet<(Instant, T)>,
    due: HashMap<T, Instant>,
    failures: HashMap<T, u32>,
}

impl<T: Clone + Ord + Hash> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                dirty: HashSet::new(),
                processing: HashSet::new(),
                delayed: BTreeSet::new(),
                due: HashMap::new(),
                failures: HashMap::new(),
            }),
            ready: Notify::new(),
        }
    }
}

impl<T: Clone + Ord + Hash> State<T> {
    /// Whether the key has to be announced to a worker.
    fn add(&mut self, key: T) -> bool {
        if !self.dirty.insert(key.clone()) || self.processing.contains(&key) {
            return false;
        }
        self.waiting.push_back(key);
        true
    }

    fn delay(&mut self, key: T, at: Instant) {
        if let Some(&earlier) = self.due.get(&key) {
            if earlier <= at {
                return;
            }
            self.delayed.remove(&(earlier, key.clone()));
        }
        self.due.insert(key.clone(), at);
        self.delayed.insert((at, key));
    }

    fn release_due(&mut self, now: Instant) {
        while let Some((at, _)) = self.delayed.first()
            && *at <= now
            && let Some((_, key)) = self.delayed.pop_first()
        {
            self.due.remove(&key);
            self.add(key);
        }
    }
}

impl<T: Clone + Ord + Hash> Queue<T> {
    pub fn add(&self, key: T) {
        if self.state.lock().add(key) {
            self.ready.notify_one();
        }
    }

    /// Adds the key after a pause; of two pauses the shorter one counts.
    pub fn add_after(&self, key: T, pause: Duration) {
        if pause.is_zero() {
            return self.add(key);
        }
        self.state.lock().delay(key, Instant::now() + pause);
        self.ready.notify_one();
    }

    /// Waits for a key. The caller owes a [`Queue::done`].
    pub async fn next(&self) -> T {
        loop {
            let ready = self.ready.notified();
            let wake = {
                let mut state = self.state.lock();
                state.release_due(Instant::now());
                if let Some(key) = state.waiting.pop_front() {
                    state.dirty.remove(&key);
                    state.processing.insert(key.clone());
                    if !state.waiting.is_empty() {
                        self.ready.notify_one();
                    }
                    return key;
                }
                state.delayed.first().map(|(at, _)| *at)
            };
            match wake {
                Some(at) => {
                    tokio::select! { () = ready => {}, () = tokio::time::sleep_until(at) => {} }
                }
                None => ready.await,
            }
        }
    }

    pub fn done(&self, key: &T) {
        let again = {
            let mut state = self.state.lock();
            state.processing.remove(key);
            if state.dirty.contains(key) {
                state.waiting.push_back(key.clone());
                true
            } else {
                false
            }
        };
        if again {
            self.ready.notify_one();
        }
    }

    /// Notes a failure and lets the key wait for its turn.
    pub fn retry(&self, key: T) {
        let pause = {
            let mut state = self.state.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            let pause = FIRST_PAUSE.saturating_mul(1 << (*failures).min(16)).min(LONGEST_PAUSE);
            *failures += 1;
            pause
        };
        self.add_after(key, pause);
    }

    /// Forgets the failures of a key.
    pub fn forget(&self, key: &T) {
        self.state.lock().failures.remove(key);
    }

    /// How many keys wait for a worker, the delayed ones not counted.
    pub fn len(&self) -> usize {
        self.state.lock().waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_is_handed_out_once() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        assert_eq!(queue.next().await, "b");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_worked_on_comes_again_only_when_done() {
        let queue = Queue::default();
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert!(tokio::time::timeout(Duration::from_secs(1), queue.next()).await.is_err());
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time_until_forgotten() {
        let queue = Queue::default();
        let mut pauses = Vec::new();
        for _ in 0..4 {
            let start = Instant::now();
            queue.retry("a");
            assert_eq!(queue.next().await, "a");
            queue.done(&"a");
            pauses.push(start.elapsed().as_millis());
        }
        assert_eq!(pauses, [5, 10, 20, 40]);
        queue.forget(&"a");
        let start = Instant::now();
        queue.retry("a");
        queue.next().await;
        assert_eq!(start.elapsed().as_millis(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_pauses_the_shorter_counts() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(1));
        queue.add_after("a", Duration::from_secs(30));
        queue.next().await;
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        queue.done(&"a");
        assert!(tokio::time::timeout(Duration::from_secs(120), queue.next()).await.is_err());
    }
}
