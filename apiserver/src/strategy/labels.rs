//! `LabelSelector`: validation, the string form, and matching.

use serde_json::Value;

use super::value::{entries, list, text};

/// The selector as `kubectl -l` takes it, keys in order; empty for an empty selector.
pub(crate) fn selector_text(selector: &Value) -> String {
    let mut terms: Vec<(String, String)> = entries(selector, "matchLabels")
        .map(|(key, value)| (key.to_owned(), format!("{key}={}", value.as_str().unwrap_or_default())))
        .collect();
    for expression in list(selector, "matchExpressions") {
        let key = text(expression, "key");
        let mut values: Vec<&str> = list(expression, "values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let term = match text(expression, "operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        terms.push((key.to_owned(), term));
    }
    terms.sort();
    terms.into_iter().map(|(_, term)| term).collect::<Vec<_>>().join(",")
}

/// Whether a label selector takes these labels. An empty selector takes everything.
pub(crate) fn matches(selector: &Value, labels: &Value) -> bool {
    let equal = entries(selector, "matchLabels").all(|(key, value)| labels.get(key) == Some(value));
    equal
        && list(selector, "matchExpressions").iter().all(|expression| {
            let own = labels.get(text(expression, "key"));
            let listed = own.is_some_and(|own| list(expression, "values").contains(own));
            match text(expression, "operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => own.is_some(),
                "DoesNotExist" => own.is_none(),
                _ => false,
            }
        })
}
