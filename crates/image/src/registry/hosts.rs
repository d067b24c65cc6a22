//! Where a registry's images come from: itself and its mirrors, as people have set them up.
//!
//! The format is containerd's, so that what a node has can stay as it is: for the registry `example.org:5000` the file
//! `DIR/example.org:5000/hosts.toml` (or `DIR/example.org_5000_/hosts.toml`), else `DIR/_default/hosts.toml`:
//!
//! ```toml
//! server = "https://example.org:5000"
//!
//! [host."https://mirror.example.org"]
//! capabilities = ["pull", "resolve"]
//! ca = "mirror.pem"                    # beside the file; a list is possible
//! client = [["client.pem", "key.pem"]]
//! skip_verify = false
//! override_path = false                # true: the URL is complete, no /v2 is added
//! [host."https://mirror.example.org".header]
//! x-custom = "value"
//! ```
//! Hosts are asked in the order of the file, the server last.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::Deserialize;

use super::error::{Error, Result};

/// Docker Hub's registry is not at the name by which its images go.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");
/// For registries that have no directory of their own.
const DEFAULT_DIR: &str = "_default";

/// One server that may have a registry's images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// With the path up to and including `/v2`.
    pub base: Url,
    /// Whether it is the registry itself, not a mirror.
    pub is_own: bool,
    /// Whether it may be asked for blobs and manifests by digest.
    pub pulls: bool,
    /// Whether it may be asked what a tag means.
    pub resolves: bool,
    /// How its connections are secured.
    pub tls: Tls,
    /// Sent with each request.
    pub headers: Vec<(String, String)>,
}

impl Host {
    /// As people and docker's configuration call it.
    pub fn name(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        self.base
            .port()
            .map_or(host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Then a proxy would be the wrong one to ask.
    pub fn is_on_this_machine(&self) -> bool {
        is_local(self.base.authority())
    }
}

/// How a server is recognised, and how it recognises us.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Files of certificates that are trusted beside the system's.
    pub authorities: Vec<PathBuf>,
    /// Files of a certificate and its key (the same file may hold both).
    pub client: Option<(PathBuf, PathBuf)>,
    /// Whoever answers is believed.
    pub skip_verify: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HostsFile {
    server: Option<String>,
    host: toml::Table,
    #[serde(flatten)]
    server_settings: HostSettings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HostSettings {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: bool,
    override_path: bool,
    header: BTreeMap<String, OneOrMany>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// A file with both, a certificate and its key, or a list of such pairs.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Client {
    File(String),
    Pairs(Vec<ClientPair>),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum ClientPair {
    File(String),
    Pair([String; 2]),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

/// The servers for `registry`, by the first of `dirs` that says something about it.
pub fn hosts(registry: &str, dirs: &[PathBuf]) -> Result<Vec<Host>> {
    for name in [registry.to_owned(), port_spelled_out(registry), DEFAULT_DIR.to_owned()] {
        for dir in dirs {
            let dir = dir.join(&name);
            let path = dir.join("hosts.toml");
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    let broken = |rule: String| Error::Hosts {
                        path: path.clone(),
                        rule,
                    };
                    return configured(registry, &text, &dir).map_err(broken);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(Error::Hosts {
                        path,
                        rule: error.to_string(),
                    });
                }
            }
        }
    }
    let base = base(&server_url(registry), false).map_err(|rule| Error::Hosts {
        path: PathBuf::from(registry),
        rule,
    })?;
    Ok(vec![Host {
        base,
        is_own: true,
        pulls: true,
        resolves: true,
        tls: Tls::default(),
        headers: Vec::new(),
    }])
}

/// A colon is no character for a directory's name everywhere.
fn port_spelled_out(registry: &str) -> String {
    match registry.rsplit_once(':') {
        Some((host, port)) => format!("{host}_{port}_"),
        None => registry.to_owned(),
    }
}

/// Where a registry is when nobody says so: on this machine without TLS, elsewhere with it.
fn server_url(registry: &str) -> String {
    let registry = if registry == DOCKER_HUB.0 {
        DOCKER_HUB.1
    } else {
        registry
    };
    let scheme = if is_local(registry) { "http" } else { "https" };
    format!("{scheme}://{registry}")
}

fn is_local(registry: &str) -> bool {
    let host = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn configured(registry: &str, text: &str, dir: &Path) -> Result<Vec<Host>, String> {
    let file: HostsFile = toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |span| text[..span.start].lines().count().max(1));
        format!("line {line}: {}", unquoted(&e))
    })?;
    let mut hosts = Vec::new();
    for (url, settings) in file.host {
        let settings: HostSettings = settings
            .try_into()
            .map_err(|e: toml::de::Error| format!("host {:?}: {}", nameless(&url), unquoted(&e)))?;
        hosts.push(host(&url, settings, dir).map_err(|rule| format!("host {:?}: {rule}", nameless(&url)))?);
    }
    let server = file.server.unwrap_or_else(|| server_url(registry));
    let own =
        host(&server, file.server_settings, dir).map_err(|rule| format!("server {:?}: {rule}", nameless(&server)))?;
    hosts.push(Host { is_own: true, ..own });
    Ok(hosts)
}

/// The parser's words without the value that they quote, which may be a secret.
fn unquoted(error: &toml::de::Error) -> String {
    let message = error.message();
    match message.split_once(", expected ") {
        Some((_, expected)) if message.starts_with("invalid ") => format!("a value is not as it should be: {expected}"),
        _ => message.to_owned(),
    }
}

/// A URL without the name and the password in it.
fn nameless(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rsplit('@').next().unwrap_or_default();
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{host}{}", &rest[end..])
}

fn host(url: &str, settings: HostSettings, dir: &Path) -> Result<Host, String> {
    // A host without a scheme is meant with TLS.
    let url = match url.contains("://") {
        true => url.to_owned(),
        false => format!("https://{url}"),
    };
    let can = |capability: &str| {
        let listed = settings.capabilities.as_ref();
        listed.is_none_or(|listed| listed.iter().any(|one| one == capability))
    };
    let beside = |file: &String| dir.join(file);
    let client = match &settings.client {
        None => None,
        Some(Client::File(file)) => Some((beside(file), beside(file))),
        Some(Client::Pairs(pairs)) => match pairs.as_slice() {
            [] => None,
            [ClientPair::File(file)] => Some((beside(file), beside(file))),
            [ClientPair::Pair([certificate, key])] => Some((beside(certificate), beside(key))),
            _ => return Err("client: one certificate is enough".to_owned()),
        },
    };
    let headers = settings
        .header
        .iter()
        .flat_map(|(name, values)| values.clone().into_vec().into_iter().map(|value| (name.clone(), value)))
        .collect();
    Ok(Host {
        base: base(&url, settings.override_path)?,
        is_own: false,
        pulls: can("pull"),
        resolves: can("resolve"),
        tls: Tls {
            authorities: settings
                .ca
                .map(OneOrMany::into_vec)
                .unwrap_or_default()
                .iter()
                .map(beside)
                .collect(),
            client,
            skip_verify: settings.skip_verify,
        },
        headers,
    })
}

fn base(url: &str, is_whole: bool) -> Result<Url, String> {
    let mut base: Url = url.parse().map_err(|error| format!("{error}"))?;
    if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
        return Err("want http:// or https:// and a host".to_owned());
    }
    let path = base.path().trim_end_matches('/').to_owned();
    if is_whole {
        base.set_path(&path);
    } else if !path.ends_with("/v2") {
        base.set_path(&format!("{path}/v2"));
    }
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(hosts: &[Host]) -> Vec<&str> {
        hosts.iter().map(|host| host.base.as_str()).collect()
    }

    #[test]
    fn without_a_file_the_registry_itself_is_asked() {
        let of = |registry: &str| bases(&hosts(registry, &[]).unwrap()).join(" ");
        assert_eq!(of("docker.io"), "https://registry-1.docker.io/v2");
        assert_eq!(of("quay.io"), "https://quay.io/v2");
        assert_eq!(of("localhost:5000"), "http://localhost:5000/v2");
        assert_eq!(of("127.0.0.1"), "http://127.0.0.1/v2");
        assert_eq!(of("[::1]:5000"), "http://[::1]:5000/v2");
        assert_eq!(of("localhost.example:5000"), "https://localhost.example:5000/v2");
    }

    #[test]
    fn a_file_names_mirrors_in_its_order() {
        let text = r#"
            server = "https://real.example"
            [host."https://z.example"]
            capabilities = ["pull"]
            ca = ["one.pem", "/two.pem"]
            client = [["c.pem", "k.pem"]]
            [host."https://z.example".header]
            x-a = "1"
            x-b = ["2", "3"]
            [host."http://a.example:5000/prefix/v2"]
            override_path = true
            skip_verify = true
        "#;
        let hosts = configured("real.example", text, Path::new("/etc/d")).unwrap();
        assert_eq!(
            bases(&hosts),
            [
                "https://z.example/v2",
                "http://a.example:5000/prefix/v2",
                "https://real.example/v2"
            ]
        );
        assert!(hosts[0].pulls && !hosts[0].resolves);
        assert_eq!(
            hosts[0].tls.authorities,
            [Path::new("/etc/d/one.pem"), Path::new("/two.pem")]
        );
        assert_eq!(
            hosts[0].tls.client,
            Some(("/etc/d/c.pem".into(), "/etc/d/k.pem".into()))
        );
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            hosts[0].headers,
            [header("x-a", "1"), header("x-b", "2"), header("x-b", "3")]
        );
        assert!(hosts[1].tls.skip_verify && hosts[1].resolves);
        assert_eq!(hosts[2].tls, Tls::default());
    }

    #[test]
    fn a_directory_is_found_by_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, mirror: &str| {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
            let text = format!("[host.\"https://{mirror}\"]\n");
            std::fs::write(dir.path().join(name).join("hosts.toml"), text).unwrap();
        };
        write("_default", "fallback");
        write("one.example_5000_", "one");
        write("two.example:5000", "two");
        let dirs = [dir.path().join("missing"), dir.path().to_path_buf()];
        let first = |registry: &str| hosts(registry, &dirs).unwrap()[0].base.to_string();
        assert_eq!(first("one.example:5000"), "https://one/v2");
        assert_eq!(first("two.example:5000"), "https://two/v2");
        assert_eq!(first("three.example"), "https://fallback/v2");
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("x.example")).unwrap();
        for text in ["[host", "[host.\"ftp://x\"]", "[host.\"https://x\"]\nskip_verify = 3"] {
            std::fs::write(dir.path().join("x.example/hosts.toml"), text).unwrap();
            let error = hosts("x.example", &[dir.path().to_path_buf()]).unwrap_err().to_string();
            assert!(error.contains("x.example/hosts.toml"), "{error}");
        }
    }

    #[test]
    fn no_error_quotes_a_secret() {
        let text = |setting: &str| format!("[host.\"https://x\"]\n{setting}\n");
        for (text, said) in [
            (
                text("[host.\"https://x\".header]\nauthorization = \"Basic hunter2\" x"),
                "line 3",
            ),
            (text("header = \"Basic hunter2\""), "host \"https://x\""),
            (text("skip_verify = \"hunter2\""), "host \"https://x\""),
            (
                "[host.\"ftp://me:hunter2@y.example/z\"]".to_owned(),
                "host \"ftp://y.example/z\"",
            ),
            (
                "server = \"ftp://me:hunter2@y.example\"".to_owned(),
                "server \"ftp://y.example\"",
            ),
        ] {
            let error = configured("x.example", &text, Path::new("/")).unwrap_err();
            assert!(error.contains(said) && !error.contains("hunter2"), "{error}");
        }
    }
}
