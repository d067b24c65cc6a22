//! User namespaces: a pod's, joined with all that belongs to it, mapped owners of files, what such a container can and
//! cannot do.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use starter::{RootfsMount, Size};
use support::{Bench, Root, in_mount_namespace};
use sys::userns::Maps;

const HOST: u32 = 500_000;

fn mappings() -> Value {
    json!([{"containerID": 0, "hostID": HOST, "size": 65536}])
}

/// As a container engine asks for it: mapped layers, the container's own one its root's.
fn mapped(bench: &mut Bench) {
    let at = |name: &str| bench.path().join(name).display().to_string();
    bench.root = Root::Custom(vec![RootfsMount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            format!("lowerdir={}", at("image")),
            format!("upperdir={}", at("upper")),
            format!("workdir={}", at("work")),
            format!("uidmap=0:{HOST}:65536"),
            format!("gidmap=0:{HOST}:65536"),
        ],
    }]);
    bench.linux()["uidMappings"] = mappings();
    bench.linux()["gidMappings"] = mappings();
}

/// A pod: a user namespace and a net namespace of its, bound to paths, and a process that holds the rest, as pause does.
struct Pod {
    dir: tempfile::TempDir,
    holder: support::Running,
    _bench: Bench,
}

impl Pod {
    /// To be called in a mount namespace of the test's.
    fn new() -> Pod {
        let dir = tempfile::tempdir().unwrap();
        let line = format!("0 {HOST} 65536\n");
        let maps = Maps {
            uid: line.clone(),
            gid: line,
        };
        sys::userns::make_bound(&maps, &dir.path().join("user"), Some(&dir.path().join("net"))).unwrap();
        let mut bench = Bench::sh("echo up; exec sleep 1000");
        mapped(&mut bench);
        let path = |name: &str| dir.path().join(name).display().to_string();
        bench.namespace("user", Some(&path("user")));
        bench.namespace("network", Some(&path("net")));
        bench.linux()["sysctl"] =
            json!({"net.ipv4.ip_unprivileged_port_start": "55", "net.ipv4.ping_group_range": "0 65535"});
        bench.spec["hostname"] = json!("pod");
        let mut holder = bench.start().unwrap();
        assert_eq!(holder.first_line(), "up");
        Pod {
            dir,
            holder,
            _bench: bench,
        }
    }

    fn pid(&self) -> i32 {
        self.holder.child.pid.as_raw_nonzero().get()
    }

    /// Makes a container one of this pod.
    fn adopt(&self, bench: &mut Bench) {
        mapped(bench);
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        bench.namespace("user", Some(&path("user")));
        bench.namespace("network", Some(&path("net")));
        for kind in ["ipc", "uts", "pid"] {
            bench.namespace(kind, Some(&format!("/proc/{}/ns/{kind}", self.pid())));
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for name in ["user", "net"] {
            sys::netns::remove_bound(&self.dir.path().join(name)).unwrap();
        }
    }
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

#[test]
fn a_container_of_the_pod_is_root_inside_and_nobody_outside() {
    in_mount_namespace(|| {
        let pod = Pod::new();
        let mut bench = Bench::sh(
            "id -u; id -g; hostname; cat /proc/1/comm; stat -c %u:%g /bin/sh / /etc/passwd /proc/1/status /dev/pts \
             && cat /proc/sys/net/ipv4/ip_unprivileged_port_start && echo new > /etc/new && chmod 4755 /etc/new \
             && echo changed >> /etc/group && ln -s x /link && mkdir /d && ls /sys/class/net && ip link set lo up \
             && mount -t tmpfs t /tmp && echo done",
        );
        pod.adopt(&mut bench);
        for set in ["bounding", "effective", "permitted"] {
            let set = bench.process()["capabilities"][set].as_array_mut().unwrap();
            set.push(json!("CAP_NET_ADMIN"));
        }
        let output = bench.run().unwrap();
        assert_eq!(output.status, 0, "{output:?}");
        let zeros = "0:0\n".repeat(5);
        assert_eq!(
            output.stdout,
            format!("0\n0\npod\nsleep\n{zeros}55\nlo\ndone\n"),
            "{output:?}"
        );
        // On disk what it made is a stranger's, and the image is what it was.
        for name in ["", "etc/new", "etc/group", "link", "d"] {
            assert_eq!(owner(&bench.path().join("upper").join(name)), (HOST, HOST), "{name}");
        }
        assert_eq!(owner(&bench.image("etc/group")), (0, 0));
        assert!(
            !fs::read_to_string(bench.image("etc/group"))
                .unwrap()
                .contains("changed")
        );
        // Outside it may nothing.
        let mut bench = Bench::sh("echo up; exec sleep 1000");
        pod.adopt(&mut bench);
        let mut running = bench.start().unwrap();
        assert_eq!(running.first_line(), "up");
        let status = fs::read_to_string(format!("/proc/{}/status", running.child.pid.as_raw_nonzero())).unwrap();
        assert!(
            status.contains(&format!("Uid:\t{HOST}\t{HOST}\t{HOST}\t{HOST}")),
            "{status}"
        );
        // And an exec is what the container is.
        let output = bench
            .exec(running.child.pidfd.as_fd(), |p| {
                p["args"] = json!([
                    "sh",
                    "-c",
                    "id -u; hostname; readlink /proc/self/ns/user; stat -c %u /bin/sh"
                ]);
            })
            .unwrap();
        let user = fs::read_link(format!("/proc/{}/ns/user", pod.pid())).unwrap();
        assert_eq!(output.stdout, format!("0\npod\n{}\n0\n", user.display()), "{output:?}");
    });
}

#[test]
fn the_net_namespace_is_the_user_namespaces_own() {
    in_mount_namespace(|| {
        let pod = Pod::new();
        let net = fs::File::open(format!("/proc/{}/ns/net", pod.pid())).unwrap();
        let user = fs::metadata(format!("/proc/{}/ns/user", pod.pid())).unwrap();
        assert_eq!(
            sys::netns::inode(sys::userns::owner(net.as_fd()).unwrap()).unwrap(),
            user.ino()
        );
    });
}

#[test]
fn a_pid_namespace_of_its_own_in_the_pods_user_namespace() {
    in_mount_namespace(|| {
        let pod = Pod::new();
        let mut bench = Bench::sh("echo $$; ps -o pid,args; cat /proc/self/uid_map; hostname");
        pod.adopt(&mut bench);
        bench.namespace("pid", None);
        // What cannot be done to the letter is told, although it is not the container's process that meets it.
        bench.process()["oomScoreAdj"] = json!(-998);
        let output = bench.run().unwrap();
        assert_eq!(output.status, 0, "{output:?}");
        let lacking = !rustix::thread::capabilities(None)
            .unwrap()
            .permitted
            .contains(rustix::thread::CapabilitySet::SYS_RESOURCE);
        assert_eq!(output.notices.len(), usize::from(lacking), "{output:?}");
        assert!(output.stdout.starts_with("1\n"), "{output:?}");
        assert!(!output.stdout.contains("sleep"), "{output:?}");
        assert!(output.stdout.contains(&HOST.to_string()), "{output:?}");
    });
}

#[test]
fn volumes_show_their_owners_mapped() {
    in_mount_namespace(|| {
        let pod = Pod::new();
        let mut bench = Bench::sh(
            "stat -c %n:%u:%g /mapped /mapped/file /mapped/other /plain/file; echo x > /mapped/made; busybox chown 7:8 /mapped/made; touch /plain/x",
        );
        pod.adopt(&mut bench);
        // Out of reach for the container's user: only the open source matters.
        let hidden = bench.path().join("hidden");
        let volume = hidden.join("volume");
        fs::create_dir_all(&volume).unwrap();
        fs::set_permissions(&hidden, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        fs::write(volume.join("file"), "").unwrap();
        fs::write(volume.join("other"), "").unwrap();
        std::os::unix::fs::chown(volume.join("other"), Some(33), Some(34)).unwrap();
        bench.mount(
            json!({"destination": "/mapped", "type": "bind", "source": volume, "options": ["rbind"],
                           "uidMappings": mappings(), "gidMappings": mappings()}),
        );
        bench.mount(json!({"destination": "/plain", "type": "bind", "source": volume, "options": ["rbind"]}));
        let output = bench.run().unwrap();
        assert_eq!(
            output.stdout, "/mapped:0:0\n/mapped/file:0:0\n/mapped/other:33:34\n/plain/file:65534:65534\n",
            "{output:?}"
        );
        assert!(output.stderr.contains("/plain/x: Permission denied"), "{output:?}");
        assert_eq!(owner(&volume.join("made")), (7, 8));
    });
}

#[test]
fn ids_are_mapped_without_a_user_namespace_as_well() {
    let mut bench = Bench::sh("stat -c %u:%g /v/file; echo x > /v/made; stat -c %u:%g /v/made");
    let volume = bench.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("file"), "").unwrap();
    let own = json!([{"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 5, "hostID": 0, "size": 1}]);
    bench.mount(
        json!({"destination": "/v", "type": "bind", "source": volume, "options": ["bind", "idmap"],
                       "uidMappings": own, "gidMappings": own}),
    );
    fs::set_permissions(&volume, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    assert_eq!(bench.stdout(), "1000:1000\n0:0\n");
    assert_eq!(owner(&volume.join("made")), (5, 5));

    for (change, expected) in [
        (json!({"uidMappings": null, "gidMappings": null}), "needs mappings"),
        (json!({"gidMappings": null}), "users and groups are mapped together"),
        (
            json!({"type": "tmpfs", "options": []}),
            "only a bind mount's ids can be mapped",
        ),
    ] {
        let mut bench = Bench::sh("true");
        let mut mount = json!({"destination": "/v", "type": "bind", "source": volume, "options": ["bind", "idmap"],
                               "uidMappings": own, "gidMappings": own});
        for (key, value) in change.as_object().unwrap() {
            mount[key] = value.clone();
        }
        bench.mount(mount);
        let error = bench.run().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_terminal_and_a_new_user_namespace() {
    let mut bench = Bench::sh("tty; stat -c %u /dev/console; cat /proc/self/gid_map; id -u");
    mapped(&mut bench);
    bench.namespace("user", None);
    bench.process()["user"] = json!({"uid": 33, "gid": 34});
    let mut running = bench.start_in_terminal(Size::default()).unwrap();
    let mut terminal = fs::File::from(running.terminal.take().unwrap());
    let mut text = String::new();
    let mut part = [0; 512];
    while let Ok(n) = terminal.read(&mut part) {
        if n == 0 {
            break;
        }
        text += std::str::from_utf8(&part[..n]).unwrap();
    }
    assert_eq!(running.wait(), 0, "{text}");
    let lines: Vec<_> = text
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(lines, ["/dev/pts/0", "33", &format!("0 {HOST} 65536"), "33"], "{text}");
}

#[test]
fn what_fails_outside_of_the_user_namespace_is_told_as_well() {
    let error = |change: &dyn Fn(&mut Bench)| {
        let mut bench = Bench::sh("true");
        mapped(&mut bench);
        bench.namespace("user", None);
        change(&mut bench);
        bench.run().unwrap_err().to_string()
    };
    let missing = error(&|bench| {
        bench.mount(json!({"destination": "/v", "type": "bind", "source": "/nosuch/volume", "options": ["rbind"]}));
    });
    assert_eq!(
        missing,
        "cannot open the mount source /nosuch/volume: No such file or directory (os error 2)"
    );
    let layer = error(&|bench| fs::remove_dir_all(bench.image("")).unwrap());
    assert!(layer.starts_with("cannot map the owners of the layer /"), "{layer}");
    let shared = error(&|bench| {
        bench.mount(json!({"destination": "/v", "type": "bind", "source": "/tmp", "options": ["rbind", "rshared"]}));
    });
    assert!(shared.contains("can't mount on the host"), "{shared}");
    let rootless = error(&|bench| {
        if let Root::Custom(mounts) = &mut bench.root {
            mounts[0].options.retain(|o| !o.starts_with("uidmap"));
            mounts[0].options.push("uidmap=1:5:5".into());
        }
    });
    assert!(rootless.contains("must map id 0"), "{rootless}");
}

#[test]
fn one_that_is_not_started_is_killed() {
    let mut bench = Bench::sh("true");
    mapped(&mut bench);
    bench.namespace("user", None);
    let (stdio, ..) = support::pipes();
    let created = bench.create_with(starter::Executable::Path, stdio).unwrap();
    let process = PathBuf::from(format!("/proc/{}", created.pid().as_raw_nonzero()));
    assert!(process.exists());
    let pidfd = created.pidfd().try_clone_to_owned().unwrap();
    drop(created);
    // Reaped as well, unless the machine is slow: then the caller's own reaper does it, as here.
    let _ = rustix::process::waitid(
        rustix::process::WaitId::PidFd(pidfd.as_fd()),
        rustix::process::WaitIdOptions::EXITED,
    );
    assert!(!process.exists(), "it lives");
}

#[test]
fn sysctls_of_the_pods_namespaces() {
    in_mount_namespace(|| {
        let pod = Pod::new();
        let mut bench =
            Bench::sh("cat /proc/sys/net/ipv4/ping_group_range /proc/sys/net/ipv4/ip_unprivileged_port_start");
        pod.adopt(&mut bench);
        bench.linux()["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "66"});
        let words: Vec<_> = bench.stdout().split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["0", "65535", "66"]);
    });
}

#[test]
fn clocks_of_its_own() {
    let uptime = |bench: &Bench| -> f64 {
        let stdout = bench.stdout();
        stdout.split_whitespace().next().unwrap().parse().unwrap()
    };
    for user in [false, true] {
        let mut bench = Bench::sh("cat /proc/uptime; readlink /proc/self/ns/time");
        if user {
            mapped(&mut bench);
            bench.namespace("user", None);
        }
        bench.namespace("time", None);
        let plain = uptime(&bench);
        bench.linux()["timeOffsets"] =
            json!({"boottime": {"secs": 1_000_000, "nanosecs": 5}, "monotonic": {"secs": 7}});
        let ours: f64 = fs::read_to_string("/proc/uptime")
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        assert!(plain < ours + 10.0);
        assert!(uptime(&bench) >= ours.max(1_000_000.0), "user namespace: {user}");
        assert!(
            !bench
                .stdout()
                .contains(&fs::read_link("/proc/self/ns/time").unwrap().display().to_string())
        );
    }
    // An exec has the container's.
    let mut bench = Bench::sh("echo up; exec sleep 1000");
    bench.namespace("time", None);
    bench.linux()["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}});
    let mut running = bench.start().unwrap();
    assert_eq!(running.first_line(), "up");
    let output = bench
        .exec(running.child.pidfd.as_fd(), |p| {
            p["args"] = json!(["cat", "/proc/uptime"])
        })
        .unwrap();
    assert!(
        output.stdout.split('.').next().unwrap().parse::<u64>().unwrap() >= 1_000_000,
        "{output:?}"
    );

    bench.linux()["timeOffsets"] = json!({"realtime": {"secs": 1}});
    let error = bench.run().unwrap_err().to_string();
    assert!(error.contains("must be monotonic or boottime"), "{error}");
    bench.without_namespace("time");
    let error = bench.run().unwrap_err().to_string();
    assert!(error.contains("needs a new time namespace"), "{error}");
}

#[test]
fn a_read_only_volume_is_read_only() {
    let mut bench = Bench::sh("touch /v/x");
    mapped(&mut bench);
    bench.namespace("user", None);
    let volume: PathBuf = bench.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::File::create(volume.join("there")).unwrap().write_all(b"1").unwrap();
    bench.mount(
        json!({"destination": "/v", "type": "bind", "source": volume, "options": ["rbind", "rro"],
                       "uidMappings": mappings(), "gidMappings": mappings()}),
    );
    assert_eq!(bench.run().unwrap().stderr, "touch: /v/x: Read-only file system\n");
}
