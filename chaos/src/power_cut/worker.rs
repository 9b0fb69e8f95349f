//! The process that is cut: one store of one server, under load, telling what it is told.
//!
//! Its standard output is the record: a line before each transaction, a line after each answer, and on opening a line for
//! everything it holds. A line is written with one call, so that a killed process leaves whole lines and, at most, half of
//! one.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use kontiki_store::{Config, Op, Outcome, PeerTls, RangeRequest, Start, Store, StoreError, Timings, Txn};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Keys that are written again and again.
const REGISTERS: u64 = 40;
/// Keys that are written once and deleted later.
const SINGLES: u64 = 150;

#[derive(Args, Clone, Debug)]
pub struct WorkerArgs {
    #[arg(long)]
    pub data_dir: PathBuf,
    #[arg(long)]
    pub listen: String,
    /// Folder with ca.pem, peer.pem and peer.key
    #[arg(long)]
    pub tls: PathBuf,
    #[arg(long)]
    pub seed: u64,
    /// The number of the first transaction
    #[arg(long)]
    pub first: u64,
    #[arg(long)]
    pub clients: u64,
    /// Write checkpoints all the while
    #[arg(long)]
    pub checkpoints: bool,
    /// Stop after this many transactions, in good order
    #[arg(long)]
    pub until: Option<u64>,
}

/// What transaction `number` writes: its number, and bytes that follow from it.
pub fn value(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = format!("{number:020}").into_bytes();
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes
}

/// The number in a value; `None` when its bytes are not what that transaction wrote.
fn number(bytes: &[u8]) -> Option<u64> {
    let number = std::str::from_utf8(bytes.get(..20)?).ok()?.parse().ok()?;
    (value(number, bytes.len()) == bytes).then_some(number)
}

fn tell(line: String) -> Result<()> {
    let mut line = line.into_bytes();
    line.push(b'\n');
    std::io::stdout().write_all(&line).context("whoever started this process is gone")
}

/// Opens, tells what is there, and works until it is killed.
///
/// # Errors
/// When the store does not open, or does what it must not do.
pub fn work(args: WorkerArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let read = |name: &str| std::fs::read_to_string(args.tls.join(name));
        let config = Config {
            data_dir: args.data_dir.clone(),
            start: Start::Bootstrap,
            peer_listen: args.listen.clone(),
            peer_advertise: args.listen.clone(),
            client_advertise: args.listen.clone(),
            tls: PeerTls { ca_pem: read("ca.pem")?, cert_pem: read("peer.pem")?, key_pem: read("peer.key")? },
            timings: Timings::default(),
            max_txn_bytes: 2 << 20,
            history: Duration::from_secs(300),
            history_bytes: 64 << 20,
        };
        let store = Store::open(config).await?;
        let revision = store.barrier().await?;
        let status = store.status().await;
        let term = status.members.first().map_or(0, |member| member.term);
        let found = store.range(&RangeRequest { revision: Some(revision), ..RangeRequest::default() })?;
        for entry in found.entries {
            let Some(number) = number(&entry.value) else {
                bail!("key {:?} holds bytes that nobody wrote", entry.key)
            };
            let key = String::from_utf8_lossy(&entry.key).into_owned();
            tell(format!("have {key} {number} {}", entry.mod_revision))?;
        }
        tell(format!("open {term} {revision}"))?;

        let next = Arc::new(AtomicU64::new(args.first));
        let clients: Vec<_> = (0..args.clients)
            .map(|client| {
                let (store, next, args) = (store.clone(), Arc::clone(&next), args.clone());
                tokio::spawn(async move { serve(&store, &next, &args, client).await })
            })
            .collect();
        let checkpoints = args.checkpoints.then(|| {
            let store = store.clone();
            tokio::spawn(async move {
                // Whoever reads is gone, or the store is stopping: nothing to say about either.
                while tell("checkpoint".to_owned()).is_ok() && store.checkpoint().await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        });
        for client in clients {
            client.await??;
        }
        if let Some(checkpoints) = checkpoints {
            checkpoints.abort();
        }
        store.shutdown().await;
        tell("stopped".to_owned())
    })
}

async fn serve(store: &Store, next: &AtomicU64, args: &WorkerArgs, client: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(args.seed.wrapping_add(client));
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if args.until.is_some_and(|until| number >= args.first + until) {
            return Ok(());
        }
        let len = match random.random_range(0..1000) {
            0..4 => random.random_range(100_000..400_000),
            4..300 => random.random_range(1000..6000),
            _ => 30,
        };
        let register = format!("r{}", random.random_range(0..REGISTERS));
        let (puts, deletes) = match random.random_range(0..10) {
            0..5 => (vec![register], vec![]),
            5..7 => (vec![register, format!("p{}", random.random_range(0..REGISTERS))], vec![]),
            // Of the singles some are deleted before they are there, which changes nothing.
            7..9 => (vec![format!("s{number}")], vec![]),
            _ => {
                (vec![register], vec![format!("s{}", number.saturating_sub(SINGLES / 2 + number % SINGLES))])
            }
        };
        tell(format!("try {number} {} - {}", puts.join(" "), deletes.join(" ")))?;
        let value = Bytes::from(value(number, len));
        let put = |key: String| Op::Put {
            key: key.into_bytes().into(),
            value: value.clone(),
            attributes: Arc::from([]),
            lease: None,
        };
        let delete = |key: String| Op::Delete { key: key.into_bytes().into() };
        let ops = puts.into_iter().map(put).chain(deletes.into_iter().map(delete)).collect();
        match store.propose(Txn { guards: Vec::new(), ops }).await {
            Ok(Outcome::Committed { revision }) => tell(format!("done {number} {revision}"))?,
            Ok(Outcome::Conflict { .. }) => bail!("a transaction without guards met a conflict"),
            // Refused, so that it must not be there.
            Err(StoreError::Busy | StoreError::NoLeader | StoreError::Disk(_)) => {
                tell(format!("refused {number}"))?;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Err(StoreError::Stopped) => return Ok(()),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_names_its_transaction_and_a_damaged_one_none() {
        let mut bytes = value(42, 3000);
        assert_eq!(number(&bytes), Some(42));
        bytes[2000] ^= 1;
        assert_eq!(number(&bytes), None);
    }
}
