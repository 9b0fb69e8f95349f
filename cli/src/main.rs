//! The `kontiki` program: servers, nodes, local clusters, and the command line over gRPC.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use kontiki_cli::commands::{self, Global};
use kontiki_cli::{agent, server, up};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The system's own allocator keeps what the checkpoints and the log let go of: three times the data, after a while.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Few arenas, and pages that are given back within a second, by a thread of its own where nothing else happens: a server's
/// memory is what it holds.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8; 69] = b"narenas:2,dirty_decay_ms:500,muzzy_decay_ms:0,background_thread:true\0";

/// A Kubernetes control plane on a raft: one program, one port, containerd on the nodes.
#[derive(Parser)]
#[command(name = "kontiki", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a local cluster, or what is missing of it
    Up(up::UpArgs),
    /// Remove the local cluster, all of it
    Down(up::DownArgs),
    /// Run one control-plane process
    Server(Box<server::ServerArgs>),
    /// Run one node
    Agent(Box<agent::AgentArgs>),
    #[command(flatten)]
    Client(commands::Command),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if !matches!(cli.command, Command::Server(_) | Command::Agent(_)) {
        // `kontiki get … | head` ends quietly, as other programs do.
        // SAFETY: no other thread runs yet, and the default action needs no handler of ours.
        unsafe {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        }
    }
    let path = up::search_path();
    // SAFETY: no other thread runs yet that could read the environment.
    unsafe {
        std::env::set_var("PATH", path);
    }
    // Two providers in one tree would make rustls refuse to choose.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let serves = matches!(cli.command, Command::Server(_) | Command::Agent(_));
    // openraft tells of every missed heartbeat, hickory of every query.
    let default_level = if serves { "info,openraft=error,hickory_server=warn" } else { "error" };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_env("KONTIKI_LOG").unwrap_or_else(|_| default_level.into()))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();

    let mut builder = if serves {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", commands::explain_error(&error));
            ExitCode::from(commands::exit_code(&error))
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Up(args) => up::up(&args).await,
        Command::Down(args) => up::down(&args),
        Command::Server(args) => server::run(*args, shutdown_signal()?).await,
        Command::Agent(args) => agent::run(*args, shutdown_signal()?).await,
        Command::Client(commands::Command::Completion(args)) => {
            clap_complete::generate(args.shell, &mut Cli::command(), "kontiki", &mut std::io::stdout());
            Ok(())
        }
        Command::Client(command) => command.run(&cli.global).await,
    }
}

/// Cancelled by SIGTERM and SIGINT.
fn shutdown_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancel = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancel.cancel();
    });
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }
}
