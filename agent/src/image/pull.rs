//! From a registry into containerd's content store, unpacked and under its name.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use sha2::{Digest, Sha256};

use super::{ConfigFile, Image, ImageError, Manifest, chain_id, reference};
use crate::runtime::Containerd;
use crate::runtime::content::{Blob, ImageRecord};

const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Pulls, however much of the image is there already, and unpacks. Each of `credentials` is tried in turn, and no
/// credentials last. `insecure` names registries (`host:port`) that are spoken to in plain HTTP.
pub async fn pull(
    containerd: &Containerd,
    name: &str,
    credentials: &[RegistryAuth],
    insecure: &[String],
) -> Result<Image, ImageError> {
    let image = reference(name)?;
    let failed =
        |error: OciDistributionError| ImageError::Pull { image: name.into(), why: explain(&image, &error) };
    let mut tries = credentials.to_vec();
    tries.push(RegistryAuth::Anonymous);
    let mut last = None;
    for auth in tries {
        // A client remembers its credentials for each registry, so another set needs another client.
        let client = Client::new(ClientConfig {
            protocol: ClientProtocol::HttpsExcept(insecure.to_vec()),
            connect_timeout: Some(Duration::from_secs(15)),
            read_timeout: Some(Duration::from_secs(60)),
            user_agent: "kontiki/0.1",
            ..ClientConfig::default()
        });
        if let Err(error) = client.auth(&image, &auth, RegistryOperation::Pull).await {
            last = Some(error);
            continue;
        }
        match client.pull_manifest_raw(&image, &auth, &ACCEPTED).await {
            Ok((bytes, _)) => {
                let lease = format!("kontiki-pull-{}", uuid::Uuid::new_v4());
                containerd.lease(&lease).await?;
                let outcome = fetch(containerd, &client, &auth, &lease, &image, bytes).await;
                containerd.release(&lease).await?;
                return match outcome {
                    Err(Fetch::Registry(error)) => Err(failed(error)),
                    Err(Fetch::Image(error)) => Err(error),
                    Ok(image) => Ok(image),
                };
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(
        || ImageError::Pull { image: name.into(), why: "the registry was not asked".into() },
        failed,
    ))
}

enum Fetch {
    Registry(OciDistributionError),
    Image(ImageError),
}

impl From<OciDistributionError> for Fetch {
    fn from(error: OciDistributionError) -> Fetch {
        Fetch::Registry(error)
    }
}

impl<E: Into<ImageError>> From<E> for Fetch {
    fn from(error: E) -> Fetch {
        Fetch::Image(error.into())
    }
}

async fn fetch(
    containerd: &Containerd,
    client: &Client,
    auth: &RegistryAuth,
    lease: &str,
    image: &Reference,
    top: Bytes,
) -> Result<Image, Fetch> {
    let name = image.whole();
    let unusable = |why: String| Fetch::Image(ImageError::Unusable { image: name.clone(), why });
    let malformed = |e: serde_json::Error| unusable(format!("its manifest is malformed: {e}"));
    let top_digest = digest(&top);
    if let Some(wanted) = image.digest().filter(|wanted| *wanted != top_digest) {
        return Err(unusable(format!("the registry answered {top_digest} for {wanted}")));
    }
    let parsed: Manifest = serde_json::from_slice(&top).map_err(malformed)?;
    let (manifest_bytes, index) = if parsed.config.is_some() {
        (top.clone(), None)
    } else {
        let entry = parsed.choose().ok_or_else(|| {
            unusable(format!("no match for platform linux/{} in its index", super::architecture()))
        })?;
        let by_digest = image.clone_with_digest(entry.digest.clone());
        let (bytes, _) = client.pull_manifest_raw(&by_digest, auth, &ACCEPTED).await?;
        if digest(&bytes) != entry.digest {
            return Err(unusable(format!("the registry answered something else for {}", entry.digest)));
        }
        (bytes, Some(entry.blob()))
    };
    let manifest: Manifest = serde_json::from_slice(&manifest_bytes).map_err(malformed)?;
    let config = manifest.config.clone().ok_or_else(|| unusable("its manifest names no config".into()))?;

    let config_bytes = match containerd.read_blob(&config.digest).await? {
        Some(bytes) => bytes,
        None => {
            let mut bytes = Vec::new();
            client.pull_blob(image, config.digest.as_str(), &mut bytes).await?;
            Bytes::from(bytes)
        }
    };
    let file: ConfigFile = serde_json::from_slice(&config_bytes)
        .map_err(|e| unusable(format!("its config is malformed: {e}")))?;
    if file.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(unusable("its config and its manifest disagree about the layers".into()));
    }
    for (descriptor, diff_id) in manifest.layers.iter().zip(&file.rootfs.diff_ids) {
        let blob = descriptor.blob();
        let labels = HashMap::from([("containerd.io/uncompressed".to_string(), diff_id.clone())]);
        if containerd.has_blob(&blob.digest).await? {
            containerd.label(lease, &blob.digest, labels).await?;
            continue;
        }
        let stream = client.pull_blob_stream(image, blob.digest.as_str()).await?;
        containerd.write_blob(lease, &blob, labels, stream.stream).await?;
    }
    // From here on the parts hold each other: the record the index, the index the manifest, and so on.
    let chain = chain_id(&file.rootfs.diff_ids);
    put(
        containerd,
        lease,
        &config.blob(),
        config_bytes,
        [("containerd.io/gc.ref.snapshot.overlayfs".to_string(), chain)],
    )
    .await?;
    let references = std::iter::once(("containerd.io/gc.ref.content.config".to_string(), config.digest))
        .chain(
            manifest
                .layers
                .iter()
                .enumerate()
                .map(|(index, l)| (format!("containerd.io/gc.ref.content.l.{index}"), l.digest.clone())),
        );
    let manifest_blob = Blob {
        media_type: media_type(&manifest, index.as_ref()),
        digest: digest(&manifest_bytes),
        size: manifest_bytes.len() as u64,
    };
    put(containerd, lease, &manifest_blob, manifest_bytes, references).await?;
    let target = match index {
        None => manifest_blob,
        Some(entry) => {
            let blob = Blob {
                media_type: parsed_type(&parsed.media_type, ACCEPTED[0]),
                digest: top_digest,
                size: top.len() as u64,
            };
            let reference = ("containerd.io/gc.ref.content.m.0".to_string(), entry.digest);
            put(containerd, lease, &blob, top, [reference]).await?;
            blob
        }
    };
    containerd.put_image(&ImageRecord { name: name.clone(), target: target.clone() }).await?;
    super::load(containerd, &name, &target)
        .await?
        .ok_or_else(|| unusable("parts of it vanished while it was pulled".into()))
}

async fn put(
    containerd: &Containerd,
    lease: &str,
    blob: &Blob,
    bytes: Bytes,
    labels: impl IntoIterator<Item = (String, String)>,
) -> Result<(), ImageError> {
    // gRPC messages are bounded; manifests and configs seldom need more than one.
    let parts = bytes.chunks(1 << 20).map(|c| Ok(bytes.slice_ref(c))).collect::<Vec<_>>();
    let stream = futures::stream::iter(parts).boxed();
    Ok(containerd.write_blob(lease, blob, labels.into_iter().collect(), stream).await?)
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn media_type(manifest: &Manifest, entry: Option<&Blob>) -> String {
    match entry {
        Some(entry) if !entry.media_type.is_empty() => entry.media_type.clone(),
        _ => parsed_type(&manifest.media_type, ACCEPTED[2]),
    }
}

fn parsed_type(stated: &str, default: &str) -> String {
    if stated.is_empty() { default.into() } else { stated.into() }
}

/// What to do about it, where the error itself does not say.
fn explain(image: &Reference, error: &OciDistributionError) -> String {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => format!("{}: not found", image.whole()),
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            format!(
                "{}: the registry refused the credentials, or wants some: see imagePullSecrets ({error})",
                image.whole()
            )
        }
        OciDistributionError::RequestError(request) => {
            // The outer error only says that sending failed.
            let mut text = request.to_string();
            let mut source = std::error::Error::source(request);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            text
        }
        other => other.to_string(),
    }
}
