use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
use proptest::prelude::*;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect()
}

#[test]
fn a_selector_is_printed_in_canonical_form() {
    for (text, canonical) in [
        ("", ""),
        ("a", "a"),
        ("!a", "!a"),
        ("a=b", "a=b"),
        ("a==b", "a=b"),
        (" a = b , c != d ", "a=b,c!=d"),
        ("c=d,a=b", "a=b,c=d"),
        ("a in (b)", "a=b"),
        ("a in (c, b,b)", "a in (b,c)"),
        ("a notin (b,c)", "a notin (b,c)"),
        ("a in (,)", "a="),
        ("a in (b,)", "a in (,b)"),
        ("a=", "a="),
        ("a=,b", "a=,b"),
        ("a>1,b<2", "a>1,b<2"),
        ("in in (in,notin)", "in in (in,notin)"),
        ("example.com/a=b", "example.com/a=b"),
    ] {
        let parsed = Selector::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(parsed.to_string(), canonical, "{text:?}");
    }
}

#[test]
fn a_wrong_selector_is_refused_in_upstreams_words() {
    for (text, message) in [
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("a,", "found '', expected: identifier after ','"),
        (",a", "found ',', expected: !, identifier, or 'end of string'"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        (
            "a in ()",
            "unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
        ),
        (
            "a>b",
            "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
        ("a=(", "unable to parse requirement: found '(', expected: identifier"),
    ] {
        assert_eq!(Selector::parse(text).unwrap_err().to_string(), message, "{text:?}");
    }
    let bad_key = Selector::parse("-a=b").unwrap_err().to_string();
    assert!(
        bad_key.starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part"),
        "{bad_key}"
    );
    let bad_value = Selector::parse("a=-b").unwrap_err().to_string();
    assert!(
        bad_value
            .starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label"),
        "{bad_value}"
    );
}

#[test]
fn terms_match_as_upstream_defines_them() {
    let pod = labels(&[("app", "web"), ("tier", "front"), ("n", "5"), ("empty", "")]);
    for (text, expected) in [
        ("", true),
        ("app=web", true),
        ("app=db", false),
        ("app!=db", true),
        ("missing!=x", true),
        ("missing=x", false),
        ("app in (web,db)", true),
        ("missing notin (x)", true),
        ("app notin (web)", false),
        ("app", true),
        ("!app", false),
        ("!missing", true),
        ("n>4", true),
        ("n>5", false),
        ("n<6", true),
        ("app>1", false),
        ("missing<1", false),
        ("empty=", true),
        ("app=web,tier=back", false),
    ] {
        assert_eq!(Selector::parse(text).unwrap().matches_map(&pod), expected, "{text:?}");
    }
}

#[test]
fn a_structured_selector_joins_labels_and_expressions() {
    let expression = |key: &str, operator: &str, values: &[&str]| LabelSelectorRequirement {
        key: key.into(),
        operator: operator.into(),
        values: Some(values.iter().map(|v| (*v).to_string()).collect()),
    };
    let selector = LabelSelector {
        match_labels: Some(labels(&[("app", "web")])),
        match_expressions: Some(vec![
            expression("tier", "In", &["a", "b"]),
            expression("old", "DoesNotExist", &[]),
            expression("zone", "NotIn", &["x"]),
            expression("env", "Exists", &[]),
        ]),
    };
    let parsed = Selector::from_label_selector(&selector).unwrap();
    assert_eq!(parsed.to_string(), "app=web,env,!old,tier in (a,b),zone!=x");

    let wrong =
        LabelSelector { match_expressions: Some(vec![expression("a", "Near", &[])]), ..Default::default() };
    assert_eq!(
        Selector::from_label_selector(&wrong).unwrap_err().to_string(),
        "\"Near\" is not a valid label selector operator"
    );
    assert!(Selector::from_label_selector(&LabelSelector::default()).unwrap().is_empty());
}

#[test]
fn field_selectors_compare_paths_with_values() {
    let fields = labels(&[("metadata.name", "a"), ("status.phase", "Running"), ("odd", "x,y=z\\")]);
    let matches = |text: &str| {
        FieldSelector::parse(text)
            .unwrap_or_else(|error| panic!("{text:?}: {error}"))
            .matches(|path| fields.get(path).map(String::as_str))
    };
    for (text, expected) in [
        ("", true),
        ("metadata.name=a", true),
        ("metadata.name==a,status.phase!=Failed", true),
        ("metadata.name!=a", false),
        ("absent=", true),
        ("absent!=x", true),
        (r"odd=x\,y\=z\\", true),
    ] {
        assert_eq!(matches(text), expected, "{text:?}");
    }
    for (text, message) in [
        ("a", "invalid selector: 'a'; can't understand 'a'"),
        ("a=b=c", "invalid field selector: unescaped character in value: ="),
        (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
    ] {
        assert_eq!(FieldSelector::parse(text).unwrap_err().to_string(), message, "{text:?}");
    }
    let selector = FieldSelector::parse("metadata.name=a,spec.x!=y").unwrap();
    assert_eq!(selector.required_value("metadata.name"), Some("a"));
    assert_eq!(selector.required_value("spec.x"), None);
}

fn word() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9]([-a-zA-Z0-9_.]{0,8}[a-zA-Z0-9])?"
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let values = || proptest::collection::btree_set(prop_oneof![word(), Just(String::new())], 1..4);
    let list = move || values().prop_map(|set| set.into_iter().collect::<Vec<_>>());
    prop_oneof![
        (word(), list()).prop_map(|(k, v)| Requirement::In(k, v)),
        (word(), list()).prop_map(|(k, v)| Requirement::NotIn(k, v)),
        word().prop_map(Requirement::Exists),
        word().prop_map(Requirement::DoesNotExist),
        // A label value cannot begin with a sign.
        (word(), 0..i64::MAX).prop_map(|(k, n)| Requirement::GreaterThan(k, n)),
        (word(), 0..i64::MAX).prop_map(|(k, n)| Requirement::LessThan(k, n)),
    ]
}

proptest! {
    #[test]
    fn printing_and_parsing_gives_the_same_selector(requirements in proptest::collection::vec(requirement(), 0..5)) {
        let selector = Selector::sorted(requirements);
        prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
    }

    #[test]
    fn printing_and_parsing_gives_the_same_field_selector(
        terms in proptest::collection::vec(("[a-z.]{1,10}", "[a-z,=\\\\! ]{0,8}", any::<bool>()), 0..4)
    ) {
        let terms = terms.into_iter().map(|(path, value, equal)| FieldTerm { path, value, equal }).collect();
        let selector = FieldSelector { terms };
        prop_assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
    }

    #[test]
    fn equality_and_inequality_are_opposites(key in word(), value in word(), pairs in proptest::collection::btree_map(word(), word(), 0..4)) {
        let is = Selector::parse(&format!("{key}={value}")).unwrap().matches_map(&pairs);
        let is_not = Selector::parse(&format!("{key}!={value}")).unwrap().matches_map(&pairs);
        prop_assert_ne!(is, is_not);
    }

    #[test]
    fn no_input_panics(text in ".*|[a-z=!(),<> \\\\]{0,30}") {
        let _ = Selector::parse(&text);
        let _ = FieldSelector::parse(&text);
    }
}
