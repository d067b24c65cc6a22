//! The files that every container of a pod sees: /etc/hostname, /etc/hosts, /etc/resolv.conf.

use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cri::v1::DnsConfig;

use crate::error::{Error, Result};
use crate::layout::SandboxDir;
use crate::records::SandboxRecord;
use crate::spec;

/// Writes the three. On the host's network they are the host's own, except where the configuration says otherwise.
pub(super) fn write(dir: &SandboxDir, record: &SandboxRecord, host_resolv_conf: &Path) -> Result<()> {
    let hosts = if record.netns.is_some() {
        hosts(&record.hostname, &record.ips)
    } else {
        fs::read_to_string("/etc/hosts").unwrap_or_else(|_| hosts(&record.hostname, &[]))
    };
    let resolv_conf = match &record.config.dns_config {
        Some(dns) if *dns != DnsConfig::default() => resolv_conf(dns),
        // A host without the file has no resolver either.
        _ => fs::read_to_string(host_resolv_conf).unwrap_or_default(),
    };
    for (name, text) in [
        ("hostname", format!("{}\n", record.hostname)),
        ("hosts", hosts),
        ("resolv.conf", resolv_conf),
    ] {
        let path = dir.path().join(name);
        write_readable(&path, &text)?;
        if let Some(maps) = spec::user_maps(&record.config)? {
            // Their containers' root may write them, as elsewhere.
            std::os::unix::fs::chown(&path, Some(maps.host_uid), Some(maps.host_gid))
                .map_err(Error::file("chown", &path))?;
        }
    }
    Ok(())
}

/// Readable by every user in the containers, whatever the node's umask.
fn write_readable(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::file("write", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(Error::file("chmod", path))
}

fn hosts(hostname: &str, ips: &[IpAddr]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{ip}\t{hostname}");
    }
    text
}

fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        let _ = writeln!(text, "search {}", dns.searches.join(" "));
    }
    for server in &dns.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_is_in_its_hosts_file() {
        let text = hosts("web-0", &["10.85.0.7".parse().unwrap()]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"), "{text}");
        assert!(text.ends_with("10.85.0.7\tweb-0\n"), "{text}");
    }

    #[test]
    fn resolver() {
        let dns = DnsConfig {
            servers: vec!["10.96.0.10".into(), "1.1.1.1".into()],
            searches: vec!["default.svc.cluster.local".into(), "cluster.local".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "search default.svc.cluster.local cluster.local\nnameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }
}
