//! `kontiki edit` and `kontiki patch`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use kontiki_apiserver::schema;
use kontiki_proto::api::{Api, GetOptions, PatchType, WriteOptions, decode, encode};
use serde_json::{Value, json};

use super::meta::objects_of;
use crate::documents::parse_one;
use crate::merge::three_way;
use crate::output::name_of;
use crate::session::Session;

#[derive(Args, Clone, Debug)]
pub struct EditArgs {
    /// `deployment/web`, `configmap settings`
    #[arg(required = true)]
    words: Vec<String>,
}

#[derive(Args, Clone, Debug)]
pub struct PatchArgs {
    /// `deployment/web`, `pod web-1`
    #[arg(required = true)]
    words: Vec<String>,
    /// strategic, merge or json
    #[arg(long = "type", default_value = "strategic")]
    kind: String,
    /// The patch, JSON or YAML
    #[arg(long, short, required_unless_present = "patch_file", conflicts_with = "patch_file")]
    patch: Option<String>,
    /// A file that holds the patch
    #[arg(long)]
    patch_file: Option<PathBuf>,
    /// A part of the object, such as status or scale
    #[arg(long, default_value = "")]
    subresource: String,
    /// Ask the server, change nothing
    #[arg(long)]
    dry_run: bool,
}

/// # Errors
/// A patch that is no document, or what the server said.
pub async fn patch(session: &Session, args: &PatchArgs) -> Result<()> {
    let patch_type = match args.kind.as_str() {
        "strategic" => PatchType::StrategicMerge,
        "merge" => PatchType::Merge,
        "json" => PatchType::Json,
        other => bail!("--type {other:?} is none of strategic, merge, json"),
    };
    let text = match (&args.patch, &args.patch_file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => {
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
        }
        (None, None) => bail!("give the patch by -p or --patch-file"),
    };
    let patch: Value = parse_one(&text).context("the patch is no document")?;
    let options =
        WriteOptions { dry_run: args.dry_run, field_manager: "kontiki".into(), ..WriteOptions::default() };
    for (target, label) in objects_of(session, &session.select(&args.words).await?, "", false).await? {
        let target = target.sub(&args.subresource);
        let before: Value = decode(&session.client.get(&target, &GetOptions::default()).await?)?;
        let after: Value =
            decode(&session.client.patch(&target, patch_type, encode(&patch)?, &options).await?)?;
        let is_same =
            !args.dry_run && before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"];
        println!("{label} patched{}", if is_same { " (no change)" } else { "" });
    }
    Ok(())
}

/// # Errors
/// The editor failed, what it left is no object, or what the server said; the text is kept then.
pub async fn edit(session: &Session, args: &EditArgs) -> Result<()> {
    for (target, label) in objects_of(session, &session.select(&args.words).await?, "", false).await? {
        let mut live: Value = decode(&session.client.get(&target, &GetOptions::default()).await?)?;
        if let Some(metadata) = live["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        let path = write_draft(&live)?;
        run_editor(&path)?;
        let text = std::fs::read_to_string(&path)?;
        let kept = |error: anyhow::Error| error.context(format!("your text is kept in {}", path.display()));
        let edited: Value = parse_one(&text)
            .map_err(|error| kept(anyhow::anyhow!("the edited text is no document: {error}")))?;
        let row = session.kind_of(
            live["apiVersion"].as_str().unwrap_or_default(),
            live["kind"].as_str().unwrap_or_default(),
        );
        let of = schema::type_of(&*row.await?);
        let mut patch = three_way(of, &live, &edited, &live);
        if patch == json!({}) {
            println!("Edit cancelled, no changes made.");
            std::fs::remove_file(&path)?;
            continue;
        }
        if name_of(&edited) != name_of(&live) {
            return Err(kept(anyhow::anyhow!("name, kind and apiVersion cannot be changed by editing")));
        }
        // Whoever changed it meanwhile is not overwritten.
        patch["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
        let patch_type = if of.is_some() { PatchType::StrategicMerge } else { PatchType::Merge };
        let options = WriteOptions { field_manager: "kontiki-edit".into(), ..WriteOptions::default() };
        session
            .client
            .patch(&target, patch_type, encode(&patch)?, &options)
            .await
            .map_err(|status| kept(status.into()))?;
        std::fs::remove_file(&path)?;
        println!("{label} edited");
    }
    Ok(())
}

/// Readable by its owner alone: it may be a secret.
fn write_draft(object: &Value) -> Result<PathBuf> {
    use std::os::unix::fs::OpenOptionsExt;
    let name = object["metadata"]["name"].as_str().unwrap_or("object").replace('/', "_");
    let unique = format!("kontiki-edit-{name}-{:08x}.yaml", rand::random::<u32>());
    let path = std::env::temp_dir().join(unique);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(b"# Save and leave to apply the changes; leave the text as it is to change nothing.\n")?;
    file.write_all(serde_saphyr::to_string(object)?.as_bytes())?;
    Ok(path)
}

fn run_editor(path: &Path) -> Result<()> {
    let editor = ["KUBE_EDITOR", "EDITOR"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
        .unwrap_or_else(|| "vi".into());
    // EDITOR is a shell's words: `code --wait`, quotes included.
    let script = format!("{editor} \"$1\"");
    let status = Command::new("sh")
        .args(["-c", &script, "sh"])
        .arg(path)
        .status()
        .with_context(|| format!("cannot start the editor {editor:?}"))?;
    if status.code() == Some(127) {
        bail!("there is no editor {editor:?}; set EDITOR to one that is installed");
    }
    if !status.success() {
        bail!("the editor {editor:?} failed: {status}; nothing is changed");
    }
    Ok(())
}
