//! The built-in bridge on the real kernel. Each test is a thread with a net and a mount namespace of its own, its "host":
//! nothing that it does is seen outside. Needs root.

#![allow(clippy::unwrap_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use network::{Attachment, Config, Error, Network, PortMapping, Protocol, Remainder};

/// Nothing here waits for more than a packet's way through one kernel.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for what must not come.
const SILENCE: Duration = Duration::from_millis(300);

struct Host {
    network: Network,
    state: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        let state = tempfile::tempdir_in("/dev/shm").unwrap();
        let network = Network::open(Config::below(state.path())).unwrap();
        Host { network, state }
    }

    fn config(&self) -> Config {
        Config::below(self.state.path())
    }

    fn pod(&self, id: &str, ports: &[PortMapping]) -> Pod {
        let path = self.network.make_namespace(id).unwrap();
        let attachment = self.network.attach(id, ports).unwrap();
        Pod {
            namespace: sys::netns::open(&path).unwrap(),
            attachment,
        }
    }
}

struct Pod {
    namespace: OwnedFd,
    attachment: Attachment,
}

impl Pod {
    fn ip(&self) -> IpAddr {
        self.attachment.ips[0]
    }

    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        sys::netns::within(self.namespace.as_fd(), work).unwrap()
    }

    /// Serves one line per connection on `port`, for ever: who called.
    fn serve(&self, port: u16) {
        let listener = self.within(|| TcpListener::bind(("0.0.0.0", port)).unwrap());
        serve(listener);
    }
}

fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = write!(stream, "hello {}", peer.ip());
        }
    });
}

fn call(address: impl Into<SocketAddr>) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address.into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn tcp(host_port: u16, container_port: u16) -> PortMapping {
    PortMapping {
        host_ip: None,
        host_port,
        container_port,
        protocol: Protocol::Tcp,
    }
}

/// Runs a test on a host of its own.
fn on_a_host(test: impl FnOnce() + Send + 'static) {
    let outcome = std::thread::Builder::new()
        .spawn(|| {
            sys::netns::isolate_thread().unwrap();
            up_loopback();
            test();
        })
        .unwrap()
        .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn up_loopback() {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&1u32.to_ne_bytes());
    header[8..12].copy_from_slice(&1u32.to_ne_bytes());
    header[12..16].copy_from_slice(&1u32.to_ne_bytes());
    // RTM_NEWLINK (16): index 1, flags and change mask IFF_UP.
    let message = sys::netlink::Message::new("lo up", 16, 0, &header);
    sys::netlink::Socket::route().unwrap().request(&mut [message]).unwrap();
}

fn link_names() -> Vec<String> {
    let socket = sys::netlink::Socket::route().unwrap();
    // RTM_GETLINK (18), IFLA_IFNAME (3).
    let links = socket
        .dump(sys::netlink::Message::new("links", 18, 0, &[0; 16]))
        .unwrap();
    let mut names: Vec<String> = links
        .iter()
        .filter_map(|l| {
            sys::netlink::attributes(&l.payload[16..])
                .find(|a| a.0 == 3)
                .map(|a| sys::netlink::string(a.1))
        })
        .collect();
    names.sort();
    names
}

fn table_names() -> Vec<String> {
    sys::netfilter::tables().unwrap().into_iter().map(|t| t.name).collect()
}

/// Waits until only these links are left: the kernel deletes a dead namespace's links in its own time.
fn wait_for_links(expected: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    while link_names() != expected {
        assert!(Instant::now() < deadline, "links left: {:?}", link_names());
        std::thread::yield_now();
    }
}

#[test]
fn pods_and_host_reach_each_other() {
    on_a_host(|| {
        let host = Host::new();
        let (one, two) = (host.pod("one", &[]), host.pod("two", &[]));
        assert_eq!(one.ip(), IpAddr::V4(Ipv4Addr::new(10, 85, 0, 2)));
        assert_eq!(two.ip(), IpAddr::V4(Ipv4Addr::new(10, 85, 0, 3)));
        assert_eq!(one.attachment.mac, "0a:58:0a:55:00:02");
        assert_eq!(one.attachment.gateway, IpAddr::V4(Ipv4Addr::new(10, 85, 0, 1)));
        one.serve(80);
        let (ip, own) = (one.ip(), two.ip());
        assert_eq!(
            two.within(|| call((ip, 80))).unwrap(),
            format!("hello {own}"),
            "pod to pod, no masquerade"
        );
        assert_eq!(call((ip, 80)).unwrap(), "hello 10.85.0.1", "host to pod");
        assert_eq!(
            one.within(|| call(([127, 0, 0, 1], 80))).unwrap(),
            "hello 127.0.0.1",
            "loopback is up"
        );
        serve(TcpListener::bind("10.85.0.1:9000").unwrap());
        assert_eq!(
            two.within(|| call(([10, 85, 0, 1], 9000))).unwrap(),
            format!("hello {own}"),
            "pod to host"
        );
    });
}

#[test]
fn host_ports_from_everywhere() {
    for bridge_netfilter in ["1", "0"] {
        on_a_host(move || {
            let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", bridge_netfilter);
            let host = Host::new();
            let server = host.pod("server", &[tcp(8001, 80)]);
            let other = host.pod("other", &[]);
            server.serve(80);
            let outside = Outside::new();
            assert_eq!(
                call(([127, 0, 0, 1], 8001)).unwrap(),
                "hello 10.85.0.1",
                "the host's loopback"
            );
            assert!(
                call(([10, 85, 0, 1], 8001)).unwrap().starts_with("hello"),
                "the bridge's address"
            );
            assert!(
                call(([192, 168, 77, 1], 8001)).unwrap().starts_with("hello"),
                "another address of the host"
            );
            let seen = outside.within(|| call(([192, 168, 77, 1], 8001))).unwrap();
            assert_eq!(
                seen, "hello 192.168.77.2",
                "another machine, and the pod sees its address"
            );
            let seen = other.within(|| call(([10, 85, 0, 1], 8001))).unwrap();
            assert!(seen.starts_with("hello"), "another pod: {seen}");
            let seen = server.within(|| call(([10, 85, 0, 1], 8001))).unwrap();
            assert!(seen.starts_with("hello"), "itself (hairpin): {seen}");
            let seen = server.within(|| call(([192, 168, 77, 1], 8001))).unwrap();
            assert!(
                seen.starts_with("hello"),
                "itself, by another address of the host: {seen}"
            );
        });
    }
}

/// Another machine: a namespace with a link of its own to the host, 192.168.77.2 ↔ 192.168.77.1, and a default route there.
struct Outside(OwnedFd);

impl Outside {
    fn new() -> Outside {
        // ip(8) stands for an administrator here; nothing of Hove's runs it.
        let (namespace, ()) = sys::netns::with_new(up_loopback).unwrap();
        let ip = |args: &str| {
            let status = std::process::Command::new("ip")
                .args(args.split(' '))
                .status()
                .expect("iproute2 is installed");
            assert!(status.success(), "ip {args}");
        };
        ip("link add out0 type veth peer name out1");
        ip("addr add 192.168.77.1/24 dev out0");
        ip("link set out0 up");
        let own = sys::netns::current().unwrap();
        let _ = own;
        move_link("out1", &namespace);
        sys::netns::within(namespace.as_fd(), || {
            ip("addr add 192.168.77.2/24 dev out1");
            ip("link set out1 up");
            ip("route add default via 192.168.77.1");
        })
        .unwrap();
        Outside(namespace)
    }

    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        sys::netns::within(self.0.as_fd(), work).unwrap()
    }
}

fn move_link(name: &str, namespace: &OwnedFd) {
    use std::os::fd::AsRawFd;
    // RTM_NEWLINK with IFLA_IFNAME (3) and IFLA_NET_NS_FD (28).
    let message = sys::netlink::Message::new("move", 16, 0, &[0; 16])
        .attr_str(3, name)
        .attr(28, &namespace.as_raw_fd().to_ne_bytes());
    sys::netlink::Socket::route().unwrap().request(&mut [message]).unwrap();
}

#[test]
fn pods_reach_the_world_masqueraded() {
    on_a_host(|| {
        let host = Host::new();
        let pod = host.pod("pod", &[]);
        let outside = Outside::new();
        serve(outside.within(|| TcpListener::bind("0.0.0.0:7000").unwrap()));
        let seen = pod.within(|| call(([192, 168, 77, 2], 7000))).unwrap();
        assert_eq!(seen, "hello 192.168.77.1");
    });
}

#[test]
fn udp_host_port() {
    on_a_host(|| {
        let host = Host::new();
        let mapping = PortMapping {
            host_ip: None,
            host_port: 5353,
            container_port: 53,
            protocol: Protocol::Udp,
        };
        // As resolvers do: asks again when no answer comes.
        let ask = |from: &UdpSocket, to: SocketAddr| -> String {
            from.set_read_timeout(Some(SILENCE)).unwrap();
            let deadline = Instant::now() + PATIENCE;
            let mut buffer = [0; 64];
            loop {
                from.send_to(b"?", to).unwrap();
                match from.recv_from(&mut buffer) {
                    Ok((length, _)) => return String::from_utf8_lossy(&buffer[..length]).into_owned(),
                    Err(e) => assert!(Instant::now() < deadline, "no answer from {to}: {e}"),
                }
            }
        };
        let answer_as = |pod: &Pod, name: &'static str| {
            let socket = pod.within(|| UdpSocket::bind("0.0.0.0:53").unwrap());
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                    if &buffer[..length] == b"end" {
                        break;
                    }
                    let _ = socket.send_to(name.as_bytes(), peer);
                }
            })
        };
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        // A flow from before the port was published must not keep missing it (connection tracking remembers).
        let outside = Outside::new();
        let far_client = outside.within(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        client.send_to(b"early", "127.0.0.1:5353").unwrap();
        far_client.send_to(b"early", "192.168.77.1:5353").unwrap();

        let first = host.pod("first", &[mapping]);
        let server = answer_as(&first, "first");
        assert_eq!(ask(&far_client, ([192, 168, 77, 1], 5353).into()), "first");
        assert_eq!(ask(&client, ([127, 0, 0, 1], 5353).into()), "first");
        // The same client, the same port, another pod.
        first.within(|| {
            UdpSocket::bind("127.0.0.1:0")
                .unwrap()
                .send_to(b"end", "127.0.0.1:53")
                .unwrap()
        });
        server.join().unwrap();
        drop(first);
        host.network.release("first").unwrap();
        let second = host.pod("second", &[mapping]);
        answer_as(&second, "second");
        assert_eq!(ask(&far_client, ([192, 168, 77, 1], 5353).into()), "second");
        assert_eq!(ask(&client, ([127, 0, 0, 1], 5353).into()), "second");
    });
}

#[test]
fn host_ip_limits_where_a_port_is_published() {
    on_a_host(|| {
        let host = Host::new();
        let local = PortMapping {
            host_ip: Some("127.0.0.1".parse().unwrap()),
            ..tcp(8001, 80)
        };
        let pod = host.pod("pod", &[local]);
        pod.serve(80);
        let _outside = Outside::new();
        assert!(call(([127, 0, 0, 1], 8001)).unwrap().starts_with("hello"));
        assert!(call(([192, 168, 77, 1], 8001)).is_err(), "only on 127.0.0.1");
        let foreign = PortMapping {
            host_ip: Some("203.0.113.9".parse().unwrap()),
            ..tcp(8002, 80)
        };
        host.network.make_namespace("other").unwrap();
        let error = host.network.attach("other", &[foreign]).unwrap_err().to_string();
        assert!(error.contains("203.0.113.9 is not an address of this host"), "{error}");
        // Another pod may have the same port on another address.
        let elsewhere = PortMapping {
            host_ip: Some("192.168.77.1".parse().unwrap()),
            ..tcp(8001, 81)
        };
        let third = host.pod("third", &[elsewhere]);
        third.serve(81);
        assert!(call(([192, 168, 77, 1], 8001)).unwrap().starts_with("hello"));
    });
}

#[test]
fn conflicts_name_the_holder_and_leave_nothing() {
    on_a_host(|| {
        let host = Host::new();
        let listener = TcpListener::bind("0.0.0.0:8001").unwrap();
        host.network.make_namespace("a").unwrap();
        let error = host.network.attach("a", &[tcp(8001, 80)]).unwrap_err();
        assert!(matches!(error, Error::PortInUse { port: 8001, .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("8001/TCP") && text.contains(&format!("(pid {})", std::process::id())),
            "{text}"
        );
        assert_eq!(host.network.attachment("a"), None);
        assert!(!host.network.remaining().contains(&Remainder::Attachment("a".into())));
        drop(listener);
        host.network.attach("a", &[tcp(8001, 80)]).unwrap();

        host.network.make_namespace("b").unwrap();
        let error = host.network.attach("b", &[tcp(8001, 80)]).unwrap_err();
        assert!(
            matches!(&error, Error::PortPublished { holder, .. } if holder == "sandbox a"),
            "{error}"
        );
        let error = host.network.check_ports(&[tcp(8001, 80)]).unwrap_err();
        assert!(matches!(error, Error::PortPublished { .. }), "{error}");
        host.network.check_ports(&[tcp(8005, 80)]).unwrap();
        host.network.make_namespace("c").unwrap();
        host.network.attach_as("c", "pod default/c", &[tcp(8005, 80)]).unwrap();
        let error = host.network.attach("b", &[tcp(8005, 80)]).unwrap_err().to_string();
        assert!(error.contains("8005/TCP is published by pod default/c"), "{error}");
        let error = host
            .network
            .attach("b", &[tcp(8002, 80), tcp(8002, 81)])
            .unwrap_err()
            .to_string();
        assert!(error.contains("twice"), "{error}");
        let sctp = PortMapping {
            protocol: Protocol::Sctp,
            ..tcp(8003, 80)
        };
        let error = host.network.attach("b", &[sctp]).unwrap_err().to_string();
        assert!(error.contains("SCTP"), "{error}");

        // The port is held: nobody can start listening behind the rule that would hide him.
        assert_eq!(
            TcpListener::bind("0.0.0.0:8001").unwrap_err().kind(),
            ErrorKind::AddrInUse
        );
        host.network.release("a").unwrap();
        TcpListener::bind("0.0.0.0:8001").unwrap();
        host.network.attach("b", &[tcp(8001, 80)]).unwrap();
    });
}

/// Invariant 16. The host has a listener on 127.0.0.1, and a pod with a published port makes the bridge accept 127/8 as far
/// as routing goes. The pod does what root in a pod can: routes 127.0.0.1 to the host instead of to its own loopback.
#[test]
fn a_pod_cannot_reach_the_hosts_loopback() {
    on_a_host(|| {
        let host = Host::new();
        let pod = host.pod("pod", &[tcp(8001, 80)]);
        serve(TcpListener::bind("127.0.0.1:9000").unwrap());
        assert!(call(([127, 0, 0, 1], 9000)).is_ok(), "the host itself reaches it");
        let datagrams = UdpSocket::bind("127.0.0.1:9001").unwrap();
        datagrams.set_read_timeout(Some(SILENCE)).unwrap();
        let anywhere = UdpSocket::bind("0.0.0.0:9002").unwrap();
        anywhere.set_read_timeout(Some(SILENCE)).unwrap();

        pod.within(|| {
            let ip = |args: &str| {
                let status = std::process::Command::new("ip").args(args.split(' ')).status().unwrap();
                assert!(status.success(), "ip {args}");
            };
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            ip("link set lo down");
            ip("route flush table local");
            ip("route add local 10.85.0.2 dev eth0 table local");
            ip("route add 127.0.0.0/8 via 10.85.0.1 dev eth0 src 10.85.0.2");
            let attack = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], 9000)), SILENCE);
            assert!(attack.is_err(), "a pod reached the host's 127.0.0.1:9000");
            let socket = UdpSocket::bind("10.85.0.2:0").unwrap();
            let _ = socket.send_to(b"to loopback", "127.0.0.1:9001");
            // And as if it came from the host's loopback, to any address of the host.
            ip("addr add 127.0.0.5/32 dev eth0");
            let spoofed = UdpSocket::bind("127.0.0.5:0").unwrap();
            let _ = spoofed.send_to(b"from loopback", "10.85.0.1:9002");
            // What is allowed still comes through, so the silence above means something.
            socket.send_to(b"honest", "10.85.0.1:9002").unwrap();
        });
        let mut buffer = [0; 64];
        let (length, _) = anywhere.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"honest");
        assert!(
            anywhere.recv_from(&mut buffer).is_err(),
            "a datagram with a source in 127/8 came through"
        );
        assert!(
            datagrams.recv_from(&mut buffer).is_err(),
            "a datagram to 127.0.0.1 came through"
        );
    });
}

#[test]
fn addresses_go_round_and_the_pool_survives_a_restart() {
    on_a_host(|| {
        let host = Host::new();
        let one = host.pod("one", &[tcp(8001, 80)]).attachment;
        host.pod("two", &[]);
        host.network.release("two").unwrap();
        let config = host.config();
        let Host { network, state } = host;
        drop(network);
        let network = Network::open(config.clone()).unwrap();
        assert_eq!(network.attachment("one"), Some(one.clone()), "recovered");
        assert_eq!(network.attach("one", &[]).unwrap(), one, "idempotent");
        assert_eq!(
            TcpListener::bind("0.0.0.0:8001").unwrap_err().kind(),
            ErrorKind::AddrInUse,
            "held again"
        );
        network.make_namespace("three").unwrap();
        let three = network.attach("three", &[]).unwrap();
        assert_eq!(
            three.ips,
            ["10.85.0.4".parse::<IpAddr>().unwrap()],
            "not the one that was just given back"
        );
        assert!(!network.close_if_unused().unwrap(), "it is used");

        // A namespace that went away while no node ran.
        drop(network);
        sys::netns::remove_bound(&config.netns_dir.join("one")).unwrap();
        let network = Network::open(config).unwrap();
        assert_eq!(network.attachment("one"), None);
        TcpListener::bind("0.0.0.0:8001").unwrap();
        network.release("three").unwrap();
        drop(state);
    });
}

#[test]
fn a_restart_makes_the_rules_whole() {
    on_a_host(|| {
        let host = Host::new();
        let pod = host.pod("pod", &[tcp(8001, 80)]);
        pod.serve(80);
        let config = host.config();
        let Host { network, state } = host;
        drop(network);
        // What `nft flush ruleset` does.
        let mut batch = sys::netfilter::Batch::new();
        batch.push(sys::netfilter::table_message("flush", 2, 0, 0));
        batch.commit().unwrap();
        assert!(call(([127, 0, 0, 1], 8001)).is_err());
        let _network = Network::open(config).unwrap();
        assert!(call(([127, 0, 0, 1], 8001)).is_ok());
        drop(state);
    });
}

#[test]
fn broken_and_foreign_records_do_not_stop_it() {
    on_a_host(|| {
        let state = tempfile::tempdir_in("/dev/shm").unwrap();
        let config = Config::below(state.path());
        let attachments = config.state_dir.join("attachments");
        std::fs::create_dir_all(&attachments).unwrap();
        std::fs::write(attachments.join("broken.json"), "{").unwrap();
        std::fs::write(config.state_dir.join("pool.json"), "no json").unwrap();
        let network = Network::open(config).unwrap();
        assert!(network.remaining().is_empty());
        assert!(!attachments.join("broken.json").exists());
        assert!(state.path().join("network/pool.json.quarantined-1").exists());
    });
}

#[test]
fn release_is_idempotent_and_leaves_nothing() {
    on_a_host(|| {
        let host = Host::new();
        let pod = host.pod("pod", &[tcp(8001, 80)]);
        let mounts = || std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(mounts().contains("netns/pod"));
        assert_eq!(host.network.remaining().len(), 2);
        drop(pod);
        for _ in 0..3 {
            host.network.release("pod").unwrap();
        }
        host.network.release("never there").unwrap_err();
        host.network.release("never-there").unwrap();
        assert!(host.network.remaining().is_empty());
        assert!(!mounts().contains("netns/"), "{}", mounts());
        assert!(host.network.close_if_unused().unwrap());
        assert!(host.network.close_if_unused().unwrap());
        wait_for_links(&["lo"]);
        assert!(table_names().is_empty());
        // And again from nothing.
        host.pod("pod", &[tcp(8001, 80)]).serve(80);
        assert!(call(([127, 0, 0, 1], 8001)).is_ok());
    });
}

#[test]
fn an_address_can_be_used_again_at_once() {
    on_a_host(|| {
        let state = tempfile::tempdir_in("/dev/shm").unwrap();
        // Two addresses for pods: the second pod after the first gets the first one's.
        let config = Config {
            subnet: "10.9.0.0/30".parse().unwrap(),
            ..Config::below(state.path())
        };
        let host = Host {
            network: Network::open(config).unwrap(),
            state,
        };
        let old = host.pod("old", &[]);
        old.serve(80);
        assert!(call((old.ip(), 80)).is_ok());
        host.network.make_namespace("none").unwrap();
        let error = host.network.attach("none", &[]).unwrap_err();
        assert!(matches!(error, Error::Exhausted { count: 1, .. }), "{error}");
        // The old namespace is still alive here (this test holds it), as it is while the kernel has not collected it.
        host.network.release("old").unwrap();
        let new = host.pod("new", &[]);
        assert_eq!(new.ip(), old.ip());
        serve(new.within(|| TcpListener::bind("0.0.0.0:81").unwrap()));
        for _ in 0..20 {
            assert!(
                call((new.ip(), 81)).unwrap().starts_with("hello"),
                "the old pod's port is not believed"
            );
        }
    });
}

#[test]
fn an_interrupted_attach_is_continued() {
    on_a_host(|| {
        let host = Host::new();
        let pod = host.pod("pod", &[]);
        // As a crash between the veth and the second record leaves it.
        let record = host.config().state_dir.join("attachments/pod.json");
        let text = std::fs::read_to_string(&record)
            .unwrap()
            .replace("\"attached\":true", "\"attached\":false");
        assert!(text.contains("\"attached\":false"));
        std::fs::write(&record, text).unwrap();
        let config = host.config();
        let Host { network, state } = host;
        drop(network);
        let network = Network::open(config).unwrap();
        assert_eq!(network.attachment("pod"), None);
        let again = network.attach("pod", &[]).unwrap();
        assert_eq!(again, pod.attachment);
        pod.serve(80);
        assert!(call((pod.ip(), 80)).is_ok());
        drop(state);
    });
}

#[test]
fn a_bridge_that_was_deleted_is_made_again_with_its_pods() {
    on_a_host(|| {
        let host = Host::new();
        let one = host.pod("one", &[tcp(8001, 80)]);
        one.serve(80);
        let delete = || {
            let status = std::process::Command::new("ip")
                .args(["link", "del", "hove0"])
                .status()
                .unwrap();
            assert!(status.success());
        };
        delete();
        let two = host.pod("two", &[]);
        two.serve(80);
        let reach = |pod: &Pod| call((pod.ip(), 80)).is_ok();
        assert!(reach(&two) && reach(&one) && call(([127, 0, 0, 1], 8001)).is_ok());
        delete();
        let config = host.config();
        let Host { network, state } = host;
        drop(network);
        let _network = Network::open(config).unwrap();
        assert!(reach(&two) && reach(&one) && call(([127, 0, 0, 1], 8001)).is_ok());
        drop(state);
    });
}

#[test]
fn two_nodes_need_two_bridges() {
    on_a_host(|| {
        let (one, two) = (Host::new(), Host::new());
        one.pod("pod", &[]);
        two.network.make_namespace("pod").unwrap();
        let error = two.network.attach("pod", &[]).unwrap_err();
        assert!(matches!(error, Error::BridgeTaken { .. }), "{error}");

        let state = tempfile::tempdir_in("/dev/shm").unwrap();
        let subnet = "10.85.7.0/24".parse().unwrap();
        let config = Config {
            subnet,
            bridge: "hove1".into(),
            ..Config::below(state.path())
        };
        let overlapping = Network::open(config.clone()).unwrap();
        overlapping.make_namespace("pod").unwrap();
        let error = overlapping.attach("pod", &[]).unwrap_err().to_string();
        assert!(
            error.contains("overlaps 10.85.0.0/16") && error.contains("hove0"),
            "{error}"
        );
        let config = Config {
            subnet: "10.86.0.0/24".parse().unwrap(),
            ..config
        };
        let beside = Host {
            network: Network::open(config).unwrap(),
            state,
        };
        beside.pod("beside", &[tcp(8001, 80)]).serve(80);
        assert!(call(([127, 0, 0, 1], 8001)).is_ok());
    });
}

#[test]
fn fifty_pods_at_once() {
    on_a_host(|| {
        let host = Host::new();
        let pods: Vec<Pod> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..50u16)
                .map(|n| {
                    let host = &host;
                    scope.spawn(move || host.pod(&format!("pod-{n}"), &[tcp(9000 + n, 80)]))
                })
                .collect();
            workers.into_iter().map(|w| w.join().unwrap()).collect()
        });
        let mut addresses: Vec<_> = pods.iter().map(Pod::ip).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 50);
        for (n, pod) in pods.iter().enumerate() {
            pod.serve(80);
            assert!(call(([127, 0, 0, 1], 9000 + n as u16)).is_ok(), "pod {n}");
        }
        // The servers' sockets would keep the namespaces, and so the links, alive: deleting the bridge does not need them gone.
        std::thread::scope(|scope| {
            for n in 0..50 {
                let network = &host.network;
                scope.spawn(move || network.release(&format!("pod-{n}")).unwrap());
            }
        });
        assert!(host.network.remaining().is_empty());
        assert!(host.network.close_if_unused().unwrap());
        assert!(table_names().is_empty());
        assert!(
            std::fs::read_dir(host.state.path().join("netns"))
                .unwrap()
                .next()
                .is_none()
        );
    });
}

/// Prints what attaching costs: `cargo test -p network -- --nocapture measure`.
#[test]
fn measure_attach_and_release() {
    on_a_host(|| {
        let host = Host::new();
        host.pod("first", &[]);
        let median = |mut times: Vec<Duration>| {
            times.sort();
            (times[times.len() / 2], times[times.len() * 95 / 100])
        };
        for ports in [vec![], vec![tcp(8001, 80)]] {
            let (mut make, mut attach, mut release) = (Vec::new(), Vec::new(), Vec::new());
            for n in 0..100 {
                let id = format!("pod-{n}");
                let start = Instant::now();
                host.network.make_namespace(&id).unwrap();
                make.push(start.elapsed());
                let start = Instant::now();
                host.network.attach(&id, &ports).unwrap();
                attach.push(start.elapsed());
                let start = Instant::now();
                host.network.release(&id).unwrap();
                release.push(start.elapsed());
            }
            println!(
                "{} ports: make_namespace {:?}, attach {:?}, release {:?} (median, 95%)",
                ports.len(),
                median(make),
                median(attach),
                median(release)
            );
        }
        assert!(Path::new("/proc/sys/net/ipv4/conf/hove0").exists());
    });
}
