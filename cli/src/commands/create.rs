//! `kontiki create`: objects from files, or of a kind from a few words.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use base64::Engine;
use clap::{Args, Subcommand};
use kontiki_proto::api::{Api, WriteOptions, decode, encode};
use serde_json::{Map, Value, json};

use super::Failures;
use crate::documents;
use crate::output::{Format, name_of, print_document, separate};
use crate::session::Session;

#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = false)]
pub struct CreateArgs {
    /// Files, folders, or standard input (-)
    #[arg(long, short = 'f')]
    filename: Vec<PathBuf>,
    /// none; client: only print; server: ask the server, change nothing
    #[arg(long, global = true, default_value = "none", value_parser = ["none", "client", "server"], num_args = 0..=1, default_missing_value = "client", require_equals = true)]
    dry_run: String,
    /// yaml, json, name, or jsonpath=TEMPLATE
    #[arg(long, short, global = true, default_value = "")]
    output: Format,
    #[command(subcommand)]
    kind: Option<Kind>,
}

#[derive(Subcommand, Clone, Debug)]
enum Kind {
    /// A deployment of one image
    #[command(visible_alias = "deploy")]
    Deployment(DeploymentArgs),
    /// Texts by key
    #[command(visible_alias = "cm")]
    Configmap(DataArgs),
    /// Secrets by key
    #[command(subcommand)]
    Secret(SecretKind),
    /// A namespace
    #[command(visible_alias = "ns")]
    Namespace(NameArgs),
    /// A service in front of pods labelled app=NAME
    #[command(subcommand, visible_alias = "svc")]
    Service(ServiceKind),
    /// An account for pods
    #[command(visible_alias = "sa")]
    Serviceaccount(NameArgs),
    /// Pods that run to their end
    Job(JobArgs),
}

#[derive(Args, Clone, Debug)]
struct NameArgs {
    name: String,
}

#[derive(Args, Clone, Debug)]
struct DeploymentArgs {
    name: String,
    /// One or several images
    #[arg(long, required = true)]
    image: Vec<String>,
    #[arg(long, default_value_t = 1)]
    replicas: u32,
    /// Port of the first container
    #[arg(long)]
    port: Option<u16>,
    /// Command, behind --
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(Args, Clone, Debug)]
struct JobArgs {
    name: String,
    #[arg(long)]
    image: String,
    /// Command, behind --
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(Args, Clone, Debug)]
struct DataArgs {
    name: String,
    /// KEY=TEXT
    #[arg(long)]
    from_literal: Vec<String>,
    /// FILE, FOLDER or KEY=FILE
    #[arg(long)]
    from_file: Vec<String>,
    /// A file with KEY=TEXT lines
    #[arg(long)]
    from_env_file: Vec<PathBuf>,
}

#[derive(Subcommand, Clone, Debug)]
enum SecretKind {
    /// From texts and files
    Generic(GenericArgs),
    /// A certificate and its key
    Tls(TlsArgs),
    /// Credentials of an image registry
    DockerRegistry(RegistryArgs),
}

#[derive(Args, Clone, Debug)]
struct GenericArgs {
    #[command(flatten)]
    data: DataArgs,
    #[arg(long = "type", default_value = "Opaque")]
    kind: String,
}

#[derive(Args, Clone, Debug)]
struct TlsArgs {
    name: String,
    #[arg(long)]
    cert: PathBuf,
    #[arg(long)]
    key: PathBuf,
}

#[derive(Args, Clone, Debug)]
struct RegistryArgs {
    name: String,
    #[arg(long, default_value = "https://index.docker.io/v1/")]
    docker_server: String,
    #[arg(long)]
    docker_username: String,
    #[arg(long)]
    docker_password: String,
    #[arg(long, default_value = "")]
    docker_email: String,
}

#[derive(Subcommand, Clone, Debug)]
enum ServiceKind {
    Clusterip(ServiceArgs),
    Nodeport(ServiceArgs),
    Loadbalancer(ServiceArgs),
    Externalname(ExternalNameArgs),
}

#[derive(Args, Clone, Debug)]
struct ServiceArgs {
    name: String,
    /// PORT or PORT:TARGET
    #[arg(long)]
    tcp: Vec<String>,
    /// An address, or None for a headless service
    #[arg(long)]
    clusterip: Option<String>,
    #[arg(long)]
    node_port: Option<u16>,
}

#[derive(Args, Clone, Debug)]
struct ExternalNameArgs {
    name: String,
    #[arg(long)]
    external_name: String,
}

/// # Errors
/// Wrong words, or what the server said of each object it refused; the others are created.
pub async fn create(session: &Session, args: &CreateArgs) -> Result<()> {
    let objects = match (&args.kind, args.filename.as_slice()) {
        (Some(kind), []) => vec![object(kind)?],
        (None, [_, ..]) => documents::read(&args.filename)?,
        (Some(_), _) => bail!("give files or a kind, not both"),
        (None, []) => bail!("say what to create: -f FILE, or a kind such as `create deployment`"),
    };
    let mut errors = Vec::new();
    let mut count = 0;
    for object in objects {
        let created = match one(session, args, object).await {
            Ok(created) => created,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        if args.output == Format::Table {
            let mark = match args.dry_run.as_str() {
                "client" => " (dry run)",
                "server" => " (server dry run)",
                _ => "",
            };
            println!("{} created{mark}", name_of(&created));
        } else {
            if count > 0 {
                separate(&args.output);
            }
            print_document(&created, &args.output)?;
        }
        count += 1;
    }
    Failures::check(errors)
}

async fn one(session: &Session, args: &CreateArgs, object: Value) -> Result<Value> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if args.dry_run == "client" {
        return Ok(object);
    }
    let row = session.kind_of(text("/apiVersion"), text("/kind")).await?;
    let mut target = session.collection(&row);
    if row.namespaced() && !text("/metadata/namespace").is_empty() {
        target = target.within(text("/metadata/namespace"));
    }
    let options = WriteOptions {
        dry_run: args.dry_run == "server",
        field_manager: "kontiki-create".into(),
        ..WriteOptions::default()
    };
    Ok(decode(&session.client.create(&target, encode(&object)?, &options).await?)?)
}

fn object(kind: &Kind) -> Result<Value> {
    match kind {
        Kind::Deployment(args) => Ok(deployment(args)),
        Kind::Job(args) => Ok(job(args)),
        Kind::Configmap(args) => config_map(args),
        Kind::Secret(kind) => secret(kind),
        Kind::Namespace(args) => {
            Ok(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": args.name } }))
        }
        Kind::Serviceaccount(args) => {
            Ok(json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": args.name } }))
        }
        Kind::Service(kind) => service(kind),
    }
}

/// The last part of an image's name, without tag and digest.
fn container_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    let stem = last.split(['@', ':']).next().unwrap_or(last).to_lowercase();
    let name: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    name.trim_matches('-').to_string()
}

fn deployment(args: &DeploymentArgs) -> Value {
    let mut containers: Vec<Value> =
        args.image.iter().map(|image| json!({ "name": container_name(image), "image": image })).collect();
    if let Some(first) = containers.first_mut() {
        if let Some(port) = args.port {
            first["ports"] = json!([{ "containerPort": port }]);
        }
        if !args.command.is_empty() {
            first["command"] = json!(args.command);
        }
    }
    let labels = json!({ "app": args.name });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": args.name, "labels": labels },
        "spec": {
            "replicas": args.replicas,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": containers } },
        },
    })
}

fn job(args: &JobArgs) -> Value {
    let mut container = json!({ "name": args.name, "image": args.image });
    if !args.command.is_empty() {
        container["command"] = json!(args.command);
    }
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": { "name": args.name },
        "spec": { "template": { "spec": { "containers": [container], "restartPolicy": "Never" } } },
    })
}

/// Keys and contents from literals, files, folders and files of literals.
fn contents(args: &DataArgs) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    let literal = |text: &str| -> Result<(String, Vec<u8>)> {
        let (key, value) = text.split_once('=').with_context(|| format!("{text:?} is not KEY=TEXT"))?;
        Ok((key.to_string(), value.as_bytes().to_vec()))
    };
    for text in &args.from_literal {
        found.push(literal(text)?);
    }
    for file in &args.from_env_file {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            found.push(literal(line)?);
        }
    }
    for word in &args.from_file {
        let (key, path) = match word.split_once('=') {
            Some((key, path)) => (Some(key.to_string()), PathBuf::from(path)),
            None => (None, PathBuf::from(word)),
        };
        let mut files = vec![path.clone()];
        if path.is_dir() {
            let entries =
                std::fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))?;
            files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
            files.retain(|file| file.is_file());
            files.sort();
        }
        for file in files {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let data = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            found.push((key.clone().unwrap_or(name), data));
        }
    }
    for (at, (key, _)) in found.iter().enumerate() {
        if let Some(problem) = kontiki_proto::names::config_map_key(key).first() {
            bail!("\"{key}\" is not a valid key name: {problem}");
        }
        if found[..at].iter().any(|(other, _)| other == key) {
            bail!("the key {key} is given twice");
        }
    }
    Ok(found)
}

fn base64(data: &[u8]) -> Value {
    base64::engine::general_purpose::STANDARD.encode(data).into()
}

/// What is no UTF-8 goes into `binaryData`.
fn config_map(args: &DataArgs) -> Result<Value> {
    let (mut data, mut binary) = (Map::new(), Map::new());
    for (key, content) in contents(args)? {
        match String::from_utf8(content) {
            Ok(text) => data.insert(key, text.into()),
            Err(error) => binary.insert(key, base64(error.as_bytes())),
        };
    }
    let mut object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": args.name } });
    for (field, map) in [("data", data), ("binaryData", binary)] {
        if !map.is_empty() {
            object[field] = map.into();
        }
    }
    Ok(object)
}

fn secret(kind: &SecretKind) -> Result<Value> {
    let read =
        |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let (name, secret_type, data) = match kind {
        SecretKind::Generic(args) => {
            let data = contents(&args.data)?.into_iter().map(|(key, content)| (key, base64(&content)));
            (&args.data.name, args.kind.as_str(), data.collect::<Map<_, _>>())
        }
        SecretKind::Tls(args) => {
            let pair = [("tls.crt", read(&args.cert)?), ("tls.key", read(&args.key)?)];
            let data = pair.iter().map(|(key, content)| ((*key).to_string(), base64(content)));
            (&args.name, "kubernetes.io/tls", data.collect())
        }
        SecretKind::DockerRegistry(args) => {
            let login = format!("{}:{}", args.docker_username, args.docker_password);
            let config = json!({ "auths": { &args.docker_server: {
                "username": args.docker_username,
                "password": args.docker_password,
                "email": args.docker_email,
                "auth": base64(login.as_bytes()),
            } } });
            let data = [(".dockerconfigjson".to_string(), base64(config.to_string().as_bytes()))];
            (&args.name, "kubernetes.io/dockerconfigjson", data.into_iter().collect())
        }
    };
    Ok(
        json!({ "apiVersion": "v1", "kind": "Secret", "type": secret_type, "metadata": { "name": name }, "data": data }),
    )
}

fn service(kind: &ServiceKind) -> Result<Value> {
    let head = |name: &str, spec: Value| {
        json!({ "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": name, "labels": { "app": name } }, "spec": spec })
    };
    let (args, service_type) = match kind {
        ServiceKind::Clusterip(args) => (args, "ClusterIP"),
        ServiceKind::Nodeport(args) => (args, "NodePort"),
        ServiceKind::Loadbalancer(args) => (args, "LoadBalancer"),
        ServiceKind::Externalname(args) => {
            let spec = json!({ "type": "ExternalName", "externalName": args.external_name });
            return Ok(head(&args.name, spec));
        }
    };
    let is_headless = args.clusterip.as_deref() == Some("None");
    if args.tcp.is_empty() && !is_headless {
        bail!("at least one port is needed: --tcp PORT[:TARGET]");
    }
    let mut ports = Vec::new();
    for text in &args.tcp {
        let (port, target) = text.split_once(':').unwrap_or((text, text));
        let port: u16 = port.parse().with_context(|| format!("{port:?} is no port"))?;
        let target = target.parse::<u16>().map_or_else(|_| json!(target), |number| json!(number));
        let name = text.replace(':', "-");
        let mut entry = json!({ "name": name, "port": port, "protocol": "TCP", "targetPort": target });
        if let Some(node_port) = args.node_port {
            entry["nodePort"] = json!(node_port);
        }
        ports.push(entry);
    }
    let mut spec = json!({ "type": service_type, "selector": { "app": args.name } });
    if !ports.is_empty() {
        spec["ports"] = ports.into();
    }
    if let Some(address) = &args.clusterip {
        spec["clusterIP"] = json!(address);
    }
    Ok(head(&args.name, spec))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CreateArgs,
    }

    fn made(words: &str) -> Result<Value> {
        let line = Line::try_parse_from(["create"].into_iter().chain(words.split_whitespace()))?;
        object(&line.args.kind.context("a kind")?)
    }

    #[test]
    fn a_deployment_labels_and_selects_its_pods() {
        let object =
            made("deployment web --image reg.local:5000/team/web_app:v1 --replicas 3 --port 80 -- sleep 1")
                .unwrap();
        assert_eq!(object["spec"]["replicas"], 3);
        assert_eq!(
            object["spec"]["selector"]["matchLabels"],
            object["spec"]["template"]["metadata"]["labels"]
        );
        let container = &object["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(
            *container,
            json!({ "name": "web-app", "image": "reg.local:5000/team/web_app:v1",
            "ports": [{ "containerPort": 80 }], "command": ["sleep", "1"] })
        );
    }

    #[test]
    fn data_comes_from_literals_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, data: &[u8]| std::fs::write(dir.path().join(name), data).unwrap();
        write("text", b"hello");
        write("binary", &[0xff, 0]);
        write("env", b"# no\nX=1\n\nY=a=b\n");
        let path = dir.path().display();
        let object = made(&format!(
            "configmap c --from-literal a=b --from-file {path}/text --from-file k={path}/binary --from-env-file {path}/env"
        ))
        .unwrap();
        assert_eq!(object["data"], json!({ "a": "b", "text": "hello", "X": "1", "Y": "a=b" }));
        assert_eq!(object["binaryData"], json!({ "k": "/wA=" }));

        let object = made("secret generic s --from-literal a=b").unwrap();
        assert_eq!((object["type"].as_str(), object["data"]["a"].as_str()), (Some("Opaque"), Some("Yg==")));
        for wrong in [
            "configmap c --from-literal a",
            "configmap c --from-literal a/b=c",
            "configmap c --from-literal a=1 --from-literal a=2",
            "configmap c --from-file /nonexistent",
        ] {
            assert!(made(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn services_have_ports_unless_they_are_headless() {
        let object = made("service clusterip web --tcp 80:8080 --tcp 443:https").unwrap();
        assert_eq!(object["spec"]["ports"][0]["targetPort"], 8080);
        assert_eq!(object["spec"]["ports"][1]["targetPort"], "https");
        assert!(made("service nodeport web").is_err());
        assert!(made("service clusterip web --clusterip None").is_ok());
        assert!(made("service clusterip web --tcp 99999").is_err());
    }
}
