//! Blobs, leases, image records and snapshots.

use std::collections::HashMap;

use bytes::Bytes;
use containerd_client::services::v1 as pb;
use containerd_client::services::v1::snapshots as snap;
use containerd_client::types::{Descriptor, Mount};
use futures::{Stream, StreamExt};
use tonic::Request;
use tonic::transport::Channel;

use super::{Containerd, Result, RuntimeError, SNAPSHOTTER, call, optional};

/// A blob as manifests name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    pub media_type: String,
    /// `sha256:…`
    pub digest: String,
    pub size: u64,
}

impl Blob {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.clone(),
            size: self.size.try_into().unwrap_or(i64::MAX),
            annotations: HashMap::new(),
        }
    }
}

/// An image record: a name that leads to a manifest or an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    pub name: String,
    pub target: Blob,
}

type Labels = HashMap<String, String>;

impl Containerd {
    fn content(&self) -> pb::content_client::ContentClient<Channel> {
        pb::content_client::ContentClient::new(self.channel()).max_decoding_message_size(super::MAX_MESSAGE)
    }

    fn images_client(&self) -> pb::images_client::ImagesClient<Channel> {
        pb::images_client::ImagesClient::new(self.channel()).max_decoding_message_size(super::MAX_MESSAGE)
    }

    fn snapshots(&self) -> snap::snapshots_client::SnapshotsClient<Channel> {
        snap::snapshots_client::SnapshotsClient::new(self.channel())
    }

    fn leased<T>(&self, lease: &str, message: T) -> Request<T> {
        let mut request = self.request(message);
        if let (false, Ok(lease)) = (lease.is_empty(), lease.parse()) {
            request.metadata_mut().insert("containerd-lease", lease);
        }
        request
    }

    /// Keeps what is made under it from being collected, for at most a day.
    pub async fn lease(&self, id: &str) -> Result<()> {
        let expire = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
        let labels = Labels::from([("containerd.io/gc.expire".into(), expire.to_string())]);
        let mut client = pb::leases_client::LeasesClient::new(self.channel());
        let request = self.request(pb::CreateRequest { id: id.into(), labels });
        match call("taking a lease", client.create(request)).await {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => Ok(()),
        }
    }

    pub async fn release(&self, id: &str) -> Result<()> {
        let mut client = pb::leases_client::LeasesClient::new(self.channel());
        let request = self.request(pb::DeleteRequest { id: id.into(), sync: false });
        optional(call("dropping a lease", client.delete(request)).await)?;
        Ok(())
    }

    pub async fn has_blob(&self, digest: &str) -> Result<bool> {
        let request = self.request(pb::InfoRequest { digest: digest.into() });
        Ok(optional(call("looking for a blob", self.content().info(request)).await)?.is_some())
    }

    /// A small blob, whole. One above 16 MiB is refused.
    pub async fn read_blob(&self, digest: &str) -> Result<Option<Bytes>> {
        let request = self.request(pb::ReadContentRequest { digest: digest.into(), offset: 0, size: 0 });
        let Some(mut stream) = optional(call("reading a blob", self.content().read(request)).await)? else {
            return Ok(None);
        };
        let mut data = Vec::new();
        loop {
            match stream.message().await {
                Ok(Some(part)) => data.extend_from_slice(&part.data),
                Ok(None) => return Ok(Some(data.into())),
                Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
                Err(status) => {
                    return Err(RuntimeError {
                        action: "reading a blob",
                        code: status.code(),
                        message: status.message().into(),
                    });
                }
            }
            if data.len() > 16 << 20 {
                return Err(RuntimeError::new("reading a blob", format!("{digest} is larger than 16 MiB")));
            }
        }
    }

    /// Writes a blob whose digest containerd checks. One that is there already is left as it is, but for its labels
    /// being extended.
    pub async fn write_blob(
        &self,
        lease: &str,
        blob: &Blob,
        labels: Labels,
        data: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<()> {
        let reference = format!("kontiki-{}-{}", blob.digest, uuid::Uuid::new_v4());
        let (expected, total) = (blob.digest.clone(), i64::try_from(blob.size).unwrap_or(0));
        let failed = std::sync::Arc::new(parking_lot::Mutex::new(None::<String>));
        let failure = failed.clone();
        let commit_labels = labels.clone();
        let messages = async_stream(reference.clone(), expected, total, commit_labels, data, failure);
        let outcome = async {
            let mut answers = self.content().write(self.leased(lease, messages)).await?.into_inner();
            while let Some(answer) = answers.message().await? {
                if answer.action() == pb::WriteAction::Commit {
                    return Ok(());
                }
            }
            Err(tonic::Status::data_loss("the write ended without a commit"))
        }
        .await;
        let cause = failed.lock().take();
        match outcome {
            Ok(()) => Ok(()),
            Err(status) if status.code() == tonic::Code::AlreadyExists => {
                self.label_blob(lease, &blob.digest, labels).await
            }
            Err(status) => {
                let abort = self.request(pb::AbortRequest { r#ref: reference });
                // The ingest is abandoned either way; containerd collects it when this fails too.
                let _ = call("abandoning a write", self.content().abort(abort)).await;
                Err(RuntimeError {
                    action: "writing a blob",
                    code: status.code(),
                    message: cause.unwrap_or_else(|| status.message().into()),
                })
            }
        }
    }

    async fn label_blob(&self, lease: &str, digest: &str, labels: Labels) -> Result<()> {
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect::<Vec<_>>();
        if paths.is_empty() {
            return Ok(());
        }
        let info = pb::Info { digest: digest.into(), labels, ..pb::Info::default() };
        let request = self.leased(
            lease,
            pb::UpdateRequest { info: Some(info), update_mask: Some(prost_types::FieldMask { paths }) },
        );
        call("labelling a blob", self.content().update(request)).await?;
        Ok(())
    }

    /// Adds labels to a blob that is there.
    pub async fn label(&self, lease: &str, digest: &str, labels: Labels) -> Result<()> {
        self.label_blob(lease, digest, labels).await
    }

    pub async fn image(&self, name: &str) -> Result<Option<ImageRecord>> {
        let request = self.request(pb::GetImageRequest { name: name.into() });
        let reply = optional(call("reading an image record", self.images_client().get(request)).await)?;
        Ok(reply.and_then(|r| r.image).map(record))
    }

    pub async fn images(&self) -> Result<Vec<ImageRecord>> {
        let request = self.request(pb::ListImagesRequest::default());
        let reply = call("listing images", self.images_client().list(request)).await?;
        Ok(reply.images.into_iter().map(record).collect())
    }

    /// Makes the name lead to the target, whatever it led to before.
    pub async fn put_image(&self, image: &ImageRecord) -> Result<()> {
        let message = pb::Image {
            name: image.name.clone(),
            target: Some(image.target.descriptor()),
            ..pb::Image::default()
        };
        let create =
            self.request(pb::CreateImageRequest { image: Some(message.clone()), source_date_epoch: None });
        match call("recording an image", self.images_client().create(create)).await {
            Err(error) if error.is_already_exists() => {}
            other => return other.map(|_| ()),
        }
        let update = self.request(pb::UpdateImageRequest {
            image: Some(message),
            update_mask: Some(prost_types::FieldMask { paths: vec!["target".into()] }),
            source_date_epoch: None,
        });
        call("updating an image record", self.images_client().update(update)).await?;
        Ok(())
    }

    pub async fn has_snapshot(&self, key: &str) -> Result<bool> {
        let request =
            self.request(snap::StatSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: key.into() });
        Ok(optional(call("looking for a snapshot", self.snapshots().stat(request)).await)?.is_some())
    }

    /// A writable snapshot over `parent`, or the mounts of the one that is there.
    pub async fn prepare_snapshot(&self, lease: &str, key: &str, parent: &str) -> Result<Vec<Mount>> {
        let request = self.leased(
            lease,
            snap::PrepareSnapshotRequest {
                snapshotter: SNAPSHOTTER.into(),
                key: key.into(),
                parent: parent.into(),
                labels: Labels::new(),
            },
        );
        match call("preparing a snapshot", self.snapshots().prepare(request)).await {
            Ok(reply) => Ok(reply.mounts),
            Err(error) if error.is_already_exists() => {
                let request =
                    self.request(snap::MountsRequest { snapshotter: SNAPSHOTTER.into(), key: key.into() });
                Ok(call("reading a snapshot", self.snapshots().mounts(request)).await?.mounts)
            }
            Err(error) => Err(error),
        }
    }

    /// Unpacks a layer onto mounts; returns the digest of what was unpacked.
    pub async fn apply_layer(&self, layer: &Blob, mounts: Vec<Mount>) -> Result<String> {
        let mut client = pb::diff_client::DiffClient::new(self.channel());
        let request = self.request(pb::ApplyRequest {
            diff: Some(layer.descriptor()),
            mounts,
            ..pb::ApplyRequest::default()
        });
        // A large layer takes longer than other calls may.
        let reply = tokio::time::timeout(std::time::Duration::from_secs(600), client.apply(request)).await;
        let reply = match reply {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => {
                return Err(RuntimeError {
                    action: "unpacking a layer",
                    code: status.code(),
                    message: status.message().into(),
                });
            }
            Err(_) => return Err(RuntimeError::new("unpacking a layer", "not done within 600 s")),
        };
        Ok(reply.applied.map(|d| d.digest).unwrap_or_default())
    }

    pub async fn commit_snapshot(&self, lease: &str, name: &str, key: &str) -> Result<()> {
        let request = self.leased(
            lease,
            snap::CommitSnapshotRequest {
                snapshotter: SNAPSHOTTER.into(),
                name: name.into(),
                key: key.into(),
                labels: Labels::new(),
            },
        );
        match call("committing a snapshot", self.snapshots().commit(request)).await {
            Err(error) if error.is_already_exists() => self.remove_snapshot(key).await,
            other => other.map(|_| ()),
        }
    }

    pub async fn remove_snapshot(&self, key: &str) -> Result<()> {
        let request =
            self.request(snap::RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: key.into() });
        optional(call("removing a snapshot", self.snapshots().remove(request)).await)?;
        Ok(())
    }

    /// Keys of the writable snapshots: containers', and unpacking that was broken off.
    pub async fn active_snapshots(&self) -> Result<Vec<String>> {
        let request =
            self.request(snap::ListSnapshotsRequest { snapshotter: SNAPSHOTTER.into(), filters: Vec::new() });
        let mut stream = call("listing snapshots", self.snapshots().list(request)).await?;
        let mut keys = Vec::new();
        while let Some(part) = stream.message().await.map_err(|status| RuntimeError {
            action: "listing snapshots",
            code: status.code(),
            message: status.message().into(),
        })? {
            keys.extend(part.info.into_iter().filter(|i| i.kind() == snap::Kind::Active).map(|i| i.name));
        }
        Ok(keys)
    }
}

fn record(image: pb::Image) -> ImageRecord {
    let target = image.target.unwrap_or_default();
    ImageRecord {
        name: image.name,
        target: Blob {
            media_type: target.media_type,
            digest: target.digest,
            size: target.size.try_into().unwrap_or(0),
        },
    }
}

/// The messages of one content write: data in order, then the commit that names digest and size.
fn async_stream(
    reference: String,
    expected: String,
    total: i64,
    labels: Labels,
    data: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    failed: std::sync::Arc<parking_lot::Mutex<Option<String>>>,
) -> impl Stream<Item = pb::WriteContentRequest> + Send + 'static {
    let (name, digest) = (reference.clone(), expected.clone());
    let parts = data.scan(0i64, move |offset, part| {
        let message = match part {
            Ok(part) => {
                let at = *offset;
                *offset += i64::try_from(part.len()).unwrap_or(0);
                Some(pb::WriteContentRequest {
                    action: pb::WriteAction::Write.into(),
                    r#ref: name.clone(),
                    total,
                    expected: digest.clone(),
                    offset: at,
                    data: part.to_vec(),
                    labels: Labels::new(),
                })
            }
            Err(error) => {
                *failed.lock() = Some(error.to_string());
                None
            }
        };
        futures::future::ready(message)
    });
    let commit = pb::WriteContentRequest {
        action: pb::WriteAction::Commit.into(),
        r#ref: reference,
        total,
        expected,
        offset: total,
        data: Vec::new(),
        labels,
    };
    parts.chain(futures::stream::once(futures::future::ready(commit)))
}
