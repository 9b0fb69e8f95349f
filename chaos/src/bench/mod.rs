//! The budget table, measured on this machine in one run, beside etcd where that is meaningful.
//!
//! Servers, etcd and clients share this machine's cores and disk, all on the loopback of a private network namespace. etcd is
//! asked over plain HTTP/2 with the transaction Kubernetes makes for a create; Kontiki over TLS, through the whole API.

mod cluster_rows;
mod etcd;
mod load;
mod rest;
mod server_rows;
mod table;

use std::time::Duration;

use anyhow::Result;
use clap::Args;

pub use table::{Row, Table};

#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Seconds each rate is measured for
    #[arg(long, default_value_t = 4)]
    pub seconds: u64,
    /// Rows whose name contains this text alone
    #[arg(long)]
    pub only: Option<String>,
    /// Leave etcd out
    #[arg(long)]
    pub without_etcd: bool,
}

impl BenchArgs {
    fn wants(&self, group: &str) -> bool {
        self.only.as_ref().is_none_or(|only| group.contains(only.as_str()))
    }

    fn span(&self) -> Duration {
        Duration::from_secs(self.seconds.clamp(1, 60))
    }
}

/// Prints each row when it is measured and the table at the end. A row that cannot be measured says why and the others go on.
///
/// # Errors
/// When nothing can be measured at all.
pub async fn run(args: &BenchArgs) -> Result<bool> {
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its figures mean nothing (`make bench` builds the right one)");
    }
    let etcd = !args.without_etcd && etcd::available();
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
    if args.wants("failover") {
        cluster_rows::failover(&mut table, etcd).await;
    }
    println!("{table}");
    Ok(true)
}
