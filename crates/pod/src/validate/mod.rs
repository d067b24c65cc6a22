//! The rules of the API server for a Pod, in its words. Expects the defaults to be filled in.

mod container;
mod names;
mod security;
mod volume;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{Pod, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    Problem,
    path::Path,
    problem::{Found, Rule},
};

/// Everything about `pod` that Kubernetes' API server, or Hove, does not accept.
pub fn validate(pod: &Pod) -> Vec<Problem> {
    let mut found = Found::default();
    metadata(&pod.metadata, &Path::Root.field("metadata"), &mut found);
    match &pod.spec {
        Some(spec) => pod_spec(spec, &Path::Root.field("spec"), &mut found),
        None => found.required(Path::Root.field("spec")),
    }
    found.into_list()
}

fn metadata(metadata: &ObjectMeta, path: &Path<'_>, found: &mut Found) {
    /// All annotations together, in bytes.
    const ANNOTATIONS_LIMIT: usize = 256 << 10;

    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    match (given(&metadata.name), given(&metadata.generate_name)) {
        (Some(name), _) => names::subdomain(found, path.field("name"), &name),
        (None, Some(prefix)) => names::subdomain(found, path.field("generateName"), &format!("{prefix}x")),
        (None, None) => found.push(
            path.field("name"),
            Rule::Required("name or generateName is required".into()),
        ),
    }
    if let Some(namespace) = given(&metadata.namespace) {
        names::label(found, path.field("namespace"), &namespace);
    }
    let labels = path.field("labels");
    for (key, value) in metadata.labels.iter().flatten() {
        names::qualified(found, &labels, key);
        names::label_value(found, labels.key(key), value);
    }
    let annotations = path.field("annotations");
    let mut size = 0;
    for (key, value) in metadata.annotations.iter().flatten() {
        names::qualified(found, &annotations, &key.to_lowercase());
        security::annotation(found, &annotations, key, value);
        size += key.len() + value.len();
    }
    if size > ANNOTATIONS_LIMIT {
        found.push(annotations, Rule::TooLong(ANNOTATIONS_LIMIT));
    }
}

fn pod_spec(spec: &PodSpec, path: &Path<'_>, found: &mut Found) {
    let choice = |found: &mut Found, field: &str, value: &Option<String>, supported: &[&str]| {
        if let Some(value) = value {
            found.one_of(path.field(field), value, supported);
        }
    };
    choice(
        found,
        "restartPolicy",
        &spec.restart_policy,
        &["Always", "OnFailure", "Never"],
    );
    choice(
        found,
        "dnsPolicy",
        &spec.dns_policy,
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let os = path.field("os");
        found.one_of(
            os.field("name"),
            spec.os.as_ref().map_or("", |os| os.name.as_str()),
            &["linux"],
        );
    }
    if let Some(seconds) = spec.termination_grace_period_seconds
        && seconds < 0
    {
        found.invalid(
            path.field("terminationGracePeriodSeconds"),
            seconds,
            "must be greater than or equal to 0",
        );
    }
    if let Some(hostname) = &spec.hostname {
        names::label(found, path.field("hostname"), hostname);
    }
    if let Some(class) = &spec.runtime_class_name {
        names::subdomain(found, path.field("runtimeClassName"), class);
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        found.invalid(
            path.field("shareProcessNamespace"),
            "true",
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    if spec.host_users == Some(false) {
        for (field, value) in [
            ("hostNetwork", spec.host_network),
            ("hostPID", spec.host_pid),
            ("hostIPC", spec.host_ipc),
        ] {
            if value == Some(true) {
                found.forbidden(path.field(field), "when `hostUsers` is false");
            }
        }
    }
    dns(spec, path, found);
    host_aliases(spec, path, found);
    let volumes = volume::volumes(spec, &path.field("volumes"), found);
    security::pod(spec, &path.field("securityContext"), found);
    container::containers(spec, path, &volumes, found);
}

/// Limits as the API server's: 3 name servers, 32 searches of together 2,048 characters.
fn dns(spec: &PodSpec, path: &Path<'_>, found: &mut Found) {
    const NAMESERVERS_LIMIT: usize = 3;
    const SEARCHES_LIMIT: usize = 32;
    const SEARCHES_BYTES_LIMIT: usize = 2048;

    let config = spec.dns_config.clone().unwrap_or_default();
    let path = path.field("dnsConfig");
    let servers = config.nameservers.unwrap_or_default();
    let servers_path = path.field("nameservers");
    if spec.dns_policy.as_deref() == Some("None") && servers.is_empty() {
        let rule = format!(
            "must provide at least one DNS nameserver when `dnsPolicy` is {:?}",
            "None"
        );
        found.push(servers_path, Rule::Required(rule));
    }
    if servers.len() > NAMESERVERS_LIMIT {
        found.invalid(
            servers_path,
            &servers.join(" "),
            format!("must not have more than {NAMESERVERS_LIMIT} nameservers"),
        );
    }
    for (n, server) in servers.iter().enumerate() {
        ip(found, servers_path.index(n), server);
    }
    let searches = config.searches.unwrap_or_default();
    let searches_path = path.field("searches");
    if searches.len() > SEARCHES_LIMIT {
        found.invalid(
            searches_path,
            &searches.join(" "),
            format!("must not have more than {SEARCHES_LIMIT} search paths"),
        );
    }
    if searches.join(" ").len() > SEARCHES_BYTES_LIMIT {
        let rule =
            format!("must not have more than {SEARCHES_BYTES_LIMIT} characters (including spaces) in the search list");
        found.invalid(searches_path, &searches.join(" "), rule);
    }
    for (n, search) in searches.iter().enumerate() {
        if search != "." {
            names::subdomain(
                found,
                searches_path.index(n),
                search.trim_end_matches('.').trim_start_matches('_'),
            );
        }
    }
    let options_path = path.field("options");
    for (n, option) in config.options.iter().flatten().enumerate() {
        if option.name.as_deref().unwrap_or_default().is_empty() {
            found.required(options_path.index(n).field("name"));
        }
    }
}

fn host_aliases(spec: &PodSpec, path: &Path<'_>, found: &mut Found) {
    let path = path.field("hostAliases");
    for (n, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = path.index(n);
        ip(found, path.field("ip"), &alias.ip);
        let hostnames = path.field("hostnames");
        for (n, hostname) in alias.hostnames.iter().flatten().enumerate() {
            names::subdomain(found, hostnames.index(n), hostname);
        }
    }
}

fn ip(found: &mut Found, path: Path<'_>, text: &str) {
    if text.parse::<std::net::IpAddr>().is_err() {
        found.invalid(
            path,
            text,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
    }
}

/// The names of what a container may refer to.
type Names = BTreeSet<String>;

/// Finds what occurs twice.
struct Once(BTreeMap<String, ()>);

impl Once {
    fn new() -> Once {
        Once(BTreeMap::new())
    }

    fn check(&mut self, found: &mut Found, path: Path<'_>, value: &str) {
        if self.0.insert(value.to_owned(), ()).is_some() {
            found.duplicate(path, value);
        }
    }
}
