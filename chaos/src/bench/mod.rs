//! The budget table, measured.

use anyhow::Result;
use clap::Args;

#[derive(Args, Clone, Debug)]
pub struct BenchArgs {}

/// # Errors
/// What could not be measured.
pub async fn run(_args: &BenchArgs) -> Result<bool> {
    anyhow::bail!("not measured yet")
}
