//! Whether rules allow all that other rules allow.
//!
//! Who may write roles could otherwise give itself anything: a role may only grant what its author holds.

use smol_str::SmolStr;

use super::Rule;
use super::rule::{resource_matches, url_matches};

/// The parts of `wanted`, one verb on one resource (or URL) each, that `held` does not allow. Empty: covered.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let parts = wanted.iter().flat_map(parts);
    parts.filter(|part| !held.iter().any(|rule| covers(rule, part))).collect()
}

/// Splits a rule into such of one verb, one group, one resource, one name or one URL.
fn parts(rule: &Rule) -> Vec<Rule> {
    let one = |item: &SmolStr| vec![item.clone()];
    let mut parts = Vec::new();
    for verb in &rule.verbs {
        for group in &rule.groups {
            for resource in &rule.resources {
                let names: Vec<Vec<SmolStr>> = match rule.names.as_slice() {
                    [] => vec![Vec::new()],
                    names => names.iter().map(one).collect(),
                };
                parts.extend(names.into_iter().map(|names| Rule {
                    verbs: one(verb),
                    groups: one(group),
                    resources: one(resource),
                    names,
                    urls: Vec::new(),
                }));
            }
        }
        parts.extend(rule.urls.iter().map(|url| Rule {
            verbs: one(verb),
            urls: one(url),
            ..Rule::default()
        }));
    }
    parts
}

fn covers(held: &Rule, part: &Rule) -> bool {
    let has = |held: &[SmolStr], wanted: &[SmolStr]| {
        held.iter().any(|item| item == "*") || wanted.iter().all(|item| held.contains(item))
    };
    let resource = |wanted: &SmolStr| {
        let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
        held.resources.iter().any(|held| resource_matches(held, resource, subresource))
    };
    let names = held.names.is_empty()
        || (!part.names.is_empty() && part.names.iter().all(|name| held.names.contains(name)));
    has(&held.verbs, &part.verbs)
        && has(&held.groups, &part.groups)
        && part.resources.iter().all(resource)
        && (part.resources.is_empty() || names)
        && part.urls.iter().all(|url| held.urls.iter().any(|held| url_matches(held, url)))
}
