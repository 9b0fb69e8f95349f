//! What a seed makes of a run: how large the cluster is, how busy, how often and by what it is hurt.

use std::time::Duration;

use kontiki_store::Timings;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::entropy::mix;

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub servers: usize,
    /// The world's step: no message is faster.
    pub tick: Duration,
    pub clients_each: usize,
    pub watchers_each: usize,
    /// Mean time between two requests of a client.
    pub think: Duration,
    /// How long the cluster is hurt.
    pub storm: Duration,
    /// Longest time between two faults.
    pub lull: Duration,
    /// Bytes of the largest values.
    pub bulk: usize,
    pub timings: Timings,
    pub history: Duration,
    pub history_bytes: usize,
}

impl Plan {
    pub fn of(seed: u64) -> Plan {
        let mut random = SmallRng::seed_from_u64(mix(seed ^ 0x706c_616e));
        let servers = match random.random_range(0..20) {
            0 | 1 => 1,
            2..15 => 3,
            _ => 5,
        };
        let busy = random.random_range(0..4);
        let timings = Timings {
            request: Duration::from_millis([1500, 3000, 5000][random.random_range(0..3)]),
            ..Timings::default()
        };
        Plan {
            seed,
            servers,
            tick: Duration::from_millis([1, 2, 2, 3][random.random_range(0..4)]),
            clients_each: if servers == 5 { 1 } else { random.random_range(1..=2) },
            watchers_each: 1,
            think: Duration::from_millis([15, 30, 60, 120][busy]),
            storm: Duration::from_millis(random.random_range(4000..12_000)),
            lull: Duration::from_millis([300, 1000, 2500][random.random_range(0..3)]),
            bulk: [64, 1000, 1000, 8000][random.random_range(0..4)],
            timings,
            history: Duration::from_secs([300, 300, 4][random.random_range(0..3)]),
            history_bytes: [64 << 20, 64 << 20, 100_000][random.random_range(0..3)],
        }
    }
}
