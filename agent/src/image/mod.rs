//! Images: names, what is in the content store, pulling, unpacking.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | the image of a container: found or pulled |
//! | [`pull`] | a registry's blobs into containerd's content store |
//! | [`credentials`] | `imagePullSecrets` |
//!
//! Images are never collected yet: what was pulled stays until it is removed by hand.

pub mod credentials;
pub mod pull;

use std::collections::BTreeMap;

use oci_client::Reference;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::runtime::content::Blob;
use crate::runtime::{Containerd, RuntimeError};

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("Failed to apply default image tag \"{name}\": couldn't parse image name \"{name}\": {why}")]
    Name { name: String, why: String },
    #[error("Container image \"{0}\" is not present with pull policy of Never")]
    NeverPulled(String),
    #[error("failed to pull image \"{image}\": {why}")]
    Pull { image: String, why: String },
    #[error("image {image} is not usable: {why}")]
    Unusable { image: String, why: String },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// An image that is unpacked and can be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The full name, such as `docker.io/library/busybox:latest`.
    pub name: String,
    /// What the name leads to: the digest of an index or a manifest.
    pub digest: String,
    /// The snapshot that containers are prepared over.
    pub chain: String,
    pub config: Config,
}

impl Image {
    /// As `imageID` in a container's status: repository and digest.
    pub fn id(&self) -> String {
        let repository = self.name.split('@').next().unwrap_or_default();
        let repository = match repository.rsplit_once(':') {
            // A colon before a slash belongs to the registry's port.
            Some((stem, tag)) if !tag.contains('/') => stem,
            _ => repository,
        };
        format!("{repository}@{}", self.digest)
    }
}

/// What the image itself says about running it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    pub user: String,
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    pub working_dir: String,
    pub stop_signal: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConfigFile {
    config: Option<Config>,
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// A manifest or an index; which one the present fields say.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Manifest {
    media_type: String,
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
    manifests: Vec<Descriptor>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Platform {
    architecture: String,
    os: String,
}

impl Descriptor {
    fn blob(&self) -> Blob {
        Blob { media_type: self.media_type.clone(), digest: self.digest.clone(), size: self.size }
    }
}

impl Manifest {
    /// The entry of an index that this machine can run.
    fn choose(&self) -> Option<&Descriptor> {
        let fits = |d: &&Descriptor| {
            d.platform.as_ref().is_none_or(|p| p.os == "linux" && p.architecture == architecture())
                // Attestations stand in indices beside images.
                && !d.annotations.as_ref().is_some_and(|a| a.contains_key("vnd.docker.reference.type"))
        };
        self.manifests.iter().find(fits)
    }
}

fn nullable<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// This machine's architecture as Go and OCI spell it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The full name of an image: registry, repository, and tag or digest.
pub fn reference(name: &str) -> Result<Reference, ImageError> {
    name.parse::<Reference>().map_err(|error| ImageError::Name { name: name.into(), why: error.to_string() })
}

/// The key of the topmost snapshot of these layers.
pub fn chain_id(diff_ids: &[String]) -> String {
    let mut layers = diff_ids.iter();
    let Some(first) = layers.next() else { return String::new() };
    layers.fold(first.clone(), |chain, layer| {
        format!("sha256:{}", hex::encode(Sha256::digest(format!("{chain} {layer}"))))
    })
}

/// The image under this name where all its parts are in the content store and unpacked; unpacks it where only that is
/// missing. `None` means that it has to be pulled.
pub async fn find(containerd: &Containerd, name: &str) -> Result<Option<Image>, ImageError> {
    let name = reference(name)?.whole();
    let Some(record) = containerd.image(&name).await? else { return Ok(None) };
    load(containerd, &name, &record.target).await
}

async fn load(containerd: &Containerd, name: &str, target: &Blob) -> Result<Option<Image>, ImageError> {
    let unusable = |why: String| ImageError::Unusable { image: name.into(), why };
    let Some(bytes) = containerd.read_blob(&target.digest).await? else { return Ok(None) };
    let mut manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|e| unusable(format!("its manifest is malformed: {e}")))?;
    if manifest.config.is_none() {
        let entry = manifest.choose().ok_or_else(|| {
            unusable(format!("no match for platform linux/{} in its index", architecture()))
        })?;
        let Some(bytes) = containerd.read_blob(&entry.digest).await? else { return Ok(None) };
        manifest = serde_json::from_slice(&bytes)
            .map_err(|e| unusable(format!("its manifest is malformed: {e}")))?;
    }
    let config = manifest.config.clone().ok_or_else(|| unusable("its manifest names no config".into()))?;
    let Some(bytes) = containerd.read_blob(&config.digest).await? else { return Ok(None) };
    let file: ConfigFile =
        serde_json::from_slice(&bytes).map_err(|e| unusable(format!("its config is malformed: {e}")))?;
    let diff_ids = &file.rootfs.diff_ids;
    if diff_ids.is_empty() || diff_ids.len() != manifest.layers.len() {
        return Err(unusable("its config and its manifest disagree about the layers".into()));
    }
    let chain = chain_id(diff_ids);
    if !containerd.has_snapshot(&chain).await? {
        for layer in &manifest.layers {
            if !containerd.has_blob(&layer.digest).await? {
                return Ok(None);
            }
        }
        let layers = manifest.layers.iter().map(Descriptor::blob).collect::<Vec<_>>();
        unpack(containerd, &layers, diff_ids).await.map_err(|e| match e {
            ImageError::Unusable { why, .. } => unusable(why),
            other => other,
        })?;
    }
    Ok(Some(Image {
        name: name.into(),
        digest: target.digest.clone(),
        chain,
        config: file.config.unwrap_or_default(),
    }))
}

/// Makes the chain of snapshots, layer by layer; layers that are there already are skipped.
async fn unpack(containerd: &Containerd, layers: &[Blob], diff_ids: &[String]) -> Result<(), ImageError> {
    let lease = format!("kontiki-unpack-{}", uuid::Uuid::new_v4());
    containerd.lease(&lease).await?;
    let outcome = unpack_layers(containerd, &lease, layers, diff_ids).await;
    containerd.release(&lease).await?;
    outcome
}

async fn unpack_layers(
    containerd: &Containerd,
    lease: &str,
    layers: &[Blob],
    diff_ids: &[String],
) -> Result<(), ImageError> {
    let mut parent = String::new();
    for (index, (layer, diff_id)) in layers.iter().zip(diff_ids).enumerate() {
        let chain = chain_id(&diff_ids[..=index]);
        if !containerd.has_snapshot(&chain).await? {
            let key = format!("kontiki-unpack-{}", uuid::Uuid::new_v4());
            let mounts = containerd.prepare_snapshot(lease, &key, &parent).await?;
            let applied = containerd.apply_layer(layer, mounts).await;
            let done = match applied {
                Ok(digest) if digest == *diff_id => {
                    containerd.commit_snapshot(lease, &chain, &key).await.map_err(ImageError::from)
                }
                Ok(digest) => Err(ImageError::Unusable {
                    image: String::new(),
                    why: format!("layer {} unpacks to {digest}, not to {diff_id}", layer.digest),
                }),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = done {
                containerd.remove_snapshot(&key).await?;
                return Err(error);
            }
        }
        parent = chain;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_id_is_repository_and_digest() {
        for (name, id) in [
            ("docker.io/library/busybox:latest", "docker.io/library/busybox@sha256:1"),
            ("127.0.0.1:5000/a/b:v1", "127.0.0.1:5000/a/b@sha256:1"),
            ("127.0.0.1:5000/a/b@sha256:1", "127.0.0.1:5000/a/b@sha256:1"),
        ] {
            let image = Image {
                name: name.into(),
                digest: "sha256:1".into(),
                chain: String::new(),
                config: Config::default(),
            };
            assert_eq!(image.id(), id);
        }
    }

    #[test]
    fn names_get_the_defaults_of_docker() {
        for (name, full) in
            [("busybox", "docker.io/library/busybox:latest"), ("127.0.0.1:5000/x:1", "127.0.0.1:5000/x:1")]
        {
            assert_eq!(reference(name).unwrap().whole(), full);
        }
        assert!(reference("UPPER").is_err());
    }

    #[test]
    fn a_chain_of_one_layer_is_the_layer() {
        let one = vec!["sha256:aa".to_string()];
        assert_eq!(chain_id(&one), "sha256:aa");
        assert_ne!(chain_id(&[one[0].clone(), "sha256:bb".into()]), "sha256:aa");
    }

    #[test]
    fn a_config_may_say_null() {
        let text = r#"{"config":{"Env":null,"Cmd":["sh"]},"rootfs":{"diff_ids":["a"]}}"#;
        let file: ConfigFile = serde_json::from_str(text).unwrap();
        assert_eq!(file.config.unwrap().cmd, ["sh"]);
    }
}
