//! What names, labels, annotations and ports may look like.
//!
//! Every check returns what is wrong, in the words the Kubernetes API answers with; an empty list means valid. The
//! caller joins the messages into a [`crate::FieldError`].

/// Longest label value, label name and DNS label.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain, and so the longest name of most objects.
pub const SUBDOMAIN_MAX: usize = 253;

const LABEL_1123: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

fn alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Whether the text is not empty, starts and ends as told, and has nothing but `inner` between.
fn framed(text: &str, first: fn(u8) -> bool, inner: fn(u8) -> bool, last: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&a), Some(&z)) => first(a) && last(z) && bytes.iter().all(|&b| inner(b)),
        _ => false,
    }
}

fn is_label_1123(text: &str) -> bool {
    framed(text, lower_alphanumeric, |b| lower_alphanumeric(b) || b == b'-', lower_alphanumeric)
}

fn is_subdomain_1123(text: &str) -> bool {
    text.split('.').all(is_label_1123)
}

fn is_qualified(text: &str) -> bool {
    framed(text, alphanumeric, |b| alphanumeric(b) || matches!(b, b'-' | b'_' | b'.'), alphanumeric)
}

/// The message of a rule that is a regular expression, with examples of what it allows.
fn rule(what: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{what} (regex used for validation is '{pattern}')");
    }
    let examples = examples.iter().map(|example| format!("'{example}', ")).collect::<Vec<_>>().join(" or ");
    format!("{what} (e.g. {examples}regex used for validation is '{pattern}')")
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn not_empty() -> String {
    "must be non-empty".into()
}

/// A DNS label as RFC 1123 has it: most namespaced references, container names, namespaces.
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > LABEL_MAX {
        problems.push(too_long(LABEL_MAX));
    }
    if !is_label_1123(text) {
        problems.push(if is_subdomain_1123(text) {
            "must not contain dots".into()
        } else {
            rule(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                LABEL_1123,
                &["my-name", "123-abc"],
            )
        });
    }
    problems
}

/// A DNS subdomain as RFC 1123 has it: the name of most objects.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        problems.push(too_long(SUBDOMAIN_MAX));
    }
    if !is_subdomain_1123(text) {
        problems.push(rule(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            &format!(r"{LABEL_1123}(\.{LABEL_1123})*"),
            &["example.com"],
        ));
    }
    problems
}

/// `*.` and a DNS subdomain, as ingress hosts may be.
pub fn wildcard_dns1123_subdomain(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        problems.push(too_long(SUBDOMAIN_MAX));
    }
    if !text.strip_prefix("*.").is_some_and(is_subdomain_1123) {
        problems.push(rule(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!(r"\*\.{LABEL_1123}(\.{LABEL_1123})*"),
            &["*.example.com"],
        ));
    }
    problems
}

/// A DNS label as RFC 1035 has it, which starts with a letter: names of services.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > LABEL_MAX {
        problems.push(too_long(LABEL_MAX));
    }
    let valid =
        framed(text, |b| b.is_ascii_lowercase(), |b| lower_alphanumeric(b) || b == b'-', lower_alphanumeric);
    if !valid {
        problems.push(rule(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            LABEL_1035,
            &["my-name", "abc-123"],
        ));
    }
    problems
}

/// A label or annotation key: a name, optionally behind a DNS subdomain and a slash.
pub fn qualified_name(text: &str) -> Vec<String> {
    let pattern = |lead: &str| {
        let what = format!(
            "{lead}must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
        );
        rule(&what, QUALIFIED, &["MyName", "my.name", "123-abc"])
    };
    let mut problems = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                problems.push(format!("prefix part {}", not_empty()));
            } else {
                problems.extend(dns1123_subdomain(prefix).iter().map(|p| format!("prefix part {p}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "{} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                pattern("a qualified name ")
            )];
        }
    };
    if name.is_empty() {
        problems.push(format!("name part {}", not_empty()));
    } else if name.len() > LABEL_MAX {
        problems.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_qualified(name) {
        problems.push(pattern("name part "));
    }
    problems
}

/// The value of a label; empty is valid.
pub fn label_value(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > LABEL_MAX {
        problems.push(too_long(LABEL_MAX));
    }
    if !text.is_empty() && !is_qualified(text) {
        problems.push(rule(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &format!("({QUALIFIED})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    problems
}

/// What any name must be in order to stand in a URL path: roles and the like ask for no more.
pub fn path_segment(text: &str) -> Vec<String> {
    match text {
        "." => return vec!["may not be '.'".into()],
        ".." => return vec!["may not be '..'".into()],
        _ => {}
    }
    ["/", "%"]
        .into_iter()
        .filter(|illegal| text.contains(illegal))
        .map(|illegal| format!("may not contain '{illegal}'"))
        .collect()
}

/// A key in the data of a ConfigMap or Secret.
pub fn config_map_key(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        problems.push(too_long(SUBDOMAIN_MAX));
    }
    let allowed = |b: u8| alphanumeric(b) || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(allowed) {
        problems.push(rule(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    problems.extend(directory_like(text));
    problems
}

fn directory_like(text: &str) -> Option<String> {
    match text {
        "." => Some("must not be '.'".into()),
        ".." => Some("must not be '..'".into()),
        text if text.starts_with("..") => Some("must not start with '..'".into()),
        _ => None,
    }
}

/// The name of an environment variable: printable ASCII without `=`, as v1.36 has it.
pub fn env_var_name(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.is_empty() {
        problems.push(format!("environment variable name {}", not_empty()));
    }
    if !text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        problems.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .into(),
        );
    }
    problems
}

/// An IANA service name, as named ports are.
pub fn port_name(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > 15 {
        problems.push(too_long(15));
    }
    if text.is_empty() || !text.bytes().all(|b| lower_alphanumeric(b) || b == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        problems.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        problems.push("must not begin or end with a hyphen".into());
    }
    problems
}

/// A TCP, UDP or SCTP port.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".into()]
    }
}

/// An IPv4 or IPv6 address.
pub fn ip(text: &str) -> Vec<String> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        Vec::new()
    } else {
        vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()]
    }
}

/// What a `generateName` prefix is checked as: the dash it may end in stands before a random suffix, so that a letter
/// takes its place.
pub fn mask_trailing_dash(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(stem) if !stem.is_empty() => format!("{stem}a"),
        _ => prefix.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Check = fn(&str) -> Vec<String>;

    fn check(rule: Check, valid: &[&str], invalid: &[&str]) {
        for text in valid {
            assert_eq!(rule(text), Vec::<String>::new(), "{text:?} is valid");
        }
        for text in invalid {
            assert!(!rule(text).is_empty(), "{text:?} is invalid");
        }
    }

    #[test]
    fn each_rule_takes_what_upstream_takes() {
        let (l63, l64) = ("a".repeat(63), "a".repeat(64));
        let (s253, s254) = ("a.".repeat(126) + "a", "a.".repeat(126) + "aa");
        check(dns1123_label, &["a", "a-1", "1-a", &l63], &["", "-a", "a-", "A", "a.b", "a_b", &l64]);
        check(dns1123_subdomain, &["a", "a.b-c.1", &s253], &["", ".", "a..b", "a.", "A.b", &s254]);
        check(dns1035_label, &["a", "a-1"], &["", "1a", "-a", "a.b"]);
        check(wildcard_dns1123_subdomain, &["*.a", "*.a.b"], &["*", "a.b", "*.", "*.*.a"]);
        check(
            qualified_name,
            &["a", "A_b.c", "example.com/Name", "1/2"],
            &["", "/a", "a/", "a/b/c", "Example.com/a", "-a", "a b", &l64],
        );
        check(label_value, &["", "a", "A.b_c-d", &l63], &["-", "a b", "a/b", &l64]);
        check(path_segment, &["a", "system:node", "..."], &[".", "..", "a/b", "a%b"]);
        check(config_map_key, &["a.b", "A_", "-", ".a"], &["", ".", "..", "..a", "a/b"]);
        check(env_var_name, &["A", "a.b", "1 x"], &["", "a=b", "ä", "\t"]);
        check(port_name, &["http", "a-1"], &["", "1", "a--b", "-a", "HTTP", "abcdefghijklmnop"]);
        check(ip, &["10.0.0.1", "::1"], &["", "10.0.0", "10.0.0.01", "a"]);
    }

    #[test]
    fn messages_name_the_rule_and_give_examples() {
        assert_eq!(
            dns1123_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(
            qualified_name("a/b/c"),
            [
                "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ]
        );
        assert_eq!(label_value(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
    }

    #[test]
    fn a_generated_name_may_follow_a_dash() {
        assert_eq!(mask_trailing_dash("web-"), "weba");
        assert_eq!(mask_trailing_dash("web"), "web");
        assert_eq!(mask_trailing_dash("-"), "-");
    }

    proptest! {
        #[test]
        fn a_label_is_a_subdomain_and_a_label_value(text in "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?") {
            prop_assert!(dns1123_label(&text).is_empty());
            prop_assert!(dns1123_subdomain(&text).is_empty());
            prop_assert!(label_value(&text).is_empty());
        }

        #[test]
        fn no_input_panics(text in ".*") {
            for rule in [dns1123_label, dns1123_subdomain, dns1035_label, qualified_name, label_value,
                         path_segment, config_map_key, env_var_name, port_name, ip] as [Check; 10] {
                let _ = rule(&text);
            }
            let _ = mask_trailing_dash(&text);
        }
    }
}
