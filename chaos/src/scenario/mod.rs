//! Ways to hurt a cluster, one file each, or one for a family.
//!
//! Every scenario runs under load and ends with all members up and agreed; then the history is judged. The seed decides
//! what clients do and when it hurts; the machine decides the rest, so that a seed narrows a failure down and does not
//! repeat it to the instruction. No scenario judges by speed: figures are remarks, and waits are a minute long.
//!
//! | file | would catch |
//! |---|---|
//! | `leader_killed`, `leader_paused` | writes acknowledged before a quorum had them; a retry applied twice; a leader that slept and believes it leads |
//! | `partition`, `flapping` | a server that acknowledges, or reads the past, without a quorum; a lease kept fresh over a bridge |
//! | `split_brain` | two sides that act: acknowledgements, controllers |
//! | `follower_cut_off` | a snapshot that loses or repeats events, or leaves another state than the log |
//! | `all_down`, `disk_trouble` | acknowledgements before the disk had them; a failing disk that is trusted |
//! | `link_trouble` | messages taken twice or in another order; a living leader taken for dead |
//! | `planned`, `membership` | what operators do on a good day |
//! | `two_faults`, `menu` | what nobody thought of |

mod all_down;
mod disk_trouble;
mod flapping;
mod follower_cut_off;
mod leader_killed;
mod leader_paused;
mod link_trouble;
mod long;
mod membership;
mod menu;
mod partition;
mod planned;
mod report;
pub mod shape;
mod split_brain;
mod stage;
mod two_faults;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::SeedableRng;
use rand::rngs::StdRng;

pub use self::report::Report;
use crate::check;
use crate::cluster::{self, Cluster, Extras, Options, Processes, ServerId, kontiki_program};
use crate::history::History;
use crate::observe::Observations;
use crate::report::split_brain;
use crate::traffic::{NAMESPACE, Traffic};
pub use long::{LongArgs, long};
pub use stage::Stage;

/// Longest time one scenario may take, its cluster's start and the checks included.
pub const LIMIT: Duration = Duration::from_secs(300);
/// Longest wait for anything that must happen; generous, since the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
const CLIENTS_ON_EACH: usize = 2;

type Hurting<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    /// Servers at the start, and places for more.
    servers: u8,
    spares: u8,
    disks: bool,
    /// Part of what every change must pass.
    pub quick: bool,
    hurt: for<'a> fn(&'a mut Stage) -> Hurting<'a>,
}

/// A row of the table: name, what it does, servers, the function.
macro_rules! scenario {
    ($name:literal, $about:literal, $servers:literal, $($hurt:ident)::+) => {
        Scenario {
            name: $name,
            about: $about,
            servers: $servers,
            hurt: |stage| Box::pin($($hurt)::+(stage)),
            ..NONE
        }
    };
}

const NONE: Scenario = Scenario {
    name: "",
    about: "",
    servers: 3,
    spares: 0,
    disks: false,
    quick: false,
    hurt: |_| Box::pin(async { Ok(()) }),
};

impl Scenario {
    fn on_disks(mut self) -> Scenario {
        self.disks = true;
        self
    }

    fn with_spares(mut self, spares: u8) -> Scenario {
        self.spares = spares;
        self
    }

    fn quick(mut self) -> Scenario {
        self.quick = true;
        self
    }

    /// What this machine lacks for it.
    pub fn lacks(&self) -> Option<&'static str> {
        (self.disks && !std::path::Path::new("/dev/fuse").exists()).then_some("/dev/fuse")
    }
}

/// All scenarios, in the order they run.
pub fn all() -> Vec<Scenario> {
    vec![
        scenario!("leader-killed", "kill -9 of the leader, three times", 3, leader_killed::hurt).quick(),
        scenario!("leader-killed-5", "the same with five servers", 5, leader_killed::hurt),
        scenario!("leader-paused", "the leader stands still and goes on", 3, leader_paused::hurt).quick(),
        scenario!(
            "leader-cut-off",
            "the leader loses its peers and keeps its clients",
            3,
            partition::leader_cut_off
        )
        .quick(),
        scenario!("leader-deaf", "the leader hears nobody and is heard", 3, partition::leader_deaf).quick(),
        scenario!("leader-mute", "the leader is heard by nobody and hears", 3, partition::leader_mute),
        scenario!("bridge", "two sides that only one server reaches", 3, partition::bridge).quick(),
        scenario!("bridge-5", "the same with five servers", 5, partition::bridge),
        scenario!("split", "the leader and one more against three", 5, partition::split),
        scenario!(
            "split-brain",
            "leader and controllers on the losing side, in every shape",
            3,
            split_brain::hurt
        )
        .quick(),
        scenario!("split-brain-5", "the same with five servers", 5, split_brain::hurt),
        scenario!("flapping", "a server is cut off and back, again and again", 3, flapping::hurt),
        scenario!("follower-cut-off", "a follower must be caught up by snapshot", 3, follower_cut_off::hurt),
        scenario!("delay", "packets between servers are late", 3, link_trouble::delay),
        scenario!("loss", "packets between servers are lost", 3, link_trouble::loss),
        scenario!("reset", "connections to a living leader are reset", 3, link_trouble::reset),
        scenario!("all-killed", "kill -9 of all servers at once, twice", 3, all_down::killed).quick(),
        scenario!("all-power-cut", "all servers lose power at once, twice", 3, all_down::power_cut)
            .on_disks()
            .quick(),
        scenario!("power-cut", "one server loses power, three times", 3, disk_trouble::power_cut).on_disks(),
        scenario!("slow-disk", "the leader's disk is slow", 3, disk_trouble::slow).on_disks(),
        scenario!("stalled-disk", "the leader's disk answers nothing", 3, disk_trouble::stalled).on_disks(),
        scenario!("failing-disk", "the leader's disk cannot sync", 3, disk_trouble::failing)
            .on_disks()
            .quick(),
        scenario!("full-disk", "the leader's disk is full", 3, disk_trouble::full).on_disks(),
        scenario!("planned-stop", "the leader is told to stop, three times", 3, planned::stop),
        scenario!("rolling-restart", "all servers are restarted in turn", 3, planned::rolling_restart),
        scenario!(
            "membership",
            "from one server to five and back to three",
            1,
            membership::growing_and_shrinking
        )
        .with_spares(4)
        .quick(),
        scenario!("wiped", "servers lose everything and join anew", 3, membership::wiped),
        scenario!("two-faults", "two things go wrong at once, four times", 3, two_faults::hurt)
            .on_disks()
            .quick(),
        scenario!("mixed", "faults at random", 3, two_faults::mixed).on_disks(),
        scenario!("mixed-5", "the same with five servers", 5, two_faults::mixed).on_disks(),
    ]
}

/// Sends writes to servers that are expected to refuse them.
fn probes(stage: &Stage, servers: &[ServerId]) -> Result<Vec<tokio::task::JoinHandle<()>>> {
    let mut probes = Vec::new();
    for server in servers {
        probes.extend(stage.traffic.probe(&*stage.cluster, *server, 4)?);
    }
    Ok(probes)
}

/// Runs one scenario on a fresh cluster. A cluster that does not work is a violation as well; its data is kept then.
///
/// # Errors
/// When the cluster could not even be prepared on this machine.
pub async fn run(scenario: &Scenario, seed: u64) -> Result<Report> {
    let begun = Instant::now();
    let options = Options { program: kontiki_program()?, servers: scenario.servers, apart: true };
    let extras = Extras { spares: scenario.spares, disks: scenario.disks, in_memory: scenario.quick };
    let cluster = Arc::new(Processes::with(options, extras)?);
    let mut report = Report { name: scenario.name, seed, ..Report::default() };
    match tokio::time::timeout(LIMIT, perform(scenario, seed, &cluster, &mut report)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => report.violations.push(format!("{error:#}")),
        Err(_) => report.violations.push(format!("not finished within {LIMIT:?}")),
    }
    for server in 0..cluster.size() {
        cluster.kill(server).await?;
    }
    if !report.violations.is_empty() {
        for server in 0..cluster.size() {
            report.remarks.push(format!("server {server} said last:\n{}", cluster.last_words(server)));
        }
        report.remarks.push(format!("data and logs are in {}", cluster.keep().display()));
    }
    report.took = begun.elapsed();
    Ok(report)
}

async fn perform(
    scenario: &Scenario,
    seed: u64,
    cluster: &Arc<Processes>,
    report: &mut Report,
) -> Result<()> {
    cluster.start_all().await?;
    let members: Vec<ServerId> = (0..usize::from(scenario.servers)).collect();
    let any = cluster.client(&members, Duration::from_secs(5))?;
    cluster::await_writable(&any, NAMESPACE, PATIENCE).await?;
    let traffic = Traffic::start(cluster, members.len(), CLIENTS_ON_EACH, seed).await?;
    let mut stage = Stage {
        cluster: Arc::clone(cluster),
        traffic,
        random: StdRng::seed_from_u64(seed),
        members,
        remarks: Vec::new(),
        violations: Vec::new(),
        network: None,
        faults: 0,
    };
    let hurt = (scenario.hurt)(&mut stage).await;
    report.remarks.append(&mut stage.remarks);
    report.violations.append(&mut stage.violations);
    report.faults = stage.faults;
    hurt?;

    let healed = stage.traffic.observer.now();
    stage.recovered().await?;
    let members = stage.members;
    let ended = stage.traffic.finish(&**cluster, &members).await?;
    cluster::await_agreement_of(&**cluster, &members, PATIENCE).await?;
    let operations = ended.recorder.operations();
    report.count(&operations, &ended.watched);
    let history = History { operations, watches: ended.watched, finals: ended.finals };
    let observations = Observations {
        voters: members.into_iter().collect(),
        healed: Some(healed),
        patience: PATIENCE * 3,
        ..ended.observer.observations(cluster.size())
    };
    let split = scenario.name.starts_with("split-brain");
    let judged = tokio::task::spawn_blocking(move || {
        let told = split.then(|| split_brain(&history, &observations));
        (check::judge(&history, &observations), told)
    });
    let (verdict, told) = judged.await?;
    report.violations.extend(verdict.lines());
    report.remarks.extend(told);
    Ok(())
}
