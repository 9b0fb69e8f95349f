//! ConfigMaps, Secrets, service accounts, and the limits of a namespace.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::value::{default, list_mut, object, remove, set};
use super::{Entry, PLAIN, Strategy};

pub(super) static KINDS: &[Entry] = &[
    ("", "configmaps", PLAIN),
    ("", "secrets", Strategy { default: secret, ..PLAIN }),
    ("", "serviceaccounts", PLAIN),
    ("", "limitranges", Strategy { default: limit_range, ..PLAIN }),
    ("", "resourcequotas", PLAIN),
];

/// `stringData` is written for people and never read: it goes into `data`.
fn secret(secret: &mut Value) {
    default(secret, "type", "Opaque");
    let Some(Value::Object(plain)) = secret.get_mut("stringData").map(Value::take) else {
        return;
    };
    remove(secret, "stringData");
    let data = object(secret, "data");
    for (key, value) in plain {
        set(data, &key, STANDARD.encode(value.as_str().unwrap_or_default()));
    }
}

fn limit_range(range: &mut Value) {
    for limit in list_mut(object(range, "spec"), "limits") {
        if limit["type"] != "Container" {
            continue;
        }
        for (target, sources) in [("default", ["max", "max"]), ("defaultRequest", ["default", "min"])] {
            for source in sources {
                let Some(Value::Object(amounts)) = limit.get(source).cloned() else { continue };
                let filled = object(limit, target);
                for (name, amount) in amounts {
                    default(filled, &name, amount);
                }
            }
        }
    }
}
