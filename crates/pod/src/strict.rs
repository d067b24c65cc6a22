//! A deserialiser that records what is wrong and goes on.
//!
//! k8s-openapi's types say to their deserialiser what they want: `deserialize_struct` with the list of fields,
//! `deserialize_i32`, `deserialize_option`. So the schema needs no second copy here: an unknown field is one that is not in
//! the list, a wrong type is a value that isn't what is asked for. Instead of failing there, this deserialiser notes
//! the problem and hands out an empty value, so that one reading finds everything.

use std::cell::RefCell;

use k8s_openapi::jiff::Timestamp;
use serde::{
    de::{
        DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::{Error, StrDeserializer},
    },
    forward_to_deserialize_any,
};
use serde_json::{Map, Value};

use crate::{
    Problem, Rule,
    path::Path,
    problem::{Found, Shown},
};

/// Reads `value` as a `T`, as much of it as fits.
pub(crate) fn read<'de, T: serde::Deserialize<'de>>(value: &'de Value) -> (Option<T>, Vec<Problem>) {
    let found = RefCell::new(Found::default());
    let result = T::deserialize(Reader {
        value,
        path: &Path::Root,
        found: &found,
    });
    let mut found = found.into_inner();
    let read = result
        .map_err(|error| found.push("", Rule::Syntax(error.to_string())))
        .ok();
    (read, found.into_list())
}

/// Reading one value at one place.
#[derive(Clone, Copy)]
struct Reader<'de, 'p> {
    value: &'de Value,
    path: &'p Path<'p>,
    found: &'p RefCell<Found>,
}

impl Reader<'_, '_> {
    fn wrong_type(&self, wanted: &str) {
        // An absent value is not of a wrong type: required fields are the validation's business.
        if !self.value.is_null() {
            let value = shown(self.value);
            self.found.borrow_mut().push(
                self.path,
                Rule::WrongType {
                    value,
                    wanted: wanted.into(),
                },
            );
        }
    }

    fn integer<T: TryFrom<i64>>(&self, bits: u32) -> Option<T> {
        match self.value.as_i64() {
            Some(number) => match T::try_from(number) {
                Ok(number) => Some(number),
                Err(_) => {
                    self.found.borrow_mut().push(
                        self.path,
                        Rule::Invalid {
                            value: number.shown(),
                            rule: format!("must fit in {bits} bits"),
                        },
                    );
                    None
                }
            },
            None => {
                self.wrong_type("an integer");
                None
            }
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.as_str().shown(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        Value::Null => "null".into(),
        number_or_bool => number_or_bool.to_string(),
    }
}

impl<'de> Deserializer<'de> for Reader<'de, '_> {
    type Error = Error;

    /// Asked for by types that take several (IntOrString, JSON).
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(bool) => visitor.visit_bool(*bool),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => visitor.visit_i64(integer),
                (None, float) => visitor.visit_f64(float.unwrap_or_default()),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(_) => self.deserialize_seq(visitor),
            Value::Object(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let bool = self.value.as_bool();
        if bool.is_none() {
            self.wrong_type("true or false");
        }
        visitor.visit_bool(bool.unwrap_or_default())
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i32(self.integer(32).unwrap_or_default())
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i64(self.integer(64).unwrap_or_default())
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::String(text) => visitor.visit_borrowed_str(text),
            other => {
                self.wrong_type(match other {
                    Value::Number(_) | Value::Bool(_) => "a string: put it in quotes",
                    _ => "a string",
                });
                visitor.visit_borrowed_str("")
            }
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    /// `null` is a field that is not set.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let elements = match self.value {
            Value::Array(elements) => elements.as_slice(),
            _ => {
                self.wrong_type("a list");
                &[]
            }
        };
        visitor.visit_seq(Elements {
            elements: elements.iter().enumerate(),
            reader: self,
        })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Entries::of(self, None))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Entries::of(self, Some(fields)))
    }

    /// The types with a text form of their own. Their errors would end the reading, so the text is checked first.
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        match (name, self.value) {
            // Kubernetes takes a number for a quantity: `cpu: 2`.
            ("Quantity", Value::Number(number)) => {
                let text = number.to_string();
                visitor.visit_newtype_struct(StrDeserializer::<Error>::new(&text))
            }
            ("Quantity", Value::String(_)) => visitor.visit_newtype_struct(self),
            ("Quantity", _) => {
                self.wrong_type("a quantity, such as \"500m\" or \"1Gi\"");
                visitor.visit_newtype_struct("0".into_deserializer())
            }
            ("Time" | "MicroTime", Value::String(text)) if text.parse::<Timestamp>().is_ok() => {
                visitor.visit_newtype_struct(self)
            }
            ("Time" | "MicroTime", _) => {
                self.wrong_type("a time, such as \"2026-01-31T12:00:00Z\"");
                visitor.visit_newtype_struct("1970-01-01T00:00:00Z".into_deserializer())
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 u8 u16 u32 u64 i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

struct Elements<'de, 'p> {
    elements: std::iter::Enumerate<std::slice::Iter<'de, Value>>,
    reader: Reader<'de, 'p>,
}

impl<'de> SeqAccess<'de> for Elements<'de, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((index, value)) = self.elements.next() else {
            return Ok(None);
        };
        let path = self.reader.path.index(index);
        if value.is_null() {
            self.reader
                .found
                .borrow_mut()
                .push(path, Rule::Required("an element of a list can't be null".into()));
        }
        seed.deserialize(Reader {
            value,
            path: &path,
            ..self.reader
        })
        .map(Some)
    }
}

struct Entries<'de, 'p> {
    entries: Option<serde_json::map::Iter<'de>>,
    next: Option<(&'de str, &'de Value)>,
    reader: Reader<'de, 'p>,
    /// The fields of a struct; `None` for a map whose keys the user chooses.
    fields: Option<&'static [&'static str]>,
}

impl<'de, 'p> Entries<'de, 'p> {
    fn of(reader: Reader<'de, 'p>, fields: Option<&'static [&'static str]>) -> Self {
        let entries = reader.value.as_object().map(Map::iter);
        if entries.is_none() {
            reader.wrong_type("an object");
        }
        Entries {
            entries,
            next: None,
            reader,
            fields,
        }
    }
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        for (key, value) in self.entries.iter_mut().flatten() {
            match self.fields {
                Some(fields) if !fields.contains(&key.as_str()) => {
                    let similar = similar(key, fields).map(str::to_owned);
                    self.reader
                        .found
                        .borrow_mut()
                        .push(self.reader.path.field(key), Rule::UnknownField(similar));
                }
                // A field that is null is not set. A key with null in a map of the user's has the empty value, as in Kubernetes.
                Some(_) if value.is_null() => {}
                _ => {
                    self.next = Some((key, value));
                    return seed.deserialize(StrDeserializer::new(key)).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        // serde asks for a value only after a key.
        let (key, value) = self.next.take().unwrap_or(("", &Value::Null));
        let path = match self.fields {
            Some(_) => self.reader.path.field(key),
            None => self.reader.path.key(key),
        };
        seed.deserialize(Reader {
            value,
            path: &path,
            ..self.reader
        })
    }
}

/// The field that the user may have meant: equal but for case, or one or two letters away.
fn similar<'f>(key: &str, fields: &[&'f str]) -> Option<&'f str> {
    let limit = if key.len() > 4 { 2 } else { 1 };
    fields
        .iter()
        .map(|field| (distance(&key.to_lowercase(), &field.to_lowercase()), *field))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, field)| field)
}

/// Levenshtein's: insertions, deletions and changes of a letter. Keys longer than any field are far from all of them.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 64;
    if a.len() > LONGEST {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
