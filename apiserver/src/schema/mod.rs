//! What the built-in kinds look like: types, list keys and patch keys, as data.
//!
//! `types.txt` has one line per type of the v1.36 API at its stable versions. It is parsed once, at first use; every
//! name in the parsed table is a slice of the program's own text, so the table costs some 200 KB of memory.
//!
//! Grammar of a line, separated by spaces: `type` or `type=group/version/Kind`, then for each field `name:shape`,
//! `name!:shape` where the field is required, followed by marks, each behind a `;`.
//!
//! | shape | |
//! |---|---|
//! | `s i l f b` | string, int32, int64, double, boolean |
//! | `y t m q x a` | base64 bytes, time, time in microseconds, quantity, int-or-string, anything |
//! | `@type` `[]shape` `{}shape` | another type, a list, a map with string keys |
//!
//! | mark | |
//! |---|---|
//! | `la` `ls` `lm=k+k` | the list is one value, a set, a map by these keys (server-side apply) |
//! | `ma` | the map or object is one value (server-side apply) |
//! | `pm` `pm=k` `pr` | strategic merge: merge the list (by this key), retain keys |
//! | `d=json` | the declared default |

mod check;
mod decode;
mod fill;
mod path;
#[cfg(test)]
mod tests;
mod types;

use kontiki_proto::resource::Resource;
use kontiki_proto::status::Status;
use serde_json::Value;

pub use fill::fill;
pub use path::Path;
pub use types::{Field, ListType, Shape, TypeRef};

/// The `fieldValidation` of a write: what becomes of fields nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and answer with a warning for each.
    #[default]
    Warn,
    /// Refuse the write.
    Strict,
}

impl FieldValidation {
    /// `None` for a word upstream does not know; the empty word is the default, `Warn`.
    pub fn parse(word: &str) -> Option<FieldValidation> {
        match word {
            "" | "Warn" => Some(FieldValidation::Warn),
            "Ignore" => Some(FieldValidation::Ignore),
            "Strict" => Some(FieldValidation::Strict),
            _ => None,
        }
    }
}

/// The type of a row's objects. `None` for custom resources.
pub fn type_of(row: &Resource) -> Option<TypeRef> {
    if row.custom { None } else { type_of_kind(&row.group, &row.version, &row.kind) }
}

/// The type of a kind, whether it has a row or is only exchanged, such as `Scale` or `DeleteOptions`.
pub fn type_of_kind(group: &str, version: &str, kind: &str) -> Option<TypeRef> {
    types::table().of_kind(group, version, kind)
}

/// A type by its short name, such as `core.v1.PodSpec`.
pub fn type_named(name: &str) -> Option<TypeRef> {
    types::table().named(name)
}

/// Every type, in alphabetical order of the short names.
pub fn types() -> impl Iterator<Item = TypeRef> {
    types::table().all()
}

/// Parses a JSON body as an object of the row's kind: [`canonicalize`], and a check for keys given twice. The
/// returned warnings go to the client as `Warning` headers.
pub fn decode(
    row: &Resource,
    body: &[u8],
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    decode_kind((&row.group, &row.version, &row.kind), body, validation)
}

/// [`decode`] for documents that are not a row, such as `Scale`, `Binding`, `Eviction`, `DeleteOptions`. The kind is
/// `(group, version, kind)`.
pub fn decode_kind(
    kind: (&str, &str, &str),
    body: &[u8],
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let (mut object, duplicates) = decode::parse(body).map_err(|error| {
        let head = hex::encode(&body[..body.len().min(30)]);
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {error} ({head})",
            kind.2
        ))
    })?;
    let warnings = check::canonicalize(kind, &mut object, validation, duplicates)?;
    Ok((object, warnings))
}

/// Holds a document against its kind's schema: a wrong type is a 400 in the words of upstream's decoder; nulls, empty
/// optional lists and maps, and unknown fields go; times are written in UTC and quantities in their canonical form.
/// Custom resources pass as they are.
pub fn canonicalize(
    row: &Resource,
    object: &mut Value,
    validation: FieldValidation,
) -> Result<Vec<String>, Status> {
    canonicalize_kind((&row.group, &row.version, &row.kind), object, validation)
}

/// [`canonicalize`] for documents that are not a row.
pub fn canonicalize_kind(
    kind: (&str, &str, &str),
    object: &mut Value,
    validation: FieldValidation,
) -> Result<Vec<String>, Status> {
    check::canonicalize(kind, object, validation, Vec::new())
}
