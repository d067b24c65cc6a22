//! Where in a document: `spec.containers[0].resources.limits[cpu]`.

use std::fmt;

use crate::problem::SHOWN_LIMIT;

/// A path, as a list that lives on the stack of whoever walks the document: descending allocates nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
    /// A key of a map that the user chooses: a label, a resource.
    Key(&'a Path<'a>, &'a str),
}

impl<'a> Path<'a> {
    pub fn field(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }

    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => write!(f, "{}", Name(name)),
            Path::Field(parent, name) => write!(f, "{parent}.{}", Name(name)),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Path::Key(parent, key) => write!(f, "{parent}[{}]", Name(key)),
        }
    }
}

/// A name as messages show it: the user's, so of any length and with any characters.
struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars().take(SHOWN_LIMIT) {
            match character.is_control() {
                true => write!(f, "{}", character.escape_default())?,
                false => write!(f, "{character}")?,
            }
        }
        match self.0.chars().nth(SHOWN_LIMIT) {
            Some(_) => f.write_str("…"),
            None => Ok(()),
        }
    }
}
