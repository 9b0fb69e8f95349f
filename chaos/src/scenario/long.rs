//! Scenarios at random until time is up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{all, run};

#[derive(Args, Clone, Debug)]
pub struct LongArgs {
    #[arg(long, default_value_t = 60)]
    pub minutes: u64,
    /// Decides which scenarios run, and their seeds; a new one by default
    #[arg(long)]
    pub seed: Option<u64>,
}

/// Whether there was no anomaly.
///
/// # Errors
/// When this machine cannot run a cluster.
pub async fn long(args: &LongArgs) -> Result<bool> {
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let (mut random, begun) = (StdRng::seed_from_u64(seed), Instant::now());
    let scenarios = all();
    let mut runs: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut faults, mut operations, mut events) = (0, 0, 0);
    let mut anomalies = Vec::new();
    while begun.elapsed() < Duration::from_secs(args.minutes * 60) {
        // Every other run is of faults at random.
        let mixed: Vec<_> = scenarios.iter().filter(|scenario| scenario.name.starts_with("mixed")).collect();
        let scenario = match random.random_bool(0.5) {
            true => mixed[random.random_range(0..mixed.len())],
            false => &scenarios[random.random_range(0..scenarios.len())],
        };
        let report = run(scenario, random.random::<u32>().into()).await?;
        *runs.entry(scenario.name).or_default() += 1;
        faults += report.faults;
        operations += report.operations();
        events += report.events;
        println!("{}", report.line());
        if !report.passed() {
            println!("{report}");
            anomalies.push(format!("kontiki-chaos run --scenario {} --seed {}", report.name, report.seed));
        }
    }
    let total: usize = runs.values().sum();
    let names: Vec<String> = runs.iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("{:.1} minutes, seed {seed}", begun.elapsed().as_secs_f64() / 60.0);
    println!("scenarios         {total}: {}", names.join(", "));
    println!("faults injected   {faults}");
    println!("operations        {operations}, and {events} events watched");
    println!("histories checked {total}");
    println!("anomalies         {}", anomalies.len());
    for anomaly in &anomalies {
        println!("    ! {anomaly}");
    }
    Ok(anomalies.is_empty())
}
