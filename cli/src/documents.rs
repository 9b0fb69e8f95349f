//! Objects in files: YAML or JSON, several to a file, a folder of files, or standard input.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Reads every document of `-f` arguments; `-` is standard input. Lists are taken apart.
///
/// # Errors
/// Names the file and the document that cannot be read, or lacks apiVersion, kind or a name.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            parse(&text, "standard input", &mut found)?;
            continue;
        }
        for file in files(path)? {
            let text =
                fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            parse(&text, &file.display().to_string(), &mut found)?;
        }
    }
    if found.is_empty() {
        bail!("no objects in the given files");
    }
    Ok(found)
}

/// A folder stands for its `.yaml`, `.yml` and `.json` files, in the order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| file.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"))
        .collect();
    files.sort();
    Ok(files)
}

fn parse(text: &str, source: &str, found: &mut Vec<Value>) -> Result<()> {
    for (at, part) in split(text).into_iter().enumerate() {
        let document =
            parse_one(part).map_err(|error| anyhow::anyhow!("{source}, document {}: {error}", at + 1))?;
        match document {
            Value::Null => {}
            Value::Object(_) if document["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => {
                found.extend(document["items"].as_array().cloned().unwrap_or_default());
            }
            Value::Object(_) => found.push(document),
            _ => bail!("{source}, document {}: an object is expected", at + 1),
        }
    }
    for object in found.iter() {
        for field in ["/apiVersion", "/kind"] {
            if object.pointer(field).and_then(Value::as_str).is_none_or(str::is_empty) {
                bail!("{source}: an object has no {}", &field[1..]);
            }
        }
    }
    Ok(())
}

/// One document of YAML or JSON, with numbers as kubectl reads them: `0400` is octal, `1.0` is whole.
///
/// # Errors
/// Says where the text is wrong.
pub fn parse_one(text: &str) -> Result<Value> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let mut document: Value = serde_saphyr::from_str_with_options(text, options)?;
    make_whole(&mut document);
    Ok(document)
}

/// Floats without a fraction, as far as a float counts exactly, become integers.
fn make_whole(value: &mut Value) {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap_or(f64::NAN);
            if float.fract() == 0.0 && float.abs() < EXACT {
                *value = Value::from(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(make_whole),
        Value::Object(fields) => fields.values_mut().for_each(make_whole),
        _ => {}
    }
}

/// Splits at lines that are `---`.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        let is_mark =
            line.strip_prefix("---").is_some_and(|rest| rest.trim().is_empty() || rest.starts_with(" #"));
        if is_mark {
            parts.push(&text[start..at]);
            start = at + line.len();
        }
        at += line.len();
    }
    parts.push(&text[start..]);
    parts.retain(|part| {
        part.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    });
    parts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(text: &str) -> Result<Vec<Value>> {
        let mut found = Vec::new();
        parse(text, "test", &mut found).map(|()| found)
    }

    #[test]
    fn documents_and_lists_are_taken_apart() {
        let text = "# head\n---\napiVersion: v1\nkind: A\n---\n---\n{\"apiVersion\":\"v1\",\"kind\":\"B\"}\n---\n\
                    apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: C}\n";
        let kinds: Vec<_> =
            parsed(text).unwrap().iter().map(|d| d["kind"].as_str().unwrap().to_string()).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
    }

    #[test]
    fn numbers_and_words_are_read_as_kubectl_reads_them() {
        for (text, expected) in [
            ("0400", json!(256)),
            ("0o400", json!(256)),
            ("0777", json!(511)),
            ("0x1F", json!(31)),
            ("1e3", json!(1000)),
            ("1.0", json!(1)),
            ("1.5", json!(1.5)),
            ("0", json!(0)),
            ("-0x1", json!(-1)),
            ("yes", json!(true)),
            ("\"yes\"", json!("yes")),
            ("on", json!(true)),
            ("~", json!(null)),
            ("12:30:45", json!("12:30:45")),
            ("2001-01-01", json!("2001-01-01")),
            ("\"0400\"", json!("0400")),
            ("9223372036854775807", json!(i64::MAX)),
        ] {
            assert_eq!(parse_one(&format!("x: {text}")).unwrap()["x"], expected, "{text}");
        }
        assert_eq!(parse_one("{\"a\": [1.0, {\"b\": 2.5}]}").unwrap(), json!({ "a": [1, { "b": 2.5 }] }));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, expected) in [
            ("a: [", "document 1"),
            ("kind: A", "no apiVersion"),
            ("apiVersion: v1\n", "no kind"),
            ("- a", "an object"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error} has {expected}");
        }
    }
}
