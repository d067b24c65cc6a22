//! Who holds a host port: for the error message, so best effort, and only when there is one.

use std::path::Path;

use crate::Protocol;

/// Sockets are looked for in at most so many processes.
const PROCESSES_MAX: usize = 20_000;

/// `nginx (pid 812)`, or `another program` when it can't be found (a process of another user namespace, or a socket
/// without a process).
pub fn of_port(protocol: Protocol, port: u16) -> String {
    find(protocol, port).unwrap_or_else(|| "another program".to_owned())
}

fn find(protocol: Protocol, port: u16) -> Option<String> {
    let tables: &[&str] = match protocol {
        Protocol::Udp => &["udp", "udp6"],
        _ => &["tcp", "tcp6"],
    };
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| std::fs::read_to_string(Path::new("/proc/thread-self/net").join(table)).ok())
        .flat_map(|text| sockets_on(&text, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    for entry in std::fs::read_dir("/proc").ok()?.flatten().take(PROCESSES_MAX) {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = std::fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let holds = descriptors
            .flatten()
            .filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .any(|target| target.to_str().is_some_and(|t| inodes.iter().any(|i| i == t)));
        if holds {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim_end()));
        }
    }
    None
}

/// The inodes of the sockets in /proc/net/{tcp,udp} that are bound to `port` and not connected.
fn sockets_on(table: &str, port: u16) -> Vec<u64> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let local = fields.nth(1)?;
            let remote = fields.next()?;
            let inode = fields.nth(6)?;
            let bound = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
            (bound == port && remote.ends_with(":0000"))
                .then(|| inode.parse().ok())
                .flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n   \
                     1: 0100007F:1F41 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1\n";
        assert_eq!(sockets_on(table, 8001), [4711]);
        assert!(sockets_on(table, 80).is_empty());
    }

    #[test]
    fn finds_this_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = of_port(Protocol::Tcp, listener.local_addr().unwrap().port());
        assert!(found.contains(&format!("(pid {})", std::process::id())), "{found}");
    }
}
