//! `kontiki-chaos`: hurts clusters, and measures them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use kontiki_chaos::scenario::{self, Scenario};

/// Hurts Kontiki's clusters and judges what is left of them.
#[derive(Parser)]
struct Cli {
    /// The program under test [default: kontiki beside this one]
    #[arg(long, global = true)]
    kontiki: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run scenarios; each prints its verdict and the seed to run it again with
    Run {
        /// Only this one; see `list`
        #[arg(long)]
        scenario: Option<String>,
        /// Of the clients' choices [default: from the clock]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// The scenarios, and the bug each would catch
    List,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<()> {
    let program = match cli.kontiki {
        Some(program) => program,
        None => std::env::current_exe()?.with_file_name("kontiki"),
    };
    match cli.command {
        Command::List => {
            for scenario in scenario::all() {
                println!("{:18} {}", scenario.name, scenario.catches);
            }
            Ok(())
        }
        Command::Run { scenario, seed } => hurt(scenario.as_deref(), seed, &program).await,
    }
}

async fn hurt(wanted: Option<&str>, seed: Option<u64>, program: &std::path::Path) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("scenarios need root: servers are put into network namespaces so that packets can be stopped");
    }
    let seed = match seed {
        Some(seed) => seed,
        None => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .context("the clock stands before 1970")?
            .as_secs(),
    };
    let chosen: Vec<Scenario> =
        scenario::all().into_iter().filter(|s| wanted.is_none_or(|wanted| s.name == wanted)).collect();
    if chosen.is_empty() {
        bail!("there is no scenario {wanted:?}; see `kontiki-chaos list`");
    }
    let (mut passed, mut failed) = (0, 0);
    for scenario in &chosen {
        let started = Instant::now();
        let outcome = scenario::run(scenario, program, seed).await;
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(lines) => {
                passed += 1;
                println!("PASS {:18} seed {seed} ({seconds:.1} s)", scenario.name);
                for line in lines {
                    println!("     {line}");
                }
            }
            Err(error) => {
                failed += 1;
                println!("FAIL {:18} seed {seed} ({seconds:.1} s): {error:#}", scenario.name);
                println!("     again: kontiki-chaos run --scenario {} --seed {seed}", scenario.name);
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed > 0 { bail!("{failed} scenarios failed") } else { Ok(()) }
}
