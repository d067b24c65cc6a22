//! What a server wants to see: `WWW-Authenticate: Bearer realm="…",service="…",scope="…"`.

/// The kinds that are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// A token of an authorisation server.
    Bearer,
    /// A name and a password.
    Basic,
}

/// One challenge.
#[derive(Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Its kind.
    pub scheme: Scheme,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Reads a header's value; `None` for a kind that is not answered.
    pub fn parse(value: &str) -> Option<Challenge> {
        let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Scheme::Bearer,
            "basic" => Scheme::Basic,
            _ => return None,
        };
        let mut parameters = Vec::new();
        let mut rest = rest.trim_start();
        while let Some((name, after)) = rest.split_once('=') {
            let (value, after) = value_of(after.trim_start())?;
            parameters.push((name.trim().to_ascii_lowercase(), value));
            rest = after.trim_start().trim_start_matches(',').trim_start();
        }
        Some(Challenge { scheme, parameters })
    }

    /// A parameter's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// A token, or a string in quotes with backslashes; and what comes after it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        return Some((text[..end].trim_end().to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let challenge = Challenge::parse(
            r#"Bearer realm="https://auth.example/token",service="registry, the \"best\"",scope="repository:a/b:pull,push""#,
        )
        .unwrap();
        assert_eq!(challenge.scheme, Scheme::Bearer);
        assert_eq!(challenge.get("realm"), Some("https://auth.example/token"));
        assert_eq!(challenge.get("service"), Some("registry, the \"best\""));
        assert_eq!(challenge.get("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(challenge.get("error"), None);

        let basic = Challenge::parse("basic Realm = plain , charset=UTF-8").unwrap();
        assert_eq!(basic.scheme, Scheme::Basic);
        assert_eq!(
            (basic.get("realm"), basic.get("charset")),
            (Some("plain"), Some("UTF-8"))
        );
        assert_eq!(Challenge::parse("Negotiate"), None);
        assert_eq!(Challenge::parse(r#"Bearer realm="endless"#), None);
        assert!(Challenge::parse("Basic").is_some());
    }
}
