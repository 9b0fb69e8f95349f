//! Clients that do one thing as fast as they can.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_trait::async_trait;

/// One client with its own connection.
#[async_trait]
pub trait Caller: Send + 'static {
    /// Does it once; `number` is given to one call alone.
    async fn call(&mut self, number: u64) -> Result<()>;
}

#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub per_second: f64,
    pub p50: Duration,
    pub p99: Duration,
}

impl Rate {
    pub fn note(&self) -> String {
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        format!("p50 {:.1} ms, p99 {:.1} ms", ms(self.p50), ms(self.p99))
    }
}

/// Runs all callers for `span` and counts what they got done.
///
/// # Errors
/// The first failure of any of them.
pub async fn drive<C: Caller>(callers: Vec<C>, span: Duration, numbers: &Arc<AtomicU64>) -> Result<Rate> {
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for mut caller in callers {
        let numbers = Arc::clone(numbers);
        tasks.push(tokio::spawn(async move {
            let mut took = Vec::new();
            while begun.elapsed() < span {
                let (number, start) = (numbers.fetch_add(1, Ordering::Relaxed), Instant::now());
                tokio::time::timeout(Duration::from_secs(30), caller.call(number))
                    .await
                    .context("no answer in 30 s")??;
                took.push(start.elapsed());
            }
            anyhow::Ok(took)
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
        took.get(index.min(took.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    #[allow(clippy::cast_precision_loss)]
    let per_second = took.len() as f64 / elapsed.as_secs_f64();
    Ok(Rate { per_second, p50: at(0.5), p99: at(0.99) })
}
