//! How an answer looks: the object, its metadata alone, or a table.

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use kontiki_proto::api::Shape;
use kontiki_proto::resource::Resource;
use kontiki_proto::status::Status;
use kontiki_store::Revision;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::table::{self, Include};

/// An answer's shape with its parameters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Form {
    pub shape: Shape,
    pub include: Include,
}

/// `metadata` of a list.
#[derive(Clone, Debug, Default)]
pub struct ListMeta {
    pub revision: Revision,
    pub continue_token: String,
    pub remaining: Option<u64>,
}

impl ListMeta {
    fn to_value(&self) -> Value {
        let mut meta = Map::new();
        meta.insert("resourceVersion".into(), self.revision.to_string().into());
        if !self.continue_token.is_empty() {
            meta.insert("continue".into(), self.continue_token.clone().into());
        }
        if let Some(remaining) = self.remaining {
            meta.insert("remainingItemCount".into(), remaining.into());
        }
        Value::Object(meta)
    }
}

fn parse(document: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(document)
        .map_err(|error| Status::internal(format!("an object cannot be read: {error}")))
}

pub(crate) fn write(value: &Value) -> Result<Bytes, Status> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Status::internal(format!("an answer cannot be encoded: {error}")))
}

#[derive(Deserialize)]
struct MetadataOf<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

fn metadata_of(document: &[u8]) -> Result<&RawValue, Status> {
    serde_json::from_slice::<MetadataOf<'_>>(document)
        .map(|object| object.metadata)
        .map_err(|error| Status::internal(format!("an object cannot be read: {error}")))
}

/// The document of one object in the asked-for form.
pub fn object(row: &Resource, document: Bytes, form: Form) -> Result<Bytes, Status> {
    match form.shape {
        Shape::Object => Ok(document),
        Shape::Metadata => {
            let metadata = metadata_of(&document)?.get();
            let mut out = BytesMut::with_capacity(metadata.len() + 80);
            out.put_slice(
                b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":",
            );
            out.put_slice(metadata.as_bytes());
            out.put_u8(b'}');
            Ok(out.freeze())
        }
        Shape::Table => {
            let object = parse(&document)?;
            let meta = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            write(&table::render(row, &[object], &meta, form.include, Timestamp::now()))
        }
    }
}

/// The document of a list in a form other than `Object`.
pub fn list(row: &Resource, items: &[Bytes], meta: &ListMeta, form: Form) -> Result<Bytes, Status> {
    if form.shape == Shape::Table {
        let items = items.iter().map(|item| parse(item)).collect::<Result<Vec<_>, _>>()?;
        return write(&table::render(row, &items, &meta.to_value(), form.include, Timestamp::now()));
    }
    let mut out = BytesMut::new();
    out.put_slice(b"{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":");
    out.put_slice(meta.to_value().to_string().as_bytes());
    out.put_slice(b",\"items\":[");
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        out.put_slice(&object(row, item.clone(), Form { shape: Shape::Metadata, ..form })?);
    }
    out.put_slice(b"]}");
    Ok(out.freeze())
}

/// What stands around the items of a list in its plain form: the part before and the part behind them.
pub fn frame(row: &Resource, meta: &ListMeta) -> (Bytes, &'static [u8]) {
    let head = json!({"kind": row.list_kind, "apiVersion": row.api_version(), "metadata": meta.to_value()});
    let mut head = head.to_string();
    head.pop();
    head.push_str(",\"items\":[");
    (head.into(), b"]}")
}

/// A bookmark says that every change up to the revision has been sent.
pub fn bookmark(row: &Resource, revision: Revision, initial_end: bool, form: Form) -> Result<Bytes, Status> {
    let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
    if initial_end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    write(&match form.shape {
        Shape::Object => json!({"kind": row.kind, "apiVersion": row.api_version(), "metadata": metadata}),
        Shape::Metadata => json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        }),
        Shape::Table => json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": null, "rows": [],
            "metadata": {"resourceVersion": revision.to_string()},
        }),
    })
}

/// Turns documents of a watch into its form; the first table alone carries the column definitions.
#[derive(Debug)]
pub struct Shaper {
    form: Form,
    sent_columns: bool,
}

impl Shaper {
    pub fn new(form: Form) -> Shaper {
        Shaper { form, sent_columns: false }
    }

    pub fn form(&self) -> Form {
        self.form
    }

    pub fn event(&mut self, row: &Resource, document: Bytes) -> Result<Bytes, Status> {
        if self.form.shape != Shape::Table {
            return object(row, document, self.form);
        }
        let object = parse(&document)?;
        let meta = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
        let mut table = table::render(row, &[object], &meta, self.form.include, Timestamp::now());
        if std::mem::replace(&mut self.sent_columns, true) {
            table["columnDefinitions"] = Value::Null;
        }
        write(&table)
    }
}
