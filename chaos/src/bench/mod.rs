//! The budget table, measured on this machine in one run, beside etcd where that is meaningful.
//!
//! Servers, etcd and clients share this machine's cores and disk, all on the loopback of a private network namespace. etcd is
//! asked over plain HTTP/2 with the transaction Kubernetes makes for a create; Kontiki over TLS, through the whole API,
//! or, in the rows of the store, over plain HTTP/2 as well, through a program that is little more than the store.
//!
//! | file | measures |
//! |---|---|
//! | `server_rows`, `cluster_rows` | the whole server: start, creates, lists, watchers, a large Deployment |
//! | `store_rows`, `store_size` | the store alone: transactions, memory, disk |
//! | `failover` | the time without a leader |
//! | `stores`, `load`, `rest` | who is asked, and how |
//! | `table`, `journal` | figures beside their budgets, and over time |

mod cluster_rows;
mod failover;
mod journal;
mod load;
mod rest;
mod server_rows;
mod store_rows;
mod store_size;
mod stores;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

pub use table::{Row, Table};

#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Seconds each rate is measured for
    #[arg(long, default_value_t = 4)]
    pub seconds: u64,
    /// One group of rows: start, creates, lists, watchers, pods, store, store-memory, store-values, store-rewrites, failover
    #[arg(long)]
    pub only: Option<String>,
    /// Leave etcd out
    #[arg(long)]
    pub without_etcd: bool,
    /// How often the store's rates are measured, round about with etcd
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// How often a leader is lost, for each row of failover
    #[arg(long, default_value_t = 30)]
    pub trials: usize,
    /// Everything once and small, to see whether it runs; its figures mean nothing and are not kept
    #[arg(long)]
    pub short: bool,
    /// Where a line for each run is kept; not written where its folder is missing
    #[arg(long, default_value = "chaos/bench-history")]
    pub history: PathBuf,
}

const GROUPS: [&str; 10] = [
    "start",
    "creates",
    "lists",
    "watchers",
    "pods",
    "store",
    "store-memory",
    "store-values",
    "store-rewrites",
    "failover",
];

impl BenchArgs {
    fn wants(&self, group: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == group)
    }

    fn span(&self) -> Duration {
        Duration::from_secs(if self.short { 1 } else { self.seconds.clamp(1, 60) })
    }

    /// The whole measure, or what a short run makes of it.
    fn measure<T>(&self, whole: T, short: T) -> T {
        if self.short { short } else { whole }
    }
}

/// Resident memory of a process, in MB.
fn resident_of(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes / 1024.0)
}

/// Prints each row when it is measured and the table at the end. A row that cannot be measured says why and the others go on.
///
/// # Errors
/// When nothing can be measured at all.
pub async fn run(args: &BenchArgs) -> Result<bool> {
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its figures mean nothing (`make bench` builds the right one)");
    }
    if let Some(only) = &args.only
        && !GROUPS.contains(&only.as_str())
    {
        bail!("there is no group of rows {only:?}; there are {}", GROUPS.join(", "));
    }
    let etcd = !args.without_etcd && stores::etcd_available();
    if !etcd {
        eprintln!(
            "etcd is not measured: {}",
            if args.without_etcd { "as asked" } else { "Debian package etcd-server is missing" }
        );
    }
    let mut table = Table::default();
    if args.wants("start") {
        server_rows::start(&mut table).await;
    }
    if args.wants("creates") {
        server_rows::creates(&mut table, args.span(), etcd).await;
    }
    if args.wants("lists") {
        server_rows::lists(&mut table, args.span()).await;
    }
    if args.wants("watchers") {
        server_rows::watchers(&mut table).await;
    }
    if args.wants("pods") {
        cluster_rows::pods(&mut table).await;
    }
    if args.wants("store") {
        store_rows::rates(&mut table, args.span(), args.measure(args.rounds.max(1), 1), etcd).await;
    }
    if args.wants("store-memory") {
        store_size::memory(&mut table, args.measure(100_000, 2_000), etcd).await;
    }
    if args.wants("store-values") {
        store_size::values(&mut table, args.short).await;
    }
    if args.wants("store-rewrites") {
        store_size::rewrites(&mut table, args.measure(1_000_000, 10_000)).await;
    }
    if args.wants("failover") {
        failover::rows(&mut table, args.measure(args.trials.max(1), 2), etcd).await;
    }
    println!("{table}");
    let folder_is_there = args.history.parent().is_some_and(std::path::Path::is_dir);
    if folder_is_there && !args.short && !cfg!(debug_assertions) {
        journal::append(&args.history, &table)?;
    }
    Ok(true)
}
