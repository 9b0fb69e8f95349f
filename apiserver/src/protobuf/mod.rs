//! Kubernetes' protobuf bodies, read into JSON. Go clients send what they create this way; answers are JSON.
//!
//! `tags.txt` has a line for each type: its name in the schema table, then `field=tag`. `^tag(…)` is a message whose
//! fields stand in JSON among those of the type around it. Shapes come from the schema table, so that nothing is
//! said twice.

use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use kontiki_proto::status::Status;
use serde_json::{Map, Value};

use crate::schema::{self, Field, Shape, TypeRef};

/// Stands before every document.
const MAGIC: &[u8] = b"k8s\0";
/// Messages within messages beyond this are refused.
const MAX_DEPTH: usize = 64;

/// Numbers that upstream's types hold by value, so that 0 means that nobody gave them.
static VALUE_NUMBERS: &[&str] = &[
    "count",
    "deprecatedCount",
    "failureThreshold",
    "generation",
    "healthCheckNodePort",
    "hostPort",
    "initialDelaySeconds",
    "matchingPrecedence",
    "minReadySeconds",
    "nodePort",
    "number",
    "observedGeneration",
    "partition",
    "periodSeconds",
    "retryAfterSeconds",
    "signal",
    "sizeBytes",
    "successThreshold",
    "timeoutSeconds",
];
/// Types in which one of these numbers is held by reference after all: 0 means 0.
static REFERENCE_NUMBERS: &[&str] = &[
    "admissionregistration.v1.MutatingWebhook",
    "admissionregistration.v1.ValidatingWebhook",
    "apps.v1.RollingUpdateStatefulSetStrategy",
    "core.v1.ClientIPConfig",
];
/// Flags held by reference, where false says something.
static REFERENCE_FLAGS: &[&str] = &[
    "adminAccess",
    "allNodes",
    "allocateLoadBalancerNodePorts",
    "allowMultipleAllocations",
    "allowPrivilegeEscalation",
    "allowVolumeExpansion",
    "attachRequired",
    "automountServiceAccountToken",
    "bindsToNode",
    "blockOwnerDeletion",
    "bool",
    "controller",
    "enableServiceLinks",
    "hostProcess",
    "hostUsers",
    "immutable",
    "manualSelector",
    "optional",
    "optionalOldSelf",
    "orphanDependents",
    "podInfoOnMount",
    "privileged",
    "readOnlyRootFilesystem",
    "ready",
    "requiresRepublish",
    "runAsNonRoot",
    "seLinuxMount",
    "serving",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "started",
    "storageCapacity",
    "suspend",
    "terminating",
];
/// Texts held by reference, where the empty one says something.
static REFERENCE_TEXTS: &[(&str, &str)] =
    &[("core.v1.PersistentVolumeClaimSpec", "storageClassName"), ("discovery.v1.EndpointPort", "name")];

/// What a tag stands for.
#[derive(Debug)]
enum Tagged {
    Field(&'static str),
    Inline(Tags),
}

type Tags = HashMap<u32, Tagged>;

fn tags_of(ty: TypeRef) -> Option<&'static Tags> {
    static TABLE: OnceLock<HashMap<&'static str, Tags>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let lines = include_str!("tags.txt").lines();
        lines
            .filter_map(|line| {
                let (name, rest) = line.split_once(' ')?;
                Some((name, read_tags(&mut rest.split_whitespace())))
            })
            .collect()
    });
    table.get(ty.name())
}

/// Reads words up to the end, or to the one that closes an inline message.
fn read_tags(words: &mut dyn Iterator<Item = &'static str>) -> Tags {
    let mut tags = Tags::new();
    // How many inline messages the last word closed beyond its own.
    while let Some(word) = words.next() {
        let bare = word.trim_end_matches(')');
        if let Some((tag, first)) = bare.strip_prefix('^').and_then(|inline| inline.split_once('(')) {
            // The inline message's words follow up to the one that ends in `)`.
            let mut inner = vec![first];
            let mut depth = 1 + first.matches('(').count();
            depth -= (word.len() - bare.len()).min(depth);
            while depth > 0 {
                let Some(next) = words.next() else { break };
                depth += next.matches('(').count();
                depth -= next.matches(')').count().min(depth);
                inner.push(if depth == 0 { &next[..next.len() - 1] } else { next });
            }
            if let Ok(tag) = tag.parse() {
                tags.insert(tag, Tagged::Inline(read_tags(&mut inner.into_iter())));
            }
        } else if let Some((name, tag)) = bare.split_once('=')
            && let Ok(tag) = tag.parse()
        {
            tags.insert(tag, Tagged::Field(name));
        }
    }
    tags
}

fn broken(why: &str) -> Status {
    Status::bad_request(format!("the protobuf body cannot be read: {why}"))
}

/// One field as it stands on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, Status> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or_else(|| broken("it ends within a number"))?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(broken("a number is too long"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Status> {
        let length = usize::try_from(length).ok().filter(|length| *length <= self.rest.len());
        let (taken, rest) = self.rest.split_at(length.ok_or_else(|| broken("it ends too early"))?);
        self.rest = rest;
        Ok(taken)
    }

    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, Status> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).map_err(|_| broken("a field number is too large"))?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().unwrap_or_default())),
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().unwrap_or_default())),
            other => return Err(broken(&format!("wire type {other} is not known"))),
        };
        Ok(Some((tag, wire)))
    }
}

impl Wire<'_> {
    fn bytes(&self) -> Result<&[u8], Status> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            _ => Err(broken("a number stands where text or a message is expected")),
        }
    }

    fn number(&self) -> Result<u64, Status> {
        match self {
            Wire::Varint(number) | Wire::Fixed64(number) => Ok(*number),
            Wire::Fixed32(number) => Ok(u64::from(*number)),
            Wire::Bytes(_) => Err(broken("text stands where a number is expected")),
        }
    }

    fn text(&self) -> Result<&str, Status> {
        std::str::from_utf8(self.bytes()?).map_err(|_| broken("a text is not UTF-8"))
    }
}

/// A document in its envelope, as JSON.
///
/// # Errors
/// 400 for bytes that cannot be read, 415 for a kind whose fields are not known.
pub fn decode(body: &[u8]) -> Result<Value, Status> {
    let envelope = body
        .strip_prefix(MAGIC)
        .ok_or_else(|| broken("it does not begin with the magic number of Kubernetes"))?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader { rest: envelope };
    while let Some((tag, wire)) = reader.next()? {
        match (tag, wire) {
            (1, Wire::Bytes(bytes)) => {
                let mut meta = Reader { rest: bytes };
                while let Some((tag, wire)) = meta.next()? {
                    match tag {
                        1 => api_version = wire.text()?.into(),
                        2 => kind = wire.text()?.into(),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            (3, Wire::Bytes(encoding)) if !encoding.is_empty() => {
                return Err(broken("its content is encoded, which is not supported"));
            }
            _ => {}
        }
    }
    let (group, version) = kontiki_proto::resource::split_api_version(&api_version);
    let known = schema::type_of_kind(group, version, &kind)
        // Options are sent in the group of the resource they are for.
        .or_else(|| schema::type_of_kind("", "v1", &kind).filter(|_| kind.ends_with("Options")));
    let ty = known.filter(|ty| tags_of(*ty).is_some()).ok_or_else(|| {
        Status::unsupported_media_type(
            &format!("application/vnd.kubernetes.protobuf of {kind} in {api_version}"),
            "application/json, application/yaml",
        )
    })?;
    let mut object = message(ty, raw, 0)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

fn message(ty: TypeRef, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, Status> {
    let tags = tags_of(ty)
        .ok_or_else(|| Status::unsupported_media_type(ty.name(), "application/json, application/yaml"))?;
    let mut out = Map::new();
    fields(ty, tags, bytes, depth, &mut out)?;
    Ok(out)
}

fn fields(
    ty: TypeRef,
    tags: &Tags,
    bytes: &[u8],
    depth: usize,
    out: &mut Map<String, Value>,
) -> Result<(), Status> {
    if depth > MAX_DEPTH {
        return Err(broken("it is nested too deeply"));
    }
    let mut reader = Reader { rest: bytes };
    while let Some((tag, wire)) = reader.next()? {
        match tags.get(&tag) {
            Some(Tagged::Inline(inner)) => fields(ty, inner, wire.bytes()?, depth + 1, out)?,
            Some(Tagged::Field(name)) => {
                if let Some(field) = ty.field(name) {
                    put(ty, field, &wire, depth, out)?;
                }
            }
            // A field of a version newer than this server, as upstream's decoder drops it.
            None => {}
        }
    }
    Ok(())
}

fn put(
    ty: TypeRef,
    field: &'static Field,
    wire: &Wire<'_>,
    depth: usize,
    out: &mut Map<String, Value>,
) -> Result<(), Status> {
    match field.shape {
        Shape::List(nested) => {
            let shape = nested.shape();
            let list = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Some(list) = list.as_array_mut() else { return Ok(()) };
            match (wire, shape) {
                (Wire::Bytes(packed), Shape::Int32 | Shape::Int64 | Shape::Bool) => {
                    let mut reader = Reader { rest: packed };
                    while !reader.rest.is_empty() {
                        let number = reader.varint()?;
                        list.push(value(shape, &Wire::Varint(number), depth)?);
                    }
                }
                _ => list.push(value(shape, wire, depth)?),
            }
        }
        Shape::Map(nested) => {
            let map = out.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            let (key, item) = entry(nested.shape(), wire.bytes()?, depth)?;
            if let Some(map) = map.as_object_mut() {
                map.insert(key, item);
            }
        }
        shape => {
            let value = value(shape, wire, depth)?;
            if !is_unset(ty, field, &value) {
                out.insert(field.name.into(), value);
            }
        }
    }
    Ok(())
}

/// Whether JSON would not have the field: upstream writes even what nobody gave.
fn is_unset(ty: TypeRef, field: &Field, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty() && !REFERENCE_TEXTS.contains(&(ty.name(), field.name)),
        Value::Bool(flag) => !flag && !field.required() && !REFERENCE_FLAGS.contains(&field.name),
        Value::Number(number) => {
            number.as_i64() == Some(0)
                && !field.required()
                && VALUE_NUMBERS.contains(&field.name)
                && !REFERENCE_NUMBERS.contains(&ty.name())
        }
        _ => false,
    }
}

/// A map's entry: key and value.
fn entry(shape: Shape, bytes: &[u8], depth: usize) -> Result<(String, Value), Status> {
    let mut key = String::new();
    let mut item = match shape {
        Shape::String | Shape::Bytes | Shape::Quantity => Value::String(String::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Struct(_) | Shape::Map(_) => Value::Object(Map::new()),
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Double => Value::from(0),
        _ => Value::Null,
    };
    let mut reader = Reader { rest: bytes };
    while let Some((tag, wire)) = reader.next()? {
        match (tag, shape) {
            (1, _) => key = wire.text()?.into(),
            // A list within a map is a message with the items.
            (2, Shape::List(nested)) => {
                let mut items = Vec::new();
                let mut inner = Reader { rest: wire.bytes()? };
                while let Some((tag, wire)) = inner.next()? {
                    if tag == 1 {
                        items.push(value(nested.shape(), &wire, depth + 1)?);
                    }
                }
                item = Value::Array(items);
            }
            (2, _) => item = value(shape, &wire, depth + 1)?,
            _ => {}
        }
    }
    Ok((key, item))
}

/// The field of a small message, with the tags up to 3 that such messages have.
fn small<'a>(bytes: &'a [u8]) -> Result<[Option<Wire<'a>>; 4], Status> {
    let mut found = [None, None, None, None];
    let mut reader = Reader { rest: bytes };
    while let Some((tag, wire)) = reader.next()? {
        if let Some(slot) = usize::try_from(tag).ok().and_then(|tag| found.get_mut(tag)) {
            *slot = Some(wire);
        }
    }
    Ok(found)
}

fn signed(number: u64) -> i64 {
    number.cast_signed()
}

fn time(bytes: &[u8], micros: bool) -> Result<Value, Status> {
    let [_, seconds, nanos, _] = small(bytes)?;
    let (Some(seconds), nanos) = (seconds, nanos) else { return Ok(Value::Null) };
    let nanos = nanos.map(|nanos| nanos.number()).transpose()?.map_or(0, signed);
    let nanos = i32::try_from(nanos).map_err(|_| broken("a time is out of range"))?;
    let time =
        Timestamp::new(signed(seconds.number()?), nanos).map_err(|_| broken("a time is out of range"))?;
    let format = if micros { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(time.strftime(format).to_string().into())
}

fn value(shape: Shape, wire: &Wire<'_>, depth: usize) -> Result<Value, Status> {
    Ok(match shape {
        Shape::String => match wire {
            // A duration, which JSON writes as text, is a message on the wire; no kind of the table needs one.
            Wire::Bytes(_) => wire.text()?.into(),
            _ => return Err(broken("a number stands where a text is expected")),
        },
        Shape::Int32 | Shape::Int64 => signed(wire.number()?).into(),
        Shape::Bool => (wire.number()? != 0).into(),
        Shape::Double => match wire {
            Wire::Fixed64(bits) => f64::from_bits(*bits).into(),
            Wire::Fixed32(bits) => f32::from_bits(*bits).into(),
            _ => return Err(broken("a floating-point number is expected")),
        },
        Shape::Bytes => STANDARD.encode(wire.bytes()?).into(),
        Shape::Time => time(wire.bytes()?, false)?,
        Shape::MicroTime => time(wire.bytes()?, true)?,
        Shape::Quantity => match small(wire.bytes()?)? {
            [_, Some(text), ..] => text.text()?.into(),
            _ => "0".into(),
        },
        Shape::IntOrString => {
            let [_, kind, number, text] = small(wire.bytes()?)?;
            match kind.map(|kind| kind.number()).transpose()? {
                Some(1) => text.as_ref().map_or(Ok(""), Wire::text)?.into(),
                _ => number.map(|number| number.number()).transpose()?.map_or(0, signed).into(),
            }
        }
        Shape::Any => match small(wire.bytes()?)? {
            [_, Some(raw @ Wire::Bytes(_)), None, None] => {
                serde_json::from_slice(raw.bytes()?).map_err(|_| {
                    Status::unsupported_media_type(
                        "application/vnd.kubernetes.protobuf of a JSON schema",
                        "application/json, application/yaml",
                    )
                })?
            }
            [_, None, None, None] => Value::Null,
            _ => {
                return Err(Status::unsupported_media_type(
                    "application/vnd.kubernetes.protobuf of a JSON schema",
                    "application/json, application/yaml",
                ));
            }
        },
        Shape::Struct(ty) => Value::Object(message(ty, wire.bytes()?, depth + 1)?),
        Shape::List(_) | Shape::Map(_) => return Err(broken("lists stand within lists")),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(bytes.len()).expect("short");
        assert!(length < 128 && tag < 16);
        [&[tag << 3 | 2, length][..], bytes].concat()
    }

    fn number(tag: u8, number: u8) -> Vec<u8> {
        vec![tag << 3, number]
    }

    fn enveloped(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC, &field(1, &meta), &field(2, raw)].concat()
    }

    #[test]
    fn a_config_map_is_read_and_what_nobody_gave_is_left_out() {
        let metadata = [field(1, b"a"), field(3, b""), field(8, b""), number(7, 0)].concat();
        let data = [field(1, b"k"), field(2, b"")].concat();
        let raw = [field(1, &metadata), field(2, &data), number(4, 0)].concat();
        assert_eq!(
            decode(&enveloped("v1", "ConfigMap", &raw)).expect("decodes"),
            json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "a"}, "data": {"k": ""}, "immutable": false,
            })
        );
    }

    #[test]
    fn inline_messages_quantities_and_int_or_strings_become_what_json_has() {
        let probe =
            [field(1, &field(2, &field(2, &[number(1, 0), number(2, 80)].concat()))), number(2, 0)].concat();
        let quantity = [field(1, b"cpu"), field(2, &field(1, b"100m"))].concat();
        let resources = field(2, &quantity);
        let container = [field(1, b"c"), field(8, &resources), field(10, &probe)].concat();
        let raw = field(2, &field(2, &container));
        let pod = decode(&enveloped("v1", "Pod", &raw)).expect("decodes");
        assert_eq!(
            pod["spec"]["containers"],
            json!([{
                "name": "c", "resources": {"requests": {"cpu": "100m"}},
                "livenessProbe": {"httpGet": {"port": 80}},
            }])
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for body in [&b"nonsense"[..], b"k8s\0\x0a\xff", b"k8s\0\x0a\x05ab"] {
            assert_eq!(decode(body).expect_err("refused").code, 400);
        }
        assert_eq!(decode(&enveloped("example.com/v1", "Foo", b"")).expect_err("refused").code, 415);
    }

    #[test]
    fn every_kind_served_can_be_read_but_the_newest() {
        let unknown: Vec<_> = kontiki_proto::Registry::builtin()
            .rows()
            .iter()
            .filter(|row| schema::type_of(row).and_then(tags_of).is_none())
            .map(|row| row.kind.as_str())
            .collect();
        assert_eq!(unknown, ["MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"]);
    }
}
