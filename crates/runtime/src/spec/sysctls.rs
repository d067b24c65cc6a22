//! `linux.sysctl` of a sandbox: what its namespaces have of their own, and nothing of the host's.

use std::collections::{BTreeMap, HashMap};

use super::{Result, error::invalid};

/// What every pod with a network of its own gets unless it says otherwise: any user may listen on port 80 and send
/// a ping, since the ports are the pod's alone.
fn network_defaults(last_gid: Option<u32>) -> [(&'static str, String); 2] {
    // A group that the pod's user namespace has not got is refused.
    let last = last_gid.map_or(MAX_PING_GROUP, |last| last.min(MAX_PING_GROUP));
    [
        ("net.ipv4.ip_unprivileged_port_start", "0".to_owned()),
        ("net.ipv4.ping_group_range", format!("0 {last}")),
    ]
}

/// The kernel takes no greater one.
const MAX_PING_GROUP: u32 = i32::MAX as u32;

/// The sandbox's sysctls, defaults included. A name of which the pod has no copy of its own is refused.
pub(super) fn sandbox(
    configured: &BTreeMap<String, String>,
    own_network: bool,
    own_ipc: bool,
    last_gid: Option<u32>,
) -> Result<HashMap<String, String>> {
    let mut sysctls = HashMap::new();
    if own_network {
        sysctls.extend(network_defaults(last_gid).map(|(name, value)| (name.to_owned(), value)));
    }
    for (name, value) in configured {
        let name = dotted(name);
        match namespace_of(&name) {
            Some(Namespace::Network) if own_network => {}
            Some(Namespace::Ipc) if own_ipc => {}
            Some(Namespace::Network) => {
                return Err(refused(
                    &name,
                    "the pod uses the host's network, so this would change the host's",
                ));
            }
            Some(Namespace::Ipc) => {
                return Err(refused(
                    &name,
                    "the pod uses the host's IPC namespace, so this would change the host's",
                ));
            }
            None => return Err(refused(&name, "no namespace of a pod has its own value of it")),
        }
        sysctls.insert(name, value.clone());
    }
    Ok(sysctls)
}

enum Namespace {
    Network,
    Ipc,
}

/// Whose a sysctl is; `None`: the host's (the UTS namespace's names are set by the host name).
fn namespace_of(name: &str) -> Option<Namespace> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    if name.starts_with("net.") {
        Some(Namespace::Network)
    } else if name.starts_with("fs.mqueue.") || IPC.contains(&name) {
        Some(Namespace::Ipc)
    } else {
        None
    }
}

/// sysctl(8) takes `net/ipv4/conf/eth0.1/…` too: with slashes first, dots are part of a name.
fn dotted(name: &str) -> String {
    match (name.find('/'), name.find('.')) {
        (Some(slash), dot) if dot.is_none_or(|dot| slash < dot) => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

fn refused(name: &str, why: &str) -> super::SpecError {
    invalid(format_args!("linux.sysctls[{name}]"), why)
}
