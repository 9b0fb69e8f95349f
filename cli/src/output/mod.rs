//! How objects are shown.

pub mod jsonpath;
pub mod table;

use std::str::FromStr;

use anyhow::{Result, bail};
use serde_json::Value;

pub use table::Printer;

/// What `-o` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Table,
    Wide,
    Yaml,
    Json,
    Name,
    JsonPath(String),
}

impl Format {
    pub fn is_table(&self) -> bool {
        matches!(self, Format::Table | Format::Wide)
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        Ok(match text {
            "" => Format::Table,
            "wide" => Format::Wide,
            "yaml" => Format::Yaml,
            "json" => Format::Json,
            "name" => Format::Name,
            other => match other.strip_prefix("jsonpath=") {
                Some(template) => Format::JsonPath(template.into()),
                None => {
                    return Err(format!("{other:?} is none of wide, yaml, json, name, jsonpath=TEMPLATE"));
                }
            },
        })
    }
}

/// Prints one document in a format other than a table.
///
/// # Errors
/// A JSONPath template that does not parse, or one that names what is not there.
pub fn print_document(object: &Value, format: &Format) -> Result<()> {
    match format {
        Format::Json => println!("{}", pretty(object)?),
        Format::Yaml => print!("{}", serde_saphyr::to_string(object)?),
        Format::Name => println!("{}", name_of(object)),
        Format::JsonPath(template) => {
            let text = jsonpath::evaluate(template, object)?;
            print!("{text}");
            use std::io::Write;
            std::io::stdout().flush()?;
        }
        Format::Table | Format::Wide => bail!("a table has no single documents"),
    }
    Ok(())
}

/// Puts the mark between two YAML documents.
pub fn separate(format: &Format) {
    if *format == Format::Yaml {
        println!("---");
    }
}

/// Four blanks per level, as kubectl indents.
fn pretty(object: &Value) -> Result<String> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    serde::Serialize::serialize(object, &mut serializer)?;
    Ok(String::from_utf8(text)?)
}

/// `pod/web`, `deployment.apps/web`.
pub fn name_of(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let kind = text("/kind").to_lowercase();
    let name = text("/metadata/name");
    match text("/apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_are_named_with_their_group() {
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" } });
        assert_eq!(name_of(&pod), "pod/a");
        let deployment =
            json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "a" } });
        assert_eq!(name_of(&deployment), "deployment.apps/a");
    }

    #[test]
    fn an_unknown_format_is_refused_with_the_known_ones() {
        assert!("xml".parse::<Format>().unwrap_err().contains("yaml"));
    }
}
