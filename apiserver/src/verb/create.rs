//! create.

use jiff::Timestamp;
use kontiki_proto::api::WriteOptions;
use kontiki_proto::status::Status;
use kontiki_store::{Guard, Op, Outcome, StoreError, Txn};
use rand::Rng;
use serde_json::{Map, Value};

use super::{Call, decode, services};
use crate::admission::Operation;
use crate::request::{Body, Document};
use crate::server::Context;
use crate::{storage, strategy};

/// How often a generated name is tried anew when it is taken.
const NAME_ATTEMPTS: usize = 8;
/// How often an allocation is tried anew when another create was faster.
const ALLOCATION_ATTEMPTS: usize = 16;
/// The longest prefix of a generated name; five characters come behind it.
const MAX_BASE: usize = 58;
/// No vowels and nothing that looks alike, so that no word comes out.
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The present moment as objects carry it: UTC, whole seconds.
pub(super) fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn generated(base: &str) -> String {
    let mut end = base.len().min(MAX_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut rng = rand::rng();
    let suffix = (0..5).map(|_| char::from(SUFFIX[rng.random_range(0..SUFFIX.len())]));
    base[..end].chars().chain(suffix).collect()
}

/// What a client cannot choose about a new object.
fn stamp(metadata: &mut Map<String, Value>) {
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), now().into());
}

/// Names are taken from the body; answers 201.
pub(super) async fn create(
    context: &Context,
    call: &Call,
    body: &Body,
    options: &WriteOptions,
) -> Result<Document, Status> {
    let decode::Decoded { mut object, warnings } = decode::object(call, body, options)?;
    let metadata = storage::metadata_mut(&mut object)
        .ok_or_else(|| Status::bad_request("the body of the request is not an object"))?;
    let version = metadata.remove("resourceVersion");
    if version.is_some_and(|version| !matches!(version.as_str(), Some("" | "0"))) {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    stamp(metadata);
    let text = |metadata: &Map<String, Value>, field: &str| {
        metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_string()
    };
    let base = text(metadata, "generateName");
    let generates = text(metadata, "name").is_empty() && !base.is_empty();

    let mut attempt = 0;
    loop {
        attempt += 1;
        let mut candidate = object.clone();
        if generates {
            candidate["metadata"]["name"] = generated(&base).into();
        }
        match place(context, call, candidate, options).await {
            Err(status) if status.is_already_exists() && generates && attempt < NAME_ATTEMPTS => {}
            Err(status) => return Err(status),
            Ok(json) => return Ok(Document::created(json).warned(warnings)),
        }
    }
}

/// Defaults, admits, validates and stores one named candidate.
async fn place(
    context: &Context,
    call: &Call,
    mut object: Value,
    options: &WriteOptions,
) -> Result<bytes::Bytes, Status> {
    let row = &*call.row;
    strategy::default(row, &mut object);
    strategy::prepare_create(row, &mut object);
    let mut target = call.target.clone();
    target.name = object["metadata"]["name"].as_str().unwrap_or_default().into();
    context.admission.admit(Operation::Create, row, &target, &call.user, &mut object, None).await?;
    decode::refuse(row, &object, &strategy::validate_create(row, &object))?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_string();
    let key = storage::key(row, &call.target.namespace, &name);

    for _ in 0..ALLOCATION_ATTEMPTS {
        let mut chosen = object.clone();
        let claims = services::claim(context, row, &mut chosen, None)?;
        let (value, attributes) = storage::encode(row, &chosen)?;
        if options.dry_run {
            return match context.store.get(&key) {
                Some(_) => Err(Status::already_exists(row, &name)),
                None => super::shape::write(&chosen),
            };
        }
        let lease = context.event_leases.of(&context.store, row).await?;
        let mut txn = Txn {
            guards: vec![Guard { key: key.clone(), mod_revision: 0 }],
            ops: vec![Op::Put { key: key.clone(), value: value.clone(), attributes, lease }],
        };
        claims.extend(&mut txn, &key);
        match context.store.propose(txn).await {
            Ok(Outcome::Committed { revision }) => {
                if storage::convert::is_stored(row) {
                    let mut out = bytes::BytesMut::new();
                    storage::splice(&value, revision, &mut out);
                    return Ok(out.freeze());
                }
                storage::set_revision(&mut chosen, revision);
                return super::shape::write(&chosen);
            }
            Ok(Outcome::Conflict { current, .. }) => {
                if current.first().is_some_and(Option::is_some) {
                    return Err(Status::already_exists(row, &name));
                }
                // Another create took the address or port in between: choose again.
            }
            Err(StoreError::NoSuchLease(_)) => context.event_leases.forget().await,
            Err(error) => return Err(storage::store_error(error)),
        }
    }
    Err(Status::unavailable("too many objects of this kind are being created at once; try again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_name_is_its_base_and_five_characters() {
        let name = generated("web-");
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert_eq!(generated(&"a".repeat(80)).len(), MAX_BASE + 5);
        assert_ne!(generated("web-"), generated("web-"));
    }
}
