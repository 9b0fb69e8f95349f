//! What the built-in kinds look like: types, list keys and patch keys, as data.

mod check;

use kontiki_proto::resource::Resource;
use kontiki_proto::status::Status;
use serde_json::Value;

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

/// Parses a JSON body as an object of the row's kind: [`canonicalize`] and the check for keys given twice. The
/// returned warnings go to the client as `Warning` headers.
pub fn decode(
    row: &Resource,
    body: &[u8],
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    decode_kind((&row.group, &row.version, &row.kind), body, validation)
}

/// [`decode`] for documents that are not a row, such as `Scale`, `Binding`, `Eviction`, `DeleteOptions`.
pub fn decode_kind(
    kind: (&str, &str, &str),
    body: &[u8],
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    check::decode(kind, body, validation)
}

/// Holds a document against its kind's schema: a wrong type is a 400 in the words of upstream's decoder, nulls and
/// unknown fields go. Custom resources pass as they are.
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
    check::canonicalize(kind, object, validation)
}
