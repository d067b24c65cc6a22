//! One server of a registry: requests with the authorisation that it asks for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{Body, Certificate, Identity, Method, Response, StatusCode, Url};
use rustls::{AlertDescription, CertificateError};
use serde::Deserialize;
use tokio::sync::{Mutex, OnceCell};

use super::challenge::{Challenge, Scheme};
use super::credentials::Credentials;
use super::error::Failure;
use super::hosts::{Host, Tls};
use crate::error::printable;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// What an error's or a token's answer may have, in bytes.
const ANSWER_BYTES: u64 = 64 << 10;
/// How many characters of a server's error are quoted.
const QUOTE_CHARS: usize = 400;
/// How often a server may send us on.
const REDIRECTS: usize = 5;
/// How Docker's and other authorisation servers know this client.
const CLIENT_ID: &str = "hove";

/// A server that may have the image.
pub struct Server {
    host: Host,
    stall: Duration,
    /// Without TLS and with it, each made when it is wanted. The authorities that this machine trusts are read for TLS alone:
    /// that takes a megabyte, and not every machine has some.
    plain: OnceCell<reqwest::Client>,
    secured: OnceCell<reqwest::Client>,
    /// Sent to this server alone.
    headers: HeaderMap,
    credentials: Option<Arc<Credentials>>,
    /// What its answers may quote of what they were told, and nobody is shown.
    secrets: Vec<String>,
    /// What the last challenge came to. Held while a new one is met, so that requests side by side ask for one token.
    authorization: Mutex<Option<HeaderValue>>,
}

/// What is asked of a server.
pub struct Request {
    method: Method,
    url: Url,
    headers: HeaderMap,
    /// Made anew for each attempt.
    body: Option<Box<dyn Fn() -> io::Result<Body> + Send + Sync>>,
}

impl Request {
    /// Without a body.
    pub fn new(method: Method, url: Url, headers: HeaderMap) -> Request {
        Request {
            method,
            url,
            headers,
            body: None,
        }
    }

    /// With what `body` makes.
    pub fn with_body(self, body: impl Fn() -> io::Result<Body> + Send + Sync + 'static) -> Request {
        let body = Some(Box::new(body) as Box<_>);
        Request { body, ..self }
    }
}

impl Server {
    /// `stall` is how long an answer, or its next bytes, may take.
    pub fn new(host: Host, credentials: Option<Arc<Credentials>>, stall: Duration) -> Result<Server, Failure> {
        let headers = configured_headers(&host.headers).map_err(Failure::Refused)?;
        let configured = host.headers.iter().map(|(_, value)| value.clone());
        let secrets = credentials.iter().flat_map(|credentials| credentials.secrets());
        let secrets = configured.chain(secrets).flat_map(as_quoted).collect();
        Ok(Server {
            host,
            stall,
            secrets,
            plain: OnceCell::new(),
            secured: OnceCell::new(),
            headers,
            credentials,
            authorization: Mutex::new(None),
        })
    }

    /// For messages.
    pub fn name(&self) -> String {
        self.host.name()
    }

    /// Whether it is the registry, and no mirror.
    pub fn is_own(&self) -> bool {
        self.host.is_own
    }

    /// Whether it may be asked what a tag means.
    pub fn resolves(&self) -> bool {
        self.host.resolves
    }

    /// Whether it may be asked for content by digest.
    pub fn pulls(&self) -> bool {
        self.host.pulls
    }

    /// `GET`s `path` below the repository, from the byte `from` on. Where the server sends us on, that one is asked, without
    /// anything that says who we are.
    pub async fn get(&self, repository: &str, path: &str, accept: &str, from: u64) -> Result<Response, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, plain(accept)?);
        if from > 0 {
            headers.insert(RANGE, plain(&format!("bytes={from}-"))?);
        }
        let mut url = self.url(repository, path);
        for _ in 0..REDIRECTS {
            let request = Request::new(Method::GET, url.clone(), headers.clone());
            let response = self.send(repository, request).await?;
            if !response.status().is_redirection() {
                return self.answered(response).await;
            }
            url = self.onward(&url, &response)?;
        }
        Err(Failure::Refused(format!("sends us on more than {REDIRECTS} times")))
    }

    /// Where a redirection leads.
    fn onward(&self, from: &Url, response: &Response) -> Result<Url, Failure> {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let url = location.and_then(|location| from.join(location).ok());
        let url = url.ok_or_else(|| Failure::Refused("sends us on without saying where to".to_owned()))?;
        match url.scheme() {
            "https" => Ok(url),
            "http" if from.scheme() == "http" => Ok(url),
            // Not the whole URL: it may carry a signature.
            _ => Err(Failure::Refused(format!(
                "sends us on to {}, without TLS",
                url.host_str().unwrap_or_default()
            ))),
        }
    }

    /// Where `path` below a repository is.
    pub fn url(&self, repository: &str, path: &str) -> Url {
        let mut url = self.host.base.clone();
        url.set_path(&format!("{}/{repository}/{path}", url.path().trim_end_matches('/')));
        url
    }

    /// Sends a request, again if the server wants to know first who we are.
    pub async fn send(&self, repository: &str, request: Request) -> Result<Response, Failure> {
        let is_ours = request.url.origin() == self.host.base.origin();
        if !is_ours {
            return self.send_once(&request, None).await;
        }
        let before = self.authorization.lock().await.clone();
        let response = self.send_once(&request, before.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let mut authorization = self.authorization.lock().await;
        // Another request may have met the challenge meanwhile.
        if *authorization == before {
            let scope = match request.method {
                Method::GET => "pull",
                _ => "pull,push",
            };
            let scope = format!("repository:{repository}:{scope}");
            *authorization = Some(self.authorize(&response, &scope).await?);
        }
        let current = authorization.clone();
        drop(authorization);
        self.send_once(&request, current.as_ref()).await
    }

    async fn send_once(&self, request: &Request, authorization: Option<&HeaderValue>) -> Result<Response, Failure> {
        let mut headers = request.headers.clone();
        // What is configured for this server may be a secret as well.
        if request.url.origin() == self.host.base.origin() {
            headers.extend(self.headers.clone());
        }
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        let client = self.client(&request.url).await?;
        let mut sent = client
            .request(request.method.clone(), request.url.clone())
            .headers(headers);
        if let Some(body) = &request.body {
            sent = sent.body(body().map_err(|error| Failure::Refused(error.to_string()))?);
        }
        sent.send().await.map_err(|error| self.unanswered(&error))
    }

    /// The one that can ask for `url`.
    async fn client(&self, url: &Url) -> Result<&reqwest::Client, Failure> {
        let tls = (url.scheme() == "https").then_some(&self.host.tls);
        let client = if tls.is_some() { &self.secured } else { &self.plain };
        let is_near = self.host.is_on_this_machine();
        let made = client.get_or_try_init(async || http_client(tls, is_near, self.stall));
        made.await.map_err(Failure::Refused)
    }

    /// What answers the challenge of a 401.
    async fn authorize(&self, refused: &Response, scope: &str) -> Result<HeaderValue, Failure> {
        let values = refused.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<Challenge> = values
            .filter_map(|value| value.to_str().ok())
            .filter_map(Challenge::parse)
            .collect();
        let credentials = self.credentials.as_deref();
        if let Some(Credentials::RegistryToken(token)) = credentials {
            return secret(format!("Bearer {token}"));
        }
        if let Some(challenge) = challenges.iter().find(|challenge| challenge.scheme == Scheme::Bearer) {
            let token = self.token(challenge, scope).await?;
            return secret(format!("Bearer {token}"));
        }
        match credentials {
            Some(Credentials::Password { name, password })
                if challenges.iter().any(|challenge| challenge.scheme == Scheme::Basic) =>
            {
                secret(basic(name, password))
            }
            Some(_) => Err(Failure::Denied(
                "asks for credentials of another kind than those given".to_owned(),
            )),
            None => Err(Failure::Denied(
                "asks for credentials, and there are none for it: --username with --password-stdin, a pod's imagePullSecrets and docker's \
                 config.json are where they come from"
                    .to_owned(),
            )),
        }
    }

    /// A token of the authorisation server that the challenge names.
    async fn token(&self, challenge: &Challenge, scope: &str) -> Result<String, Failure> {
        let realm: Url = challenge
            .get("realm")
            .and_then(|realm| realm.parse().ok())
            .ok_or_else(|| Failure::Refused("its challenge names no realm to get a token from".to_owned()))?;
        if realm.scheme() != "https" && self.host.base.scheme() == "https" {
            // Credentials would leave in plain text.
            return Err(Failure::Refused(format!("its tokens come from {realm}, without TLS")));
        }
        let service = challenge.get("service");
        let mut fields = vec![("scope", challenge.get("scope").unwrap_or(scope))];
        fields.extend(service.map(|service| ("service", service)));
        let request = match self.credentials.as_deref() {
            Some(Credentials::IdentityToken(token)) => {
                fields.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", CLIENT_ID),
                    ("refresh_token", token),
                ]);
                let body = form_urlencoded::Serializer::new(String::new())
                    .extend_pairs(fields)
                    .finish();
                let request = self.client(&realm).await?.post(realm.clone()).body(body);
                request.header("content-type", "application/x-www-form-urlencoded")
            }
            credentials => {
                let mut url = realm.clone();
                url.query_pairs_mut().extend_pairs(fields);
                let request = self.client(&realm).await?.get(url);
                match credentials {
                    Some(Credentials::Password { name, password }) => {
                        request.header(AUTHORIZATION, secret(basic(name, password))?)
                    }
                    _ => request,
                }
            }
        };
        let response = request.send().await.map_err(|error| self.unanswered(&error))?;
        // Not the query: it may name what is private.
        let from = realm.host_str().unwrap_or_default().to_owned();
        if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(Failure::Denied(format!(
                "{from} gives no token: {}",
                self.said(response).await
            )));
        }
        if !response.status().is_success() {
            return Err(Failure::Refused(format!(
                "{from} gives no token: {}",
                self.said(response).await
            )));
        }
        let bytes = body(response, ANSWER_BYTES).await?;
        // Docker Hub sends both fields; they are the same.
        let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes).unwrap_or_default();
        let token = ["token", "access_token"]
            .iter()
            .find_map(|name| fields.get(*name)?.as_str());
        token
            .map(str::to_owned)
            .ok_or_else(|| Failure::Refused(format!("{from} answers without a token")))
    }

    /// An answer with content, or why there is none.
    pub async fn answered(&self, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let mut said = self.said(response).await;
        // The token that it has given, or that was made for it.
        if let Some(header) = &*self.authorization.lock().await
            && let Ok(value) = header.to_str()
        {
            let token = value.split_once(' ').map_or(value, |(_, token)| token);
            said = without(said, &as_quoted(token.to_owned()));
        }
        let message = format!("{status}: {said}");
        Err(match status {
            StatusCode::NOT_FOUND => Failure::NotFound(message),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Denied(message),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Failure::Unreachable(message)
            }
            _ => Failure::Refused(message),
        })
    }

    /// Why there is no answer. One that does not come in time is not asked for again.
    fn unanswered(&self, error: &reqwest::Error) -> Failure {
        match error.is_timeout() && !error.is_connect() {
            true => Failure::Stalled(self.stall),
            false => transport(error),
        }
    }

    /// An error in the registry's own words, as far as they may be shown.
    async fn said(&self, response: Response) -> String {
        printable(&without(words(response).await, &self.secrets), QUOTE_CHARS)
    }
}

/// A secret, and how a form would have it.
fn as_quoted(secret: String) -> Vec<String> {
    let encoded = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    // A word that short stands everywhere, and is no secret.
    [secret, encoded]
        .into_iter()
        .filter(|text: &String| text.len() >= 4)
        .collect()
}

/// A text without secrets that it quotes.
fn without(text: String, secrets: &[String]) -> String {
    secrets.iter().fold(text, |text, secret| text.replace(secret, "…"))
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

fn plain(value: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(value).map_err(|_| Failure::Refused(format!("{value:?} can't stand in a header")))
}

/// A header that is not printed.
fn secret(value: String) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::try_from(value)
        .map_err(|_| Failure::Denied("the credentials for it can't stand in a header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// What an error says.
async fn words(response: Response) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Said>,
    }
    #[derive(Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    struct Said {
        code: String,
        message: String,
    }
    let reason = response.status().canonical_reason().unwrap_or("no reason").to_owned();
    let Ok(bytes) = body(response, ANSWER_BYTES).await else {
        return reason;
    };
    if let Ok(Errors { errors }) = serde_json::from_slice(&bytes)
        && !errors.is_empty()
    {
        let one = |error: &Said| match error.message.is_empty() {
            true => error.code.clone(),
            false => error.message.clone(),
        };
        return errors.iter().map(one).collect::<Vec<_>>().join(", ");
    }
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    // Pages for browsers say nothing here.
    if text.is_empty() || text.starts_with('<') {
        return reason;
    }
    text.to_owned()
}

/// A whole small answer.
pub async fn body(mut response: Response, limit: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| transport(&error))? {
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(Failure::Refused(format!("its answer has more than {limit} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// What broke, without the URL: that may carry a signature.
pub fn transport(error: &reqwest::Error) -> Failure {
    if let Some(why) = tls_error(error).and_then(certificate_trouble) {
        return Failure::Refused(why);
    }
    let mut innermost: &dyn std::error::Error = error;
    let mut is_of_name = false;
    while let Some(source) = innermost.source() {
        // hyper-util says no more of it than this.
        is_of_name |= source.to_string() == "dns error";
        innermost = source;
    }
    let what = if error.is_timeout() {
        "the time for an answer is over".to_owned()
    } else if is_of_name {
        nameless(&innermost.to_string())
    } else if error.is_connect() {
        format!("no connection: {innermost}")
    } else {
        format!("the connection broke: {innermost}")
    };
    Failure::Unreachable(what)
}

/// Why there is no address for a host's name, without the resolver's notes to itself.
fn nameless(said: &str) -> String {
    let said = said.split(" for Query").next().unwrap_or_default();
    match said {
        "no records found" => "there is no host of this name (DNS has no address for it)".to_owned(),
        said => format!("its name can't be looked up: {said}"),
    }
}

/// What TLS said, somewhere below. The source of an [`io::Error`] is not what it holds but the source of that.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    error.downcast_ref().or_else(|| match held {
        Some(held) => tls_error(held),
        None => tls_error(error.source()?),
    })
}

/// What a person can do about it when one side does not take the other's certificate.
fn certificate_trouble(error: &rustls::Error) -> Option<String> {
    Some(match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "its certificate is signed by none that this node trusts: name the authority's file in hosts.toml, ca = FILE".to_owned()
        }
        rustls::Error::InvalidCertificate(why) => format!("its certificate does not hold: {why}"),
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it wants to see a certificate: name its file and its key's in hosts.toml, client = [[FILE, KEY]]".to_owned()
        }
        rustls::Error::AlertReceived(
            why @ (AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::UnknownCA),
        ) => format!("it does not take our certificate ({why:?}), which hosts.toml names"),
        _ => return None,
    })
}

/// `is_near` is a server on this machine: a proxy would take it for its own.
fn http_client(tls: Option<&Tls>, is_near: bool, stall: Duration) -> Result<reqwest::Client, String> {
    // Chosen once in a process; a second call finds the first one's choice.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("hove/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(stall)
        .hickory_dns(true)
        .redirect(Policy::none());
    if is_near {
        builder = builder.no_proxy();
    }
    builder = match tls {
        Some(tls) => secured(builder, tls)?,
        None => builder.tls_certs_only([]),
    };
    builder.build().map_err(|error| format!("its TLS settings: {error}"))
}

/// As hosts.toml says.
fn secured(mut builder: reqwest::ClientBuilder, tls: &Tls) -> Result<reqwest::ClientBuilder, String> {
    let read = |path: &std::path::Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    builder = builder.tls_danger_accept_invalid_certs(tls.skip_verify);
    for path in &tls.authorities {
        let broken = |error: reqwest::Error| format!("{}: {error}", path.display());
        builder = builder.tls_certs_merge(Certificate::from_pem_bundle(&read(path)?).map_err(broken)?);
    }
    if let Some((certificate, key)) = &tls.client {
        let mut pem = read(certificate)?;
        if key != certificate {
            pem.push(b'\n');
            pem.extend(read(key)?);
        }
        // The parser's words are not passed on: they are about a key.
        let identity = Identity::from_pem(&pem)
            .map_err(|_| format!("{}, {}: no certificate and key", certificate.display(), key.display()))?;
        builder = builder.identity(identity);
    }
    Ok(builder)
}

fn configured_headers(headers: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let broken = || format!("header {name:?}: no header can be so");
        let value = HeaderValue::from_str(value).map_err(|_| broken())?;
        map.append(HeaderName::from_bytes(name.as_bytes()).map_err(|_| broken())?, value);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_an_address_is_said_in_plain_words() {
        let said = r#"no records found for Query { name: Name("no.such.host.example."), query_type: AAAA }"#;
        assert_eq!(
            nameless(said),
            "there is no host of this name (DNS has no address for it)"
        );
        assert_eq!(
            nameless("request timed out"),
            "its name can't be looked up: request timed out"
        );
    }
}
