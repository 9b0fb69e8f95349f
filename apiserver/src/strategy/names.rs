//! What names may look like, and what upstream says of those that may not.

use std::net::IpAddr;

/// Which rule the names of a kind follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain: most kinds.
    Subdomain,
    /// RFC 1123 label: namespaces.
    Label,
    /// RFC 1035 label: services.
    Label1035,
    /// Anything that fits in a path: roles and bindings.
    PathSegment,
    /// Not judged here: the kind's own validation does it.
    Own,
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const QUALIFIED_WHOLE: &str = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

impl NameRule {
    /// Every objection to the name; `prefix` for a `generateName`, to which letters will be added.
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        let masked;
        let name = if prefix && name.len() > 1 && name.ends_with('-') {
            masked = format!("{}a", &name[..name.len() - 2]);
            masked.as_str()
        } else {
            name
        };
        match self {
            NameRule::Subdomain => subdomain(name),
            NameRule::Label => label(name),
            NameRule::Label1035 => label_1035(name),
            NameRule::PathSegment => path_segment(name),
            NameRule::Own => Vec::new(),
        }
    }
}

fn too_long(text: &str, most: usize) -> Option<String> {
    (text.len() > most).then(|| format!("must be no more than {most} bytes"))
}

fn findings(length: Option<String>, fits: bool, otherwise: &str) -> Vec<String> {
    length.into_iter().chain((!fits).then(|| otherwise.to_owned())).collect()
}

fn edges_and_middle(text: &str, edge: fn(u8) -> bool, middle: fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        [one] => edge(*one),
        [first, rest @ .., last] => edge(*first) && edge(*last) && rest.iter().all(|c| middle(*c)),
    }
}

fn lower(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    edges_and_middle(text, lower, |c| lower(c) || c == b'-')
}

fn is_qualified_part(text: &str) -> bool {
    edges_and_middle(
        text,
        |c| c.is_ascii_alphanumeric(),
        |c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'),
    )
}

pub fn label(text: &str) -> Vec<String> {
    findings(too_long(text, 63), is_label(text), LABEL)
}

pub fn label_1035(text: &str) -> Vec<String> {
    let fits = is_label(text) && text.as_bytes()[0].is_ascii_lowercase();
    findings(too_long(text, 63), fits, LABEL_1035)
}

pub fn subdomain(text: &str) -> Vec<String> {
    findings(too_long(text, 253), text.split('.').all(is_label), SUBDOMAIN)
}

/// As [`subdomain`], where the first label may be `*`.
pub fn wildcard_subdomain(text: &str) -> Vec<String> {
    let fits = text.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(is_label));
    findings(
        too_long(text, 253),
        fits,
        "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
    )
}

fn path_segment(name: &str) -> Vec<String> {
    if name == "." || name == ".." {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"]
        .into_iter()
        .filter(|part| name.contains(part))
        .map(|part| format!("may not contain '{part}'"))
        .collect()
}

/// Keys of labels and annotations, names of finalizers, conditions and extended resources.
pub fn qualified(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut parts = text.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                found.push("prefix part must be non-empty".to_owned());
            } else {
                found.extend(subdomain(prefix).into_iter().map(|error| format!("prefix part {error}")));
            }
            name
        }
        _ => return vec![QUALIFIED_WHOLE.to_owned()],
    };
    if name.is_empty() {
        found.push("name part must be non-empty".to_owned());
    } else if let Some(error) = too_long(name, 63) {
        found.push(format!("name part {error}"));
    }
    if !is_qualified_part(name) {
        found.push(QUALIFIED.to_owned());
    }
    found
}

pub fn label_value(text: &str) -> Vec<String> {
    findings(too_long(text, 63), text.is_empty() || is_qualified_part(text), LABEL_VALUE)
}

/// Keys of ConfigMaps and Secrets.
pub fn config_key(text: &str) -> Vec<String> {
    let characters = !text.is_empty()
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_'));
    let mut found = findings(too_long(text, 253), characters, CONFIG_KEY);
    found.extend(dots(text));
    found
}

fn dots(text: &str) -> Option<String> {
    match text {
        "." => Some("must not be '.'".into()),
        ".." => Some("must not be '..'".into()),
        _ if text.starts_with("..") => Some("must not start with '..'".into()),
        _ => None,
    }
}

/// Names of environment variables: anything printable but `=`.
pub fn env_var(text: &str) -> Vec<String> {
    let fits = !text.is_empty() && text.bytes().all(|c| (b' '..=b'~').contains(&c) && c != b'=');
    findings(
        None,
        fits,
        "a valid environment variable name must consist only of printable ASCII characters other than '='",
    )
}

/// Names of ports: `http`, `web-2`.
pub fn port_name(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if text.len() > 15 {
        found.push("must be no more than 15 characters".to_owned());
    }
    if text.is_empty() || !text.bytes().all(|c| lower(c) || c == b'-') {
        found.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|c| c.is_ascii_lowercase()) {
        found.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        found.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        found.push("must not begin or end with a hyphen".to_owned());
    }
    found
}

/// Numbers of ports.
pub fn port_number(port: i64) -> Option<&'static str> {
    (!(1..=65535).contains(&port)).then_some("must be between 1 and 65535, inclusive")
}

pub fn ip(text: &str) -> Option<&'static str> {
    text.parse::<IpAddr>().is_err().then_some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
}

pub fn cidr(text: &str) -> Option<&'static str> {
    let fits = text.split_once('/').is_some_and(|(address, bits)| {
        let most = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    });
    (!fits).then_some("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
}

/// Header names in HTTP probes and hooks.
pub fn http_header(text: &str) -> Vec<String> {
    let fits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    findings(
        None,
        fits,
        "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_by_the_rule_of_their_kind() {
        let ok =
            |rule: NameRule, name: &str| assert_eq!(rule.check(name, false), Vec::<String>::new(), "{name}");
        ok(NameRule::Subdomain, "a.b-c.d1");
        ok(NameRule::Label, "1a");
        ok(NameRule::Label1035, "a1");
        ok(NameRule::PathSegment, "system:node:x.y");
        let bad = |rule: NameRule, name: &str| assert!(!rule.check(name, false).is_empty(), "{name:?}");
        for name in ["", "A", "-a", "a-", "a..b", ".a", "a_b", &"a".repeat(254)] {
            bad(NameRule::Subdomain, name);
        }
        for name in ["a.b", "", &"a".repeat(64)] {
            bad(NameRule::Label, name);
        }
        bad(NameRule::Label1035, "1a");
        for name in ["a/b", "..", ".", "50%"] {
            bad(NameRule::PathSegment, name);
        }
    }

    #[test]
    fn a_generate_name_may_end_in_a_dash() {
        assert!(NameRule::Subdomain.check("web-", true).is_empty());
        assert!(NameRule::Label1035.check("web-", true).is_empty());
        assert!(!NameRule::Subdomain.check("-", true).is_empty());
    }

    #[test]
    fn qualified_names_have_at_most_one_prefix() {
        for good in ["app", "app.kubernetes.io/name", "A_b.c"] {
            assert!(qualified(good).is_empty(), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "A!/b", "a b", "UPPER.case/x"] {
            assert!(!qualified(bad).is_empty(), "{bad}");
        }
    }
}
