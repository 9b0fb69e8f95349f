//! Clusters in one process, on one thread, in virtual time: the real store and consensus over a simulated network and disk.
//!
//! ```text
//!   seed ─▶ plan ─▶ world ── every tick ──▶ net: what is due ─▶ hosts: one tick each ─▶ looks, faults, restarts
//!                     │                                            │
//!                     └─ faults, by the seed                       └─ clients, watchers ─▶ record ─▶ check ─▶ report
//! ```
//!
//! | file | holds |
//! |---|---|
//! | [`plan`] | what a seed makes of a run |
//! | [`world`] | servers, and the time that passes for them |
//! | [`host`] | one process: its runtime and its clock |
//! | [`net`], [`disk`] | what the store stands on here |
//! | [`faults`] | everything that can go wrong |
//! | [`client`] | clients and watchers |
//! | [`api`] | the API's verbs before the store, where they are built in and wanted |
//! | [`record`], [`trace`] | what was seen; what two runs must agree on |
//! | [`entropy`] | randomness from the seed |
//!
//! **Invariant:** a run follows from its seed alone. Whatever could differ between two runs is exchanged: time is counted
//! in ticks, randomness is seeded for the whole process, there is one thread, and each run has a process of its own,
//! because some libraries count in statics.

#[cfg(feature = "simulation-api")]
pub mod api;
#[cfg(not(feature = "simulation-api"))]
#[path = "no_api.rs"]
pub mod api;
pub mod client;
pub mod disk;
pub mod entropy;
pub mod faults;
pub mod host;
pub mod net;
pub mod plan;
pub mod record;
pub mod trace;
pub mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kontiki_store::simulation::Mutant;
use serde::{Deserialize, Serialize};

use self::faults::Storm;
use self::plan::Plan;
use self::trace::Trace;
use self::world::{PATIENCE, World};
use crate::check;
use crate::history::History;
use crate::observe::Observations;

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub seed: u64,
    pub servers: usize,
    pub operations: usize,
    pub acknowledged: usize,
    pub watch_events: usize,
    pub virtual_millis: u64,
    pub messages: u64,
    pub faults: BTreeMap<String, u64>,
    pub violations: Vec<String>,
    /// Guarantees that a checker could not decide in its time.
    pub undecided: usize,
    /// Of everything that happened, in order.
    pub trace_hash: u64,
    pub trace_lines: u64,
}

/// Runs one seed to its end. The process's randomness must have been seeded with it, and nothing else may run in it.
pub fn run(seed: u64, mutant: Option<Mutant>, keep_trace: bool) -> (Report, String) {
    if let Some(mutant) = mutant {
        kontiki_store::simulation::plant(mutant);
    }
    let trace = Arc::new(Trace::new(keep_trace));
    let plan = Plan::of(seed);
    trace.note(Duration::ZERO, format_args!("{plan:?}"));
    let mut world = World::new(plan, Arc::clone(&trace));
    let mut storm = Storm::default();
    let mut healed = None;
    if world.form() {
        world.open_for_traffic();
        let calm = world.now + Duration::from_millis(500);
        world.until(Duration::from_millis(500), |world| world.now >= calm);
        let over = world.now + world.plan.storm;
        while world.now < over {
            world.tick();
            storm.turn(&mut world);
        }
        storm.heal(&mut world);
        // Who was told to leave is told for a minute what came of it, and may go until then.
        world.until(Duration::from_secs(70), |world| world.leaving.is_empty());
        if !world.until(PATIENCE, World::is_settled) {
            let missing = world.describe();
            world
                .record
                .odd(format!("not every server was a voter within {PATIENCE:?} of healing: {missing}"));
        }
        healed = Some(world.record.now());
        if !world.demand_service() {
            let missing = world.describe();
            world.record.odd(format!("not every server served within {PATIENCE:?} of healing: {missing}"));
        }
        if !world.come_to_rest() {
            let missing = world.describe();
            world.record.odd(format!("the servers did not agree within {PATIENCE:?}: {missing}"));
        }
        world.await_watchers();
    } else {
        let missing = world.describe();
        world.record.odd(format!("the cluster did not form within {PATIENCE:?}: {missing}"));
    }
    let report = judge(&mut world, &storm, healed);
    (report, trace.text())
}

fn judge(world: &mut World, storm: &Storm, healed: Option<Duration>) -> Report {
    let finals = world.finals();
    let record = Arc::clone(&world.record);
    let ended = record.now();
    let mut operations = record.operations.lock().clone();
    operations.sort_by_key(|operation| operation.invoked);
    let history = History { operations, watches: record.watches.lock().clone(), finals };
    let observations = Observations {
        servers: world.servers_ever(),
        voters: world.sites.iter().map(|site| site.server).collect(),
        facts: record.facts.lock().clone(),
        faults: record.faults.lock().clone(),
        healed,
        patience: PATIENCE,
        drift_permille: storm.drift_permille,
        ended,
    };
    let verdict = check::judge(&history, &observations);
    let mut violations: Vec<String> =
        record.oddities.lock().iter().map(|oddity| format!("harness: {oddity}")).collect();
    let (undecided, broken): (Vec<String>, Vec<String>) =
        verdict.lines().into_iter().partition(|line| line.contains("undecided after"));
    violations.extend(broken);
    let acknowledged = history.operations.iter().filter(|operation| operation.is_acknowledged()).count();
    for violation in &violations {
        record.trace.note(ended, format_args!("violation: {violation}"));
    }
    Report {
        seed: world.plan.seed,
        servers: world.plan.servers,
        operations: history.operations.len(),
        acknowledged,
        watch_events: history.watches.iter().map(|watched| watched.events()).sum(),
        virtual_millis: world.now.as_millis() as u64,
        messages: world.net.delivered(),
        faults: storm.counts.iter().map(|(kind, count)| (format!("{kind:?}"), *count)).collect(),
        violations,
        undecided: undecided.len(),
        trace_hash: record.trace.hash(),
        trace_lines: record.trace.lines(),
    }
}
