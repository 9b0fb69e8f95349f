//! `kontiki explain`: the fields of a kind, from the schema table in this program or from a custom resource's definition.

use anyhow::{Context, Result, bail};
use clap::Args;
use kontiki_apiserver::schema::{self, Field, Shape, TypeRef};
use kontiki_proto::Registry;
use kontiki_proto::api::{Api, GetOptions, decode};
use kontiki_proto::resource::Resource;
use serde_json::Value;

use crate::output::table::align;
use crate::session::Session;

#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// A kind, and the way to a field: `pod`, `deployment.spec.strategy`
    path: String,
    /// Everything below, too
    #[arg(long)]
    recursive: bool,
}

/// Prints what the schema table knows, without a server. `false`: no built-in kind has that name.
///
/// # Errors
/// The kind has no such field.
pub fn explain_builtin(args: &ExplainArgs) -> Result<bool> {
    let mut words = args.path.split('.');
    let Some(row) = words.next().and_then(|name| Registry::builtin().find_name(name)) else {
        return Ok(false);
    };
    let Some(of) = schema::type_of(row) else { return Ok(false) };
    let path: Vec<&str> = words.collect();
    print!("{}", builtin_page(row, of, &path, args.recursive)?);
    Ok(true)
}

fn heading(row: &Resource, text: &mut String) {
    if !row.group.is_empty() {
        *text += &format!("GROUP:      {}\n", row.group);
    }
    *text += &format!("KIND:       {}\nVERSION:    {}\n\n", row.kind, row.version);
}

fn builtin_page(row: &Resource, of: TypeRef, path: &[&str], is_recursive: bool) -> Result<String> {
    let mut text = String::new();
    heading(row, &mut text);
    let mut known = Some(of);
    let mut last: Option<&Field> = None;
    for word in path {
        let field = known.and_then(|of| of.field(word));
        let field = field.with_context(|| format!("field \"{word}\" does not exist in {}", row.kind))?;
        known = inner(field.shape);
        last = Some(field);
    }
    if let Some(field) = last {
        text += &format!("FIELD: {} <{}>{}\n", field.name, word_of(field.shape), required(field));
        if let Some(default) = field.default() {
            text += &format!("DEFAULT: {default}\n");
        }
        text.push('\n');
    }
    if let Some(of) = known {
        text += "FIELDS:\n";
        list(of, 1, is_recursive, &mut Vec::new(), &mut text);
    }
    Ok(text)
}

fn required(field: &Field) -> &'static str {
    if field.required() { " -required-" } else { "" }
}

/// A type that contains itself is opened once.
fn list(of: TypeRef, depth: usize, is_recursive: bool, open: &mut Vec<TypeRef>, text: &mut String) {
    open.push(of);
    let rows: Vec<Vec<String>> = of
        .fields()
        .iter()
        .map(|field| {
            vec![
                format!("{}{}", "  ".repeat(depth), field.name),
                format!("<{}>{}", word_of(field.shape), required(field)),
            ]
        })
        .collect();
    if is_recursive {
        for (row, field) in rows.iter().zip(of.fields()) {
            *text += &format!("{} {}\n", row[0], row[1]);
            if let Some(inner) = inner(field.shape).filter(|inner| !open.contains(inner)) {
                list(inner, depth + 1, true, open, text);
            }
        }
    } else {
        *text += &align(&rows);
    }
    open.pop();
}

fn inner(shape: Shape) -> Option<TypeRef> {
    match shape {
        Shape::Struct(of) => Some(of),
        Shape::List(nested) | Shape::Map(nested) => inner(nested.shape()),
        _ => None,
    }
}

fn word_of(shape: Shape) -> String {
    match shape {
        Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime => "string".into(),
        Shape::Int32 | Shape::Int64 => "integer".into(),
        Shape::Double => "number".into(),
        Shape::Bool => "boolean".into(),
        Shape::Quantity => "Quantity".into(),
        Shape::IntOrString => "IntOrString".into(),
        Shape::Any => "Object".into(),
        Shape::Struct(of) => of.short_name().into(),
        Shape::List(item) => format!("[]{}", word_of(item.shape())),
        Shape::Map(value) => format!("map[string]{}", word_of(value.shape())),
    }
}

/// From the CustomResourceDefinition, descriptions included.
///
/// # Errors
/// No such kind or field, or what the server said.
pub async fn explain_custom(session: &Session, args: &ExplainArgs) -> Result<()> {
    let mut words = args.path.split('.');
    let row = session.kind(words.next().unwrap_or_default()).await?;
    let crds = session.kind("customresourcedefinitions.apiextensions.k8s.io").await?;
    let target = session.object(&crds, &row.qualified());
    let definition: Value = decode(&session.client.get(&target, &GetOptions::default()).await?)?;
    let versions = definition["spec"]["versions"].as_array();
    let version = versions.into_iter().flatten().find(|version| version["name"] == row.version.as_str());
    let schema = version.map(|version| &version["schema"]["openAPIV3Schema"]);
    let schema = schema.filter(|schema| schema.is_object());
    let schema = schema.with_context(|| format!("{} has no schema", row.qualified()))?;
    print!("{}", custom_page(&row, schema, &words.collect::<Vec<_>>())?);
    Ok(())
}

fn custom_page(row: &Resource, schema: &Value, path: &[&str]) -> Result<String> {
    let mut text = String::new();
    heading(row, &mut text);
    let mut at = schema;
    for word in path {
        at = match properties(at).get(word) {
            Some(next) => next,
            None => bail!("field \"{word}\" does not exist in {}", row.kind),
        };
    }
    if let Some(name) = path.last() {
        text += &format!("FIELD: {name} <{}>\n\n", type_word(at));
    }
    if let Some(description) = at["description"].as_str() {
        text += &format!("DESCRIPTION:\n    {description}\n\n");
    }
    let empty = Vec::new();
    let required = at["required"].as_array().unwrap_or(&empty);
    let rows: Vec<Vec<String>> = properties(at)
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, field)| {
            let mark = if required.iter().any(|r| r == name) { " -required-" } else { "" };
            vec![format!("  {name}"), format!("<{}>{mark}", type_word(field))]
        })
        .collect();
    if !rows.is_empty() {
        text += "FIELDS:\n";
        text += &align(&rows);
    }
    Ok(text)
}

/// Of an object, or of the items of a list.
fn properties(schema: &Value) -> &Value {
    if schema["properties"].is_object() { &schema["properties"] } else { &schema["items"]["properties"] }
}

fn type_word(schema: &Value) -> String {
    match schema["type"].as_str() {
        Some("array") => format!("[]{}", type_word(&schema["items"])),
        Some("object") | None => "Object".into(),
        Some(word) => word.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page(path: &str) -> Result<String> {
        let mut words = path.split('.');
        let row = Registry::builtin().find_name(words.next().unwrap()).unwrap();
        builtin_page(row, schema::type_of(row).unwrap(), &words.collect::<Vec<_>>(), false)
    }

    #[test]
    fn a_field_is_shown_with_what_it_holds() {
        let containers = page("pod.spec.containers").unwrap();
        assert!(
            containers.starts_with("KIND:       Pod\nVERSION:    v1\n\nFIELD: containers <[]Container>"),
            "{containers}"
        );
        assert!(containers.contains("\n  name"), "{containers}");
        assert!(page("deploy").unwrap().starts_with("GROUP:      apps\n"));
        assert!(page("pod.spec.nodeSelector").unwrap().contains("<map[string]string>"));
    }

    #[test]
    fn an_unknown_field_is_named() {
        let error = page("pod.spec.container").unwrap_err().to_string();
        assert_eq!(error, "field \"container\" does not exist in Pod");
    }

    #[test]
    fn everything_below_a_recursive_type_is_shown_once() {
        let row = Registry::builtin().find_name("crd").unwrap();
        let text = builtin_page(row, schema::type_of(row).unwrap(), &[], true).unwrap();
        assert!(text.lines().count() > 50 && text.lines().count() < 5000, "{}", text.lines().count());
    }

    #[test]
    fn a_custom_kind_is_explained_from_its_definition() {
        let row = Registry::builtin().find_name("pods").unwrap();
        let schema = json!({ "properties": { "spec": { "type": "object", "description": "What is wanted.",
            "required": ["size"], "properties": { "size": { "type": "integer" }, "tags": { "type": "array", "items": { "type": "string" } } } } } });
        let text = custom_page(row, &schema, &["spec"]).unwrap();
        assert!(
            text.contains("What is wanted.")
                && text.contains("<integer> -required-")
                && text.contains("<[]string>"),
            "{text}"
        );
        assert!(custom_page(row, &schema, &["nothing"]).is_err());
    }
}
