//! The simple JSON paths of printer columns: `.spec.replicas`, `.spec.ports[0].port`,
//! `.status.conditions[?(@.type=="Ready")].status`, `.metadata.labels.app\.kubernetes\.io/name`.

use serde_json::Value;

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    /// Negative counts from the end.
    Index(i64),
    Every,
    /// Items in which the field at this path has this value.
    Where(Vec<Step>, String),
}

/// The first value at the path; `None` where there is none, or where the path is not one of these.
pub(super) fn find<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let steps = parse(path)?;
    walk(vec![object], &steps).into_iter().next()
}

fn walk<'a>(mut at: Vec<&'a Value>, steps: &[Step]) -> Vec<&'a Value> {
    for step in steps {
        at = at.into_iter().flat_map(|value| next(value, step)).collect();
    }
    at
}

fn next<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match (step, value) {
        (Step::Key(key), Value::Object(map)) => map.get(key).into_iter().collect(),
        (Step::Index(index), Value::Array(items)) => {
            let at = if *index < 0 { index + items.len() as i64 } else { *index };
            usize::try_from(at).ok().and_then(|at| items.get(at)).into_iter().collect()
        }
        (Step::Every, Value::Array(items)) => items.iter().collect(),
        (Step::Every, Value::Object(map)) => map.values().collect(),
        (Step::Where(path, wanted), Value::Array(items)) => items
            .iter()
            .filter(|item| {
                walk(vec![*item], path).first().is_some_and(|found| match found {
                    Value::String(text) => text == wanted,
                    other => other.to_string() == *wanted,
                })
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn parse(path: &str) -> Option<Vec<Step>> {
    let path = path.trim();
    let path = path.strip_prefix('{').and_then(|p| p.strip_suffix('}')).unwrap_or(path);
    let mut rest = path.strip_prefix('$').unwrap_or(path);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let end = closing(after)?;
            steps.push(bracket(after[..end].trim())?);
            rest = &after[end + 1..];
            continue;
        }
        rest = rest.strip_prefix('.')?;
        let mut key = String::new();
        let mut used = 0;
        let mut letters = rest.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => {
                    key.extend(letters.next().map(|(_, escaped)| escaped));
                }
                '.' | '[' => {
                    used = at;
                    break;
                }
                other => key.push(other),
            }
            used = rest.len();
        }
        match key.as_str() {
            "" => (),
            "*" => steps.push(Step::Every),
            _ => steps.push(Step::Key(key)),
        }
        if used == 0 && !rest.is_empty() && !rest.starts_with(['.', '[']) {
            return None;
        }
        rest = &rest[used.min(rest.len())..];
    }
    Some(steps)
}

/// Where the bracket ends that has just begun; quotes may hold brackets.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut depth = 0;
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some(_), _) => (),
            (None, '"' | '\'') => quote = Some(letter),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => (),
        }
    }
    None
}

fn bracket(inner: &str) -> Option<Step> {
    if inner == "*" {
        return Some(Step::Every);
    }
    if let Some(condition) = inner.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        let (path, wanted) = condition.split_once("==")?;
        let path = parse(path.trim().strip_prefix('@')?)?;
        return Some(Step::Where(path, unquoted(wanted.trim()).to_owned()));
    }
    match inner.parse() {
        Ok(index) => Some(Step::Index(index)),
        Err(_) if inner.starts_with(['"', '\'']) => Some(Step::Key(unquoted(inner).to_owned())),
        Err(_) => None,
    }
}

fn unquoted(text: &str) -> &str {
    let inner = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_paths_that_columns_use_are_found() {
        let object = json!({
            "spec": {"replicas": 3, "ports": [{"port": 80}, {"port": 443}], "a.b/c": "x", "list": [1, 2]},
            "status": {"conditions": [
                {"type": "Synced", "status": "False"},
                {"type": "Ready", "status": "True"},
            ]},
        });
        let check = |path: &str, expected: Value| {
            assert_eq!(find(&object, path).cloned().unwrap_or_default(), expected, "{path}");
        };
        check(".spec.replicas", json!(3));
        check("{.spec.replicas}", json!(3));
        check(".spec.ports[1].port", json!(443));
        check(".spec.ports[-1].port", json!(443));
        check(".spec.ports[*].port", json!(80));
        check(r#".status.conditions[?(@.type=="Ready")].status"#, json!("True"));
        check(".status.conditions[?(@.type=='Ready')].status", json!("True"));
        check(r".spec.a\.b/c", json!("x"));
        check(".spec['a.b/c']", json!("x"));
        check(".spec.list", json!([1, 2]));
        check(".spec.missing.deeper", Value::Null);
        check(".status.conditions[?(@.type==\"No\")].status", Value::Null);
        for broken in ["spec.x", ".spec[", ".spec[x]", ".a[?(b)]", "..", "\\", ".\\"] {
            find(&object, broken);
        }
    }
}
