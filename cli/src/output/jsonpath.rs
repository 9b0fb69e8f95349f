//! JSONPath templates as `kubectl -o jsonpath` reads them.
//!
//! Text stands for itself; in braces stand paths (`{.items[*].metadata.name}`), quoted text (`{"\n"}`) and loops
//! (`{range .items[*]}…{end}`). A path has fields (`.a`, `['a']`, `.a\.b`), indices and slices (`[0]`, `[-1]`,
//! `[0:4:2]`, `[0,2]`), wildcards (`.*`, `[*]`), recursive descent (`..a`) and filters (`[?(@.a=="b")]`). What is not
//! there is left out.

use anyhow::{Result, bail};
use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Text(String),
    Path(Path),
    Range(Path, Vec<Node>),
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Path {
    /// Whether it begins at the document, and not at the loop's item.
    is_absolute: bool,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Wildcard,
    /// The value itself and everything below it.
    Descend,
    Union(Vec<Element>),
    Filter(Operand, Option<(Comparison, Operand)>),
}

#[derive(Clone, Debug, PartialEq)]
enum Element {
    Name(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>, i64),
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(Path),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Fills a template with what it names in the document. A template without braces is one path.
///
/// # Errors
/// A template that does not parse: the message says at which part.
pub fn evaluate(template: &str, document: &Value) -> Result<String> {
    let nodes = parse(template)?;
    let mut text = String::new();
    write(&nodes, document, document, &mut text);
    Ok(text)
}

/// Everything a path leads to.
///
/// # Errors
/// A path that does not parse, or a template of several parts.
pub fn find(path: &str, document: &Value) -> Result<Vec<Value>> {
    match parse(path)?.as_slice() {
        [Node::Path(path)] => Ok(follow(path, document, document).into_iter().cloned().collect()),
        _ => bail!("{path:?} is not one JSONPath"),
    }
}

fn write(nodes: &[Node], root: &Value, current: &Value, text: &mut String) {
    for node in nodes {
        match node {
            Node::Text(plain) => text.push_str(plain),
            Node::Path(path) => {
                let words: Vec<String> = follow(path, root, current).into_iter().map(shown).collect();
                text.push_str(&words.join(" "));
            }
            Node::Range(path, body) => {
                for item in follow(path, root, current) {
                    write(body, root, item, text);
                }
            }
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

// -------------------------------------------------------------------------------------------------------- evaluation

fn follow<'v>(path: &Path, root: &'v Value, current: &'v Value) -> Vec<&'v Value> {
    let mut found = vec![if path.is_absolute { root } else { current }];
    for step in &path.steps {
        found = found.into_iter().flat_map(|value| advance(step, root, value)).collect();
    }
    found
}

fn advance<'v>(step: &Step, root: &'v Value, value: &'v Value) -> Vec<&'v Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Wildcard => children(value),
        Step::Descend => {
            let mut all = vec![value];
            let mut at = 0;
            while let Some(next) = all.get(at) {
                all.extend(children(next));
                at += 1;
            }
            all
        }
        Step::Union(elements) => elements.iter().flat_map(|element| pick(element, value)).collect(),
        Step::Filter(left, comparison) => {
            children(value).into_iter().filter(|item| passes(left, comparison.as_ref(), root, item)).collect()
        }
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

fn pick<'v>(element: &Element, value: &'v Value) -> Vec<&'v Value> {
    let items = match (element, value) {
        (Element::Name(name), value) => return value.get(name).into_iter().collect(),
        (_, Value::Array(items)) => items,
        _ => return Vec::new(),
    };
    let length = items.len() as i64;
    let from_end = |index: i64| if index < 0 { index + length } else { index };
    match element {
        Element::Name(_) => Vec::new(),
        Element::Index(index) => {
            usize::try_from(from_end(*index)).ok().and_then(|at| items.get(at)).into_iter().collect()
        }
        Element::Slice(start, end, step) => {
            let start = from_end(start.unwrap_or(0)).clamp(0, length);
            let end = from_end(end.unwrap_or(length)).clamp(start, length);
            items[start as usize..end as usize].iter().step_by(*step as usize).collect()
        }
    }
}

fn passes(left: &Operand, comparison: Option<&(Comparison, Operand)>, root: &Value, item: &Value) -> bool {
    let Some((comparison, right)) = comparison else {
        return !operand(left, root, item).is_empty();
    };
    let (left, right) = (operand(left, root, item), operand(right, root, item));
    match (left.as_slice(), right.as_slice()) {
        ([left], [right]) => compare(*comparison, left, right),
        _ => false,
    }
}

fn operand<'v>(operand: &'v Operand, root: &'v Value, item: &'v Value) -> Vec<&'v Value> {
    match operand {
        Operand::Literal(value) => vec![value],
        Operand::Path(path) => follow(path, root, item),
    }
}

/// Numbers by size, texts by their letters; values of different kinds only differ.
fn compare(comparison: Comparison, left: &Value, right: &Value) -> bool {
    let order = match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (left, right) => left.as_f64().zip(right.as_f64()).and_then(|(l, r)| l.partial_cmp(&r)),
    };
    match (comparison, order) {
        (Comparison::Equal, Some(order)) => order.is_eq(),
        (Comparison::NotEqual, Some(order)) => order.is_ne(),
        (Comparison::Equal, None) => left == right,
        (Comparison::NotEqual, None) => left != right,
        (Comparison::Less, order) => order.is_some_and(std::cmp::Ordering::is_lt),
        (Comparison::LessOrEqual, order) => order.is_some_and(std::cmp::Ordering::is_le),
        (Comparison::Greater, order) => order.is_some_and(std::cmp::Ordering::is_gt),
        (Comparison::GreaterOrEqual, order) => order.is_some_and(std::cmp::Ordering::is_ge),
    }
}

// ----------------------------------------------------------------------------------------------------------- parsing

fn parse(template: &str) -> Result<Vec<Node>> {
    if !template.contains('{') {
        let text = template.trim_start_matches('$');
        let path = if text.starts_with(['.', '[']) { text.to_string() } else { format!(".{text}") };
        return Ok(vec![Node::Path(parse_path(&path)?)]);
    }
    // The bodies of the loops that are open, with each loop's path.
    let mut open: Vec<(Path, Vec<Node>)> = Vec::new();
    let mut nodes = Vec::new();
    let mut rest = template;
    while !rest.is_empty() {
        let Some(start) = rest.find('{') else {
            nodes.push(Node::Text(rest.into()));
            break;
        };
        if start > 0 {
            nodes.push(Node::Text(rest[..start].into()));
        }
        let Some(length) = action_length(&rest[start + 1..]) else {
            bail!("unclosed action in the JSONPath template: {}", &rest[start..]);
        };
        let action = rest[start + 1..start + 1 + length].trim();
        rest = &rest[start + length + 2..];
        if let Some(path) = action.strip_prefix("range ") {
            open.push((parse_path(path.trim())?, std::mem::take(&mut nodes)));
        } else if action == "end" {
            let Some((path, before)) = open.pop() else {
                bail!("{{end}} without {{range}} in the JSONPath template")
            };
            let body = std::mem::replace(&mut nodes, before);
            nodes.push(Node::Range(path, body));
        } else {
            nodes.extend(parse_action(action)?);
        }
    }
    if !open.is_empty() {
        bail!("{{range}} without {{end}} in the JSONPath template");
    }
    Ok(nodes)
}

/// Up to the closing brace that stands in no quotes.
fn action_length(text: &str) -> Option<usize> {
    let (mut quote, mut is_escaped) = (None, false);
    for (at, c) in text.char_indices() {
        match (c, quote) {
            _ if is_escaped => is_escaped = false,
            ('\\', _) => is_escaped = true,
            (c, Some(mark)) if c == mark => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            ('}', None) => return Some(at),
            _ => {}
        }
    }
    None
}

/// Quoted texts and paths, one after another.
fn parse_action(action: &str) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    let mut cursor = Cursor { text: action, at: 0 };
    loop {
        cursor.skip_blanks();
        match cursor.peek() {
            None => return Ok(nodes),
            Some('"' | '\'') => nodes.push(Node::Text(cursor.quoted()?)),
            Some(_) => nodes.push(Node::Path(cursor.path()?)),
        }
    }
}

fn parse_path(text: &str) -> Result<Path> {
    let mut cursor = Cursor { text, at: 0 };
    let path = cursor.path()?;
    cursor.skip_blanks();
    match cursor.rest() {
        "" => Ok(path),
        rest => bail!("unexpected {rest:?} in the JSONPath {text:?}"),
    }
}

struct Cursor<'t> {
    text: &'t str,
    at: usize,
}

impl Cursor<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self, expected: &str) -> bool {
        let is_there = self.rest().starts_with(expected);
        if is_there {
            self.at += expected.len();
        }
        is_there
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += self.peek().map_or(0, char::len_utf8);
        }
    }

    fn expect(&mut self, expected: &str) -> Result<()> {
        if self.take(expected) {
            return Ok(());
        }
        bail!("expected {expected:?} before {:?} in the JSONPath {:?}", self.rest(), self.text)
    }

    fn quoted(&mut self) -> Result<String> {
        let Some(mark) = self.peek() else { bail!("a quote is missing in {:?}", self.text) };
        self.at += 1;
        let mut plain = String::new();
        while let Some(c) = self.peek() {
            self.at += c.len_utf8();
            match c {
                c if c == mark => return Ok(plain),
                '\\' => {
                    let Some(next) = self.peek() else { break };
                    self.at += next.len_utf8();
                    plain.push(match next {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        other => other,
                    });
                }
                c => plain.push(c),
            }
        }
        bail!("a quote is not closed in the JSONPath {:?}", self.text)
    }

    fn path(&mut self) -> Result<Path> {
        let start = self.at;
        let mut path = Path::default();
        if self.take("$") {
            path.is_absolute = true;
        } else {
            self.take("@");
        }
        loop {
            if self.take("..") {
                path.steps.push(Step::Descend);
                if !matches!(self.peek(), Some('[')) {
                    let step = self.name()?;
                    path.steps.push(step);
                }
            } else if self.take(".") {
                // A single dot is the value itself.
                if !matches!(self.peek(), None | Some('[' | ' ' | ')')) {
                    let step = self.name()?;
                    path.steps.push(step);
                }
            } else if self.take("[") {
                let step = self.bracket()?;
                path.steps.push(step);
            } else if self.peek().is_some_and(|c| c.is_alphanumeric() || c == '_') && path.steps.is_empty() {
                // `{range items[*]}`: the first dot may be missing.
                let step = self.name()?;
                path.steps.push(step);
            } else if self.at == start {
                bail!("unrecognized {:?} in the JSONPath {:?}", self.rest(), self.text);
            } else {
                return Ok(path);
            }
        }
    }

    fn name(&mut self) -> Result<Step> {
        if self.take("*") {
            return Ok(Step::Wildcard);
        }
        let mut name = String::new();
        while let Some(c) = self.peek() {
            let escaped = c == '\\';
            if escaped {
                self.at += 1;
            } else if c.is_whitespace() || ".[]()=!<>,'\"{}".contains(c) {
                break;
            }
            let Some(c) = self.peek() else { break };
            name.push(c);
            self.at += c.len_utf8();
        }
        if name.is_empty() {
            bail!("a field name is missing before {:?} in the JSONPath {:?}", self.rest(), self.text);
        }
        Ok(Step::Field(name))
    }

    fn bracket(&mut self) -> Result<Step> {
        self.skip_blanks();
        if self.take("*") {
            self.expect("]")?;
            return Ok(Step::Wildcard);
        }
        if self.take("?(") {
            return self.filter();
        }
        let mut elements = Vec::new();
        loop {
            self.skip_blanks();
            elements.push(match self.peek() {
                Some('"' | '\'') => Element::Name(self.quoted()?),
                _ => self.index_or_slice()?,
            });
            self.skip_blanks();
            if !self.take(",") {
                self.expect("]")?;
                return Ok(Step::Union(elements));
            }
        }
    }

    fn index_or_slice(&mut self) -> Result<Element> {
        let first = self.number()?;
        if !self.take(":") {
            return match first {
                Some(index) => Ok(Element::Index(index)),
                None => bail!("invalid array index before {:?} in the JSONPath {:?}", self.rest(), self.text),
            };
        }
        let end = self.number()?;
        let step = if self.take(":") { self.number()?.unwrap_or(1) } else { 1 };
        if step < 1 {
            bail!("the step of a slice must be positive in the JSONPath {:?}", self.text);
        }
        Ok(Element::Slice(first, end, step))
    }

    fn number(&mut self) -> Result<Option<i64>> {
        let digits: String = self.rest().chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect();
        self.at += digits.len();
        match digits.as_str() {
            "" => Ok(None),
            digits => match digits.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => bail!("{digits:?} is no array index in the JSONPath {:?}", self.text),
            },
        }
    }

    fn filter(&mut self) -> Result<Step> {
        self.skip_blanks();
        let left = self.operand()?;
        self.skip_blanks();
        let symbols = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let comparison = match symbols.into_iter().find(|(symbol, _)| self.rest().starts_with(symbol)) {
            Some((symbol, comparison)) => {
                self.at += symbol.len();
                self.skip_blanks();
                Some((comparison, self.operand()?))
            }
            None => None,
        };
        self.skip_blanks();
        self.expect(")")?;
        self.expect("]")?;
        Ok(Step::Filter(left, comparison))
    }

    fn operand(&mut self) -> Result<Operand> {
        match self.peek() {
            Some('"' | '\'') => Ok(Operand::Literal(Value::String(self.quoted()?))),
            Some('@' | '$' | '.') => Ok(Operand::Path(self.path()?)),
            _ => {
                let word: String =
                    self.rest().chars().take_while(|c| c.is_alphanumeric() || "+-._".contains(*c)).collect();
                self.at += word.len();
                match serde_json::from_str(&word) {
                    Ok(value) => Ok(Operand::Literal(value)),
                    Err(_) => bail!("{word:?} is no value to compare with in the JSONPath {:?}", self.text),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({
            "kind": "List",
            "metadata": { "annotations": { "a.b/c": "dotted" } },
            "items": [
                { "metadata": { "name": "one", "labels": { "x": "1" } }, "n": 1, "ok": true },
                { "metadata": { "name": "two" }, "n": 2, "ok": false },
                { "metadata": { "name": "three" }, "n": 3, "ok": true, "deep": [{ "name": "inner" }] },
            ],
        })
    }

    #[test]
    fn templates_give_what_kubectl_gives() {
        for (template, expected) in [
            ("{.kind}", "List"),
            (".kind", "List"),
            ("kind", "List"),
            ("{$.kind}", "List"),
            ("kind is {.kind}!", "kind is List!"),
            ("{.items[0].metadata.name}", "one"),
            ("{.items[-1].metadata.name}", "three"),
            ("{.items[*].metadata.name}", "one two three"),
            ("{.items[0:2].n}", "1 2"),
            ("{.items[::2].n}", "1 3"),
            ("{.items[1:].n}", "2 3"),
            ("{.items[0,2].n}", "1 3"),
            ("{.items[0]['metadata'].name}", "one"),
            ("{.items[0]['n','ok']}", "1 true"),
            ("{.metadata.annotations.a\\.b/c}", "dotted"),
            ("{.metadata.annotations['a.b/c']}", "dotted"),
            ("{.items[0].metadata.labels}", "{\"x\":\"1\"}"),
            ("{.items[0].metadata.labels.*}", "1"),
            ("{.items[?(@.n==2)].metadata.name}", "two"),
            ("{.items[?(@.n>=2)].n}", "2 3"),
            ("{.items[?(@.n!=2)].n}", "1 3"),
            ("{.items[?(@.ok==true)].n}", "1 3"),
            ("{.items[?(@.metadata.name==\"three\")].n}", "3"),
            ("{.items[?(@.metadata.name=='three')].n}", "3"),
            ("{.items[?(@.deep)].n}", "3"),
            ("{..name}", "one two three inner"),
            ("{range .items[*]}{.metadata.name}={.n}{\"\\n\"}{end}", "one=1\ntwo=2\nthree=3\n"),
            ("{range .items[*]}[{.n}]{end}.", "[1][2][3]."),
            ("{range .items[2:]}{range .deep[*]}{.name}{end}{end}", "inner"),
            ("{range .items[*]}{$.kind} {end}", "List List List "),
            ("{.items[0].n}{\"\\t\"}{.items[1].n}", "1\t2"),
            ("{\"}\"}", "}"),
            ("{.missing.field}", ""),
            ("{.items[9].n}", ""),
            ("{.kind.x}", ""),
            ("{.items[0]}", "{\"metadata\":{\"labels\":{\"x\":\"1\"},\"name\":\"one\"},\"n\":1,\"ok\":true}"),
        ] {
            let got = evaluate(template, &document()).unwrap_or_else(|error| panic!("{template}: {error}"));
            // Objects are compared as values: the order of keys is not promised.
            match (serde_json::from_str::<Value>(&got), serde_json::from_str::<Value>(expected)) {
                (Ok(got), Ok(expected)) if got.is_object() => assert_eq!(got, expected, "{template}"),
                _ => assert_eq!(got, expected, "{template}"),
            }
        }
    }

    #[test]
    fn a_wrong_template_is_refused_with_the_part_that_is_wrong() {
        for (template, expected) in [
            ("{.kind", "unclosed action"),
            ("{range .items[*]}", "without {end}"),
            ("{end}", "without {range}"),
            ("{.items[x]}", "invalid array index"),
            ("{.items[0}", "expected \"]\""),
            ("{.items[?(@.n==)]}", "no value to compare with"),
            ("{.items[::0]}", "step"),
            ("{.a[']}", "unclosed action"),
            ("{..}", "field name is missing"),
            ("{,}", "unrecognized"),
            ("{@,}", "unrecognized"),
        ] {
            let error = evaluate(template, &document()).unwrap_err().to_string();
            assert!(error.contains(expected), "{template}: {error}");
        }
    }

    #[test]
    fn find_gives_values() {
        assert_eq!(find("{.items[*].n}", &document()).unwrap(), [json!(1), json!(2), json!(3)]);
        assert!(find("a{.b}", &document()).is_err());
    }
}
