//! A definition to rows, and the status that accepts its names.

use jiff::Timestamp;
use kontiki_proto::Registry;
use kontiki_proto::resource::{Column, Resource, Scope, Verbs};
use serde_json::{Value, json};
use smol_str::SmolStr;

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn words(value: &Value) -> Vec<SmolStr> {
    items(value).filter_map(Value::as_str).map(SmolStr::from).collect()
}

/// Whether the definition has a condition of this type with status True.
pub fn is(definition: &Value, condition: &str) -> bool {
    items(&definition["status"]["conditions"]).any(|c| c["type"] == condition && c["status"] == "True")
}

/// One row for each served version of an established definition, the preferred version first.
pub fn rows(definition: &Value) -> Vec<Resource> {
    if !is(definition, "Established") {
        return Vec::new();
    }
    let spec = &definition["spec"];
    let names = &definition["status"]["acceptedNames"];
    let mut versions: Vec<&Value> =
        items(&spec["versions"]).filter(|version| version["served"] == true).collect();
    versions.sort_by_key(|version| std::cmp::Reverse(priority(text(&version["name"]))));
    let scope = if spec["scope"] == "Namespaced" { Scope::Namespaced } else { Scope::Cluster };
    let row = |version: &&Value| {
        let mut row = Resource::new(
            text(&spec["group"]),
            text(&version["name"]),
            text(&names["kind"]),
            text(&names["plural"]),
            scope,
            Verbs::ALL,
        )
        .with_subresources(subresources(version).into_iter());
        row.custom = true;
        row.singular = text(&names["singular"]).into();
        row.list_kind = text(&names["listKind"]).into();
        row.short_names = words(&names["shortNames"]);
        row.categories = words(&names["categories"]);
        let fields = items(&version["selectableFields"]).map(|field| text(&field["jsonPath"]));
        row.selectable_fields = fields.map(|path| path.trim_start_matches('.').into()).collect();
        row.columns = items(&version["additionalPrinterColumns"]).map(column).collect();
        row
    };
    versions.iter().map(row).collect()
}

/// `v2` before `v1`, then `v1beta2`, `v1beta1`, `v1alpha1`, then all other names.
fn priority(version: &str) -> (u8, u64, u64, std::cmp::Reverse<String>) {
    let parsed = version.strip_prefix('v').and_then(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u64 = rest[..end].parse().ok()?;
        let (stability, minor) = match &rest[end..] {
            "" => (3, 0),
            tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
                (Some(minor), _) => (2, minor.parse().ok()?),
                (_, Some(minor)) => (1, minor.parse().ok()?),
                _ => return None,
            },
        };
        Some((stability, major, minor))
    });
    let (stability, major, minor) = parsed.unwrap_or((0, 0, 0));
    (stability, major, minor, std::cmp::Reverse(version.to_string()))
}

/// `scale` is served where the numbers stand in their usual place.
fn subresources(version: &Value) -> Vec<&'static str> {
    let declared = &version["subresources"];
    let scale = &declared["scale"];
    let usual =
        scale["specReplicasPath"] == ".spec.replicas" && scale["statusReplicasPath"] == ".status.replicas";
    let all = [("scale", usual), ("status", declared["status"].is_object())];
    all.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
}

fn column(column: &Value) -> Column {
    Column {
        name: text(&column["name"]).into(),
        kind: text(&column["type"]).into(),
        format: text(&column["format"]).into(),
        description: text(&column["description"]).into(),
        priority: column["priority"].as_i64().and_then(|priority| priority.try_into().ok()).unwrap_or(0),
        json_path: text(&column["jsonPath"]).into(),
    }
}

/// What of the definition this server cannot do, with the field that asks for it.
pub fn unsupported(definition: &Value) -> Option<(String, &'static str)> {
    let spec = &definition["spec"];
    if spec["conversion"]["strategy"] == "Webhook" {
        return Some(("spec.conversion.strategy".into(), "conversion by webhook"));
    }
    let versions = items(&spec["versions"]).enumerate();
    for (at, version) in versions {
        if has_rules(&version["schema"]["openAPIV3Schema"]) {
            let field = format!("spec.versions[{at}].schema.openAPIV3Schema");
            return Some((field, "validation by x-kubernetes-validations"));
        }
    }
    None
}

fn has_rules(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => {
            map.get("x-kubernetes-validations").is_some_and(|rules| items(rules).next().is_some())
                || map.values().any(has_rules)
        }
        Value::Array(list) => list.iter().any(has_rules),
        _ => false,
    }
}

/// Why the names cannot be taken: another definition of the group, or a built-in resource, has one of them.
fn conflict(definition: &Value, others: &[Value]) -> Option<String> {
    let (spec, name) = (&definition["spec"], &definition["metadata"]["name"]);
    let group = text(&spec["group"]);
    if Registry::builtin()
        .rows()
        .iter()
        .any(|row| row.group == group && row.plural == text(&spec["names"]["plural"]))
    {
        return Some(format!("{} is a built-in resource", text(name)));
    }
    let of = |names: &Value| {
        let mut resources = vec![text(&names["plural"]).to_string(), text(&names["singular"]).to_string()];
        resources.extend(words(&names["shortNames"]).into_iter().map(String::from));
        let kinds = vec![text(&names["kind"]).to_string(), text(&names["listKind"]).to_string()];
        (resources, kinds)
    };
    let (resources, kinds) = of(&spec["names"]);
    for other in
        others.iter().filter(|other| other["metadata"]["name"] != *name && other["spec"]["group"] == group)
    {
        let (taken, taken_kinds) = of(&other["status"]["acceptedNames"]);
        let clash =
            resources.iter().find(|r| taken.contains(r)).or(kinds.iter().find(|k| taken_kinds.contains(k)));
        if let Some(clash) = clash.filter(|clash| !clash.is_empty()) {
            return Some(format!("{clash:?} is already in use"));
        }
    }
    None
}

/// The status of a definition whose names are judged against the other definitions there are.
pub fn status(definition: &Value, others: &[Value], now: Timestamp) -> Value {
    let old = &definition["status"];
    let now = now.round(jiff::Unit::Second).unwrap_or(now).to_string();
    let condition = |kind: &str, good: bool, reason: &str, message: &str| {
        let status = if good { "True" } else { "False" };
        let before = items(&old["conditions"]).find(|c| c["type"] == kind && c["status"] == status);
        let since = before.map_or_else(|| now.clone().into(), |before| before["lastTransitionTime"].clone());
        json!({
            "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since,
        })
    };
    let spec = &definition["spec"];
    let mut stored = words(&old["storedVersions"]);
    let storage = items(&spec["versions"]).find(|version| version["storage"] == true);
    if let Some(name) = storage.and_then(|version| version["name"].as_str())
        && !stored.iter().any(|known| known == name)
    {
        stored.push(name.into());
    }
    let (names, conditions) = match conflict(definition, others) {
        None => (
            spec["names"].clone(),
            vec![
                condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
                condition(
                    "Established",
                    true,
                    "InitialNamesAccepted",
                    "the initial names have been accepted",
                ),
            ],
        ),
        Some(why) => {
            // What was served before goes on under its old names.
            let served = is(definition, "Established");
            let names = if served { old["acceptedNames"].clone() } else { json!({"plural": "", "kind": ""}) };
            let established = if served {
                condition("Established", true, "InitialNamesAccepted", "the initial names have been accepted")
            } else {
                condition("Established", false, "NotAccepted", "not all names are accepted")
            };
            (names, vec![condition("NamesAccepted", false, "NamesConflict", &why), established])
        }
    };
    json!({"acceptedNames": names, "conditions": conditions, "storedVersions": stored})
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn toys() -> Value {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "toys.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "names": {"plural": "toys", "singular": "toy", "kind": "Toy", "listKind": "ToyList", "shortNames": ["ty"]},
                "versions": [
                    {"name": "v1alpha1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}},
                    {
                        "name": "v1", "served": true, "storage": true,
                        "schema": {"openAPIV3Schema": {"type": "object"}},
                        "subresources": {"status": {}},
                        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
                    },
                    {"name": "v0", "served": false, "storage": false},
                ],
            },
        })
    }

    fn accepted(mut definition: Value, others: &[Value]) -> Value {
        definition["status"] = status(&definition, others, Timestamp::UNIX_EPOCH);
        definition
    }

    #[test]
    fn an_established_definition_has_a_row_for_each_served_version() {
        assert!(rows(&toys()).is_empty(), "not before its names are accepted");
        let rows = rows(&accepted(toys(), &[]));
        let versions: Vec<_> = rows.iter().map(|row| row.version.as_str()).collect();
        assert_eq!(versions, ["v1", "v1alpha1"]);
        let row = &rows[0];
        assert_eq!((row.kind.as_str(), row.list_kind.as_str(), row.namespaced()), ("Toy", "ToyList", true));
        assert!(row.custom && row.stored());
        assert!(row.subresource("status").is_some() && row.subresource("scale").is_none());
        assert_eq!((row.columns[0].name.as_str(), row.short_names[0].as_str()), ("Size", "ty"));
        assert!(rows[1].subresources.is_empty());
    }

    #[test]
    fn names_belong_to_who_was_first() {
        let first = accepted(toys(), &[]);
        let mut second = toys();
        second["metadata"]["name"] = "toyz.example.com".into();
        second["spec"]["names"]["plural"] = "toyz".into();
        let second = accepted(second, std::slice::from_ref(&first));
        assert!(!is(&second, "Established") && rows(&second).is_empty());
        assert!(is(&accepted(first.clone(), &[second]), "Established"));
        let again = accepted(first.clone(), std::slice::from_ref(&first));
        assert!(is(&again, "Established"), "it does not stand in its own way");

        let mut builtin = toys();
        builtin["metadata"]["name"] = "deployments.apps".into();
        builtin["spec"]["group"] = "apps".into();
        builtin["spec"]["names"]["plural"] = "deployments".into();
        assert!(!is(&accepted(builtin, &[]), "Established"));
    }

    #[test]
    fn what_is_not_built_is_named() {
        assert_eq!(unsupported(&toys()), None);
        let mut rules = toys();
        rules["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["properties"] =
            json!({"spec": {"type": "object", "x-kubernetes-validations": [{"rule": "true"}]}});
        assert_eq!(unsupported(&rules).expect("named").0, "spec.versions[1].schema.openAPIV3Schema");
        let mut webhook = toys();
        webhook["spec"]["conversion"] = json!({"strategy": "Webhook"});
        assert!(unsupported(&webhook).is_some());
    }

    #[test]
    fn versions_are_ordered_by_maturity() {
        let mut versions = ["v1alpha1", "foo", "v2", "v1beta2", "v10", "v1beta10", "v1", "bar"];
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "bar", "foo"]);
    }
}
