//! Clients that do one thing as fast as they can.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_trait::async_trait;

use super::table::median;

/// One client with its own connection.
#[async_trait]
pub trait Caller: Send + 'static {
    /// Does it once; `number` is given to one call alone.
    async fn call(&mut self, number: u64) -> Result<()>;
}

#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub per_second: f64,
    /// All in milliseconds.
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

impl Rate {
    pub fn note(&self) -> String {
        format!("p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms", self.p50, self.p99, self.p999)
    }

    /// Each figure's median over several rounds; `None` without any.
    pub fn median_of(rounds: &[Rate]) -> Option<Rate> {
        let middle = |of: fn(&Rate) -> f64| median(&rounds.iter().map(of).collect::<Vec<_>>());
        (!rounds.is_empty()).then(|| Rate {
            per_second: middle(|rate| rate.per_second),
            p50: middle(|rate| rate.p50),
            p99: middle(|rate| rate.p99),
            p999: middle(|rate| rate.p999),
        })
    }
}

/// Runs all callers for `span` and counts what they got done.
///
/// # Errors
/// The first failure of any of them.
pub async fn drive<C: Caller>(callers: Vec<C>, span: Duration, numbers: &Arc<AtomicU64>) -> Result<Rate> {
    let until = Instant::now() + span;
    drive_while(callers, numbers, move |_| Instant::now() < until).await
}

/// Runs all callers while the next number is to be used.
///
/// # Errors
/// The first failure of any of them.
pub async fn drive_while<C: Caller>(
    callers: Vec<C>,
    numbers: &Arc<AtomicU64>,
    go_on: impl Fn(u64) -> bool + Clone + Send + 'static,
) -> Result<Rate> {
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for mut caller in callers {
        let (numbers, go_on) = (Arc::clone(numbers), go_on.clone());
        tasks.push(tokio::spawn(async move {
            let mut took = Vec::new();
            loop {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                if !go_on(number) {
                    return anyhow::Ok(took);
                }
                let start = Instant::now();
                tokio::time::timeout(Duration::from_secs(30), caller.call(number))
                    .await
                    .context("no answer in 30 s")??;
                took.push(start.elapsed());
            }
        }));
    }
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await??);
    }
    let elapsed = begun.elapsed();
    took.sort_unstable();
    let at = |share: f64| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let index = (took.len() as f64 * share) as usize;
        let found = took.get(index.min(took.len().saturating_sub(1))).copied().unwrap_or_default();
        found.as_secs_f64() * 1000.0
    };
    #[allow(clippy::cast_precision_loss)]
    let per_second = took.len() as f64 / elapsed.as_secs_f64();
    Ok(Rate { per_second, p50: at(0.5), p99: at(0.99), p999: at(0.999) })
}
