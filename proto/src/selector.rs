//! Label and field selectors, as `kubectl -l` and `--field-selector` and `metav1.LabelSelector` write them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::names;

/// One term; all terms of a selector must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
    GreaterThan(String, i64),
    LessThan(String, i64),
}

/// A parsed label selector. The empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    pub requirements: Vec<Requirement>,
}

/// A parsed field selector: `path=value` and `path!=value`, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    pub terms: Vec<FieldTerm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub path: String,
    pub value: String,
    /// Whether the value must be equal, or must differ.
    pub equal: bool,
}

/// Why a text or a `metav1.LabelSelector` is no selector, in the words upstream's parser uses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub String);

fn fail<T>(message: impl Into<String>) -> Result<T, ParseError> {
    Err(ParseError(message.into()))
}

// ------------------------------------------------------------------------------------------------- label selectors

impl Requirement {
    pub fn key(&self) -> &str {
        match self {
            Requirement::In(key, _)
            | Requirement::NotIn(key, _)
            | Requirement::Exists(key)
            | Requirement::DoesNotExist(key)
            | Requirement::GreaterThan(key, _)
            | Requirement::LessThan(key, _) => key,
        }
    }

    /// Whether a value, or its absence, satisfies the requirement.
    fn admits(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match self {
            Requirement::In(_, values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
            Requirement::NotIn(_, values) => !value.is_some_and(|v| values.iter().any(|w| w == v)),
            Requirement::Exists(_) => value.is_some(),
            Requirement::DoesNotExist(_) => value.is_none(),
            Requirement::GreaterThan(_, bound) => number().is_some_and(|n| n > *bound),
            Requirement::LessThan(_, bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

impl Selector {
    /// Selects everything.
    pub fn everything() -> Selector {
        Selector::default()
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// All of the labels with exactly these values.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Selector {
        let requirements = labels.iter().map(|(k, v)| Requirement::In(k.clone(), vec![v.clone()])).collect();
        Selector { requirements }
    }

    /// Parses what `kubectl -l` takes: `a=b, c!=d, e in (f,g), h notin (i), j, !k, l>1, m<2`.
    pub fn parse(text: &str) -> Result<Selector, ParseError> {
        let mut parser = Parser { tokens: tokenize(text), at: 0 };
        let mut requirements = Vec::new();
        loop {
            match parser.peek(Context::Values) {
                Token::Word(_) | Token::Symbol("!") => {
                    let requirement = parser
                        .requirement()
                        .map_err(|error| ParseError(format!("unable to parse requirement: {error}")))?;
                    requirements.push(requirement);
                    match parser.next(Context::Values) {
                        Token::End => break,
                        Token::Symbol(",") => match parser.peek(Context::Values) {
                            Token::Word(_) | Token::Symbol("!") => {}
                            other => return fail(format!("found '{other}', expected: identifier after ','")),
                        },
                        other => {
                            return fail(format!("found '{other}', expected: ',' or 'end of string'"));
                        }
                    }
                }
                Token::End => break,
                other => {
                    return fail(format!("found '{other}', expected: !, identifier, or 'end of string'"));
                }
            }
        }
        Ok(Selector::sorted(requirements))
    }

    /// From `matchLabels` and `matchExpressions`; the empty one selects everything. What an absent selector means
    /// differs from field to field and is the caller's to know.
    pub fn from_label_selector(selector: &LabelSelector) -> Result<Selector, ParseError> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(checked(key, "=", vec![value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => "in",
                "NotIn" => "notin",
                "Exists" => "exists",
                "DoesNotExist" => "!",
                other => return fail(format!("\"{other}\" is not a valid label selector operator")),
            };
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(checked(&expression.key, operator, values)?);
        }
        Ok(Selector::sorted(requirements))
    }

    fn sorted(mut requirements: Vec<Requirement>) -> Selector {
        requirements.sort_by(|a, b| a.key().cmp(b.key()));
        Selector { requirements }
    }

    /// `label` looks a key up.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| requirement.admits(label(requirement.key())))
    }

    pub fn matches_map(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches(|key| labels.get(key).map(String::as_str))
    }
}

impl FromStr for Selector {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Selector, ParseError> {
        Selector::parse(text)
    }
}

/// In the syntax [`Selector::parse`] reads.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Requirement::In(key, values) if values.len() == 1 => write!(f, "{key}={}", values[0]),
            Requirement::NotIn(key, values) if values.len() == 1 => write!(f, "{key}!={}", values[0]),
            Requirement::In(key, values) => write!(f, "{key} in ({})", values.join(",")),
            Requirement::NotIn(key, values) => write!(f, "{key} notin ({})", values.join(",")),
            Requirement::Exists(key) => f.write_str(key),
            Requirement::DoesNotExist(key) => write!(f, "!{key}"),
            Requirement::GreaterThan(key, bound) => write!(f, "{key}>{bound}"),
            Requirement::LessThan(key, bound) => write!(f, "{key}<{bound}"),
        }
    }
}

/// `<nil>` is what upstream prints for the path of a selector that stands in no document.
fn check_key(key: &str) -> Result<(), ParseError> {
    match names::qualified_name(key)[..] {
        [] => Ok(()),
        ref problems => fail(format!("<nil>: Invalid value: \"{key}\": {}", problems.join("; "))),
    }
}

/// A requirement whose key, values and number of values obey upstream's rules.
fn checked(key: &str, operator: &str, values: Vec<String>) -> Result<Requirement, ParseError> {
    check_key(key)?;
    let wrong = |detail: &str| {
        let list = values.iter().map(|v| format!("\"{v}\"")).collect::<Vec<_>>().join(",");
        fail(format!("values: Invalid value: [{list}]: {detail}"))
    };
    match operator {
        "in" | "notin" if values.is_empty() => {
            return wrong("for 'in', 'notin' operators, values set can't be empty");
        }
        "=" | "==" | "!=" if values.len() != 1 => {
            return wrong("exact-match compatibility requires one single value");
        }
        "exists" | "!" if !values.is_empty() => {
            return wrong("values set must be empty for exists and does not exist");
        }
        ">" | "<" if values.len() != 1 => {
            return wrong("for 'Gt', 'Lt' operators, exactly one value is required");
        }
        _ => {}
    }
    for (index, value) in values.iter().enumerate() {
        if let problems @ [_, ..] = &names::label_value(value)[..] {
            let problems = problems.join("; ");
            return fail(format!("values[{index}][{key}]: Invalid value: \"{value}\": {problems}"));
        }
    }
    let bound = || match values[0].parse::<i64>() {
        Ok(bound) => Ok(bound),
        Err(_) => fail(format!(
            "values[0]: Invalid value: \"{}\": for 'Gt', 'Lt' operators, the value must be an integer",
            values[0]
        )),
    };
    let key = key.to_string();
    Ok(match operator {
        ">" => Requirement::GreaterThan(key, bound()?),
        "<" => Requirement::LessThan(key, bound()?),
        "exists" => Requirement::Exists(key),
        "!" => Requirement::DoesNotExist(key),
        "!=" | "notin" => Requirement::NotIn(key, distinct(values)),
        _ => Requirement::In(key, distinct(values)),
    })
}

fn distinct(values: Vec<String>) -> Vec<String> {
    values.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Symbol(&'static str),
    /// `in` or `notin` where an operator may stand.
    Set(&'static str),
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(word) => f.write_str(word),
            Token::Symbol(text) | Token::Set(text) => f.write_str(text),
            Token::End => Ok(()),
        }
    }
}

/// Where a word stands decides whether `in` is an operator.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    Values,
    Operator,
}

fn tokenize(text: &str) -> Vec<Token> {
    // Longer symbols first.
    const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)) {
            tokens.push(Token::Symbol(symbol));
            rest = rest[symbol.len()..].trim_start();
        } else {
            let end = rest.find(|c: char| c.is_whitespace() || "=!(),><".contains(c)).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_string()));
            rest = rest[end..].trim_start();
        }
    }
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self, context: Context) -> Token {
        match self.tokens.get(self.at) {
            None => Token::End,
            Some(Token::Word(word)) if context == Context::Operator && word == "in" => Token::Set("in"),
            Some(Token::Word(word)) if context == Context::Operator && word == "notin" => Token::Set("notin"),
            Some(token) => token.clone(),
        }
    }

    fn next(&mut self, context: Context) -> Token {
        let token = self.peek(context);
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, ParseError> {
        let absent = self.peek(Context::Values) == Token::Symbol("!");
        if absent {
            self.at += 1;
        }
        let key = match self.next(Context::Values) {
            Token::Word(key) => key,
            other => return fail(format!("found '{other}', expected: identifier")),
        };
        check_key(&key)?;
        if absent {
            return checked(&key, "!", Vec::new());
        }
        if matches!(self.peek(Context::Values), Token::End | Token::Symbol(",")) {
            return checked(&key, "exists", Vec::new());
        }
        match self.next(Context::Operator) {
            Token::Set(operator) => {
                let values = self.set()?;
                checked(&key, operator, values)
            }
            Token::Symbol(operator @ ("=" | "==" | "!=" | ">" | "<")) => {
                let value = self.exact_value()?;
                checked(&key, operator, vec![value])
            }
            other => fail(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        }
    }

    fn exact_value(&mut self) -> Result<String, ParseError> {
        if matches!(self.peek(Context::Values), Token::End | Token::Symbol(",")) {
            return Ok(String::new());
        }
        match self.next(Context::Values) {
            Token::Word(value) => Ok(value),
            other => fail(format!("found '{other}', expected: identifier")),
        }
    }

    /// `(a,b)`; a missing element is the empty value.
    fn set(&mut self) -> Result<Vec<String>, ParseError> {
        match self.next(Context::Values) {
            Token::Symbol("(") => {}
            other => return fail(format!("found '{other}' expected: '('")),
        }
        if self.peek(Context::Values) == Token::Symbol(")") {
            self.at += 1;
            return Ok(Vec::new());
        }
        let mut values = Vec::new();
        loop {
            match self.peek(Context::Values) {
                Token::Word(value) => {
                    self.at += 1;
                    values.push(value);
                }
                Token::Symbol("," | ")") => values.push(String::new()),
                other => return fail(format!("found '{other}', expected: ',', or identifier")),
            }
            match self.next(Context::Values) {
                Token::Symbol(",") => {}
                Token::Symbol(")") => return Ok(values),
                other => return fail(format!("found '{other}', expected: ',' or ')'")),
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------- field selectors

impl FieldSelector {
    /// Parses `path=value,path!=value`; `\` escapes `,`, `=` and itself in values. Which paths a resource knows is
    /// the server's to check.
    pub fn parse(text: &str) -> Result<FieldSelector, ParseError> {
        let mut terms = Vec::new();
        for part in split_unescaped(text).into_iter().filter(|part| !part.is_empty()) {
            let found = part.char_indices().find_map(|(at, _)| {
                let operator = ["!=", "==", "="].into_iter().find(|op| part[at..].starts_with(op))?;
                Some((&part[..at], operator, &part[at + operator.len()..]))
            });
            let Some((path, operator, value)) = found else {
                return fail(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            terms.push(FieldTerm { path: path.into(), value: unescape(value)?, equal: operator != "!=" });
        }
        Ok(FieldSelector { terms })
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// `field` looks a path up; an absent field is as good as an empty one.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|term| (field(&term.path).unwrap_or_default() == term.value) == term.equal)
    }

    /// The value a path must have, where the selector says so: `metadata.name=x` needs no scan.
    pub fn required_value(&self, path: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.path == path).map(|term| term.value.as_str())
    }
}

impl FromStr for FieldSelector {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<FieldSelector, ParseError> {
        FieldSelector::parse(text)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(&term.path)?;
            f.write_str(if term.equal { "=" } else { "!=" })?;
            for c in term.value.chars() {
                if matches!(c, '\\' | ',' | '=') {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(value: &str) -> Result<String, ParseError> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => plain.push(c),
                other => {
                    let sequence = other.map(String::from).unwrap_or_default();
                    return fail(format!("invalid field selector: invalid escape sequence: \\{sequence}"));
                }
            },
            ',' | '=' => {
                return fail(format!("invalid field selector: unescaped character in value: {c}"));
            }
            c => plain.push(c),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests;
