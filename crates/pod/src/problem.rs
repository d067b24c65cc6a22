//! What is wrong with a document, where, and by which rule.

use std::fmt;

use crate::path::Path;

/// One thing that is wrong. Displays as Kubernetes writes it: `spec.restartPolicy: Unsupported value: "Sometimes":
/// supported values: "Always", "OnFailure", "Never"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which document of the file, counted from 0.
    pub document: usize,
    /// Line and column, counted from 1, where the parser knows them.
    pub position: Option<(u64, u64)>,
    /// The path in the document; empty for the document itself.
    pub path: String,
    /// The rule that it breaks.
    pub rule: Rule,
}

/// The kinds of rule, by Kubernetes' words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// The text is not YAML or JSON at all.
    Syntax(String),
    /// The field is not one of the object.
    UnknownField(Option<String>),
    /// The value has another type than the field.
    WrongType {
        /// The value.
        value: String,
        /// What the field takes.
        wanted: String,
    },
    /// The field must be set.
    Required(String),
    /// The value breaks a rule.
    Invalid {
        /// The value.
        value: String,
        /// The rule.
        rule: String,
    },
    /// The value is not one of those that exist.
    Unsupported {
        /// The value.
        value: String,
        /// Those that exist.
        supported: String,
    },
    /// Another element has this value already.
    Duplicate(String),
    /// The value refers to something that isn't there.
    NotFound(String),
    /// The field may not be set here.
    Forbidden(String),
    /// Kubernetes knows the field, Hove does not honour it (yet), and does not ignore it in silence.
    NotHonoured(String),
    /// The text is longer than allowed, in bytes.
    TooLong(usize),
    /// So many problems are listed, and there are more.
    More(usize),
}

impl Problem {
    /// Whether it is only a field that Hove does not honour: Kubernetes would have taken the document.
    pub fn is_merely_unsupported(&self) -> bool {
        matches!(self.rule, Rule::NotHonoured(_))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        self.rule.fmt(f)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = |f: &mut fmt::Formatter<'_>, what: &str, detail: &str| match detail {
            "" => f.write_str(what),
            detail => write!(f, "{what}: {detail}"),
        };
        match self {
            Rule::Syntax(what) => f.write_str(what),
            Rule::UnknownField(None) => f.write_str("Unknown field"),
            Rule::UnknownField(Some(similar)) => write!(f, "Unknown field: did you mean \"{similar}\"?"),
            Rule::WrongType { value, wanted } => write!(f, "Invalid value: {value}: must be {wanted}"),
            Rule::Required(detail) => with(f, "Required value", detail),
            Rule::Invalid { value, rule } => write!(f, "Invalid value: {value}: {rule}"),
            Rule::Unsupported { value, supported } => {
                write!(f, "Unsupported value: {value}: supported values: {supported}")
            }
            Rule::Duplicate(value) => write!(f, "Duplicate value: {value}"),
            Rule::NotFound(value) => write!(f, "Not found: {value}"),
            Rule::Forbidden(detail) => with(f, "Forbidden", detail),
            Rule::NotHonoured(why) => write!(f, "Forbidden: not supported yet by Hove{why}"),
            Rule::More(shown) => write!(f, "more is wrong than these {shown} problems"),
            Rule::TooLong(limit) => write!(f, "Too long: may not be more than {limit} bytes"),
        }
    }
}

/// Everything that is wrong with a file. Displays a line per problem: `two.yaml: spec.containers[0].image: Required value`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    /// The file, as the user named it.
    pub file: String,
    /// How many documents the file has, as far as it could be read.
    pub documents: usize,
    /// In the order of the documents. Never empty.
    pub list: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.list.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            f.write_str(&self.file)?;
            if let Some((line, column)) = problem.position {
                write!(f, ":{line}:{column}")?;
            } else if self.documents > 1 {
                write!(f, " (document {})", problem.document + 1)?;
            }
            write!(f, ": {problem}")?;
        }
        Ok(())
    }
}

/// How many problems of a file are told. Who reads more than that at once looks at the file instead.
pub(crate) const PROBLEMS_LIMIT: usize = 64;

/// Gathers the problems of one document, one more than are told.
#[derive(Debug, Default)]
pub(crate) struct Found(Vec<Problem>);

impl Found {
    pub fn push(&mut self, path: impl fmt::Display, rule: Rule) {
        if self.0.len() > PROBLEMS_LIMIT {
            return;
        }
        self.0.push(Problem {
            document: 0,
            position: None,
            path: path.to_string(),
            rule,
        });
    }

    pub fn required(&mut self, path: Path<'_>) {
        self.push(path, Rule::Required(String::new()));
    }

    pub fn invalid(&mut self, path: Path<'_>, value: impl Shown, rule: impl Into<String>) {
        self.push(
            path,
            Rule::Invalid {
                value: value.shown(),
                rule: rule.into(),
            },
        );
    }

    pub fn forbidden(&mut self, path: Path<'_>, detail: impl Into<String>) {
        self.push(path, Rule::Forbidden(detail.into()));
    }

    pub fn not_honoured(&mut self, path: Path<'_>, value: &str) {
        self.push(path, Rule::NotHonoured(format!(": {}", value.shown())));
    }

    pub fn duplicate(&mut self, path: Path<'_>, value: impl Shown) {
        self.push(path, Rule::Duplicate(value.shown()));
    }

    pub fn not_found(&mut self, path: Path<'_>, value: impl Shown) {
        self.push(path, Rule::NotFound(value.shown()));
    }

    /// `value` must be one of `supported`.
    pub fn one_of(&mut self, path: Path<'_>, value: &str, supported: &[&str]) {
        if !supported.contains(&value) {
            let supported = supported
                .iter()
                .map(|value| format!("{value:?}"))
                .collect::<Vec<_>>()
                .join(", ");
            self.push(
                path,
                Rule::Unsupported {
                    value: value.shown(),
                    supported,
                },
            );
        }
    }

    pub fn into_list(self) -> Vec<Problem> {
        self.0
    }
}

/// How much of a text messages show, in characters.
pub(crate) const SHOWN_LIMIT: usize = 120;

/// A value as messages show it: text in quotes, numbers bare, nothing longer than a line.
pub(crate) trait Shown {
    fn shown(&self) -> String;
}

impl Shown for &str {
    fn shown(&self) -> String {
        match self.char_indices().nth(SHOWN_LIMIT) {
            Some((end, _)) => format!("{:?}…", &self[..end]),
            None => format!("{self:?}"),
        }
    }
}

impl Shown for &String {
    fn shown(&self) -> String {
        self.as_str().shown()
    }
}

impl Shown for i32 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for i64 {
    fn shown(&self) -> String {
        self.to_string()
    }
}
