//! Which names a kind takes, and the checks of [`kontiki_proto::names`] under the names they have here.

use kontiki_proto::names::{self, mask_trailing_dash, path_segment};
pub use kontiki_proto::names::{
    config_map_key as config_key, dns1035_label as label_1035, dns1123_label as label,
    dns1123_subdomain as subdomain, env_var_name as env_var, label_value, port_name,
    qualified_name as qualified, wildcard_dns1123_subdomain as wildcard_subdomain,
};

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

impl NameRule {
    /// Every objection to the name; `prefix` for a `generateName`, to which letters will be added.
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        let masked;
        let name = if prefix {
            masked = mask_trailing_dash(name);
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

/// What is wrong with the number of a port.
pub fn port_number(port: i64) -> Option<String> {
    names::port_number(port).pop()
}

/// What is wrong with an address.
pub fn ip(text: &str) -> Option<String> {
    names::ip(text).pop()
}

/// What is wrong with a range of addresses.
pub fn cidr(text: &str) -> Option<String> {
    let fits = text.split_once('/').is_some_and(|(address, bits)| {
        let most = match address.parse() {
            Ok(std::net::IpAddr::V4(_)) => 32,
            Ok(std::net::IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    });
    (!fits).then(|| "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned())
}

/// Header names in HTTP probes and hooks.
pub fn http_header(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return Vec::new();
    }
    vec![
        "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')"
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_by_the_rule_of_their_kind() {
        let ok = |rule: NameRule, name: &str| {
            assert_eq!(rule.check(name, false), Vec::<String>::new(), "{name}");
        };
        ok(NameRule::Subdomain, "a.b-c.d1");
        ok(NameRule::Label, "1a");
        ok(NameRule::Label1035, "a1");
        ok(NameRule::PathSegment, "system:node:x.y");
        let bad = |rule: NameRule, name: &str| assert!(!rule.check(name, false).is_empty(), "{name:?}");
        bad(NameRule::Subdomain, "A");
        bad(NameRule::Label, "a.b");
        bad(NameRule::Label1035, "1a");
        bad(NameRule::PathSegment, "a/b");
    }

    #[test]
    fn a_generate_name_may_end_in_a_dash() {
        assert!(NameRule::Subdomain.check("web-", true).is_empty());
        assert!(!NameRule::Subdomain.check("web-", false).is_empty());
        assert!(!NameRule::Subdomain.check("-", true).is_empty());
    }

    #[test]
    fn ranges_have_an_address_and_as_many_bits_as_it_has() {
        for good in ["10.0.0.0/8", "0.0.0.0/0", "2001:db8::/128"] {
            assert_eq!(cidr(good), None, "{good}");
        }
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/x"] {
            assert!(cidr(bad).is_some(), "{bad}");
        }
    }
}
