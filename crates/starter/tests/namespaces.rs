//! Namespaces new and joined, their names and parameters, exec into a running container, cgroups.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use serde_json::json;
use starter::{Error, Executable, Stdio};
use support::{Bench, pipes};

const KINDS: [&str; 6] = ["ipc", "mnt", "net", "pid", "uts", "cgroup"];
const LIST: &str = "for k in ipc mnt net pid uts cgroup; do readlink /proc/self/ns/$k; done";

fn ours(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}"))
        .unwrap()
        .display()
        .to_string()
}

fn of(pid: rustix::process::Pid, kind: &str) -> String {
    fs::read_link(format!("/proc/{}/ns/{kind}", pid.as_raw_nonzero()))
        .unwrap()
        .display()
        .to_string()
}

/// A container that runs until it is dropped. Its root goes with the bench, which must stay until then: what it says it says
/// before it looks for `sleep`.
fn sleeper(bench: &Bench) -> support::Running {
    let mut running = bench.start().unwrap();
    assert_eq!(running.first_line(), "up");
    running
}

#[test]
fn listed_kinds_are_new_and_the_rest_is_the_hosts() {
    let mut bench = Bench::sh(LIST);
    bench.namespace("cgroup", None);
    for (kind, line) in KINDS.iter().zip(bench.stdout().lines()) {
        assert_ne!(ours(kind), line, "{kind}");
    }
    for kind in ["ipc", "network", "uts", "pid", "cgroup"] {
        bench.without_namespace(kind);
    }
    // The host's network has a sysfs of its own, and its own IPC namespace a queue.
    for (kind, line) in KINDS.iter().zip(bench.stdout().lines()) {
        assert_eq!(ours(kind) == line, *kind != "mnt", "{kind}");
    }
}

#[test]
fn namespaces_of_another_process_are_joined_by_path_and_by_descriptor() {
    let holding = Bench::sh("echo up; sleep 1000");
    let holder = sleeper(&holding);
    let pid = holder.child.pid;
    let mut bench = Bench::sh(LIST);
    for (oci, kind) in [("ipc", "ipc"), ("network", "net"), ("uts", "uts")] {
        bench.namespace(oci, Some(&format!("/proc/{}/ns/{kind}", pid.as_raw_nonzero())));
    }
    // A name that only the caller can resolve.
    bench.namespace("pid", Some("/nowhere/ns/pid"));
    let fd: OwnedFd = fs::File::open(format!("/proc/{}/ns/pid", pid.as_raw_nonzero()))
        .unwrap()
        .into();
    bench.pinned.push(("/nowhere/ns/pid".into(), fd));
    let stdout = bench.stdout();
    for (kind, line) in KINDS.iter().zip(stdout.lines()) {
        assert_eq!(
            of(pid, kind) == line,
            !["mnt", "cgroup"].contains(kind) || *kind == "cgroup",
            "{kind}"
        );
    }
    // We are where we were.
    assert_eq!(
        fs::read_link("/proc/thread-self/ns/pid_for_children")
            .unwrap()
            .display()
            .to_string(),
        ours("pid")
    );

    bench.process()["args"] = json!(["ps"]);
    assert!(bench.stdout().contains("sleep 1000"));

    bench.pinned.clear();
    let error = bench.run().unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot join the pid namespace /nowhere/ns/pid: No such file or directory (os error 2)"
    );
    bench.namespace("pid", None);
    bench.namespace("network", Some("/nowhere/net"));
    let error = bench.run().unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot join the network namespace /nowhere/net: No such file or directory (os error 2)"
    );
    bench.namespace("network", Some(&format!("/proc/{}/ns/uts", pid.as_raw_nonzero())));
    let error = bench.run().unwrap_err().to_string();
    assert!(error.ends_with("ns/uts: Invalid argument (os error 22)"), "{error}");
}

#[test]
fn names_and_kernel_parameters() {
    let mut bench = Bench::sh(
        "hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax",
    );
    bench.spec["hostname"] = json!("hove-test");
    bench.spec["domainname"] = json!("example.org");
    bench.linux()["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "77", "kernel.msgmax": "4321"});
    assert_eq!(bench.stdout(), "hove-test\nexample.org\n77\n4321\n");
    assert_ne!(fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(), "4321\n");

    bench.linux()["sysctl"] = json!({"net.ipv4.nosuch": "1"});
    let error = bench.run().unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot set sysctl net.ipv4.nosuch=1: No such file or directory (os error 2)"
    );
    bench.linux()["sysctl"] = json!({"vm.swappiness": "1"});
    assert!(
        bench
            .run()
            .unwrap_err()
            .to_string()
            .contains("is not kept per namespace")
    );
    bench.linux()["sysctl"] = json!({"net/../vm/swappiness": "1"});
    assert!(
        bench
            .run()
            .unwrap_err()
            .to_string()
            .contains("is not the name of a kernel parameter")
    );
    bench.linux()["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "77"});
    bench.without_namespace("network");
    assert!(
        bench
            .run()
            .unwrap_err()
            .to_string()
            .contains("needs a network namespace")
    );
}

#[test]
fn a_user_namespace_of_its_own() {
    let mut bench = Bench::sh(
        "id -u; cat /proc/self/uid_map; hostname; stat -c %u:%t:%T /dev/null; ls -l /proc/self/fd >/dev/null && echo ok",
    );
    bench.root = support::Root::Directory;
    bench.namespace("user", None);
    bench.linux()["uidMappings"] = json!([{"containerID": 0, "hostID": 200000, "size": 65536}]);
    bench.linux()["gidMappings"] = json!([{"containerID": 0, "hostID": 200000, "size": 65536}]);
    bench.spec["hostname"] = json!("inside");
    // Directories for the mounts: an image without mapped owners cannot be written to.
    for dir in ["proc", "dev", "sys"] {
        fs::create_dir(bench.image(dir)).unwrap();
    }
    let output = bench.run().unwrap();
    let lines: Vec<_> = output
        .stdout
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    // The bound device belongs to nobody in here.
    assert_eq!(
        lines,
        ["0", "0 200000 65536", "inside", "65534:1:3", "ok"],
        "{output:?}"
    );

    bench.linux()["uidMappings"] = json!([]);
    let error = bench.run().unwrap_err().to_string();
    assert!(error.contains("users and groups are mapped together"), "{error}");
    bench.linux()["gidMappings"] = json!([]);
    assert!(bench.run().unwrap_err().to_string().contains("needs mappings"));
}

#[test]
fn exec_joins_the_container_as_it_is() {
    let mut bench = Bench::sh("echo up; exec sleep 1000");
    bench.namespace("cgroup", None);
    bench.spec["hostname"] = json!("whole");
    bench.process()["user"] = json!({"uid": 1000, "gid": 1000});
    bench.linux()["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    });
    let init = sleeper(&bench);
    let run = |command: &str| {
        let pidfd = init.child.pidfd.as_fd();
        bench.exec(pidfd, |p| p["args"] = json!(["sh", "-c", command])).unwrap()
    };
    for (kind, line) in KINDS.iter().zip(run(LIST).stdout.lines()) {
        assert_eq!(of(init.child.pid, kind), line, "{kind}");
    }
    let output = run("hostname; id -u; ps -o args | grep sleep; mkdir /tmp/x; echo /proc/[0-9]*");
    assert!(output.stdout.starts_with("whole\n1000\nsleep 1000\n"), "{output:?}");
    assert!(
        output.stderr.contains("No space left"),
        "seccomp holds for exec too: {output:?}"
    );
    // The same status but for what is the process's own.
    let theirs = fs::read_to_string(format!("/proc/{}/status", init.child.pid.as_raw_nonzero())).unwrap();
    let ours = bench
        .exec(init.child.pidfd.as_fd(), |p| {
            p["args"] = json!(["cat", "/proc/self/status"])
        })
        .unwrap()
        .stdout;
    for key in [
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
    ] {
        let line = |text: &str| {
            text.lines()
                .find(|l| l.starts_with(&format!("{key}:")))
                .unwrap()
                .to_owned()
        };
        assert_eq!(line(&theirs), line(&ours));
    }
    assert!(ours.contains("Seccomp:\t2"), "{ours}");

    let missing = bench
        .exec(init.child.pidfd.as_fd(), |p| p["args"] = json!(["nosuch"]))
        .unwrap_err();
    assert_eq!(
        missing.to_string(),
        "exec \"nosuch\": not found in PATH \"/usr/bin:/bin\""
    );
    let missing = bench
        .exec(init.child.pidfd.as_fd(), |p| p["cwd"] = json!("/nosuch"))
        .unwrap_err();
    assert!(
        missing
            .to_string()
            .starts_with("cannot enter the working directory /nosuch: No such file"),
        "{missing}"
    );
}

#[test]
fn exec_into_a_container_that_ended_is_an_error() {
    let bench = Bench::sh("echo up; exec sleep 1000");
    let mut init = sleeper(&bench);
    rustix::process::pidfd_send_signal(&init.child.pidfd, rustix::process::Signal::KILL).unwrap();
    init.wait();
    let error = bench.exec(init.child.pidfd.as_fd(), |_| {}).unwrap_err().to_string();
    assert_eq!(error, "cannot join the pid namespace: No such process (os error 3)");
}

#[test]
fn a_pid_namespace_without_its_first_process_takes_no_more() {
    let bench = Bench::sh("echo up; exec sleep 1000");
    let mut holder = sleeper(&bench);
    let path = format!("/proc/{}/ns/pid", holder.child.pid.as_raw_nonzero());
    let mut bench = Bench::new(&["true"]);
    bench.namespace("pid", Some("pinned"));
    bench
        .pinned
        .push(("pinned".into(), fs::File::open(path).unwrap().into()));
    rustix::process::pidfd_send_signal(&holder.child.pidfd, rustix::process::Signal::KILL).unwrap();
    holder.wait();
    let error = bench.run().unwrap_err().to_string();
    assert!(error.contains("its first process has ended"), "{error}");
    // And the thread is back where children can be born.
    bench.namespace("pid", None);
    assert_eq!(bench.run().unwrap().status, 0);
}

#[test]
fn exec_with_another_user_does_not_take_the_annotations() {
    let mut bench = Bench::sh("echo up; exec sleep 1000");
    bench.spec["annotations"] = json!({"dev.hove.user": "web"});
    let init = sleeper(&bench);
    let id = |user: serde_json::Value| {
        let pidfd = init.child.pidfd.as_fd();
        bench.exec(pidfd, |p| {
            p["args"] = json!(["id"]);
            p["user"] = user;
        })
    };
    assert_eq!(
        id(json!({"uid": 0, "gid": 0})).unwrap().stdout,
        "uid=33(web) gid=34(web) groups=4(log),34(web)\n"
    );
    assert_eq!(id(json!({"uid": 5, "gid": 6})).unwrap().stdout, "uid=5 gid=6\n");
}

#[test]
fn a_process_is_born_in_its_cgroups() {
    let hierarchies = cgroup::Hierarchies::detect().unwrap();
    let path = format!("/hove-starter-test-{}", std::process::id());
    let group = cgroup::Cgroup::create(&hierarchies, &path).unwrap();
    let own = match hierarchies.mode() {
        cgroup::Mode::V2 => "/sys/fs/cgroup",
        _ => "/sys/fs/cgroup/pids",
    };
    let mut bench = Bench::sh(&format!(
        "cat /proc/self/cgroup; ls /sys/fs/cgroup; cat {own}/cgroup.procs; touch /sys/fs/cgroup/x; mkdir {own}/x",
    ));
    bench.cgroup = Some(group.placement().unwrap());
    bench.linux()["cgroupsPath"] = json!(path);
    bench.mount(
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                       "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
    );
    let output = bench.run().unwrap();
    for line in output.stdout.lines().filter(|l| l.contains(":/")) {
        assert!(line.ends_with(&path), "{line}");
    }
    if hierarchies.mode() != cgroup::Mode::V2 {
        for name in ["memory", "pids", "cpu"] {
            assert!(output.stdout.lines().any(|l| l == name), "{output:?}");
        }
        assert!(
            output.stdout.ends_with("1\n4\n") || output.stdout.contains("\n1\n"),
            "{output:?}"
        );
    }
    assert_eq!(output.stderr.matches("Read-only file system").count(), 2, "{output:?}");
    // In a cgroup namespace the same place is the root.
    bench.namespace("cgroup", None);
    let output = bench.run().unwrap();
    for line in output.stdout.lines().filter(|l| l.contains(":/")) {
        assert!(line.ends_with(":/"), "{line}");
    }
    drop(bench);
    group.remove().unwrap();
}

/// `exit(42)`, as the smallest ELF there is.
fn tiny_program() -> Vec<u8> {
    let code = [0xbf, 42, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    let base: u64 = 0x40_0000;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [base + 120, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let size = 120 + code.len() as u64;
    for word in [0, base, base, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_program_from_memory_needs_no_root_at_all() {
    let memfd = rustix::fs::memfd_create("tiny", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    fs::File::from(memfd.try_clone().unwrap())
        .write_all(&tiny_program())
        .unwrap();
    let mut bench = Bench::new(&["/pause"]);
    bench.spec["mounts"] = json!([]);
    bench.root = support::Root::Empty;
    let (stdio, _stdout, _stderr): (Stdio, _, _) = pipes();
    let created = bench.create_with(Executable::Fd(memfd), stdio).unwrap();
    let root = format!("/proc/{}/root", created.pid().as_raw_nonzero());
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    assert!(
        fs::write(format!("{root}/x"), "")
            .unwrap_err()
            .to_string()
            .contains("Read-only")
    );
    assert_eq!(
        fs::read_to_string(format!("/proc/{}/mounts", created.pid().as_raw_nonzero()))
            .unwrap()
            .lines()
            .count(),
        1
    );
    let child = created.start().unwrap().wait().unwrap();
    let options = rustix::process::WaitIdOptions::EXITED;
    let status = rustix::process::waitid(rustix::process::WaitId::PidFd(child.pidfd.as_fd()), options).unwrap();
    assert_eq!(status.unwrap().exit_status(), Some(42));
}

#[test]
fn seccomp_without_no_new_privileges() {
    let mut bench = Bench::sh("mkdir /tmp/x; cat /proc/self/status");
    bench.process()["noNewPrivileges"] = json!(false);
    bench.process()["user"] = json!({"uid": 1000, "gid": 1000});
    bench.linux()["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    });
    let output = bench.run().unwrap();
    assert!(output.stderr.contains("No space left"), "{output:?}");
    for line in [
        "Seccomp:\t2",
        "NoNewPrivs:\t0",
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
    ] {
        assert!(output.stdout.contains(line), "no {line} in {output:?}");
    }
}

#[test]
fn a_pods_user_namespace_is_joined_with_all_that_belongs_to_it() {
    let maps = |bench: &mut Bench| {
        bench.root = support::Root::Directory;
        for dir in ["proc", "dev", "sys"] {
            fs::create_dir(bench.image(dir)).unwrap();
        }
    };
    let mut pod = Bench::sh("echo up; sleep 1000");
    maps(&mut pod);
    pod.namespace("user", None);
    for kind in ["uidMappings", "gidMappings"] {
        pod.linux()[kind] = json!([{"containerID": 0, "hostID": 300000, "size": 65536}]);
    }
    let holder = sleeper(&pod);
    let pid = holder.child.pid.as_raw_nonzero();
    let mut bench =
        Bench::sh("id -u; cat /proc/self/uid_map; readlink /proc/self/ns/user; ps -o args | grep -c 'sleep 1000'");
    maps(&mut bench);
    for (oci, kind) in [
        ("user", "user"),
        ("ipc", "ipc"),
        ("network", "net"),
        ("uts", "uts"),
        ("pid", "pid"),
    ] {
        bench.namespace(oci, Some(&format!("/proc/{pid}/ns/{kind}")));
    }
    let output = bench.run().unwrap();
    let lines: Vec<_> = output
        .stdout
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(lines[..2], ["0", "0 300000 65536"], "{output:?}");
    assert_eq!(lines[2], of(holder.child.pid, "user"));
    assert_ne!(lines[2], ours("user"));
    // And by exec.
    let output = pod
        .exec(holder.child.pidfd.as_fd(), |p| {
            p["args"] = json!(["cat", "/proc/self/uid_map"])
        })
        .unwrap();
    assert!(output.stdout.contains("300000"), "{output:?}");

    // A PID namespace of its own is made inside the user namespace, or there would be no /proc.
    bench.namespace("pid", None);
    bench.process()["args"] = json!(["sh", "-c", "echo $$; cat /proc/1/comm; readlink /proc/self/ns/user"]);
    let output = bench.run().unwrap();
    assert_eq!(
        output.stdout,
        format!("1\nsh\n{}\n", of(holder.child.pid, "user")),
        "{output:?}"
    );
    bench.process()["args"] = json!(["nosuch"]);
    let error = bench.run().unwrap_err().to_string();
    assert_eq!(error, "exec \"nosuch\": not found in PATH \"/usr/bin:/bin\"");
    // What goes wrong before there is a container's process is told as well.
    bench.namespace("user", Some("/nowhere/user"));
    let error = bench.run().unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot join the user namespace /nowhere/user: No such file or directory (os error 2)"
    );
}

#[test]
fn exec_with_a_terminal_and_in_the_hosts_pid_namespace() {
    let mut bench = Bench::sh("echo up; exec sleep 1000");
    bench.without_namespace("pid");
    let init = sleeper(&bench);
    let spec = bench.oci();
    let mut process = bench.spec["process"].clone();
    process["args"] = json!(["sh", "-c", "tty; stty size; readlink /proc/self/ns/pid"]);
    let request = starter::ExecRequest {
        process: &serde_json::from_value(process).unwrap(),
        spec: &spec,
        init: init.child.pidfd.as_fd(),
        executable: Executable::Path,
        stdio: Stdio::Terminal {
            size: starter::Size { rows: 5, columns: 6 },
        },
        cgroup: None,
    };
    let mut created = starter::exec(request).unwrap().wait().unwrap();
    let mut terminal = fs::File::from(created.terminal.take().unwrap());
    let child = created.start().unwrap().wait().unwrap();
    let mut text = Vec::new();
    // The end of a session reads as EIO.
    let _ = std::io::Read::read_to_end(&mut terminal, &mut text);
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text, format!("/dev/pts/0\r\n5 6\r\n{}\r\n", ours("pid")));
    let options = rustix::process::WaitIdOptions::EXITED;
    rustix::process::waitid(rustix::process::WaitId::PidFd(child.pidfd.as_fd()), options).unwrap();
}

#[test]
fn what_is_under_way_can_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<starter::Creating>();
    is_send::<starter::Created>();
    is_send::<starter::Starting>();
    is_send::<starter::Error>();
}

#[test]
fn a_mount_namespace_is_joined_as_it_is() {
    let mut holder = Bench::sh("echo here >/tmp/mark; echo up; sleep 1000");
    holder.mount(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
    let holder = sleeper(&holder);
    let ns = format!("/proc/{}/ns/mnt", holder.child.pid.as_raw_nonzero());
    let mut bench = Bench::sh("cat /tmp/mark; pwd; readlink /proc/1/ns/mnt >/dev/null; hostname");
    bench.namespace("mount", Some(&ns));
    bench.root = support::Root::Directory;
    bench.spec["mounts"] = json!([]);
    bench.spec["hostname"] = json!("another");
    bench.process()["cwd"] = json!("/tmp");
    let host = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(bench.stdout(), "here\n/tmp\nanother\n");
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), host);

    let mut running = Bench::sh("echo up; sleep 1000");
    running.namespace("mount", Some(&ns));
    running.root = support::Root::Directory;
    running.spec["mounts"] = json!([]);
    let joined = sleeper(&running);
    assert_eq!(of(joined.child.pid, "mnt"), of(holder.child.pid, "mnt"));
    let exec = running.exec(joined.child.pidfd.as_fd(), |process| {
        process["args"] = json!(["cat", "/tmp/mark"]);
    });
    assert_eq!(exec.unwrap().stdout, "here\n");

    // A user's name is looked up in the joined root.
    bench.spec["annotations"] = json!({starter::USER_ANNOTATION: "no-such-user"});
    assert!(matches!(bench.run(), Err(Error::User { .. })));
}

#[test]
fn what_would_change_a_joined_mount_namespace_is_refused() {
    let joining = || {
        let mut bench = Bench::sh("true");
        bench.namespace("mount", Some("/proc/self/ns/mnt"));
        bench.root = support::Root::Directory;
        bench.spec["mounts"] = json!([]);
        bench
    };
    type Change = fn(&mut Bench);
    let cases: [(&str, Change); 7] = [
        ("rootfs", |b| b.root = support::Root::Overlay),
        ("rootfs", |b| b.root = support::Root::Empty),
        ("mounts", |b| {
            b.mount(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
        }),
        ("root.readonly", |b| {
            b.spec["root"] = json!({"path": "image", "readonly": true})
        }),
        ("linux.maskedPaths", |b| {
            b.linux()["maskedPaths"] = json!(["/proc/kcore"])
        }),
        ("linux.rootfsPropagation", |b| {
            b.linux()["rootfsPropagation"] = json!("shared")
        }),
        ("linux.namespaces", |b| b.namespace("user", None)),
    ];
    for (field, change) in cases {
        let mut bench = joining();
        change(&mut bench);
        let error = bench.run().map(|_| ()).unwrap_err();
        assert!(
            matches!(&error, Error::Spec { field: f, .. } if f == field),
            "{field}: {error}"
        );
    }
    let mut bench = joining();
    bench.namespace("mount", Some("/no/such/namespace"));
    let error = bench.run().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("join the mount namespace /no/such/namespace"), "{error}");
}
