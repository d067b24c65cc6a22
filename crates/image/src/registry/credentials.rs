//! Who we are to a registry: what the caller gives, else what docker's configuration says.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::error::{Error, Result};

/// How long a credential helper may take.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);
/// Docker's configuration may be so large, in bytes.
const CONFIG_BYTES: u64 = 1 << 20;
/// How docker's configuration names Docker Hub.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// A name and its password.
    Password {
        /// The name.
        name: String,
        /// The password.
        password: String,
    },
    /// A token that an authorisation server exchanges for one of its own.
    IdentityToken(String),
    /// A token for the registry itself.
    RegistryToken(String),
}

/// Secrets are not printed.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::Password { .. } => "Credentials::Password(…)",
            Credentials::IdentityToken(_) => "Credentials::IdentityToken(…)",
            Credentials::RegistryToken(_) => "Credentials::RegistryToken(…)",
        })
    }
}

impl Credentials {
    /// What must not be shown, as a server that is told of it may quote it.
    pub fn secrets(&self) -> Vec<String> {
        match self {
            Credentials::Password { name, password } => {
                vec![password.clone(), STANDARD.encode(format!("{name}:{password}"))]
            }
            Credentials::IdentityToken(token) | Credentials::RegistryToken(token) => vec![token.clone()],
        }
    }

    /// A name and a password from their `auth` form: base64 of `NAME:PASSWORD`.
    pub fn from_auth(registry: &str, auth: &str) -> Result<Credentials> {
        let broken = || Error::Credentials {
            registry: registry.to_owned(),
            reason: "auth is not the base64 of a name, a colon and a password".to_owned(),
        };
        let bytes = STANDARD.decode(auth.trim()).map_err(|_| broken())?;
        let text = String::from_utf8(bytes).map_err(|_| broken())?;
        let (name, password) = text.trim_end_matches('\0').split_once(':').ok_or_else(broken)?;
        Ok(Credentials::Password {
            name: name.to_owned(),
            password: password.to_owned(),
        })
    }
}

/// Docker's `config.json`, as far as it is about credentials.
#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerConfig {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What a helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// What docker's configuration at `path` has for `registry`; nothing when there is no such file.
pub async fn from_docker(path: &Path, registry: &str) -> Result<Option<Credentials>> {
    let broken = |reason: String| Error::Credentials {
        registry: registry.to_owned(),
        reason: format!("{}: {reason}", path.display()),
    };
    let text = match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > CONFIG_BYTES => {
            return Err(broken(format!("has more than {CONFIG_BYTES} bytes")));
        }
        Ok(_) => std::fs::read(path).map_err(|e| broken(e.to_string()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(broken(error.to_string())),
    };
    // The parser's own words could quote a secret: only the place is told.
    let config: DockerConfig = serde_json::from_slice(&text).map_err(|e| {
        broken(format!(
            "no docker configuration: line {}, column {}",
            e.line(),
            e.column()
        ))
    })?;

    let is_ours = |key: &str| key == DOCKER_HUB_KEY && registry == "docker.io" || host_of(key) == registry;
    if let Some((key, helper)) = config.helpers.iter().find(|(key, _)| is_ours(key)) {
        return ask(helper, key, registry).await;
    }
    let entry = config.auths.iter().find(|(key, _)| is_ours(key));
    if let Some(found) = entry
        .map(|(_, entry)| entry.credentials(registry))
        .transpose()?
        .flatten()
    {
        return Ok(Some(found));
    }
    match &config.store {
        Some(helper) => {
            let key = entry.map(|(key, _)| key.as_str());
            let key = key.unwrap_or(if registry == "docker.io" {
                DOCKER_HUB_KEY
            } else {
                registry
            });
            ask(helper, key, registry).await
        }
        None => Ok(None),
    }
}

/// A key is a host, or a URL of one.
fn host_of(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    key.split('/').next().unwrap_or_default()
}

impl Entry {
    fn credentials(&self, registry: &str) -> Result<Option<Credentials>> {
        Ok(if !self.identitytoken.is_empty() {
            Some(Credentials::IdentityToken(self.identitytoken.clone()))
        } else if !self.registrytoken.is_empty() {
            Some(Credentials::RegistryToken(self.registrytoken.clone()))
        } else if !self.auth.is_empty() {
            Some(Credentials::from_auth(registry, &self.auth)?)
        } else if !self.username.is_empty() {
            Some(Credentials::Password {
                name: self.username.clone(),
                password: self.password.clone(),
            })
        } else {
            None
        })
    }
}

/// Asks `docker-credential-HELPER`, which is the user's.
async fn ask(helper: &str, key: &str, registry: &str) -> Result<Option<Credentials>> {
    let failed = |reason: String| Error::Credentials {
        registry: registry.to_owned(),
        reason: format!("docker-credential-{helper}: {reason}"),
    };
    if helper.contains('/') {
        return Err(failed("a helper's name has no slash".to_owned()));
    }
    let answer = async {
        let mut child = Command::new(format!("docker-credential-{helper}"))
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(key.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let answer = match tokio::time::timeout(HELPER_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|e| failed(e.to_string()))?,
        Err(_) => return Err(failed(format!("did not answer within {HELPER_TIMEOUT:?}"))),
    };
    if !answer.status.success() {
        // It says so on standard output, in these words.
        let said = String::from_utf8_lossy(&answer.stdout);
        return match said.contains("credentials not found") {
            true => Ok(None),
            false => Err(failed(format!("ended with {}", answer.status))),
        };
    }
    let answer: Answer =
        serde_json::from_slice(&answer.stdout).map_err(|_| failed("its answer is no JSON".to_owned()))?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credentials::IdentityToken(answer.secret),
        _ => Credentials::Password {
            name: answer.username,
            password: answer.secret,
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(name: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password {
            name: name.to_owned(),
            password: password.to_owned(),
        })
    }

    async fn of(config: &str, registry: &str) -> Result<Option<Credentials>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, config).unwrap();
        from_docker(&path, registry).await
    }

    #[tokio::test]
    async fn dockers_configuration_is_read() {
        let config = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "bWU6c2VjOnJldA=="},
            "https://quay.io": {"username": "you", "password": "p"},
            "token.example": {"identitytoken": "t"},
            "empty.example": {}
        }}"#;
        assert_eq!(of(config, "docker.io").await.unwrap(), password("me", "sec:ret"));
        assert_eq!(of(config, "quay.io").await.unwrap(), password("you", "p"));
        let token = Some(Credentials::IdentityToken("t".to_owned()));
        assert_eq!(of(config, "token.example").await.unwrap(), token);
        assert_eq!(of(config, "empty.example").await.unwrap(), None);
        assert_eq!(of(config, "other.example").await.unwrap(), None);
        assert_eq!(from_docker(Path::new("/nowhere"), "quay.io").await.unwrap(), None);
    }

    #[tokio::test]
    async fn no_error_quotes_a_secret() {
        for config in [
            r#"{"auths": {"quay.io": {"auth": "hunter2!"}}}"#,
            r#"{"auths": {"quay.io": {"password": "hunter2!", "username": 3}}}"#,
        ] {
            let error = of(config, "quay.io").await.unwrap_err().to_string();
            assert!(error.contains("quay.io") && !error.contains("hunter2"), "{error}");
        }
        assert!(!format!("{:?}", password("me", "hunter2")).contains("hunter2"));
    }
}
