//! The sample: an image made from this machine's busybox, and the Deployment and Service that use it.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::Deployment;
use kontiki_proto::api::{Api, ApiExt, WriteOptions, encode};
use kontiki_proto::{Registry, Status, Target};
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::{IMAGE_CONFIG_MEDIA_TYPE, IMAGE_LAYER_GZIP_MEDIA_TYPE};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::preflight;

const REPOSITORY: &str = "kontiki/hello";
/// The tags differ in the page alone, so that a rolling update has something to roll to.
const TAGS: [&str; 2] = ["v1", "v2"];
const APPLETS: [&str; 24] = [
    "sh", "ls", "cat", "echo", "sleep", "httpd", "wget", "nc", "hostname", "nslookup", "ping", "ip", "ps",
    "kill", "env", "true", "false", "date", "mkdir", "rm", "touch", "test", "id", "grep",
];
pub const REPLICAS: i32 = 3;

pub fn image(registry: &str, tag: &str) -> String {
    format!("{registry}/{REPOSITORY}:{tag}")
}

/// Builds the image and pushes it, unless the registry has it.
///
/// # Errors
/// What the registry or the disk said.
pub async fn push_images(registry: &str) -> Result<bool> {
    let config = ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() };
    let client = Client::new(config);
    let mut pushed = false;
    for tag in TAGS {
        let reference: Reference = image(registry, tag).parse()?;
        if client.fetch_manifest_digest(&reference, &RegistryAuth::Anonymous).await.is_ok() {
            continue;
        }
        let (layer, config) = build(tag)?;
        client
            .push(&reference, &[layer], config, &RegistryAuth::Anonymous, None)
            .await
            .with_context(|| format!("cannot push {reference}"))?;
        pushed = true;
    }
    Ok(pushed)
}

fn build(tag: &str) -> Result<(ImageLayer, Config)> {
    let busybox = preflight::find("busybox").context("busybox is not installed")?;
    let tar = layer(&busybox, tag)?;
    let diff_id = format!("sha256:{}", hex::encode(Sha256::digest(&tar)));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar)?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": ["PATH=/bin"],
            "Cmd": ["/bin/serve"],
            "WorkingDir": "/",
            "ExposedPorts": { "8080/tcp": {} },
        },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    Ok((
        ImageLayer::new(gzip.finish()?, IMAGE_LAYER_GZIP_MEDIA_TYPE.to_string(), None),
        Config::new(serde_json::to_vec(&config)?, IMAGE_CONFIG_MEDIA_TYPE.to_string(), None),
    ))
}

/// The same bytes each time: no clock goes in.
fn layer(busybox: &Path, tag: &str) -> Result<Vec<u8>> {
    let binary = std::fs::read(busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
    // Process 1 gets no signal it has no handler for; with one, a pod ends at once.
    let serve = format!(
        "#!/bin/sh\nmkdir -p /tmp/www\necho \"hello {tag} from $(hostname)\" > /tmp/www/index.html\n\
         echo \"serving {tag}\"\nhttpd -f -v -p 8080 -h /tmp/www &\n\
         trap 'kill $!; exit 0' TERM INT\nwait\n"
    );
    let mut tar = tar::Builder::new(Vec::new());
    let mut file = |path: &str, mode: u32, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content)
    };
    file("bin/busybox", 0o755, &binary)?;
    file("bin/serve", 0o755, serve.as_bytes())?;
    file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")?;
    file("etc/group", 0o644, b"root:x:0:\nnobody:x:65534:\n")?;
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o1777);
    header.set_size(0);
    tar.append_data(&mut header, "tmp/", std::io::empty())?;
    Ok(tar.into_inner()?)
}

/// Creates the sample's objects; those that are there stay as they are. Returns whether one was made.
///
/// # Errors
/// What the API said.
pub async fn create(api: &dyn Api, registry: &str) -> Result<bool> {
    let mut created = false;
    for object in manifests(registry) {
        let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let row = Registry::builtin().find_kind(api_version, kind).context("a sample of an unknown kind")?;
        let target = Target::of(row).within("default");
        match api.create(&target, encode(&object)?, &WriteOptions::default()).await {
            Ok(_) => created = true,
            Err(status) if status.is_already_exists() => {}
            Err(status) => return Err(status).with_context(|| format!("cannot create the sample {kind}")),
        }
    }
    Ok(created)
}

/// How many replicas of the sample are available.
///
/// # Errors
/// What the API said.
pub async fn available(api: &dyn Api) -> Result<i32, Status> {
    let deployment = api.find_as::<Deployment>("default", "hello").await?;
    Ok(deployment.and_then(|d| d.status).and_then(|s| s.available_replicas).unwrap_or(0))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn manifests(registry: &str) -> [Value; 2] {
    let labels = json!({ "app": "hello" });
    let container = json!({
        "name": "hello",
        "image": image(registry, TAGS[0]),
        "ports": [{ "name": "http", "containerPort": 8080 }],
        "readinessProbe": { "httpGet": { "path": "/", "port": "http" }, "periodSeconds": 2 },
        "resources": {
            "requests": { "cpu": "10m", "memory": "16Mi" },
            "limits": { "memory": "64Mi" },
        },
    });
    [
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": { "name": "hello", "labels": labels },
            "spec": {
                "replicas": REPLICAS,
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": { "containers": [container], "terminationGracePeriodSeconds": 2 },
                },
            },
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": "hello", "labels": labels },
            "spec": { "selector": labels, "ports": [{ "name": "http", "port": 80, "targetPort": "http" }] },
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_the_same_each_time_and_differs_by_tag() {
        let dir = tempfile::tempdir().unwrap();
        let busybox = dir.path().join("busybox");
        std::fs::write(&busybox, b"\x7fELF").unwrap();
        assert_eq!(layer(&busybox, "v1").unwrap(), layer(&busybox, "v1").unwrap());
        assert_ne!(layer(&busybox, "v1").unwrap(), layer(&busybox, "v2").unwrap());
    }

    #[test]
    fn the_samples_are_of_kinds_that_exist() {
        for object in manifests("127.0.0.1:5000") {
            assert!(
                Registry::builtin().find_kind(text(&object["apiVersion"]), text(&object["kind"])).is_some()
            );
        }
    }
}
