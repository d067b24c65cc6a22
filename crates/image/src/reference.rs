//! References: the names that people give images, and what they stand for.
//!
//! ```text
//! nginx                            docker.io/library/nginx:latest
//! me/blog:2                        docker.io/me/blog:2
//! quay.io/org/app@sha256:…         quay.io/org/app@sha256:…
//! localhost/hove/busybox:1         localhost/hove/busybox:1
//! ```
//! The first component is a registry when it has a dot or a colon in it, is `localhost`, or has an upper-case letter
//! (which no repository may have); anything else lives on Docker Hub. Grammar: distribution's reference package, as
//! the OCI distribution specification restricts it.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";
/// Bytes of a repository with its registry.
const NAME_BYTES: usize = 255;
/// Bytes of a tag.
const TAG_BYTES: usize = 128;

/// A reference that cannot be understood, and the rule it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image reference {text:?}: {rule}")]
pub struct Error {
    text: String,
    rule: &'static str,
}

/// A normalised reference: always with its registry, and with a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host, with its port where one was given: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Whether the name is this machine's own (`localhost/…`, without a port), as builders give it: no registry has it.
    pub fn is_local(&self) -> bool {
        self.registry == "localhost"
    }

    /// The path below the registry: `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Registry and repository: `docker.io/library/nginx`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The tag; `latest` when neither tag nor digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `NAME:TAG`, when there is a tag.
    pub fn tagged(&self) -> Option<String> {
        self.tag
            .as_ref()
            .map(|tag| format!("{}/{}:{tag}", self.registry, self.repository))
    }

    /// `NAME@DIGEST`, a "repo digest".
    pub fn with_digest(&self, digest: &Digest) -> String {
        format!("{}/{}@{digest}", self.registry, self.repository)
    }

    /// As short as a person would write it: `nginx:latest`, `me/blog:2`, `quay.io/org/app:1`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let means_the_same = |text: &&str| text.parse::<Reference>().as_ref() == Ok(self);
        ["docker.io/library/", "docker.io/"]
            .iter()
            .filter_map(|prefix| full.strip_prefix(prefix))
            .find(means_the_same)
            .unwrap_or(&full)
            .to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let error = |rule| Error {
            text: text.chars().take(300).collect(),
            rule,
        };
        if text.is_empty() {
            return Err(error("is empty"));
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|_| error("after @, sha256: and 64 lower-case hex digits"))?;
                (rest, Some(digest))
            }
        };
        // A colon after the last slash separates the tag; before it, a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(error(
                "a tag is 1 to 128 letters, digits, _ . -, and begins with none of . -",
            ));
        }
        let (registry, path) = split_registry(name);
        let registry = canonical_registry(registry)
            .ok_or_else(|| error("the part before the first / is no host, or host:port"))?;
        let path = match registry.as_str() {
            DEFAULT_REGISTRY if !path.contains('/') => format!("{DEFAULT_NAMESPACE}/{path}"),
            _ => path.to_string(),
        };
        if !path.split('/').all(is_component) {
            return Err(error(
                "a repository is lower-case letters and digits, separated by one of . _ __ or any number of -, in parts separated by /",
            ));
        }
        if registry.len() + 1 + path.len() > NAME_BYTES {
            return Err(error("registry and repository are longer than 255 bytes"));
        }
        if digest.is_none() && tag.is_none() && text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(error("64 hex digits are an id, not a name; write sha256: before them"));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        Ok(Reference {
            registry,
            repository: path,
            tag: tag.map(str::to_string),
            digest,
        })
    }
}

/// The registry and what is below it.
fn split_registry(name: &str) -> (&str, &str) {
    let looks_like_host =
        |s: &str| s.contains(['.', ':']) || s == "localhost" || s.bytes().any(|b| b.is_ascii_uppercase());
    match name.split_once('/') {
        Some((first, path)) if looks_like_host(first) => (first, path),
        _ => (DEFAULT_REGISTRY, name),
    }
}

/// Host labels or a bracketed IPv6 address, and a port or none, in the one spelling of many that every rule about a registry is held
/// to: lower case, no leading zeros. None: it is something else. `index.docker.io` is an old name of Docker Hub.
pub(crate) fn canonical_registry(text: &str) -> Option<String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(v6) => {
            let (address, port) = v6.split_once(']')?;
            let address: std::net::Ipv6Addr = address.parse().ok()?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':')?),
            };
            (format!("[{address}]"), port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host.to_ascii_lowercase(), Some(port)),
            // A word that is a host only for its capitals keeps them: without, it would be a name on Docker Hub.
            None if text.contains('.') || text.eq_ignore_ascii_case("localhost") => (text.to_ascii_lowercase(), None),
            None => (text.to_owned(), None),
        },
    };
    if !host.starts_with('[') && !is_host(&host) {
        return None;
    }
    match port {
        None if host == "index.docker.io" => Some(DEFAULT_REGISTRY.to_owned()),
        None => Some(host),
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            let port: u16 = port.parse().ok()?;
            Some(format!("{host}:{port}"))
        }
        Some(_) => None,
    }
}

fn is_host(host: &str) -> bool {
    let is_label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    host.split('.').all(is_label)
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=TAG_BYTES).contains(&text.len())
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut rest = text;
    loop {
        let word = rest.bytes().take_while(|b| alphanumeric(*b)).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        if rest.is_empty() {
            return true;
        }
        let separator = rest.bytes().take_while(|b| !alphanumeric(*b)).count();
        let (between, after) = rest.split_at(separator);
        if !matches!(between, "." | "_" | "__") && !between.bytes().all(|b| b == b'-') {
            return false;
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn normalised_as_the_field_does() {
        let table = [
            ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("nginx:1.25", "docker.io/library/nginx:1.25", "nginx:1.25"),
            ("library/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            (
                "index.docker.io/nginx",
                "docker.io/library/nginx:latest",
                "nginx:latest",
            ),
            ("me/blog:2", "docker.io/me/blog:2", "me/blog:2"),
            ("a/b/c", "docker.io/a/b/c:latest", "a/b/c:latest"),
            (
                "localhost/hove/busybox:1",
                "localhost/hove/busybox:1",
                "localhost/hove/busybox:1",
            ),
            ("localhost:5000/a", "localhost:5000/a:latest", "localhost:5000/a:latest"),
            ("127.0.0.1:5000/a:b", "127.0.0.1:5000/a:b", "127.0.0.1:5000/a:b"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            (
                "quay.io/org/a-b__c.d_e",
                "quay.io/org/a-b__c.d_e:latest",
                "quay.io/org/a-b__c.d_e:latest",
            ),
            ("Host/a", "Host/a:latest", "Host/a:latest"),
            (
                "LOCALHOST:05000/a",
                "localhost:5000/a:latest",
                "localhost:5000/a:latest",
            ),
            ("Quay.IO/a", "quay.io/a:latest", "quay.io/a:latest"),
            ("DOCKER.io/a", "docker.io/library/a:latest", "a:latest"),
            ("[0::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("a--b", "docker.io/library/a--b:latest", "a--b:latest"),
            ("a:5000", "docker.io/library/a:5000", "a:5000"),
        ];
        for (text, full, familiar) in table {
            let reference: Reference = text.parse().unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
        }
    }

    #[test]
    fn digests_need_no_tag() {
        let reference: Reference = format!("nginx@{D}").parse().unwrap();
        assert_eq!(reference.to_string(), format!("docker.io/library/nginx@{D}"));
        assert_eq!((reference.tag(), reference.tagged()), (None, None));
        let both: Reference = format!("nginx:1@{D}").parse().unwrap();
        assert_eq!((both.tag(), both.digest()), (Some("1"), Some(&D.parse().unwrap())));
    }

    #[test]
    fn refused() {
        let long = "a".repeat(256);
        for text in [
            "",
            ":",
            "@",
            "/",
            "a/",
            "/a",
            "A",
            "a//b",
            "a:",
            "a:.b",
            "a:-b",
            "a..b",
            "a.",
            ".a",
            "a___b",
            "a._b",
            "-a",
            "a@",
            "a@sha256:00",
            "a b",
            "a\n",
            "ä",
            "host:port/a",
            "host:/a",
            "-x.y/a",
            "[::1/a",
            "[1]/a",
            "a:b:c",
            "https://docker.io/a",
            &long,
            &D[7..],
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn anything_is_refused_or_normal(text in "\\PC{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference.clone()));
                prop_assert_eq!(reference.familiar().parse::<Reference>(), Ok(reference));
            }
        }

        #[test]
        fn names_are_kept(
            host in "([a-z]{1,5}\\.[a-z]{2,3}|localhost)(:[1-9][0-9]{0,3})?", path in "[a-z0-9]{1,6}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,4}){1,3}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ) {
            let text = format!("{host}/{path}:{tag}");
            let reference: Reference = text.parse().unwrap();
            prop_assert_eq!(reference.to_string(), text);
            prop_assert_eq!(reference.tag(), Some(tag.as_str()));
        }
    }
}
