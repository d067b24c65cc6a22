//! The query of a request. Kubernetes' queries repeat keys (`command=a&command=b`) and write booleans in Go's ways.

use std::{convert::Infallible, str::FromStr};

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::failure::{Failure, Result};

/// The pairs of a query, in order.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses what follows the `?`.
    pub fn parse(text: &str) -> Query {
        Query(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The first value of `key`; an empty one counts as absent.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// All values of `key`.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Whether `key` is true. Absent is false, and so is `key=` (a key without a value, too).
    pub fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None | Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
            Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
            Some(value) => Err(Failure::bad_request(format!("{key}={value}: want true or false"))),
        }
    }

    /// The value of `key` as a number.
    pub fn number<T: FromStr>(&self, key: &str) -> Result<Option<T>> {
        let parse = |value: &str| {
            value
                .parse()
                .map_err(|_| Failure::bad_request(format!("{key}={value}: want a whole number")))
        };
        self.get(key).map(parse).transpose()
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Query, Infallible> {
        Ok(Query::parse(parts.uri.query().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_repeat() {
        let query = Query::parse("command=sh&command=-c&command=echo+a%26b&stdin=1&tty=false&container=");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "echo a&b"]);
        assert!(query.flag("stdin").unwrap());
        assert!(!query.flag("tty").unwrap());
        assert!(!query.flag("stdout").unwrap());
        assert_eq!(query.get("container"), None);
    }

    #[test]
    fn bad_values_are_refused() {
        let query = Query::parse("follow=yes&tailLines=ten");
        assert!(query.flag("follow").is_err());
        assert!(query.number::<i64>("tailLines").is_err());
    }
}
