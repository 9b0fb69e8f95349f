//! `kontiki-power-cut`: `kontiki-chaos power-cut` alone, which needs no more than the store and is built in a moment.

use std::process::ExitCode;

use clap::Parser;
use kontiki_chaos::power_cut::{PowerCutArgs, WorkerArgs, run, work};

#[derive(Parser)]
#[command(name = "kontiki-power-cut", version, about = "Cuts the power under a store and looks what is left")]
enum Cli {
    /// Cut, and judge
    PowerCut(PowerCutArgs),
    /// The process that is cut
    #[command(hide = true)]
    PowerCutWorker(WorkerArgs),
}

fn main() -> ExitCode {
    let done = match Cli::parse() {
        Cli::PowerCut(args) => run(&args),
        Cli::PowerCutWorker(args) => work(args).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
