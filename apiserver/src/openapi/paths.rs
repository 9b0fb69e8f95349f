//! The operations of each row.

use kontiki_proto::resource::{Resource, Subresource, Verbs};
use serde_json::{Map, Value, json};

use super::schema::kind_reference;

const META: &str = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.";

/// How a verb is served: the HTTP method, the word in operation ids, the action and what it is, in words.
struct Verb {
    verb: Verbs,
    method: &'static str,
    word: &'static str,
    action: &'static str,
    sentence: &'static str,
    parameters: &'static [&'static str],
}

const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const SELECT: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];

static COLLECTION: &[Verb] = &[
    Verb {
        verb: Verbs::DELETECOLLECTION,
        method: "delete",
        word: "deleteCollection",
        action: "deletecollection",
        sentence: "Deletes all objects that are selected",
        parameters: &[
            "continue",
            "dryRun",
            "fieldSelector",
            "gracePeriodSeconds",
            "labelSelector",
            "limit",
            "orphanDependents",
            "propagationPolicy",
            "resourceVersion",
            "resourceVersionMatch",
            "timeoutSeconds",
        ],
    },
    Verb {
        verb: Verbs::LIST,
        method: "get",
        word: "list",
        action: "list",
        sentence: "Lists or watches objects",
        parameters: SELECT,
    },
    Verb {
        verb: Verbs::CREATE,
        method: "post",
        word: "create",
        action: "post",
        sentence: "Creates an object",
        parameters: WRITE,
    },
];

static ITEM: &[Verb] = &[
    Verb {
        verb: Verbs::DELETE,
        method: "delete",
        word: "delete",
        action: "delete",
        sentence: "Deletes the object",
        parameters: &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"],
    },
    Verb {
        verb: Verbs::GET,
        method: "get",
        word: "read",
        action: "get",
        sentence: "Reads the object",
        parameters: &["resourceVersion"],
    },
    Verb {
        verb: Verbs::PATCH,
        method: "patch",
        word: "patch",
        action: "patch",
        sentence: "Changes parts of the object",
        parameters: &["dryRun", "fieldManager", "fieldValidation", "force"],
    },
    Verb {
        verb: Verbs::UPDATE,
        method: "put",
        word: "replace",
        action: "put",
        sentence: "Replaces the object",
        parameters: WRITE,
    },
    Verb {
        verb: Verbs::CREATE,
        method: "post",
        word: "create",
        action: "post",
        sentence: "Creates the document",
        parameters: WRITE,
    },
];

/// Query parameters: name, type, meaning.
static PARAMETERS: &[(&str, &str, &str)] = &[
    ("allowWatchBookmarks", "boolean", "Asks for events that carry nothing but a resource version."),
    ("continue", "string", "Goes on with a list where its page before ended."),
    ("dryRun", "string", "With the value All nothing is stored."),
    ("fieldManager", "string", "Who makes the change; for patches of the apply kind required."),
    ("fieldSelector", "string", "Restricts to objects whose fields have these values."),
    ("fieldValidation", "string", "What becomes of unknown and repeated fields: Ignore, Warn or Strict."),
    ("force", "boolean", "Takes over fields that another manager owns."),
    ("gracePeriodSeconds", "integer", "Seconds the object is given to end by itself."),
    ("labelSelector", "string", "Restricts to objects with these labels."),
    ("limit", "integer", "The most objects of one page."),
    ("orphanDependents", "boolean", "Whether dependents stay; propagationPolicy says more."),
    ("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
    ("resourceVersion", "string", "The state of the cluster that is asked for."),
    ("resourceVersionMatch", "string", "How resourceVersion is meant: NotOlderThan or Exact."),
    ("sendInitialEvents", "boolean", "Begins a watch with the objects there are."),
    ("timeoutSeconds", "integer", "The longest time the call may take."),
    ("watch", "boolean", "Streams changes instead of a list."),
];

/// Path items by path.
pub(super) fn of(rows: &[&Resource]) -> Value {
    let mut paths = Map::new();
    for row in rows {
        let root = match row.group.as_str() {
            "" => format!("/api/{}", row.version),
            group => format!("/apis/{group}/{}", row.version),
        };
        let within = if row.namespaced() { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{root}{within}/{}", row.plural);
        paths.insert(collection.clone(), item(row, None, COLLECTION, row.verbs, false));
        if row.namespaced() && row.verbs.contains(Verbs::LIST) {
            let all = json!({
                "get": operation(row, None, &COLLECTION[1], &format!("{}ForAllNamespaces", row.kind)),
            });
            paths.insert(format!("{root}/{}", row.plural), all);
        }
        // A create is one on the collection.
        let verbs = row.verbs.without(Verbs::CREATE);
        if ITEM.iter().any(|verb| verbs.contains(verb.verb)) {
            paths.insert(format!("{collection}/{{name}}"), item(row, None, ITEM, verbs, true));
        }
        for sub in &row.subresources {
            let path = format!("{collection}/{{name}}/{}", sub.name);
            paths.insert(path, item(row, Some(sub), ITEM, sub.verbs, true));
        }
    }
    Value::Object(paths)
}

fn item(row: &Resource, sub: Option<&Subresource>, table: &[Verb], verbs: Verbs, named: bool) -> Value {
    let mut item = Map::new();
    let scope = if row.namespaced() { "Namespaced" } else { "" };
    let tail = sub.map(|sub| capital(&sub.name)).unwrap_or_default();
    for verb in table.iter().filter(|verb| verbs.contains(verb.verb)) {
        let name = format!("{scope}{}{tail}", row.kind);
        item.insert(verb.method.into(), operation(row, sub, verb, &name));
    }
    let mut parameters = Vec::new();
    if named {
        parameters.push(path_parameter("name", &format!("Name of the {}.", row.kind)));
    }
    if row.namespaced() {
        parameters.push(path_parameter("namespace", "Namespace of the object."));
    }
    if !parameters.is_empty() {
        item.insert("parameters".into(), parameters.into());
    }
    Value::Object(item)
}

fn path_parameter(name: &str, meaning: &str) -> Value {
    json!({
        "name": name, "in": "path", "required": true, "description": meaning,
        "schema": {"type": "string", "uniqueItems": true},
    })
}

fn query_parameter(name: &str) -> Option<Value> {
    let (name, kind, meaning) = PARAMETERS.iter().find(|(known, ..)| *known == name)?;
    Some(json!({
        "name": name, "in": "query", "description": meaning, "schema": {"type": kind, "uniqueItems": true},
    }))
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// Such as `AppsV1`, `RbacAuthorizationV1`, `CoreV1`.
fn group_word(row: &Resource) -> String {
    let group = match row.group.as_str() {
        "" => "core",
        group => group.trim_end_matches(".k8s.io"),
    };
    let words: String = group.split(['.', '-']).map(capital).collect();
    format!("{words}{}", capital(&row.version))
}

fn operation(row: &Resource, sub: Option<&Subresource>, verb: &Verb, name: &str) -> Value {
    let (group, version, kind) = match sub {
        Some(sub) => (&sub.group, &sub.version, &sub.kind),
        None => (&row.group, &row.version, &row.kind),
    };
    let answer = match verb.action {
        "list" => kind_reference(group, version, &row.list_kind),
        "delete" | "deletecollection" => json!({"$ref": format!("{META}Status")}),
        _ => kind_reference(group, version, kind),
    };
    let id = if verb.action == "deletecollection" {
        format!("delete{}Collection{name}", group_word(row))
    } else {
        format!("{}{}{name}", verb.word, group_word(row))
    };
    let content = json!({"application/json": {"schema": answer}, "application/yaml": {"schema": answer}});
    let code = if verb.action == "post" { "201" } else { "200" };
    let parameters: Vec<_> = verb.parameters.iter().filter_map(|name| query_parameter(name)).collect();
    let mut operation = json!({
        "operationId": id,
        "description": format!("{}: {} of {}.", verb.sentence, row.kind, row.api_version()),
        "tags": [format!("{}_{}", if row.group.is_empty() { "core" } else { &row.group }, row.version)],
        "parameters": parameters,
        "responses": {
            code: {"description": "Success", "content": content},
            "401": {"description": "Unauthorized"},
        },
        "x-kubernetes-action": verb.action,
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
    });
    let body = match verb.action {
        "post" | "put" => Some(json!({"*/*": {"schema": kind_reference(group, version, kind)}})),
        "delete" | "deletecollection" => {
            Some(json!({"*/*": {"schema": {"$ref": format!("{META}DeleteOptions")}}}))
        }
        "patch" => {
            let patch = json!({"schema": {"$ref": format!("{META}Patch")}});
            let mut content = Map::new();
            // Clients send a strategic merge to whatever lists it; custom resources know none.
            let strategic = (!row.custom).then_some("strategic-merge-patch");
            for kind in ["json-patch", "merge-patch"].into_iter().chain(strategic) {
                content.insert(format!("application/{kind}+json"), patch.clone());
            }
            content.insert("application/apply-patch+yaml".into(), patch);
            Some(Value::Object(content))
        }
        _ => None,
    };
    if let Some(content) = body {
        operation["requestBody"] = json!({"content": content});
    }
    operation
}
