//! Names for templates: short hashes that tell one from another.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};

/// The label that says which template of its Deployment a ReplicaSet or pod is of.
pub const HASH: &str = "pod-template-hash";

/// The template without what a Deployment adds to it.
pub(super) fn without_hash(mut template: PodTemplateSpec) -> PodTemplateSpec {
    if let Some(metadata) = &mut template.metadata {
        if let Some(labels) = &mut metadata.labels {
            labels.remove(HASH);
        }
        metadata.labels = metadata.labels.take().filter(|labels| !labels.is_empty());
        metadata.creation_timestamp = None;
    }
    if template.metadata.as_ref() == Some(&ObjectMeta::default()) {
        template.metadata = None;
    }
    template
}

/// Ten characters that spell no word, made from a document and the number of collisions so far.
pub(super) fn safe_hash(document: &impl serde::Serialize, collisions: i32) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut digest = Sha256::new();
    // What is hashed here always has a JSON form, with its maps in order.
    digest.update(serde_json::to_vec(document).unwrap_or_default());
    if collisions > 0 {
        digest.update(collisions.to_le_bytes());
    }
    let letter = |byte: &u8| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]);
    digest.finalize().iter().take(10).map(letter).collect()
}

/// Tells the templates of one Deployment apart.
pub(super) fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    safe_hash(&without_hash(template.clone()), collisions)
}
