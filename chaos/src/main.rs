//! `kontiki-chaos`: hurts clusters of real processes, and measures them.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use kontiki_chaos::{bench, power_cut, scenario, world};
use tracing_subscriber::EnvFilter;

/// Hurts clusters of real processes and checks that nothing acknowledged is lost; measures them.
#[derive(Parser)]
#[command(name = "kontiki-chaos", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the scenarios, or those that are named
    Run {
        /// A scenario's name; may be given several times
        #[arg(long)]
        scenario: Vec<String>,
        /// The ones alone that every change must pass
        #[arg(long)]
        quick: bool,
        /// What clients do and when it hurts; a new one by default
        #[arg(long)]
        seed: Option<u64>,
    },
    /// List the scenarios
    List,
    /// Run scenarios at random until time is up
    Long(scenario::LongArgs),
    /// Cut the power under a store, again and again, and look what is left
    PowerCut(power_cut::PowerCutArgs),
    /// The process that is cut
    #[command(hide = true)]
    PowerCutWorker(power_cut::WorkerArgs),
    /// Print the budget table for this machine, beside etcd
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_env("KONTIKI_LOG").unwrap_or_else(|_| "error".into()))
        .with_writer(std::io::stderr)
        .init();
    match perform(cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything was as it should be.
fn perform(command: Command) -> Result<bool> {
    match command {
        Command::List => {
            for scenario in scenario::all() {
                println!("{:<17} {}", scenario.name, scenario.about);
            }
            Ok(true)
        }
        Command::Run { scenario, quick, seed } => {
            world::enter()?;
            runtime()?.block_on(run(&scenario, quick, seed))
        }
        Command::Long(args) => {
            world::enter()?;
            runtime()?.block_on(scenario::long(&args))
        }
        Command::PowerCut(args) => power_cut::run(&args),
        Command::PowerCutWorker(args) => power_cut::work(args).map(|()| true),
        Command::Bench(args) => {
            world::enter()?;
            runtime()?.block_on(bench::run(&args))
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

async fn run(names: &[String], quick: bool, seed: Option<u64>) -> Result<bool> {
    let all = scenario::all();
    for name in names {
        if !all.iter().any(|scenario| scenario.name == name) {
            bail!("there is no scenario {name:?}; `kontiki-chaos list` names them");
        }
    }
    let mut reports = Vec::new();
    let wanted = |scenario: &&scenario::Scenario| match names {
        [] => scenario.quick || !quick,
        names => names.iter().any(|name| name == scenario.name),
    };
    for scenario in all.iter().filter(wanted) {
        if let Some(missing) = scenario.lacks() {
            println!("SKIPPED {}: this machine has no {missing}", scenario.name);
            continue;
        }
        eprintln!("…     {:<17} {}", scenario.name, scenario.about);
        let seed = seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let report = scenario::run(scenario, seed).await?;
        println!("{report}");
        reports.push(report);
    }
    if reports.len() > 1 {
        println!("\nall together:");
        reports.iter().for_each(|report| println!("{}", report.line()));
    }
    Ok(reports.iter().all(scenario::Report::passed))
}
