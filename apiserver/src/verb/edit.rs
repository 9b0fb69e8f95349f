//! Changing one object: read it, work out the new one, write that if the old one is still there.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kontiki_proto::api::{PatchType, WriteOptions};
use kontiki_proto::resource::Resource;
use kontiki_proto::status::Status;
use kontiki_store::{Entry, Guard, Op, Outcome, StoreError, Txn};
use serde_json::Value;

use super::{Call, decode, delete, services};
use crate::admission::Operation;
use crate::request::{Body, Document};
use crate::server::Context;
use crate::{patch, storage, strategy};

/// How often a change is worked out anew when another write was faster.
const ATTEMPTS: usize = 5;

/// Which rules hold for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Everything but status.
    Whole,
    /// Status alone.
    Status,
    /// What a subresource such as `binding` changes: it has made sure itself that nothing else does.
    Narrow,
}

/// Kinds that take no update without a resource version, by plural and group.
static CONDITIONAL: &[(&str, &str)] = &[
    ("leases", "coordination.k8s.io"),
    ("poddisruptionbudgets", "policy"),
    ("customresourcedefinitions", "apiextensions.k8s.io"),
    ("apiservices", "apiregistration.k8s.io"),
    ("volumeattachments", "storage.k8s.io"),
    ("flowschemas", "flowcontrol.apiserver.k8s.io"),
    ("prioritylevelconfigurations", "flowcontrol.apiserver.k8s.io"),
];

/// A new object worked out from the current one, with warnings.
pub(super) type Produced = Result<(Value, Vec<String>), Status>;

/// One change of the object a call names.
pub(super) struct Edit<'a> {
    pub call: &'a Call,
    pub part: Part,
    /// Pure; run again on the newer object when the write meets a conflict. Its result's resource version, where it
    /// has one, must be the current one.
    pub produce: &'a (dyn Fn(&Value) -> Produced + Send + Sync),
    pub dry_run: bool,
}

/// What came of an edit.
pub(super) struct Edited {
    pub object: Value,
    pub json: Bytes,
    pub warnings: Vec<String>,
}

impl Edited {
    pub fn document(self) -> Document {
        Document::ok(self.json).warned(self.warnings)
    }
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// What a client asserted about the object it meant to change.
fn check_preconditions(row: &Resource, new: &Value, current: &Value) -> Result<(), Status> {
    let name = text(current, "name");
    let (version, uid) = (text(new, "resourceVersion"), text(new, "uid"));
    if !matches!(version, "" | "0") && version != text(current, "resourceVersion") {
        if version.parse::<u64>().is_err() {
            let error = kontiki_proto::FieldError::invalid(
                "metadata.resourceVersion",
                version,
                "must be a revision this server gave out",
            );
            return Err(Status::invalid(row, name, &[error]));
        }
        return Err(Status::stale(row, name));
    }
    if !uid.is_empty() && uid != text(current, "uid") {
        return Err(Status::conflict(
            row,
            name,
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                text(current, "uid")
            ),
        ));
    }
    Ok(())
}

impl Edit<'_> {
    /// The object to write, everything checked.
    async fn prepare(&self, context: &Context, current: &Value) -> Produced {
        let row = &*self.call.row;
        let (mut new, warnings) = (self.produce)(current)?;
        check_preconditions(row, &new, current)?;
        for field in ["uid", "resourceVersion"] {
            new["metadata"][field] = current["metadata"][field].clone();
        }
        match self.part {
            Part::Whole => {
                strategy::default(row, &mut new);
                strategy::prepare_update(row, &mut new, current);
            }
            Part::Status => {
                strategy::prepare_status_update(row, &mut new, current);
                strategy::default(row, &mut new);
            }
            Part::Narrow => {}
        }
        let admission = &context.admission;
        admission
            .admit(Operation::Update, row, &self.call.target, &self.call.user, &mut new, Some(current))
            .await?;
        let errors = match self.part {
            Part::Whole => strategy::validate_update(row, &new, current),
            Part::Status => strategy::validate_status_update(row, &new, current),
            Part::Narrow => Vec::new(),
        };
        decode::refuse(row, &new, &errors)?;
        Ok((new, warnings))
    }

    /// Runs until written, refused, or overtaken too often.
    pub async fn run(&self, context: &Context) -> Result<Edited, Status> {
        let (store, call) = (&context.store, self.call);
        let row = &*call.row;
        let key = storage::key(row, &call.target.namespace, &call.target.name);
        let mut entry = store.get(&key);
        // What this server holds may be old: a refusal that rests on it is given only after catching up.
        let mut fresh = false;
        for _ in 0..=ATTEMPTS {
            let Some(found) = entry else {
                if fresh {
                    return Err(call.not_found());
                }
                store.barrier().await.map_err(storage::store_error)?;
                fresh = true;
                entry = store.get(&key);
                if entry.is_none() {
                    return Err(call.not_found());
                }
                continue;
            };
            let current = storage::decode(row, &found)?;
            let (new, warnings) = match self.prepare(context, &current).await {
                Err(_) if !fresh => {
                    store.barrier().await.map_err(storage::store_error)?;
                    fresh = true;
                    let newest = store.get(&key);
                    entry = newest;
                    continue;
                }
                prepared => prepared?,
            };
            match self.write(context, &found, &current, new).await? {
                Written::Done { object, json } => return Ok(Edited { object, json, warnings }),
                Written::Overtaken { newest } => {
                    entry = newest;
                    fresh = true;
                }
            }
        }
        Err(Status::stale(row, &call.target.name))
    }

    async fn write(
        &self,
        context: &Context,
        found: &Entry,
        current: &Value,
        mut new: Value,
    ) -> Result<Written, Status> {
        let row = &*self.call.row;
        if new == *current {
            let json = storage::document_for(row, found)?;
            return Ok(Written::Done { object: new, json });
        }
        let claims = services::claim(context, row, &mut new, Some(current))?;
        if self.dry_run {
            return Ok(Written::Done { json: super::shape::write(&new)?, object: new });
        }
        let key = found.key.clone();
        let gone = delete::is_complete(row, &new);
        let mut txn = Txn {
            guards: vec![Guard { key: key.clone(), mod_revision: found.mod_revision }],
            ops: Vec::new(),
        };
        if gone {
            txn.ops.push(Op::Delete { key: key.clone() });
            services::release(row, &new).extend(&mut txn, &key);
        } else {
            let (value, attributes) = storage::encode(row, &new)?;
            let lease = context.event_leases.of(&context.store, row).await?;
            txn.ops.push(Op::Put { key: key.clone(), value, attributes, lease });
            claims.extend(&mut txn, &key);
        }
        let value = txn.ops.first().and_then(|op| match op {
            Op::Put { value, .. } => Some(value.clone()),
            Op::Delete { .. } => None,
        });
        match context.store.propose(txn).await {
            Ok(Outcome::Committed { revision }) => {
                storage::set_revision(&mut new, revision);
                let json = match value {
                    Some(value) if storage::convert::is_stored(row) => {
                        let mut out = BytesMut::new();
                        storage::splice(&value, revision, &mut out);
                        out.freeze()
                    }
                    _ => super::shape::write(&new)?,
                };
                Ok(Written::Done { object: new, json })
            }
            Ok(Outcome::Conflict { current, .. }) => {
                Ok(Written::Overtaken { newest: current.into_iter().next().flatten() })
            }
            Err(StoreError::NoSuchLease(_)) => {
                context.event_leases.forget().await;
                Ok(Written::Overtaken { newest: Some(Arc::new(found.clone())) })
            }
            Err(error) => Err(storage::store_error(error)),
        }
    }
}

enum Written {
    Done { object: Value, json: Bytes },
    Overtaken { newest: Option<Arc<Entry>> },
}

/// Whole or status, as the call's subresource says.
fn part_of(call: &Call) -> Part {
    if call.target.subresource == "status" { Part::Status } else { Part::Whole }
}

/// PUT: the body replaces the object.
pub(super) async fn update(
    context: &Context,
    call: &Call,
    body: &Body,
    options: &WriteOptions,
) -> Result<Document, Status> {
    let row = &*call.row;
    let decode::Decoded { object, warnings } = decode::object(call, body, options)?;
    let conditional =
        row.custom || CONDITIONAL.iter().any(|(plural, group)| *plural == row.plural && *group == row.group);
    if conditional && matches!(text(&object, "resourceVersion"), "" | "0") {
        let error = kontiki_proto::FieldError::invalid(
            "metadata.resourceVersion",
            0,
            "must be specified for an update",
        );
        return Err(Status::invalid(row, &call.target.name, &[error]));
    }
    let produce = |_: &Value| Ok((object.clone(), warnings.clone()));
    let edit = Edit { call, part: part_of(call), produce: &produce, dry_run: options.dry_run };
    Ok(edit.run(context).await?.document())
}

/// Applies a patch to an object at the call's row.
pub(super) fn patched(
    call: &Call,
    patch_type: PatchType,
    bytes: &[u8],
    options: &WriteOptions,
    current: &Value,
) -> Produced {
    let row = &*call.row;
    let mut new = patch::apply(patch_type, row, current, bytes)?;
    let expected = (row.api_version(), &row.kind);
    let found = (new["apiVersion"].as_str().unwrap_or_default(), new["kind"].as_str().unwrap_or_default());
    if found != (expected.0.as_str(), expected.1.as_str()) {
        return Err(Status::bad_request(format!(
            "the patch would make the object a {} of {}, but it is a {} of {}",
            found.1, found.0, expected.1, expected.0
        )));
    }
    let warnings = patch::decode(row, &mut new, decode::validation(options)?)?;
    decode::settle(call, &mut new)?;
    Ok((new, warnings))
}

pub(super) async fn patch(
    context: &Context,
    call: &Call,
    patch_type: PatchType,
    body: &Body,
    options: &WriteOptions,
) -> Result<Document, Status> {
    if patch_type == PatchType::Apply {
        // Apply makes what is missing, so that it must not be taken for a patch of something missing.
        return Err(Status::not_implemented("server-side apply"));
    }
    let bytes = decode::json(body)?;
    let produce = |current: &Value| patched(call, patch_type, &bytes, options, current);
    let edit = Edit { call, part: part_of(call), produce: &produce, dry_run: options.dry_run };
    Ok(edit.run(context).await?.document())
}
