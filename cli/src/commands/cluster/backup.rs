//! `kontiki cluster backup` and `verify`.
//!
//! A backup stands under its name only when it is whole and durable: it is checked as it comes, written beside as
//! `FILE.unfinished`, synced, then renamed.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use futures::{Stream, StreamExt};
use kontiki_proto::{Status, pb};
use kontiki_store::{BackupCheck, BackupSummary, verify_backup};

use crate::session::Session;

/// Without a byte for so long, the stream is taken for broken.
const SILENCE: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct BackupArgs {
    /// File to make, or - for standard output
    file: PathBuf,
}

#[derive(Args)]
pub struct VerifyArgs {
    /// File to check, or - for standard input
    file: PathBuf,
}

fn is_stdio(file: &Path) -> bool {
    file == Path::new("-")
}

/// # Errors
/// What the server said, or where the stream broke; no file is left then.
pub async fn backup(session: &Session, args: &BackupArgs) -> Result<()> {
    if is_stdio(&args.file) {
        let parts = super::bounded(session.client.cluster().backup(pb::BackupRequest {})).await?;
        let summary = receive(parts, &mut std::io::stdout().lock()).await.context(
            "the backup broke off: what was written is not whole, and `kontiki cluster verify` says so too",
        )?;
        eprintln!("{}", line(&summary));
        return Ok(());
    }
    let mut file = Unfinished::create(&args.file)?;
    let parts = super::bounded(session.client.cluster().backup(pb::BackupRequest {})).await?;
    let received = receive(parts, &mut file.file).await;
    let summary = received
        .with_context(|| format!("the backup broke off, and {} was not made", args.file.display()))?;
    file.finish()?;
    println!("{}: {}", args.file.display(), line(&summary));
    Ok(())
}

/// # Errors
/// What is wrong with the file, where, and the way out.
pub fn verify(args: &VerifyArgs) -> Result<()> {
    let summary = if is_stdio(&args.file) {
        verify_backup(std::io::stdin().lock())
    } else {
        let file = File::open(&args.file).with_context(|| format!("cannot open {}", args.file.display()))?;
        verify_backup(file)
    };
    let summary = summary.with_context(|| args.file.display().to_string())?;
    println!("{}: whole; {}", args.file.display(), line(&summary));
    Ok(())
}

pub(super) fn line(summary: &BackupSummary) -> String {
    format!(
        "cluster {} at revision {}, {} keys, {} leases, {}",
        summary.cluster_id,
        summary.revision,
        summary.entries,
        summary.leases,
        super::bytes(summary.bytes)
    )
}

/// Writes the stream out as it comes. It is right only if its trailer says so: a server that went away ends the stream
/// without an error.
async fn receive(
    parts: impl Stream<Item = Result<pb::BackupPart, tonic::Status>>,
    to: &mut impl Write,
) -> Result<BackupSummary> {
    let mut parts = std::pin::pin!(parts);
    let mut check = BackupCheck::new();
    loop {
        match tokio::time::timeout(SILENCE, parts.next()).await {
            Ok(Some(Ok(part))) => {
                check.push(&part.data).context("what the server sent")?;
                to.write_all(&part.data).context("cannot write")?;
            }
            Ok(Some(Err(status))) => return Err(Status::from(status).into()),
            Ok(None) => {
                to.flush().context("cannot write")?;
                return check.finish().map_err(|_| anyhow!("the server ended the stream early; try again"));
            }
            Err(_) => bail!("the server sent nothing for {SILENCE:?}; try another one"),
        }
    }
}

/// A file on its way to its name; removed unless it gets there.
struct Unfinished {
    file: File,
    path: PathBuf,
    name: PathBuf,
    finished: bool,
}

impl Unfinished {
    fn create(name: &Path) -> Result<Unfinished> {
        if name.exists() {
            bail!("{} exists already; remove it, or choose another name", name.display());
        }
        let mut path = name.as_os_str().to_owned();
        path.push(".unfinished");
        let path = PathBuf::from(path);
        // It holds the cluster's secrets.
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Unfinished { file, path, name: name.to_path_buf(), finished: false })
    }

    /// Durable under its name when it returns.
    fn finish(mut self) -> Result<()> {
        let name = self.name.display();
        self.file.sync_all().with_context(|| format!("{name} may not be durable, and was not made"))?;
        std::fs::rename(&self.path, &self.name).with_context(|| format!("cannot rename to {name}"))?;
        self.finished = true;
        let dir = self.name.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.with_context(|| format!("{name} is whole, but its name may not be durable"))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            // What is left of it is harmless: it has not the file's name.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use kontiki_store::Store;

    use super::*;

    async fn parts() -> Vec<Result<pb::BackupPart, tonic::Status>> {
        let store = Store::in_memory();
        let backup = store.backup().await.unwrap();
        backup.map(|data| Ok(pb::BackupPart { data })).collect()
    }

    async fn check(parts: Vec<Result<pb::BackupPart, tonic::Status>>, expected: Result<(), &str>) {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("file");
        let mut file = Unfinished::create(&name).unwrap();
        let received = receive(futures::stream::iter(parts), &mut file.file).await;
        match (received, expected) {
            (Ok(summary), Ok(())) => {
                file.finish().unwrap();
                assert_eq!(verify_backup(File::open(&name).unwrap()).unwrap(), summary);
                assert!(Unfinished::create(&name).is_err(), "a backup is never written over");
                return;
            }
            (Err(error), Err(words)) => assert!(format!("{error:#}").contains(words), "{error:#}"),
            (received, _) => panic!("{received:?}"),
        }
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a broken backup left a file");
    }

    #[tokio::test]
    async fn a_whole_stream_becomes_a_file() {
        check(parts().await, Ok(())).await;
    }

    #[tokio::test]
    async fn a_stream_that_breaks_leaves_no_file_and_says_so() {
        let mut broken = parts().await;
        broken.pop();
        check(broken.clone(), Err("ended the stream early")).await;
        broken.push(Err(tonic::Status::unavailable("gone")));
        check(broken, Err("gone")).await;
        let mut damaged = parts().await;
        let last = damaged.pop().unwrap().unwrap().data;
        let flipped: Vec<u8> = last.iter().map(|byte| byte ^ 4).collect();
        damaged.push(Ok(pb::BackupPart { data: flipped.into() }));
        check(damaged, Err("what the server sent")).await;
    }
}
