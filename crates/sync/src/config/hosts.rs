//! A pod's /etc/hosts: written by the engine, mounted into every container that has no mount of its own there.

use k8s_openapi::api::core::v1::PodSpec;

/// Its text. On the host's network it is the host's, with the pod's aliases.
pub fn text(spec: &PodSpec, pod_ips: &[String], hostname: &str, host_file: &str) -> String {
    let mut text = if spec.host_network.unwrap_or_default() {
        format!("# Written by Hove, from the host's.\n{host_file}\n")
    } else {
        let mut text = String::from(
            "# Written by Hove.\n\
             127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n",
        );
        for ip in pod_ips {
            text += &format!("{ip}\t{hostname}\n");
        }
        text
    };
    let aliases: Vec<_> = spec.host_aliases.iter().flatten().collect();
    if !aliases.is_empty() {
        text += "\n# The pod's hostAliases.\n";
    }
    for alias in aliases {
        text += &format!(
            "{}\t{}\n",
            alias.ip,
            alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t")
        );
    }
    text
}
