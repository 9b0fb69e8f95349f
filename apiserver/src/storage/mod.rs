//! Objects in the store: keys, bytes, attributes.
//!
//! An object lies under `/registry/<group>/<plural>/[<namespace>/]<name>` (`core` for the group without a name) as the
//! JSON document a client gets, but for its resource version, which is the revision of the entry and is spliced in
//! on the way out: `{"apiVersion":…,"kind":…,"metadata":{` stands first, so that the place is found without
//! parsing. Labels (`l:<key>`), selectable fields (`f:<path>`) and the uid (`u`) stand beside the bytes as attributes.
//!
//! A kind served at several versions is stored at one; see [`convert`].

pub mod convert;

use bytes::{BufMut, Bytes, BytesMut};
use kontiki_proto::resource::Resource;
use kontiki_proto::status::Status;
use kontiki_store::{Attributes, Entry, RangeRequest, ReadError, Revision, Store, StoreError};
use serde_json::{Map, Value};
use smol_str::{SmolStr, format_smolstr};

/// Under which all objects lie.
pub const ROOT: &str = "/registry/";
/// Under which guards for cluster-wide unique values lie, such as cluster IPs.
pub const ALLOCATIONS: &str = "/allocations/";

const MARK: &[u8] = b"\"metadata\":{";

/// Under which the objects of a kind lie; those of one namespace where one is named.
pub fn prefix(row: &Resource, namespace: &str) -> Bytes {
    let group = match row.storage_group() {
        "" => "core",
        group => group,
    };
    let mut key = format!("{ROOT}{group}/{}/", row.plural);
    if row.namespaced() && !namespace.is_empty() {
        key.push_str(namespace);
        key.push('/');
    }
    key.into()
}

/// The namespace is ignored for cluster-scoped kinds.
pub fn key(row: &Resource, namespace: &str, name: &str) -> Bytes {
    let prefix = prefix(row, namespace);
    let mut key = BytesMut::with_capacity(prefix.len() + name.len());
    key.extend_from_slice(&prefix);
    key.extend_from_slice(name.as_bytes());
    key.freeze()
}

/// Namespace (empty for cluster-scoped kinds) and name of the object under a key made by [`key`].
pub fn names(key: &[u8]) -> (&str, &str) {
    let key = std::str::from_utf8(key).unwrap_or_default();
    let mut parts = key.strip_prefix(ROOT).unwrap_or(key).splitn(4, '/').skip(2);
    match (parts.next(), parts.next()) {
        (Some(namespace), Some(name)) => (namespace, name),
        (Some(name), None) => ("", name),
        _ => ("", ""),
    }
}

/// The bytes and attributes to store for an object at the row's version.
pub fn encode(row: &Resource, object: &Value) -> Result<(Bytes, Attributes), Status> {
    if convert::is_stored(row) {
        return encode_stored(row, object);
    }
    let mut stored = object.clone();
    convert::to_stored(row, &mut stored);
    encode_stored(row, &stored)
}

fn encode_stored(row: &Resource, object: &Value) -> Result<(Bytes, Attributes), Status> {
    let broken = |_| Status::internal("an object could not be encoded");
    let map = object.as_object().ok_or_else(|| Status::internal("an object is not a document"))?;
    let mut bytes = BytesMut::with_capacity(512).writer();
    let out = &mut bytes;
    out.get_mut().put_slice(b"{\"apiVersion\":");
    serde_json::to_writer(&mut *out, &map.get("apiVersion")).map_err(broken)?;
    out.get_mut().put_slice(b",\"kind\":");
    serde_json::to_writer(&mut *out, &map.get("kind")).map_err(broken)?;
    out.get_mut().put_slice(b",\"metadata\":{");
    let mut first = true;
    for (name, value) in map.get("metadata").and_then(Value::as_object).into_iter().flatten() {
        if name == "resourceVersion" {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.get_mut().put_u8(b',');
        }
        serde_json::to_writer(&mut *out, name).map_err(broken)?;
        out.get_mut().put_u8(b':');
        serde_json::to_writer(&mut *out, value).map_err(broken)?;
    }
    out.get_mut().put_u8(b'}');
    for (name, value) in map {
        if matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        out.get_mut().put_u8(b',');
        serde_json::to_writer(&mut *out, name).map_err(broken)?;
        out.get_mut().put_u8(b':');
        serde_json::to_writer(&mut *out, value).map_err(broken)?;
    }
    out.get_mut().put_u8(b'}');
    Ok((bytes.into_inner().freeze(), attributes(row, object)))
}

fn attributes(row: &Resource, object: &Value) -> Attributes {
    let metadata = &object["metadata"];
    let labels = metadata["labels"].as_object().into_iter().flatten();
    let labels =
        labels.filter_map(|(key, value)| Some((format_smolstr!("l:{key}"), SmolStr::from(value.as_str()?))));
    let fields =
        row.selectable_fields.iter().map(|path| (format_smolstr!("f:{path}"), selectable(row, object, path)));
    let uid = metadata["uid"].as_str().map(|uid| (SmolStr::new_static("u"), SmolStr::from(uid)));
    labels.chain(fields).chain(uid).collect()
}

/// The value of a selectable field as a selector compares it; absent ones are the zero value of their type.
fn selectable(row: &Resource, object: &Value, path: &str) -> SmolStr {
    let at = |path: &str| path.split('.').fold(object, |value, name| &value[name]);
    let value = match (row.plural.as_str(), path) {
        ("jobs", "status.successful") => at("status.succeeded"),
        ("events", "source") => match at("source.component") {
            Value::Null => at("reportingComponent"),
            component => component,
        },
        _ => at(path),
    };
    match value {
        Value::String(text) => text.into(),
        Value::Bool(flag) => format_smolstr!("{flag}"),
        Value::Number(number) => format_smolstr!("{number}"),
        Value::Array(items) => {
            let ips = items.iter().filter_map(|item| item["ip"].as_str());
            ips.collect::<Vec<_>>().join(",").into()
        }
        _ if matches!(path, "spec.unschedulable" | "spec.hostNetwork") => "false".into(),
        _ if matches!(path, "status.replicas" | "status.successful") => "0".into(),
        _ => SmolStr::default(),
    }
}

/// The value of an attribute, `l:<label>`, `f:<field>` or `u`.
pub fn attribute<'a>(entry: &'a Entry, kind: &str, name: &str) -> Option<&'a str> {
    let found =
        entry.attributes.iter().find(|(key, _)| key.strip_prefix(kind).is_some_and(|rest| rest == name));
    found.map(|(_, value)| value.as_str())
}

/// Where `resourceVersion` goes into stored bytes.
fn splice_at(value: &[u8]) -> usize {
    let at = value.windows(MARK.len()).position(|window| window == MARK);
    at.map_or(value.len(), |at| at + MARK.len())
}

/// Appends the stored document with its resource version; nothing is parsed.
pub fn splice(value: &[u8], revision: Revision, out: &mut BytesMut) {
    let at = splice_at(value);
    let (head, tail) = value.split_at(at);
    out.reserve(value.len() + 44);
    out.put_slice(head);
    if !tail.is_empty() {
        use std::fmt::Write;
        let comma = if tail.first() == Some(&b'}') { "" } else { "," };
        // Writing to a `BytesMut` with room cannot fail.
        let _ = write!(out, "\"resourceVersion\":\"{revision}\"{comma}");
    }
    out.put_slice(tail);
}

/// The document of an entry as stored, with its resource version.
pub fn document(entry: &Entry) -> Bytes {
    let mut out = BytesMut::new();
    splice(&entry.value, entry.mod_revision, &mut out);
    out.freeze()
}

/// The document of an entry at the row's version. Parses only where that is not the stored one.
pub fn document_for(row: &Resource, entry: &Entry) -> Result<Bytes, Status> {
    if convert::is_stored(row) {
        return Ok(document(entry));
    }
    let object = decode(row, entry)?;
    serde_json::to_vec(&object)
        .map(Bytes::from)
        .map_err(|_| Status::internal("an object could not be encoded"))
}

/// The parsed object at the row's version, resource version included.
pub fn decode(row: &Resource, entry: &Entry) -> Result<Value, Status> {
    let mut object: Value = serde_json::from_slice(&entry.value)
        .map_err(|error| Status::internal(format!("a stored object cannot be read: {error}")))?;
    if !convert::is_stored(row) {
        convert::from_stored(row, &mut object);
    }
    set_revision(&mut object, entry.mod_revision);
    Ok(object)
}

pub fn set_revision(object: &mut Value, revision: Revision) {
    if let Some(metadata) = metadata_mut(object) {
        metadata.insert("resourceVersion".into(), Value::String(revision.to_string()));
    }
}

/// The object's metadata, made where it is missing. `None` where the value is no object.
pub fn metadata_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let map = object.as_object_mut()?;
    map.entry("metadata").or_insert_with(|| Value::Object(Map::new())).as_object_mut()
}

/// The object as this server knows it now, parsed; not linearizable.
pub fn find(store: &Store, row: &Resource, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
    store.get(&key(row, namespace, name)).map(|entry| decode(row, &entry)).transpose()
}

/// All objects of a kind (of one namespace, where one is named) as this server knows them now, parsed.
pub fn find_all(store: &Store, row: &Resource, namespace: &str) -> Result<(Vec<Value>, Revision), Status> {
    let request = RangeRequest { prefix: prefix(row, namespace), ..RangeRequest::default() };
    let range = store.range(&request).map_err(read_error)?;
    let items = range.entries.iter().map(|entry| decode(row, entry)).collect::<Result<_, _>>()?;
    Ok((items, range.revision))
}

/// What a client is told of a failed proposal or barrier.
pub fn store_error(error: StoreError) -> Status {
    match error {
        StoreError::NoLeader | StoreError::Stopped => Status::unavailable(error.to_string()),
        StoreError::Unknown(_) => Status::timeout(error.to_string()),
        StoreError::Busy => Status::too_many_requests(error.to_string(), 1),
        StoreError::TooLarge { limit, .. } => Status::too_large(limit),
        StoreError::Disk(_) => Status::failure(507, "InternalError", error.to_string()),
        StoreError::Membership(_) => Status::failure(409, "Conflict", error.to_string()),
        StoreError::NoSuchLease(_) => Status::internal(error.to_string()),
    }
}

/// What a client is told of a read at a revision that is not there.
pub fn read_error(error: ReadError) -> Status {
    match error {
        ReadError::Compacted { asked, oldest } => Status::too_old(asked, oldest),
        ReadError::Future { asked, current } => too_large_version(asked, current),
    }
}

pub fn too_large_version(asked: Revision, current: Revision) -> Status {
    let mut status = Status::timeout(format!("Too large resource version: {asked}, current: {current}"))
        .with_cause("ResourceVersionTooLarge", "Too large resource version", "");
    status.details.get_or_insert_default().retry_after_seconds = 1;
    status
}

#[cfg(test)]
mod tests {
    use kontiki_proto::Registry;
    use serde_json::json;

    use super::*;

    fn row(group: &str, version: &str, plural: &str) -> &'static Resource {
        Registry::builtin().find(group, version, plural).expect("a built-in row")
    }

    fn entry(row: &Resource, object: &Value, revision: Revision) -> Entry {
        let (value, attributes) = encode(row, object).expect("encodes");
        let metadata = &object["metadata"];
        Entry {
            key: key(
                row,
                metadata["namespace"].as_str().unwrap_or_default(),
                metadata["name"].as_str().unwrap_or_default(),
            ),
            value,
            attributes,
            create_revision: 1,
            mod_revision: revision,
            version: 1,
            lease: None,
        }
    }

    #[test]
    fn the_resource_version_is_the_entrys_revision_and_never_stored() {
        let pods = row("", "v1", "pods");
        let object = json!({
            "kind": "Pod", "apiVersion": "v1", "spec": {"metadata": {"resourceVersion": "kept"}},
            "metadata": {"name": "a", "namespace": "n", "resourceVersion": "7"},
        });
        let entry = entry(pods, &object, 42);
        assert!(!std::str::from_utf8(&entry.value).expect("text").contains("\"7\""));
        let mut expected = object;
        expected["metadata"]["resourceVersion"] = json!("42");
        assert_eq!(serde_json::from_slice::<Value>(&document(&entry)).expect("JSON"), expected);
        assert_eq!(decode(pods, &entry).expect("decodes"), expected);
        assert_eq!(names(&entry.key), ("n", "a"));
    }

    #[test]
    fn labels_fields_and_uid_are_read_without_parsing() {
        let pods = row("", "v1", "pods");
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "namespace": "n", "uid": "u-1", "labels": {"app": "web"}},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
        });
        let entry = entry(pods, &object, 1);
        for (kind, name, value) in [
            ("l:", "app", Some("web")),
            ("l:", "absent", None),
            ("f:", "spec.nodeName", Some("n1")),
            ("f:", "spec.hostNetwork", Some("false")),
            ("f:", "status.podIP", Some("")),
            ("f:", "status.podIPs", Some("10.0.0.1")),
            ("u", "", Some("u-1")),
        ] {
            assert_eq!(attribute(&entry, kind, name), value, "{kind}{name}");
        }
    }

    #[test]
    fn cluster_scoped_objects_have_no_namespace_in_their_key() {
        let nodes = row("", "v1", "nodes");
        assert_eq!(key(nodes, "ignored", "n1"), "/registry/core/nodes/n1");
        assert_eq!(names(b"/registry/core/nodes/n1"), ("", "n1"));
        assert_eq!(prefix(row("apps", "v1", "deployments"), "x"), "/registry/apps/deployments/x/");
    }

    #[test]
    fn both_groups_of_events_share_their_objects() {
        let core = row("", "v1", "events");
        let grouped = row("events.k8s.io", "v1", "events");
        assert_eq!(key(core, "n", "e"), key(grouped, "n", "e"));
        let object = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": "e", "namespace": "n"},
            "regarding": {"kind": "Pod", "name": "p"}, "note": "text", "reportingController": "c",
        });
        let entry = entry(grouped, &object, 5);
        assert_eq!(attribute(&entry, "f:", "involvedObject.name"), Some("p"));
        let old = decode(core, &entry).expect("decodes");
        assert_eq!((&old["apiVersion"], &old["message"]), (&json!("v1"), &json!("text")));
        assert_eq!(old["reportingComponent"], "c");
        let mut expected = object;
        expected["metadata"]["resourceVersion"] = json!("5");
        assert_eq!(decode(grouped, &entry).expect("decodes"), expected);
    }
}
