//! What a pod asks for names (<https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/>).
//!
//! There is no cluster, so `ClusterFirst` falls back on `Default`, the host's resolv.conf, as kubelet does without a cluster DNS.

use cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::PodSpec;

/// As the resolver itself: the first three servers count.
const SERVERS_LIMIT: usize = 3;

/// The pod's resolv.conf, given the host's.
pub fn config(spec: &PodSpec, host: &str) -> DnsConfig {
    let mut config = if spec.dns_policy.as_deref() == Some("None") {
        DnsConfig::default()
    } else {
        parse(host)
    };
    let Some(own) = &spec.dns_config else { return config };
    add_new(&mut config.servers, own.nameservers.iter().flatten().cloned());
    add_new(&mut config.searches, own.searches.iter().flatten().cloned());
    for option in own.options.iter().flatten() {
        let name = option.name.as_deref().unwrap_or_default();
        // An option of the pod replaces that of the host.
        config.options.retain(|other| other.split(':').next() != Some(name));
        config.options.push(match &option.value {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        });
    }
    config.servers.truncate(SERVERS_LIMIT);
    config
}

fn add_new(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for text in more {
        if !list.contains(&text) {
            list.push(text);
        }
    }
}

/// resolv.conf(5): the last `search` line counts, options add up.
fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => config.searches = words.map(str::to_owned).collect(),
            Some("options") => config.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    config.servers.truncate(SERVERS_LIMIT);
    config
}
