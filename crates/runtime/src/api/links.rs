//! The links of a pod's network namespace and what went over them.

use crate::sandbox::View;

/// A link's counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) received: Traffic,
    pub(super) sent: Traffic,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) bytes: u64,
    pub(super) packets: u64,
    pub(super) errors: u64,
    pub(super) dropped: u64,
}

/// The pod's links, through pause's eyes; loopback left out. `None` without pause.
pub(super) fn of_pod(view: &View) -> Option<Vec<Link>> {
    let pause = view.pause?;
    let table = std::fs::read_to_string(format!("/proc/{}/net/dev", pause.pid)).ok()?;
    Some(table.lines().filter_map(parse).filter(|l| l.name != "lo").collect())
}

/// A line of /proc/net/dev: `eth0: BYTES PACKETS ERRORS DROPPED fifo frame compressed multicast`, and the first four again
/// for what was sent.
fn parse(line: &str) -> Option<Link> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers.split_ascii_whitespace().map_while(|n| n.parse().ok()).collect();
    let traffic = |at: usize| match numbers.get(at..at + 4) {
        Some(&[bytes, packets, errors, dropped]) => Some(Traffic {
            bytes,
            packets,
            errors,
            dropped,
        }),
        _ => None,
    };
    Some(Link {
        name: name.trim().into(),
        received: traffic(0)?,
        sent: traffic(8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_net_dev() {
        let link = parse("  eth0: 1000 10 1 3 0 0 0 0 2000 20 2 4 0 0 0 0").unwrap();
        assert_eq!(link.name, "eth0");
        let of = |t: Traffic| (t.bytes, t.packets, t.errors, t.dropped);
        assert_eq!(of(link.received), (1000, 10, 1, 3));
        assert_eq!(of(link.sent), (2000, 20, 2, 4));
        assert_eq!(parse("Inter-|   Receive  |  Transmit"), None);
        assert_eq!(parse(" face |bytes    packets errs"), None);
    }
}
