//! From text to Pods.

use std::{cell::Cell, collections::HashSet, fmt};

use k8s_openapi::api::core::v1::Pod;
use serde::{
    Deserialize,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use crate::{
    Problem, Problems, Rule,
    path::Path,
    problem::{Found, PROBLEMS_LIMIT},
    strict, supported,
};

/// How large a file may be, in bytes; as large as an object may be in Kubernetes, and some for several of them.
pub const TEXT_LIMIT: usize = 8 << 20;
/// How many documents a file may have.
pub const DOCUMENTS_LIMIT: usize = 1024;
/// How many values (objects, lists, scalars) a file may have, an alias counted as what it stands for. A Pod has some tens;
/// an element of a list becomes a kilobyte in memory.
pub const VALUES_LIMIT: usize = 100_000;
/// How deep values may lie in each other.
pub const DEPTH_LIMIT: usize = 64;
/// How many bytes of text a file's values may have, an alias counted as what it stands for.
const SCALARS_LIMIT: usize = 2 * TEXT_LIMIT;

/// One Pod of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Which of the file's documents it is, counted from 0.
    pub index: usize,
    /// The Pod. Nothing of the document is missing in it: what the type doesn't know was refused.
    pub pod: Pod,
}

/// Reads the Pods of a file: YAML with any number of documents, or JSON. Finds every problem of syntax, type and support;
/// `file` is how messages name it.
pub fn parse(text: &str, file: &str) -> Result<Vec<Document>, Problems> {
    let (documents, problems, count) = read(text);
    finish(documents, problems, count, file)
}

/// [`parse`], [`crate::default()`] and [`crate::validate()`], with the problems of all three.
pub fn load(text: &str, file: &str) -> Result<Vec<Document>, Problems> {
    let (mut documents, mut problems, count) = read(text);
    let parsed = problems.len();
    for document in &mut documents {
        if problems.len() > PROBLEMS_LIMIT {
            break;
        }
        crate::default(&mut document.pod);
        for mut problem in crate::validate(&document.pod) {
            problem.document = document.index;
            // A value of a wrong type reads as an empty one: only the type is worth a line.
            if !problems[..parsed]
                .iter()
                .any(|other| other.document == problem.document && covers(&other.path, &problem.path))
            {
                problems.push(problem);
            }
        }
    }
    problems.sort_by_key(|problem| problem.document);
    finish(documents, problems, count, file)
}

/// Reads one Pod that is parsed already, from an API request or after a patch. The same checks as [`parse`].
pub fn parse_value(value: &Value) -> Result<Pod, Vec<Problem>> {
    let (pod, problems) = read_pod(value);
    match pod {
        Some(pod) if problems.is_empty() => Ok(pod),
        _ => Err(problems),
    }
}

fn finish(
    documents: Vec<Document>,
    mut problems: Vec<Problem>,
    count: usize,
    file: &str,
) -> Result<Vec<Document>, Problems> {
    if problems.len() > PROBLEMS_LIMIT {
        problems.truncate(PROBLEMS_LIMIT);
        problems.push(Problem {
            document: problems[PROBLEMS_LIMIT - 1].document,
            position: None,
            path: String::new(),
            rule: Rule::More(PROBLEMS_LIMIT),
        });
    }
    match problems.is_empty() {
        true => Ok(documents),
        false => Err(Problems {
            file: file.to_owned(),
            documents: count,
            list: problems,
        }),
    }
}

fn read(text: &str) -> (Vec<Document>, Vec<Problem>, usize) {
    let values = match values(text) {
        Ok(values) => values,
        Err(problem) => return (Vec::new(), vec![problem], 0),
    };
    let mut documents = Vec::new();
    let mut problems = Vec::new();
    for (index, value) in values.iter().enumerate() {
        if problems.len() > PROBLEMS_LIMIT {
            break;
        }
        let (pod, found) = read_pod(value);
        problems.extend(found.into_iter().map(|problem| Problem {
            document: index,
            ..problem
        }));
        documents.extend(pod.map(|pod| Document { index, pod }));
    }
    if values.is_empty() {
        let rule = Rule::Syntax("the file has no document: a Pod begins with `apiVersion: v1` and `kind: Pod`".into());
        problems.push(Problem {
            document: 0,
            position: None,
            path: String::new(),
            rule,
        });
    }
    let count = values.len();
    (documents, problems, count)
}

fn read_pod(value: &Value) -> (Option<Pod>, Vec<Problem>) {
    let mut found = Found::default();
    if !value.is_object() {
        found.push(
            "",
            Rule::Syntax("the document is not an object with `apiVersion: v1` and `kind: Pod`".into()),
        );
        return (None, found.into_list());
    }
    for (field, wanted) in [("apiVersion", "v1"), ("kind", "Pod")] {
        match value.get(field) {
            None | Some(Value::Null) => found.required(Path::Root.field(field)),
            Some(Value::String(is)) => found.one_of(Path::Root.field(field), is, &[wanted]),
            Some(other) => found.invalid(
                Path::Root.field(field),
                &other.to_string(),
                format!("must be \"{wanted}\""),
            ),
        }
    }
    let problems = found.into_list();
    if !problems.is_empty() {
        // Of another kind: its fields say nothing to a Pod.
        return (None, problems);
    }
    let (pod, mut problems) = strict::read::<Pod>(value);
    for problem in supported::check(value) {
        if !problems.iter().any(|other| covers(&other.path, &problem.path)) {
            problems.push(problem);
        }
    }
    (pod, problems)
}

/// Whether a problem at `path` says all that is worth saying about `below`: a list that should be an object has no fields.
fn covers(path: &str, below: &str) -> bool {
    below
        .strip_prefix(path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The documents of a text; empty ones (`---` at the beginning or end) are left out.
fn values(text: &str) -> Result<Vec<Value>, Problem> {
    let syntax = |position: Option<(u64, u64)>, message: String| Problem {
        document: 0,
        position,
        path: String::new(),
        rule: Rule::Syntax(message),
    };
    if text.len() > TEXT_LIMIT {
        return Err(syntax(
            None,
            format!("the file has more than {TEXT_LIMIT} bytes, which are allowed"),
        ));
    }
    if text.trim_start().starts_with('{') && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        let left = Cell::new(VALUES_LIMIT);
        let seed = UniqueSeed(&left);
        let value = seed
            .deserialize(&mut serde_json::Deserializer::from_str(text))
            .map_err(|error| {
                let message = error.to_string();
                let message = message.split(" at line ").next().unwrap_or_default();
                syntax(Some((error.line() as u64, error.column() as u64)), message.to_owned())
            })?;
        return Ok(vec![value]);
    }
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true, // Kubernetes reads 0644 as YAML 1.1 does
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_documents: DOCUMENTS_LIMIT,
            max_nodes: VALUES_LIMIT,
            max_depth: DEPTH_LIMIT,
            max_total_scalar_bytes: SCALARS_LIMIT,
        },
    };
    let documents = serde_saphyr::from_multiple_with_options::<Unique>(text, options).map_err(|error| {
        let position = error.location().map(|location| (location.line(), location.column()));
        syntax(position, format!("not valid YAML: {}", plain(&error)))
    })?;
    Ok(documents
        .into_iter()
        .map(|document| document.0)
        .filter(|value| !value.is_null())
        .collect())
}

/// The parser's finding in the words of somebody who wrote the file.
fn plain(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    match error {
        Error::AliasError { error, .. } | Error::WithSnippet { error, .. } => plain(error),
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("the key {key} occurs twice in one mapping"),
        Error::Budget { .. } => format!(
            "too large for a Pod: a file may have {DOCUMENTS_LIMIT} documents, {VALUES_LIMIT} values and {DEPTH_LIMIT} \
             levels, with aliases counted as what they stand for"
        ),
        Error::RecursiveReferencesRequireWeakTypes { .. } => "an alias that contains itself".to_owned(),
        error => {
            let message = error.to_string();
            // The position is a part of the problem, not of its message.
            message.split(" at line ").next().unwrap_or_default().to_owned()
        }
    }
}

/// A JSON value in which no key occurs twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The YAML parser counts for itself, before it builds anything.
        let unlimited = Cell::new(usize::MAX);
        UniqueSeed(&unlimited).deserialize(deserializer).map(Unique)
    }
}

/// Reads one, with as many values in it as are left.
#[derive(Clone, Copy)]
struct UniqueSeed<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for UniqueSeed<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.0.get().checked_sub(1);
        let left = left
            .ok_or_else(|| D::Error::custom(format!("too large for a Pod: a file may have {VALUES_LIMIT} values")))?;
        self.0.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has too")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom(format!("{value} is not a number that JSON has")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = access.next_element_seed(self)? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let mut keys = HashSet::new();
        while let Some(key) = access.next_key::<String>()? {
            if !keys.insert(key.clone()) {
                return Err(A::Error::custom(format!("the key \"{key}\" is given twice")));
            }
            let value = access.next_value_seed(self)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
