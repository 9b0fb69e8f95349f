//! `kontiki up`: servers and nodes on this one machine, made where they are missing.
//!
//! ```text
//!  127.0.0.1:6443 ─ shared by all servers (the kernel picks a living one)
//!  server-1 … server-N   on the host; peers on 127.0.0.n, nodes dial 198.18.X.n
//!      │
//!  bridge kontiki0 198.18.X.0/24, no way out ─┬─ namespace kontiki-node-1: containerd, agent, pods
//!                                             └─ namespace kontiki-node-2: …
//! ```
//!
//! Every step looks at what is there and makes the rest: run it again and nothing changes, run it after something
//! died and that comes back.

mod down;
mod layout;
mod network;
mod node;
mod preflight;
mod process;
mod progress;
mod sample;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use clap::Args;
use k8s_openapi::api::core::v1::{Node, Secret};
use kontiki_proto::api::{ApiExt, ListOptions};
use kontiki_proto::client::{Client, ClientConfig};
use serde_json::json;

pub use down::{DownArgs, down};
pub use layout::Layout;
pub use preflight::search_path;
pub use process::Daemon;

use crate::pki::{Pki, Subject, write_secret};
use progress::Step;

/// How long one step may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Args, Clone, Debug)]
pub struct UpArgs {
    /// Control-plane processes: 1, 3 or 5
    #[arg(long, default_value_t = 3)]
    pub servers: u8,
    /// Nodes; they need root
    #[arg(long, default_value_t = 2)]
    pub nodes: u8,
    /// Directory for data, logs and the kubeconfig
    #[arg(long, default_value = ".kontiki")]
    pub dir: PathBuf,
    /// Tells several clusters on one machine apart; up to five letters or digits
    #[arg(long, default_value = "")]
    pub name: String,
    /// Port of the API on 127.0.0.1
    #[arg(long, default_value_t = 6443)]
    pub port: u16,
    /// Third byte of the nodes' network 198.18.X.0/24
    #[arg(long, default_value_t = 0)]
    pub lan: u8,
    /// Seconds without a heartbeat after which a node is NotReady
    #[arg(long, default_value_t = 40)]
    pub node_grace_seconds: u64,
    /// Leave the sample image and Deployment out
    #[arg(long)]
    pub no_sample: bool,
}

/// Makes the cluster, or what is missing of it.
///
/// # Errors
/// The step that failed, why, and where its log is.
pub async fn up(args: &UpArgs) -> Result<()> {
    let asked = Layout {
        dir: absolute(&args.dir)?,
        name: args.name.clone(),
        servers: args.servers,
        nodes: args.nodes,
        port: args.port,
        lan: args.lan,
        node_grace_seconds: args.node_grace_seconds,
    };
    asked.check()?;
    if let Some(there) = Layout::load(&asked.dir)?
        && there != asked
    {
        bail!(
            "the cluster in {} was made with other options ({} servers, {} nodes, port {}, name {:?}); \
             use these, another --dir, or `kontiki down` first",
            asked.dir.display(),
            there.servers,
            there.nodes,
            there.port,
            there.name
        );
    }
    preflight::check(&asked)?;
    let layout = asked;
    for dir in [layout.run_dir(), layout.log_dir()] {
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    layout.save()?;

    let pki = certificates(&layout)?;
    if layout.nodes > 0 {
        let step = Step::begin("network");
        let changed = network::ensure(&layout)?;
        step.done(if changed { "bridge and node namespaces made" } else { "there already" });
    }
    let client = servers(&layout, &pki).await?;
    if layout.nodes > 0 {
        bootstrap_token(&layout, &client).await?;
        if !args.no_sample {
            registry(&layout).await?;
        }
        nodes(&layout, &client).await?;
        if !args.no_sample {
            sample_app(&layout, &client).await?;
        }
    }
    eprintln!("\nThe cluster is up. For kubectl and kontiki:\n");
    println!("export KUBECONFIG={}", layout.kubeconfig().display());
    Ok(())
}

fn certificates(layout: &Layout) -> Result<Pki> {
    let step = Step::begin("certificates");
    let made = !layout.kubeconfig().exists();
    let pki = Pki::open_or_create(&layout.pki_dir())?;
    if made {
        let admin = pki.issue(&Subject::User("kubernetes-admin", "system:masters"))?;
        write_secret(&layout.pki_dir().join("admin.crt"), &admin.cert_pem)?;
        write_secret(&layout.pki_dir().join("admin.key"), &admin.key_pem)?;
        let base64 = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "kontiki",
            "contexts": [{ "name": "kontiki", "context": { "cluster": "kontiki", "user": "kubernetes-admin" } }],
            "clusters": [{ "name": "kontiki", "cluster": {
                "server": format!("https://{}", layout.shared_address()),
                "certificate-authority-data": base64(&pki.ca.cert_pem),
            }}],
            "users": [{ "name": "kubernetes-admin", "user": {
                "client-certificate-data": base64(&admin.cert_pem),
                "client-key-data": base64(&admin.key_pem),
            }}],
        });
        write_secret(&layout.kubeconfig(), &serde_json::to_string_pretty(&kubeconfig)?)?;
    }
    step.done(if made { "made" } else { "there already" });
    Ok(pki)
}

/// Starts the first server, then those that join it, and waits until all vote.
async fn servers(layout: &Layout, pki: &Pki) -> Result<Client> {
    let step = Step::begin("servers");
    let client = admin_client(layout, pki)?;
    let mut started = 0;
    for server in 1..=layout.servers {
        // A restart needs all of them for a quorum; only a new server waits for those before it.
        let first_time = !layout.server_dir(server).join("store").exists();
        started += usize::from(start_server(layout, server)?);
        step.say(&format!("waiting for server {server} of {}", layout.servers));
        if first_time || server == layout.servers {
            await_members(layout, &client, server).await?;
        }
    }
    step.done(&match started {
        0 => format!("{} running already", layout.servers),
        started => format!("{started} started, {} ready", layout.servers),
    });
    Ok(client)
}

fn server_daemon<T>(layout: &Layout, server: u8, with: impl FnOnce(Daemon<'_>) -> T) -> T {
    let name = format!("server-{server}");
    with(Daemon { name: &name, run_dir: &layout.run_dir(), log_dir: &layout.log_dir() })
}

fn start_server(layout: &Layout, server: u8) -> Result<bool> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("server").arg("--data-dir").arg(layout.server_dir(server));
    command.arg("--pki-dir").arg(layout.pki_dir());
    command.args(["--listen", &layout.server_address(server), "--listen", &layout.shared_address()]);
    command.args(["--peer-listen", &layout.peer_address(server)]);
    command.args(["--node-grace-seconds", &layout.node_grace_seconds.to_string()]);
    if server > 1 {
        let earlier: Vec<_> = (1..server).map(|earlier| layout.peer_address(earlier)).collect();
        command.args(["--join", &earlier.join(",")]);
    }
    server_daemon(layout, server, |daemon| daemon.start(command))
}

/// Waits until at least so many members vote and one of them leads.
async fn await_members(layout: &Layout, client: &Client, count: u8) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let last = match client.cluster_status().await {
            Ok(status) => {
                let voters = status.members.iter().filter(|m| m.voter && m.reachable).count();
                if voters >= usize::from(count) && status.members.iter().any(|m| m.leader) {
                    return Ok(());
                }
                format!("{voters} of {count} servers vote")
            }
            Err(status) => status.message,
        };
        for server in 1..=count {
            server_daemon(layout, server, |daemon| match daemon.pid() {
                Some(_) => Ok(()),
                None => bail!("server {server} ended:\n{}", daemon.log_tail(15)),
            })?;
        }
        if Instant::now() > deadline {
            bail!("the servers are not ready after {PATIENCE:?}: {last}; see {}", layout.log_dir().display());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn admin_client(layout: &Layout, pki: &Pki) -> Result<Client> {
    let read = |name: &str| {
        let path = layout.pki_dir().join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let config = ClientConfig::new([layout.shared_address()], &pki.ca.cert_pem)
        .with_identity(&read("admin.crt")?, &read("admin.key")?);
    Ok(Client::new(config)?)
}

/// A token new nodes register with, in the form upstream gives bootstrap tokens.
async fn bootstrap_token(layout: &Layout, client: &Client) -> Result<()> {
    let step = Step::begin("bootstrap token");
    let path = layout.token_file();
    let made = !path.exists();
    if made {
        let random = uuid::Uuid::new_v4().simple().to_string();
        write_secret(&path, &format!("{}.{}", &random[..6], &random[6..22]))?;
    }
    let token = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (id, secret) = token.trim().split_once('.').context("the bootstrap token is not ID.SECRET")?;
    let object: Secret = serde_json::from_value(json!({
        "metadata": { "name": format!("bootstrap-token-{id}"), "namespace": "kube-system" },
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": id,
            "token-secret": secret,
            "usage-bootstrap-authentication": "true",
            "description": "made by kontiki up",
        },
    }))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.create_as(&object).await {
            Ok(_) => break,
            Err(status) if status.is_already_exists() => break,
            // The servers make their own namespaces in their first moments.
            Err(status) if (status.is_not_found() || status.is_retriable()) && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(status) => return Err(status).context("cannot store the bootstrap token"),
        }
    }
    step.done(if made { "made" } else { "there already" });
    Ok(())
}

/// A registry on the nodes' network, with the sample image in it.
async fn registry(layout: &Layout) -> Result<()> {
    let step = Step::begin("registry");
    let (dir, run_dir, log_dir) = (layout.dir.join("registry"), layout.run_dir(), layout.log_dir());
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let config = dir.join("config.yml");
    let text = json!({
        "version": 0.1,
        "log": { "level": "warn" },
        "storage": { "filesystem": { "rootdirectory": dir.join("data") } },
        "http": { "addr": layout.registry() },
    });
    fs::write(&config, serde_json::to_vec_pretty(&text)?)?;
    let daemon = Daemon { name: "registry", run_dir: &run_dir, log_dir: &log_dir };
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(&config);
    daemon.start(command)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while tokio::net::TcpStream::connect(layout.registry()).await.is_err() {
        if daemon.pid().is_none() || Instant::now() > deadline {
            bail!("the registry does not answer on {}:\n{}", layout.registry(), daemon.log_tail(10));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    step.say("pushing the sample image");
    let pushed = sample::push_images(&layout.registry()).await?;
    step.done(&format!(
        "{} {}",
        sample::image(&layout.registry(), "v1"),
        if pushed { "pushed" } else { "there already" }
    ));
    Ok(())
}

async fn nodes(layout: &Layout, client: &Client) -> Result<()> {
    let step = Step::begin("nodes");
    let mut started = false;
    for node in 1..=layout.nodes {
        step.say(&format!("starting {}", layout.node_name(node)));
        started |= node::ensure(layout, node)?;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ready = ready_nodes(client).await.unwrap_or(0);
        if ready >= usize::from(layout.nodes) {
            break;
        }
        step.say(&format!("{ready} of {} ready", layout.nodes));
        if Instant::now() > deadline {
            bail!(
                "{ready} of {} nodes are ready after {PATIENCE:?}; see {}",
                layout.nodes,
                layout.log_dir().display()
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    step.done(&format!("{} Ready{}", layout.nodes, if started { "" } else { " already" }));
    Ok(())
}

async fn ready_nodes(client: &Client) -> Result<usize> {
    let (nodes, _) = client.list_as::<Node>("", &ListOptions::default()).await?;
    let is_ready = |node: &&Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    };
    Ok(nodes.iter().filter(is_ready).count())
}

async fn sample_app(layout: &Layout, client: &Client) -> Result<()> {
    let step = Step::begin("sample");
    let created = sample::create(client, &layout.registry()).await?;
    // One that was there may have been scaled or broken by its owner since, and is theirs.
    if !created {
        step.done("there already");
        return Ok(());
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let available = sample::available(client).await.unwrap_or(0);
        if available >= sample::REPLICAS {
            break;
        }
        step.say(&format!("{available} of {} replicas available", sample::REPLICAS));
        if Instant::now() > deadline {
            bail!(
                "{available} of {} replicas of the sample are available after {PATIENCE:?}; \
                 see `kubectl describe pods -l app=hello` and {}",
                sample::REPLICAS,
                layout.log_dir().display()
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    step.done("Deployment hello: 3 replicas available");
    Ok(())
}

/// An absolute path, whether it exists or not.
pub(crate) fn absolute(dir: &Path) -> Result<PathBuf> {
    std::path::absolute(dir).with_context(|| format!("{} is no path", dir.display()))
}
