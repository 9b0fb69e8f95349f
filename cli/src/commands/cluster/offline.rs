//! `kontiki cluster restore` and `recover`: a new cluster out of what is left, on a machine whose server is stopped.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use kontiki_store::{Anew, Found, REVISION_STEP, Survivor, restore_backup};

use super::backup;
use crate::pki::Pki;

#[derive(Args)]
pub struct RestoreArgs {
    /// Backup, or - for standard input
    file: PathBuf,
    /// Data directory of the server that is to be the new cluster's first; may hold pki, and no data
    #[arg(long)]
    data_dir: PathBuf,
    /// Directory of ca.crt, ca.key and sa.key [default: DATA_DIR/pki]
    #[arg(long)]
    pki_dir: Option<PathBuf>,
    /// Make new keys where those of the old cluster are lost: its certificates and tokens are then worth nothing
    #[arg(long)]
    new_authority: bool,
}

#[derive(Args)]
pub struct RecoverArgs {
    /// Data directory of the survivor; its server must be stopped
    #[arg(long)]
    data_dir: PathBuf,
    /// Go on. Without it, what is there is shown and nothing is done
    #[arg(long)]
    i_know_that_unreplicated_writes_may_be_lost: bool,
}

/// # Errors
/// The backup is not whole, the directory not empty, or the keys are missing; nothing was changed.
pub fn restore(args: &RestoreArgs) -> Result<()> {
    let pki_dir = args.pki_dir.clone().unwrap_or_else(|| args.data_dir.join("pki"));
    let pki = if args.new_authority { Pki::open_or_create(&pki_dir) } else { Pki::open(&pki_dir) };
    let pki = pki.context(
        "a backup holds no keys: copy the old cluster's, or give --new-authority where they are lost",
    )?;
    let dir = args.data_dir.join("store");
    let (summary, anew) = if args.file.as_os_str() == "-" {
        restore_backup(std::io::stdin().lock(), &dir, &pki.ca.cert_pem)
    } else {
        let file = File::open(&args.file).with_context(|| format!("cannot open {}", args.file.display()))?;
        restore_backup(file, &dir, &pki.ca.cert_pem)
    }
    .with_context(|| args.file.display().to_string())?;
    println!("restored: {}", backup::line(&summary));
    tell(args.data_dir.display(), &anew);
    Ok(())
}

/// # Errors
/// The directory is in use, damaged or empty, or it was not confirmed; nothing was changed.
pub fn recover(args: &RecoverArgs) -> Result<()> {
    let survivor = Survivor::open(&args.data_dir.join("store"))?;
    let found = survivor.found();
    println!("{}", describe(found));
    if !args.i_know_that_unreplicated_writes_may_be_lost {
        bail!(
            "nothing was done. Recover only when {} can never come back with their data: while one of them may, start \
             it instead. What they had acknowledged and this server had not received is lost. If several servers \
             survive, recover the one with the highest last log entry. To go on, add \
             --i-know-that-unreplicated-writes-may-be-lost",
            quorum(found)
        );
    }
    let (anew, aside) = survivor.recover()?;
    println!("the old directory is kept as {}", aside.display());
    tell(args.data_dir.display(), &anew);
    Ok(())
}

fn quorum(found: &Found) -> String {
    let needed = found.members.len() / 2 + 1;
    format!("so many of the {} members that fewer than {needed} are left", found.members.len())
}

fn describe(found: &Found) -> String {
    let members: Vec<String> = found.members.iter().map(|(id, peer)| format!("{id} at {peer}")).collect();
    format!(
        "member {} of cluster {}\n  members:        {}\n  last log entry: index {}, term {}\n  newest term:    {}\n  \
         revision:       {}, {} keys",
        found.member,
        found.cluster_id,
        members.join(", "),
        found.last_index,
        found.last_term,
        found.term,
        found.revision,
        found.entries
    )
}

fn tell(data_dir: std::path::Display<'_>, anew: &Anew) {
    println!(
        "cluster {}, member {}, at revision {} ({REVISION_STEP} ahead, so that every client lists again)\n\
         start its server: kontiki server --data-dir {data_dir}; let the others join it with empty data directories",
        anew.cluster_id, anew.member, anew.revision
    );
}
