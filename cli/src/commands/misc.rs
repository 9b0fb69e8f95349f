//! What the cluster serves, and versions.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use crate::output::table::align;
use crate::session::Session;

#[derive(Args, Clone, Debug)]
pub struct ApiResourcesArgs {
    /// Only this group; "" is the core group
    #[arg(long)]
    api_group: Option<String>,
    /// Only what lives in namespaces, or only what does not
    #[arg(long)]
    namespaced: Option<bool>,
    /// wide or name
    #[arg(long, short, default_value = "")]
    output: String,
    #[arg(long)]
    no_headers: bool,
}

#[derive(Args, Clone, Debug)]
pub struct VersionArgs {
    /// This program's alone
    #[arg(long)]
    pub client: bool,
    /// json or yaml
    #[arg(long, short, default_value = "")]
    output: String,
}

/// # Errors
/// What the server said.
pub async fn api_resources(session: &Session, args: &ApiResourcesArgs) -> Result<()> {
    let mut header = vec!["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"];
    let is_wide = args.output == "wide";
    if is_wide {
        header.extend(["VERBS", "CATEGORIES"]);
    }
    let mut lines = Vec::new();
    if !args.no_headers {
        lines.push(header.into_iter().map(String::from).collect());
    }
    for row in session.served().await?.rows() {
        let is_wanted = args.api_group.as_ref().is_none_or(|group| row.group == group.as_str())
            && args.namespaced.is_none_or(|namespaced| row.namespaced() == namespaced);
        if !is_wanted {
            continue;
        }
        if args.output == "name" {
            println!("{}", row.qualified());
            continue;
        }
        let mut line = vec![
            row.plural.to_string(),
            row.short_names.join(","),
            row.api_version().to_string(),
            row.namespaced().to_string(),
            row.kind.to_string(),
        ];
        if is_wide {
            line.extend([row.verbs.names().collect::<Vec<_>>().join(","), row.categories.join(",")]);
        }
        lines.push(line);
    }
    if args.output != "name" {
        print!("{}", align(&lines));
    }
    Ok(())
}

/// # Errors
/// The server does not answer; this program's own version is printed before.
pub async fn version(session: &Session, args: &VersionArgs) -> Result<()> {
    if args.output.is_empty() {
        client_version(args)?;
        let (_, server) = session.client.discover().await?;
        println!("Server Version: {server}");
        return Ok(());
    }
    let (_, server) = session.client.discover().await?;
    show(&json!({ "clientVersion": client(), "serverVersion": { "gitVersion": server } }), &args.output)
}

/// # Errors
/// An unknown output format.
pub fn client_version(args: &VersionArgs) -> Result<()> {
    if args.output.is_empty() {
        println!("Client Version: v{}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    show(&json!({ "clientVersion": client() }), &args.output)
}

fn client() -> Value {
    json!({ "gitVersion": concat!("v", env!("CARGO_PKG_VERSION")) })
}

fn show(document: &Value, format: &str) -> Result<()> {
    match format {
        "json" => println!("{}", serde_json::to_string_pretty(document)?),
        "yaml" => print!("{}", serde_saphyr::to_string(document)?),
        other => anyhow::bail!("-o {other:?} is none of json, yaml"),
    }
    Ok(())
}
