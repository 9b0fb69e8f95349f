//! Ways to hurt a cluster, one file each.
//!
//! Every scenario runs under load and ends with all servers up and agreed; then the history is judged. The seed decides
//! what clients do and when it hurts; the machine decides the rest, so that a seed narrows a failure down and does not
//! repeat it to the instruction.
//!
//! | scenario | would catch |
//! |---|---|
//! | `leader-killed` | writes acknowledged before a quorum had them; writes applied twice by a retry |
//! | `leader-cut-off` | a leader that goes on acknowledging, or reading, in the minority |
//! | `follower-cut-off` | a snapshot that loses or repeats events, or leaves another state than the log |
//! | `all-killed` | acknowledgements before the disk had them |

mod all_killed;
mod follower_cut_off;
mod leader_cut_off;
mod leader_killed;

use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::check::{self, Violation};
use crate::cluster::{self, Cluster, Options, Processes, kontiki_program};
use crate::history::{History, Outcome};
use crate::observe::Observations;
use crate::traffic::{NAMESPACE, Traffic};

/// Longest time one scenario may take, its cluster's start and the checks included.
pub const LIMIT: Duration = Duration::from_secs(58);
const PATIENCE: Duration = Duration::from_secs(20);
const CLIENTS_ON_EACH: usize = 2;

/// What a scenario found out on its own: remarks for people, and violations of what it alone can see.
#[derive(Debug, Default)]
pub struct Findings {
    pub remarks: Vec<String>,
    pub violations: Vec<Violation>,
}

/// What a scenario works with.
pub struct Stage<'a> {
    pub cluster: &'a dyn Cluster,
    pub traffic: &'a Traffic,
    pub random: StdRng,
}

impl Stage<'_> {
    /// Waits until a write that began after now has been acknowledged; the time that took.
    ///
    /// # Errors
    /// When none is within 20 s.
    async fn next_write(&self) -> Result<Duration> {
        let (from, begun) = (self.traffic.recorder.now(), Instant::now());
        loop {
            let is_new = |operation: &crate::history::Operation| {
                operation.invoked > from && operation.is_acknowledged_write()
            };
            if self.traffic.recorder.operations().iter().any(is_new) {
                return Ok(begun.elapsed());
            }
            anyhow::ensure!(begun.elapsed() < PATIENCE, "no write was acknowledged for {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

type Hurting<'a> = Pin<Box<dyn Future<Output = Result<Findings>> + Send + 'a>>;

pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    hurt: for<'a> fn(Stage<'a>) -> Hurting<'a>,
}

/// All scenarios, in the order they run.
pub fn all() -> [Scenario; 4] {
    [
        Scenario {
            name: "leader-killed",
            about: "kill -9 of the leader under load, three times, each returns",
            hurt: |stage| Box::pin(leader_killed::hurt(stage)),
        },
        Scenario {
            name: "leader-cut-off",
            about: "the leader loses its peers and keeps its clients; it must refuse",
            hurt: |stage| Box::pin(leader_cut_off::hurt(stage)),
        },
        Scenario {
            name: "follower-cut-off",
            about: "a follower misses so much that it must be caught up by snapshot",
            hurt: |stage| Box::pin(follower_cut_off::hurt(stage)),
        },
        Scenario {
            name: "all-killed",
            about: "kill -9 of all servers at once under load, twice",
            hurt: |stage| Box::pin(all_killed::hurt(stage)),
        },
    ]
}

/// The verdict on one run.
#[derive(Debug)]
pub struct Report {
    pub name: &'static str,
    pub seed: u64,
    pub took: Duration,
    pub acknowledged: usize,
    pub refused: usize,
    pub unknown: usize,
    pub events: usize,
    pub remarks: Vec<String>,
    /// Empty: passed.
    pub violations: Vec<Violation>,
}

/// Runs one scenario on a fresh cluster of three. A cluster that does not work is a violation as well; its data is kept then.
///
/// # Errors
/// When the cluster could not even be prepared on this machine.
pub async fn run(scenario: &Scenario, seed: u64) -> Result<Report> {
    let begun = Instant::now();
    let options = Options { program: kontiki_program()?, servers: 3, apart: true };
    let processes = Processes::new(options)?;
    let mut report = Report {
        name: scenario.name,
        seed,
        took: Duration::ZERO,
        acknowledged: 0,
        refused: 0,
        unknown: 0,
        events: 0,
        remarks: Vec::new(),
        violations: Vec::new(),
    };
    match tokio::time::timeout(LIMIT, perform(scenario, seed, &processes, &mut report)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => report.violations.push(format!("{error:#}")),
        Err(_) => report.violations.push(format!("not finished within {LIMIT:?}")),
    }
    for server in 0..processes.size() {
        processes.kill(server).await?;
    }
    if !report.violations.is_empty() {
        for server in 0..processes.size() {
            report.remarks.push(format!("server {server} said last:\n{}", processes.last_words(server)));
        }
        report.remarks.push(format!("data and logs are in {}", processes.keep().display()));
    }
    report.took = begun.elapsed();
    Ok(report)
}

async fn perform(scenario: &Scenario, seed: u64, cluster: &Processes, report: &mut Report) -> Result<()> {
    cluster.start_all().await?;
    let any = cluster.client(&[0, 1, 2], Duration::from_secs(5))?;
    cluster::await_writable(&any, NAMESPACE, PATIENCE).await?;
    let traffic = Traffic::start(cluster, CLIENTS_ON_EACH, seed).await?;
    let stage = Stage { cluster, traffic: &traffic, random: StdRng::seed_from_u64(seed) };
    let findings = (scenario.hurt)(stage).await?;
    report.remarks.extend(findings.remarks);
    report.violations.extend(findings.violations);

    cluster::await_leader(cluster, &[0, 1, 2], PATIENCE).await?;
    let (recorder, watched, finals) = traffic.finish(cluster).await?;
    cluster::await_agreement(cluster, PATIENCE).await?;
    let operations = recorder.operations();
    for operation in &operations {
        match operation.outcome {
            Outcome::Unknown(_) => report.unknown += 1,
            Outcome::Refused(_) | Outcome::NoSuchLease => report.refused += 1,
            _ => report.acknowledged += 1,
        }
    }
    report.events = watched.iter().map(crate::history::Watched::events).sum();
    let history = History { operations, watches: watched, finals };
    let observations = Observations { servers: cluster.size(), ..Observations::default() };
    let verdict = tokio::task::spawn_blocking(move || check::judge(&history, &observations)).await?;
    report.violations.extend(verdict.lines());
    Ok(())
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = if self.violations.is_empty() { "PASS" } else { "FAIL" };
        writeln!(
            f,
            "{verdict}  {:<17} seed {:<12} {:>5.1} s   {} acknowledged, {} refused, {} unknown; {} events watched",
            self.name,
            self.seed,
            self.took.as_secs_f64(),
            self.acknowledged,
            self.refused,
            self.unknown,
            self.events
        )?;
        for remark in &self.remarks {
            writeln!(f, "      {}", remark.replace('\n', "\n      "))?;
        }
        for violation in self.violations.iter().take(20) {
            writeln!(f, "    ! {violation}")?;
        }
        if self.violations.len() > 20 {
            writeln!(f, "    ! and {} more", self.violations.len() - 20)?;
        }
        write!(f, "      again: kontiki-chaos run --scenario {} --seed {}", self.name, self.seed)
    }
}
