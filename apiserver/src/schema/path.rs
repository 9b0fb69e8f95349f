//! Where a value stands in a document.

use std::fmt;

/// A place as a chain on the stack: nothing is allocated until it has to be named.
#[derive(Clone, Copy, Debug)]
pub enum Path<'a> {
    Root,
    /// A field of an object, printed `.name`.
    Key(&'a Path<'a>, &'a str),
    /// An item of a list, printed `[3]`.
    Item(&'a Path<'a>, usize),
    /// An entry of a map, printed `[key]`.
    Entry(&'a Path<'a>, &'a str),
}

impl<'a> Path<'a> {
    /// A field of the document itself.
    pub fn of(key: &'a str) -> Path<'a> {
        Path::Key(&Path::Root, key)
    }

    #[must_use]
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }

    #[must_use]
    pub fn item(&'a self, at: usize) -> Path<'a> {
        Path::Item(self, at)
    }

    #[must_use]
    pub fn entry(&'a self, key: &'a str) -> Path<'a> {
        Path::Entry(self, key)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(Path::Root, key) => f.write_str(key),
            Path::Key(parent, key) => write!(f, "{parent}.{key}"),
            Path::Item(parent, at) => write!(f, "{parent}[{at}]"),
            Path::Entry(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}

impl From<Path<'_>> for String {
    fn from(path: Path<'_>) -> String {
        path.to_string()
    }
}

impl From<&Path<'_>> for String {
    fn from(path: &Path<'_>) -> String {
        path.to_string()
    }
}
