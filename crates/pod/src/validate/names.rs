//! What names may look like
//! (<https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>).

use crate::{
    path::Path,
    problem::{Found, Rule},
};

const LABEL_LIMIT: usize = 63;
const SUBDOMAIN_LIMIT: usize = 253;

/// RFC 1123: lower-case letters, digits, '-'; begins and ends with a letter or digit.
fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

pub fn label(found: &mut Found, path: Path<'_>, text: &str) {
    if text.is_empty() {
        found.required(path);
        return;
    }
    if text.len() > LABEL_LIMIT {
        found.invalid(path, text, format!("must be no more than {LABEL_LIMIT} bytes"));
    }
    if !is_label(text) {
        found.invalid(
            path,
            text,
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
             alphanumeric character (e.g. 'my-name', or '123-abc')",
        );
    }
}

pub fn subdomain(found: &mut Found, path: Path<'_>, text: &str) {
    if text.is_empty() {
        found.required(path);
        return;
    }
    if text.len() > SUBDOMAIN_LIMIT {
        found.invalid(path, text, format!("must be no more than {SUBDOMAIN_LIMIT} bytes"));
    }
    if !text.split('.').all(is_label) {
        found.invalid(
            path,
            text,
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end \
             with an alphanumeric character (e.g. 'example.com')",
        );
    }
}

/// Letters, digits, '-', '_', '.'; begins and ends with a letter or digit.
fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

/// The key of a label or an annotation: `[PREFIX/]NAME`.
pub fn qualified(found: &mut Found, path: &Path<'_>, key: &str) {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix
        && (prefix.is_empty() || prefix.len() > SUBDOMAIN_LIMIT || !prefix.split('.').all(is_label))
    {
        found.invalid(
            *path,
            key,
            "prefix part must be a lowercase RFC 1123 subdomain (e.g. 'example.com')",
        );
    }
    if name.len() > LABEL_LIMIT {
        found.invalid(
            *path,
            key,
            format!("name part must be no more than {LABEL_LIMIT} bytes"),
        );
    }
    if !is_name_part(name) {
        found.invalid(
            *path,
            key,
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
             character (e.g. 'MyName', or 'my.name', or '123-abc')",
        );
    }
}

pub fn label_value(found: &mut Found, path: Path<'_>, value: &str) {
    if value.len() > LABEL_LIMIT {
        found.push(path, Rule::TooLong(LABEL_LIMIT));
    }
    if !value.is_empty() && !is_name_part(value) {
        found.invalid(
            path,
            value,
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end \
             with an alphanumeric character (e.g. 'MyValue', or 'my_value', or '12345')",
        );
    }
}

/// A port's name (IANA service name): at most 15 characters, a letter among them, no two '-' in a row.
pub fn port(found: &mut Found, path: Path<'_>, name: &str) {
    const LIMIT: usize = 15;
    if name.len() > LIMIT {
        found.invalid(path, name, format!("must be no more than {LIMIT} bytes"));
    }
    if !is_label(name) {
        found.invalid(
            path,
            name,
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-), not at its ends",
        );
    }
    if !name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        found.invalid(path, name, "must contain at least one letter (a-z)");
    }
    if name.contains("--") {
        found.invalid(path, name, "must not contain consecutive hyphens");
    }
}

/// An environment variable's: printable ASCII without '='.
pub fn variable(found: &mut Found, path: Path<'_>, name: &str) {
    if name.is_empty() {
        found.required(path);
    } else if !name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=') {
        found.invalid(
            path,
            name,
            "a valid environment variable name must consist only of printable ASCII characters other than '='",
        );
    }
}
