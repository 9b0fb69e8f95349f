//! Bootstrap tokens: `<id>.<secret>`, kept in a Secret of kube-system, with which a node registers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::{Objects, User};

/// Splits `abcdef.0123456789abcdef`; `None` where the token has another shape.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let (id, secret) = token.split_once('.')?;
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

fn field(secret: &Value, name: &str) -> Option<String> {
    let encoded = secret["data"][name].as_str()?;
    String::from_utf8(STANDARD.decode(encoded).ok()?).ok()
}

/// The user of a bootstrap token that is good now; `None` for every reason it may not be.
pub fn user(objects: &dyn Objects, id: &str, secret: &str, now: Timestamp) -> Option<User> {
    let object = objects.get("", "secrets", "kube-system", &format!("bootstrap-token-{id}"))?;
    if object["type"] != "bootstrap.kubernetes.io/token"
        || object["metadata"].get("deletionTimestamp").is_some()
    {
        return None;
    }
    let same = field(&object, "token-id")? == id && equal(&field(&object, "token-secret")?, secret);
    let meant = field(&object, "usage-bootstrap-authentication").as_deref() == Some("true");
    let expired = match field(&object, "expiration") {
        Some(text) => text.parse::<Timestamp>().map_or(true, |end| end <= now),
        None => false,
    };
    if !same || !meant || expired {
        return None;
    }
    let mut groups = vec!["system:bootstrappers".to_string()];
    let more = field(&object, "auth-extra-groups").unwrap_or_default();
    let more = more.split(',').map(str::trim).filter(|g| g.starts_with("system:bootstrappers:"));
    groups.extend(more.map(Into::into));
    Some(User::new(format!("system:bootstrap:{id}"), groups).authenticated())
}

/// Takes as long for every input of the same length.
fn equal(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::objects::fixture::Fixture;

    fn secret(changes: &[(&str, Option<&str>)]) -> Value {
        let mut data = json!({});
        let usual = [
            ("token-id", Some("abcdef")),
            ("token-secret", Some("0123456789abcdef")),
            ("usage-bootstrap-authentication", Some("true")),
            ("expiration", Some("2030-01-01T00:00:00Z")),
            ("auth-extra-groups", Some("system:bootstrappers:kontiki,admins")),
        ];
        for (name, value) in usual.iter().chain(changes) {
            data[*name] = value.map_or(Value::Null, |value| STANDARD.encode(value).into());
        }
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token", "data": data,
            "metadata": {"namespace": "kube-system", "name": "bootstrap-token-abcdef"},
        })
    }

    #[test]
    fn a_token_is_good_while_its_secret_says_so() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let check = |changes: &[(&str, Option<&str>)], given: &str| {
            let objects = Fixture::default().with([secret(changes)]);
            user(&objects, "abcdef", given, now)
        };
        let good = check(&[], "0123456789abcdef").expect("good");
        assert_eq!(good.name, "system:bootstrap:abcdef");
        let groups = ["system:bootstrappers", "system:bootstrappers:kontiki", "system:authenticated"];
        assert_eq!(good.groups, groups, "only groups under system:bootstrappers are given");
        assert!(check(&[("expiration", None)], "0123456789abcdef").is_some());
        assert!(check(&[], "0123456789abcdee").is_none());
        for change in [
            ("expiration", Some("2025-12-31T23:59:59Z")),
            ("expiration", Some("soon")),
            ("usage-bootstrap-authentication", None),
            ("usage-bootstrap-authentication", Some("false")),
            ("token-id", Some("abcdee")),
            ("token-secret", None),
        ] {
            assert_eq!(check(&[change], "0123456789abcdef"), None, "{change:?}");
        }
    }

    #[test]
    fn only_this_shape_is_a_bootstrap_token() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for other in ["abcdef", "abcde.0123456789abcdef", "ABCDEF.0123456789abcdef", "a.b.c", ""] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
