//! The parsed form of `types.txt`.

use std::collections::HashMap;
use std::sync::OnceLock;

/// A type of the table; costs nothing to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeRef(u16);

/// What a field, list item or map value holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    String,
    Int32,
    Int64,
    Double,
    Bool,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339 in seconds.
    Time,
    /// RFC 3339 in microseconds.
    MicroTime,
    Quantity,
    IntOrString,
    /// Any JSON, kept as it is.
    Any,
    Struct(TypeRef),
    List(Nested),
    /// A map with string keys.
    Map(Nested),
}

/// The shape of a list's items or a map's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nested(u16);

impl Nested {
    pub fn shape(self) -> Shape {
        table().nested[usize::from(self.0)]
    }
}

/// How server-side apply sees a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    Atomic,
    Set,
    /// By the keys of [`Field::list_keys`].
    Map,
}

const REQUIRED: u8 = 1;
const LIST_ATOMIC: u8 = 1 << 1;
const LIST_SET: u8 = 1 << 2;
const MAP_ATOMIC: u8 = 1 << 3;
const MERGE: u8 = 1 << 4;
const RETAIN_KEYS: u8 = 1 << 5;

/// One field of a type.
#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub shape: Shape,
    flags: u8,
    list_keys: &'static str,
    merge_key: &'static str,
    default: &'static str,
}

impl Field {
    pub fn required(&self) -> bool {
        self.flags & REQUIRED != 0
    }

    /// `None` where the schema says nothing, which means atomic.
    pub fn list_type(&self) -> Option<ListType> {
        if !self.list_keys.is_empty() {
            Some(ListType::Map)
        } else if self.flags & LIST_SET != 0 {
            Some(ListType::Set)
        } else if self.flags & LIST_ATOMIC != 0 {
            Some(ListType::Atomic)
        } else {
            None
        }
    }

    /// The keys that tell items of a [`ListType::Map`] apart.
    pub fn list_keys(&self) -> impl Iterator<Item = &'static str> {
        self.list_keys.split('+').filter(|key| !key.is_empty())
    }

    /// Whether server-side apply takes the map or object as one value.
    pub fn atomic(&self) -> bool {
        self.flags & MAP_ATOMIC != 0
    }

    /// Whether strategic merge merges the list instead of replacing it.
    pub fn merges(&self) -> bool {
        self.flags & MERGE != 0
    }

    /// The key by which strategic merge pairs the items of a list of objects.
    pub fn merge_key(&self) -> Option<&'static str> {
        (!self.merge_key.is_empty()).then_some(self.merge_key)
    }

    /// Whether strategic merge honours `$retainKeys` here.
    pub fn retains_keys(&self) -> bool {
        self.flags & RETAIN_KEYS != 0
    }

    /// The declared default, as JSON.
    pub fn default(&self) -> Option<&'static str> {
        (!self.default.is_empty()).then_some(self.default)
    }

    /// Whether the object is there even when nobody gave it, as a struct inside a Go struct is.
    pub fn embedded(&self) -> bool {
        self.default == "{}"
    }
}

struct Type {
    name: &'static str,
    kind: &'static str,
    first: u32,
    count: u16,
}

pub(super) struct Table {
    types: Vec<Type>,
    fields: Vec<Field>,
    nested: Vec<Shape>,
    kinds: HashMap<&'static str, TypeRef>,
}

impl TypeRef {
    fn entry(self) -> &'static Type {
        &table().types[usize::from(self.0)]
    }

    /// Short name, such as `core.v1.PodSpec`.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// The name upstream's OpenAPI document gives the type, such as `io.k8s.api.core.v1.PodSpec`.
    pub fn openapi_name(self) -> String {
        let name = self.name();
        let prefix = match name.split('.').next().unwrap_or_default() {
            "meta" => "io.k8s.apimachinery.pkg.apis.",
            "apiextensions" => "io.k8s.apiextensions-apiserver.pkg.apis.",
            "apiregistration" => "io.k8s.kube-aggregator.pkg.apis.",
            _ => "io.k8s.api.",
        };
        format!("{prefix}{name}")
    }

    /// As Go names it without its package, such as `PodSpec`.
    pub fn short_name(self) -> &'static str {
        self.name().rsplit('.').next().unwrap_or_default()
    }

    /// As Go prints it, such as `v1.PodSpec`.
    pub fn go_name(self) -> &'static str {
        self.name().split_once('.').map_or("", |(_, rest)| rest)
    }

    /// `(group, version, kind)` where the type is a kind.
    pub fn kind(self) -> Option<(&'static str, &'static str, &'static str)> {
        split_kind(self.entry().kind)
    }

    /// All fields, in alphabetical order.
    pub fn fields(self) -> &'static [Field] {
        let entry = self.entry();
        let first = entry.first as usize;
        &table().fields[first..first + usize::from(entry.count)]
    }

    pub fn field(self, name: &str) -> Option<&'static Field> {
        let fields = self.fields();
        fields.binary_search_by(|field| field.name.cmp(name)).ok().map(|at| &fields[at])
    }
}

fn split_kind(text: &'static str) -> Option<(&'static str, &'static str, &'static str)> {
    let (group, rest) = text.split_once('/')?;
    let (version, kind) = rest.split_once('/')?;
    Some((group, version, kind))
}

impl Table {
    pub(super) fn named(&self, name: &str) -> Option<TypeRef> {
        self.types.binary_search_by(|entry| entry.name.cmp(name)).ok().map(type_ref)
    }

    pub(super) fn of_kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeRef> {
        self.kinds.get(format!("{group}/{version}/{kind}").as_str()).copied()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = TypeRef> + use<> {
        (0..self.types.len()).map(type_ref)
    }
}

/// The table's size is known: `u16` holds every index, which a test asserts.
fn type_ref(at: usize) -> TypeRef {
    TypeRef(at as u16)
}

pub(super) fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| parse(include_str!("types.txt")))
}

fn parse(text: &'static str) -> Table {
    let heads = || text.lines().filter_map(|line| line.split(' ').next());
    let mut types: Vec<Type> = heads()
        .map(|head| {
            let (name, kind) = head.split_once('=').unwrap_or((head, ""));
            Type { name, kind, first: 0, count: 0 }
        })
        .collect();
    let index: HashMap<&str, u16> =
        types.iter().enumerate().map(|(at, entry)| (entry.name, at as u16)).collect();
    let mut fields = Vec::with_capacity(text.matches(':').count());
    let mut nested: Vec<Shape> = Vec::new();
    for (line, entry) in text.lines().zip(&mut types) {
        entry.first = fields.len() as u32;
        let mut own: Vec<Field> =
            line.split(' ').skip(1).filter_map(|word| field(word, &index, &mut nested)).collect();
        own.sort_by_key(|field| field.name);
        entry.count = own.len() as u16;
        fields.extend(own);
    }
    let kinds = types
        .iter()
        .enumerate()
        .filter(|(_, entry)| !entry.kind.is_empty())
        .map(|(at, entry)| (entry.kind, TypeRef(at as u16)))
        .collect();
    Table { types, fields, nested, kinds }
}

fn field(word: &'static str, index: &HashMap<&str, u16>, nested: &mut Vec<Shape>) -> Option<Field> {
    let mut parts = word.splitn(2, ';');
    let (name, shape_text) = parts.next()?.split_once(':')?;
    let (name, required) = match name.strip_suffix('!') {
        Some(name) => (name, REQUIRED),
        None => (name, 0),
    };
    let mut field = Field {
        name,
        shape: shape(shape_text, index, nested)?,
        flags: required,
        list_keys: "",
        merge_key: "",
        default: "",
    };
    for mark in parts.next().into_iter().flat_map(|marks| marks.split(';')) {
        match mark.split_once('=') {
            Some(("lm", keys)) => field.list_keys = keys,
            Some(("pm", key)) => {
                field.flags |= MERGE;
                field.merge_key = key;
            }
            Some(("d", json)) => field.default = json,
            _ => {
                field.flags |= match mark {
                    "la" => LIST_ATOMIC,
                    "ls" => LIST_SET,
                    "ma" => MAP_ATOMIC,
                    "pm" => MERGE,
                    "pr" => RETAIN_KEYS,
                    _ => return None,
                }
            }
        }
    }
    Some(field)
}

fn shape(text: &str, index: &HashMap<&str, u16>, nested: &mut Vec<Shape>) -> Option<Shape> {
    let mut intern = |inner: &str| -> Option<Nested> {
        let inner = shape(inner, index, nested)?;
        let at = nested.iter().position(|known| *known == inner).unwrap_or_else(|| {
            nested.push(inner);
            nested.len() - 1
        });
        Some(Nested(at as u16))
    };
    if let Some(item) = text.strip_prefix("[]") {
        return intern(item).map(Shape::List);
    }
    if let Some(value) = text.strip_prefix("{}") {
        return intern(value).map(Shape::Map);
    }
    if let Some(name) = text.strip_prefix('@') {
        return index.get(name).map(|at| Shape::Struct(TypeRef(*at)));
    }
    Some(match text {
        "s" => Shape::String,
        "i" => Shape::Int32,
        "l" => Shape::Int64,
        "f" => Shape::Double,
        "b" => Shape::Bool,
        "y" => Shape::Bytes,
        "t" => Shape::Time,
        "m" => Shape::MicroTime,
        "q" => Shape::Quantity,
        "x" => Shape::IntOrString,
        "a" => Shape::Any,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_the_file_is_understood() {
        let text = include_str!("types.txt");
        let table = table();
        assert_eq!(table.types.len(), text.lines().count());
        assert_eq!(table.fields.len(), text.lines().map(|l| l.split(' ').count() - 1).sum::<usize>());
        assert!(table.types.is_sorted_by_key(|entry| entry.name), "types are found by binary search");
        assert!(table.types.len() < usize::from(u16::MAX) && table.nested.len() < usize::from(u16::MAX));
    }

    #[test]
    fn marks_say_how_lists_merge() {
        let ports = table().named("core.v1.ServiceSpec").and_then(|t| t.field("ports")).expect("ports");
        assert_eq!(ports.merge_key(), Some("port"));
        assert_eq!(ports.list_type(), Some(ListType::Map));
        assert_eq!(ports.list_keys().collect::<Vec<_>>(), ["port", "protocol"]);
        let volumes = table().named("core.v1.PodSpec").and_then(|t| t.field("volumes")).expect("volumes");
        assert!(volumes.retains_keys() && volumes.merges());
    }
}
