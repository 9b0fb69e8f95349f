//! Pods that wait for a node.
//!
//! ```text
//!   pod appears ──▶ active ──pop──▶ (being scheduled) ──bound──▶ gone
//!                     ▲                    │ no node fits
//!                     │ pause over         ▼
//!                  paused ◀──room──── parked      (parked pods are also tried again after a while)
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::snapshot::{PodInfo, Uid};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Parked pods are tried again after this long, whatever happens.
const PARKED: Duration = Duration::from_secs(60);

type Rank = (Reverse<i32>, i64, u64, Uid);

#[derive(Default)]
struct State {
    pods: HashMap<Uid, Waiting>,
    active: BTreeSet<Rank>,
    paused: BTreeSet<(Instant, Uid)>,
    parked: HashSet<Uid>,
    arrivals: u64,
    /// Counts the news of room, so that a pod that fails while it comes is not parked.
    news: u64,
}

struct Waiting {
    info: Arc<PodInfo>,
    arrival: u64,
    attempts: u32,
    /// Not to be tried before.
    pause_until: Instant,
    /// When it lies in `paused`.
    due: Option<Instant>,
    /// The news known when it was last taken out.
    news: u64,
}

impl Waiting {
    fn rank(&self) -> Rank {
        (Reverse(self.info.priority), self.info.created, self.arrival, self.info.uid.clone())
    }
}

#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    ready: Notify,
}

impl State {
    fn unlist(&mut self, uid: &Uid) {
        if let Some(waiting) = self.pods.get_mut(uid) {
            let rank = waiting.rank();
            if let Some(due) = waiting.due.take() {
                self.paused.remove(&(due, uid.clone()));
            }
            self.active.remove(&rank);
            self.parked.remove(uid);
        }
    }

    fn pause(&mut self, uid: &Uid, until: Instant) {
        self.unlist(uid);
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.due = Some(until);
            self.paused.insert((until, uid.clone()));
        }
    }

    fn activate(&mut self, uid: &Uid) {
        self.unlist(uid);
        if let Some(waiting) = self.pods.get(uid) {
            self.active.insert(waiting.rank());
        }
    }
}

impl Queue {
    /// A pod that needs a node, or a newer version of it. One that changed in what matters is tried again at once.
    pub fn put(&self, info: PodInfo) {
        let mut state = self.state.lock();
        let uid = info.uid.clone();
        if state.pods.get(&uid).is_some_and(|known| *known.info == info) {
            return;
        }
        state.unlist(&uid);
        let arrival = state.arrivals;
        state.arrivals += 1;
        let fresh = Waiting {
            info: Arc::new(info),
            arrival,
            attempts: 0,
            pause_until: Instant::now(),
            due: None,
            news: 0,
        };
        match state.pods.get_mut(&uid) {
            Some(known) => known.info = fresh.info,
            None => drop(state.pods.insert(uid.clone(), fresh)),
        }
        state.activate(&uid);
        drop(state);
        self.ready.notify_one();
    }

    pub fn contains(&self, uid: &Uid) -> bool {
        self.state.lock().pods.contains_key(uid)
    }

    pub fn remove(&self, uid: &Uid) {
        let mut state = self.state.lock();
        state.unlist(uid);
        state.pods.remove(uid);
    }

    pub fn uids(&self) -> Vec<Uid> {
        self.state.lock().pods.keys().cloned().collect()
    }

    /// The next pod, highest priority first. It stays known until it is removed.
    pub async fn next(&self) -> Arc<PodInfo> {
        loop {
            let ready = self.ready.notified();
            let wake = {
                let mut state = self.state.lock();
                let now = Instant::now();
                while let Some((due, uid)) = state.paused.first().cloned()
                    && due <= now
                {
                    state.activate(&uid);
                }
                if let Some((_, _, _, uid)) = state.active.pop_first() {
                    let news = state.news;
                    if let Some(waiting) = state.pods.get_mut(&uid) {
                        waiting.attempts += 1;
                        waiting.news = news;
                        return waiting.info.clone();
                    }
                    continue;
                }
                state.paused.first().map(|(due, _)| *due)
            };
            match wake {
                Some(at) => {
                    tokio::select! { () = ready => {}, () = tokio::time::sleep_until(at) => {} }
                }
                None => ready.await,
            }
        }
    }

    /// No node fits: waits for room.
    pub fn park(&self, uid: &Uid) {
        let mut state = self.state.lock();
        let news = state.news;
        let Some(waiting) = state.pods.get_mut(uid) else { return };
        let until = Instant::now() + pause(waiting.attempts);
        waiting.pause_until = until;
        if waiting.news == news {
            state.pause(uid, Instant::now() + PARKED);
            state.parked.insert(uid.clone());
        } else {
            state.pause(uid, until);
        }
        drop(state);
        self.ready.notify_one();
    }

    /// Something went wrong that has nothing to do with room: tries again after a pause.
    pub fn retry(&self, uid: &Uid) {
        let mut state = self.state.lock();
        let Some(waiting) = state.pods.get(uid) else { return };
        let until = Instant::now() + pause(waiting.attempts);
        state.pause(uid, until);
        drop(state);
        self.ready.notify_one();
    }

    /// The cluster changed: parked pods get another chance, once their pause is over.
    pub fn room(&self) {
        let mut state = self.state.lock();
        state.news += 1;
        let now = Instant::now();
        for uid in std::mem::take(&mut state.parked) {
            match state.pods.get(&uid).map(|waiting| waiting.pause_until) {
                Some(until) if until > now => state.pause(&uid, until),
                Some(_) => state.activate(&uid),
                None => {}
            }
        }
        drop(state);
        self.ready.notify_one();
    }
}

fn pause(attempts: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, priority: i32) -> PodInfo {
        PodInfo { uid: uid.into(), priority, ..PodInfo::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn higher_priority_goes_first_then_who_came_first() {
        let queue = Queue::default();
        queue.put(pod("a", 0));
        queue.put(pod("b", 0));
        queue.put(pod("c", 10));
        let mut order = Vec::new();
        for _ in 0..3 {
            order.push(queue.next().await.uid.to_string());
        }
        assert_eq!(order, ["c", "a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_parked_pod_comes_back_when_there_is_room() {
        let queue = Queue::default();
        queue.put(pod("a", 0));
        queue.next().await;
        queue.park(&"a".into());
        let early = tokio::time::timeout(Duration::from_secs(30), queue.next()).await;
        assert!(early.is_err(), "nothing has changed");
        queue.room();
        assert_eq!(queue.next().await.uid, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn room_that_comes_during_an_attempt_is_not_missed() {
        let queue = Queue::default();
        queue.put(pod("a", 0));
        queue.next().await;
        queue.room();
        let start = Instant::now();
        queue.park(&"a".into());
        queue.next().await;
        assert_eq!(start.elapsed(), FIRST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_parked_pod_is_tried_again_in_the_end() {
        let queue = Queue::default();
        queue.put(pod("a", 0));
        queue.next().await;
        let start = Instant::now();
        queue.park(&"a".into());
        queue.next().await;
        assert_eq!(start.elapsed(), PARKED);
    }
}
