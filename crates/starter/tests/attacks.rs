//! What other runtimes have fallen to, tried on this one. docs/security.md says which test answers which advisory.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use serde_json::json;
use starter::Executable;
use support::{Bench, Root, Running, in_mount_namespace, pipes};

/// Swaps two names of a directory, over and over, while `f` runs: at any moment the name is one or the other.
fn while_swapping<T>(a: &Path, b: &Path, f: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let result = f();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

/// How often a race is run: for a second, at least so many times.
fn rounds() -> impl Iterator<Item = usize> {
    let started = Instant::now();
    (0..).take_while(move |i| *i < 20 || started.elapsed() < Duration::from_secs(1))
}

fn host_mounts() -> usize {
    fs::read_to_string("/proc/thread-self/mountinfo")
        .unwrap()
        .lines()
        .count()
}

#[test]
fn mount_targets_swapped_under_us_stay_inside() {
    in_mount_namespace(|| {
        // Another container of the pod shares the volume, and swaps a directory in it for a link to the host's.
        let mut bench = Bench::sh("true");
        let (volume, outside) = (bench.path().join("volume"), bench.path().join("outside"));
        let source = bench.path().join("source");
        for dir in [&volume.join("target"), &outside, &source] {
            fs::create_dir_all(dir).unwrap();
        }
        symlink(&outside, volume.join("swapped")).unwrap();
        bench.mount(json!({"destination": "/v", "type": "bind", "source": volume, "options": ["rbind"]}));
        bench.mount(json!({"destination": "/v/target", "type": "bind", "source": source, "options": ["bind"]}));
        bench.mount(
            json!({"destination": "/v/target/made/below", "type": "bind", "source": source, "options": ["bind"]}),
        );
        let before = host_mounts();
        while_swapping(&volume.join("target"), &volume.join("swapped"), || {
            for _ in rounds() {
                // Whether it works or says that something was in the way is the same here.
                let _ = bench.run();
                assert_eq!(
                    fs::read_dir(&outside).unwrap().count(),
                    0,
                    "nothing was made outside of the root"
                );
                assert_eq!(host_mounts(), before);
            }
        });
    });
}

#[test]
fn a_mount_source_that_became_a_link_leads_nobody() {
    let mut bench = Bench::sh("cat /v/secret");
    let (volume, outside) = (bench.path().join("volume"), bench.path().join("outside"));
    fs::create_dir_all(volume.join("sub")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    symlink(&outside, volume.join("link")).unwrap();
    let source = volume.join("sub");
    bench.mount(json!({"destination": "/v", "type": "bind", "source": source, "options": ["rbind"]}));
    bench.spec["annotations"] = json!({"dev.hove.resolved-sources": json!([source]).to_string()});
    let mut refused = 0;
    while_swapping(&volume.join("sub"), &volume.join("link"), || {
        for _ in rounds() {
            match bench.run() {
                Ok(output) => assert_eq!(output.stdout, "", "{output:?}"),
                Err(e) => {
                    assert!(e.to_string().contains("Too many levels of symbolic links"), "{e}");
                    refused += 1;
                }
            }
        }
    });
    // And certainly where it is a link.
    fs::remove_dir(&source).or_else(|_| fs::remove_file(&source)).unwrap();
    symlink(&outside, &source).unwrap();
    let error = bench.run().unwrap_err().to_string();
    assert!(
        error.contains("Too many levels of symbolic links"),
        "{error} (and {refused} times before)"
    );
}

#[test]
fn proc_and_sysfs_are_not_mounted_through_links() {
    for (place, kind) in [("proc", "proc"), ("sys", "sysfs")] {
        let bench = Bench::sh("true");
        fs::create_dir(bench.image("elsewhere")).unwrap();
        symlink("/elsewhere", bench.image(place)).unwrap();
        let error = bench.run().unwrap_err().to_string();
        assert_eq!(
            error,
            format!("cannot mount {kind} at /{place}: Too many levels of symbolic links (os error 40)")
        );
    }
}

#[test]
fn masks_cover_what_is_there_with_the_hosts_null_device() {
    // The image brings a /dev of its own, with a null that is none, and there is no tmpfs to cover it.
    for null in ["file", "link", "fifo"] {
        let mut bench = Bench::sh("cat /secret; stat -c %t:%T /secret; echo x > /secret; wc -c < /secret");
        fs::write(bench.image("secret"), "secret").unwrap();
        fs::create_dir(bench.image("dev")).unwrap();
        fs::write(bench.image("target"), "not covered").unwrap();
        match null {
            "file" => fs::write(bench.image("dev/null"), "not covered").unwrap(),
            "link" => symlink("/target", bench.image("dev/null")).unwrap(),
            _ => mknodat(
                CWD,
                bench.image("dev/null"),
                FileType::Fifo,
                Mode::from_raw_mode(0o666),
                0,
            )
            .unwrap(),
        }
        let mounts = bench.spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| m["destination"] == "/proc");
        bench.linux()["maskedPaths"] = json!(["/secret"]);
        assert_eq!(bench.stdout(), "1:3\n0\n", "/dev/null is a {null}");
    }
}

#[test]
fn masks_raced_with_links_stay_inside() {
    in_mount_namespace(|| {
        let mut bench = Bench::sh("true");
        let (volume, outside) = (bench.path().join("volume"), bench.path().join("outside"));
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("masked"), "").unwrap();
        fs::write(&outside, "untouched").unwrap();
        symlink(&outside, volume.join("link")).unwrap();
        bench.mount(json!({"destination": "/v", "type": "bind", "source": volume, "options": ["rbind"]}));
        bench.linux()["maskedPaths"] = json!(["/v/masked"]);
        bench.linux()["readonlyPaths"] = json!(["/v/masked"]);
        let before = host_mounts();
        while_swapping(&volume.join("masked"), &volume.join("link"), || {
            for _ in rounds() {
                bench.run().unwrap();
                assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
                assert_eq!(host_mounts(), before);
            }
        });
    });
}

#[test]
fn the_console_is_the_terminal_that_was_opened_wherever_links_lead() {
    // Without a /dev of its own, the image says what /dev/console and /dev/pts are.
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), "untouched").unwrap();
    let before = fs::metadata(outside.path()).unwrap();
    for console in [
        outside.path(),
        Path::new("/proc/sys/kernel/hostname"),
        Path::new("/etc/passwd"),
    ] {
        let mut bench = Bench::sh("tty; test -t 0 && echo terminal");
        fs::create_dir(bench.image("dev")).unwrap();
        symlink(console, bench.image("dev/console")).unwrap();
        let mounts = bench.spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| m["destination"] == "/proc" || m["destination"] == "/dev/pts");
        let mut running = bench.start_in_terminal(starter::Size::default()).unwrap();
        assert_eq!(running.wait(), 0);
        let after = fs::metadata(outside.path()).unwrap();
        assert_eq!(
            (before.uid(), before.mode(), before.len()),
            (after.uid(), after.mode(), after.len())
        );
        assert_eq!(fs::read_to_string(outside.path()).unwrap(), "untouched");
    }
}

#[test]
fn an_image_whose_dev_is_a_link_makes_nothing_outside() {
    let outside = tempfile::tempdir().unwrap();
    let mut bench = Bench::sh("ls /dev/null");
    symlink(outside.path(), bench.image("dev")).unwrap();
    let mounts = bench.spec["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| m["destination"] == "/proc");
    bench.run().unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn kernel_parameters_are_written_to_procfs_or_not_at_all() {
    in_mount_namespace(|| {
        let mut bench = Bench::sh("true");
        bench.linux()["sysctl"] = json!({"kernel.msgmax": "4321"});
        let decoy = bench.path().join("decoy/kernel/msgmax");
        fs::create_dir_all(decoy.parent().unwrap()).unwrap();
        fs::write(&decoy, "untouched").unwrap();
        rustix::mount::mount_bind(bench.path().join("decoy"), "/proc/sys").unwrap();
        let error = bench.run().unwrap_err().to_string();
        assert!(
            error.starts_with("cannot set sysctl kernel.msgmax=4321: Wrong medium type"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&decoy).unwrap(), "untouched");
    });
}

/// What a volume mounted over the container's own /proc can redirect: nothing, because nothing is written there any more.
#[test]
fn a_volume_over_the_containers_proc_redirects_nothing() {
    let mut bench = Bench::sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start");
    let decoy = bench.path().join("proc");
    fs::create_dir_all(decoy.join("sys/net/ipv4")).unwrap();
    fs::create_dir_all(decoy.join("self/attr/apparmor")).unwrap();
    fs::write(decoy.join("sys/net/ipv4/ip_unprivileged_port_start"), "decoy").unwrap();
    fs::write(decoy.join("self/oom_score_adj"), "decoy").unwrap();
    bench.linux()["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "77"});
    bench.process()["oomScoreAdj"] = json!(500);
    bench.mount(json!({"destination": "/proc", "type": "bind", "source": decoy, "options": ["bind"]}));
    assert_eq!(bench.stdout(), "decoy");
    assert_eq!(fs::read_to_string(decoy.join("self/oom_score_adj")).unwrap(), "decoy");
}

#[test]
fn no_descriptor_reaches_a_container_or_an_exec() {
    // As a careless library would leave them.
    let root = File::open("/").unwrap();
    let leaks: Vec<_> = (0..5).map(|_| root.try_clone().unwrap()).collect();
    for leak in &leaks {
        rustix::io::fcntl_setfd(leak, rustix::io::FdFlags::empty()).unwrap();
    }
    let mut bench = Bench::sh("echo up; ls /proc/$$/fd; sleep 1000");
    let mut running = bench.start().unwrap();
    for expected in ["up", "0", "1", "2"] {
        assert_eq!(running.first_line(), expected);
    }
    let output = bench
        .exec(running.child.pidfd.as_fd(), |p| {
            p["args"] = json!(["sh", "-c", "ls /proc/$$/fd; true"])
        })
        .unwrap();
    assert_eq!(output.stdout, "0\n1\n2\n");
    drop(running);
    // One that waits for its start has nothing but the handshake besides: its working directory, and no root of ours.
    bench.process()["args"] = json!(["true"]);
    let (stdio, ..) = pipes();
    let created = bench.create_with(Executable::Path, stdio).unwrap();
    let fds = format!("/proc/{}/fd", created.pid().as_raw_nonzero());
    let mut targets: Vec<_> = fs::read_dir(fds)
        .unwrap()
        .map(|e| fs::read_link(e.unwrap().path()).unwrap().display().to_string())
        .collect();
    targets.sort();
    let kinds: Vec<_> = targets.iter().map(|t| t.split(':').next().unwrap()).collect();
    assert_eq!(kinds, ["/dev/null", "pipe", "pipe", "socket"]);
    drop(leaks);
}

#[test]
fn one_on_its_way_in_cannot_be_looked_into_from_inside() {
    // A container whose root has all of a container's capabilities, and the PID namespace that the next one joins.
    let first = Bench::sh("echo up; sleep 1000");
    let mut running = first.start().unwrap();
    assert_eq!(running.first_line(), "up");
    let mut second = Bench::sh("true");
    let pid = format!("/proc/{}/ns/pid", running.child.pid.as_raw_nonzero());
    second.namespace("pid", Some(&pid));
    let (stdio, ..) = pipes();
    let waiting = second.create_with(Executable::Path, stdio).unwrap();
    let number = number_inside(waiting.pid());
    let look = format!(
        "readlink /proc/{number}/fd/1; readlink /proc/{number}/exe; readlink /proc/{number}/cwd; readlink /proc/{number}/root; \
         cat /proc/{number}/environ; echo x > /proc/{number}/mem; echo x > /proc/{number}/exe; cat /proc/{number}/maps; true"
    );
    let output = first
        .exec(running.child.pidfd.as_fd(), |p| {
            p["args"] = json!(["sh", "-c", look]);
            // With it the kernel shows an environment to everybody (perfmon_capable); a container has not got it.
            for set in ["bounding", "effective", "permitted"] {
                p["capabilities"][set]
                    .as_array_mut()
                    .unwrap()
                    .retain(|c| c != "CAP_SYS_ADMIN");
            }
        })
        .unwrap();
    drop(waiting);
    assert_eq!(output.stdout, "", "{output:?}");
    assert_eq!(output.stderr.matches("ermission denied").count(), 4, "{output:?}");
}

/// The last of the numbers that a process has: that of its own PID namespace.
fn number_inside(pid: rustix::process::Pid) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let line = status.lines().find(|l| l.starts_with("NSpid:")).unwrap();
    line.split_whitespace().last().unwrap().to_owned()
}

#[test]
fn pauses_program_cannot_be_overwritten_by_those_who_share_its_namespace() {
    // As the shim starts pause: from a sealed file in memory, which others reach as /proc/1/exe.
    let program = fs::read("/bin/busybox").unwrap();
    let mut pause = Bench::new(&["sleep", "1000"]);
    pause.root = Root::Directory;
    let (stdio, ..) = pipes();
    let memory = sys::memfd::sealed("pause", &program).unwrap();
    let created = pause.create_with(Executable::Fd(memory), stdio).unwrap();
    let pid = created.pid();
    let child = created.start().unwrap().wait().unwrap();
    let mut bench = Bench::sh(
        "readlink /proc/1/exe; echo x > /proc/1/exe; busybox dd if=/dev/zero of=/proc/1/exe count=1 conv=notrunc; true",
    );
    let path = format!("/proc/{}/ns/pid", pid.as_raw_nonzero());
    bench.namespace("pid", Some(&path));
    // Even one that may trace it.
    for set in ["bounding", "effective", "permitted"] {
        bench.process()["capabilities"][set]
            .as_array_mut()
            .unwrap()
            .push(json!("CAP_SYS_PTRACE"));
    }
    let output = bench.run().unwrap();
    assert!(output.stdout.starts_with("/memfd:pause (deleted)"), "{output:?}");
    assert!(
        output.stderr.matches("Text file busy").count() + output.stderr.matches("not permitted").count() >= 2,
        "{output:?}"
    );
    rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL).unwrap();
    rustix::process::waitid(
        rustix::process::WaitId::PidFd(child.pidfd.as_fd()),
        rustix::process::WaitIdOptions::EXITED,
    )
    .unwrap();
}

#[test]
fn a_working_directory_outside_of_the_root_is_refused() {
    let root = File::open("/").unwrap();
    for cwd in [
        "/proc/self/fd/3",
        "/proc/self/cwd",
        "/proc/1/root",
        "/proc/thread-self/root/etc",
        "/link",
    ] {
        let mut bench = Bench::sh("pwd; ls");
        symlink("/proc/self/fd/3", bench.image("link")).unwrap();
        bench.process()["cwd"] = json!(cwd);
        let error = bench.run().unwrap_err().to_string();
        assert!(error.contains(cwd), "{error}");
        // The same for an exec.
        bench.process()["cwd"] = json!("/");
        bench.process()["args"] = json!(["sh", "-c", "echo up; sleep 1000"]);
        let mut running = bench.start().unwrap();
        assert_eq!(running.first_line(), "up");
        let error = bench
            .exec(running.child.pidfd.as_fd(), |p| {
                p["args"] = json!(["pwd"]);
                p["cwd"] = json!(cwd);
            })
            .unwrap_err();
        assert!(error.to_string().contains(cwd), "{error}");
    }
    drop(root);
}

#[test]
fn hostile_passwd_and_group_files_are_read_or_refused_but_never_waited_for() {
    type Make = fn(&Path);
    let long: Make = |path| fs::write(path, "x:".repeat(1 << 22)).unwrap();
    let many: Make = |path| fs::write(path, "web:x:33:\n".repeat(1 << 18)).unwrap();
    let zeros: Make = |path| fs::write(path, vec![0; 1 << 21]).unwrap();
    let fifo: Make = |path| mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    let device: Make = |path| {
        mknodat(
            CWD,
            path,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            rustix::fs::makedev(1, 5),
        )
        .unwrap();
        assert!(fs::metadata(path).unwrap().file_type().is_char_device());
    };
    let directory: Make = |path| fs::create_dir(path).unwrap();
    let out: Make = |path| symlink("/../../../../../../etc/shadow", path).unwrap();
    let magic: Make = |path| symlink("/proc/self/fd/0", path).unwrap();
    let around: Make = |path| symlink(path.file_name().unwrap(), path).unwrap();
    let socket: Make = |path| drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    for (what, make) in [
        ("a long line", long),
        ("many lines", many),
        ("zeros", zeros),
        ("a FIFO", fifo),
        ("a device", device),
        ("a directory", directory),
        ("a link out", out),
        ("a magic link", magic),
        ("a link to itself", around),
        ("a socket", socket),
    ] {
        for file in ["etc/passwd", "etc/group"] {
            let mut bench = Bench::sh("busybox stat -c %u /proc/$$/status");
            fs::remove_file(bench.image(file)).unwrap();
            make(&bench.image(file));
            bench.spec["annotations"] = json!({"dev.hove.user": "1000"});
            let started = Instant::now();
            match bench.run() {
                Ok(output) => assert_eq!(output.stdout, "1000\n", "{what}"),
                Err(e) => assert!(e.to_string().contains("1024 groups"), "{what}: {e}"),
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        }
    }
    // What they say is data: a name is no number, and no number a name.
    for (passwd, user, expected) in [
        ("1000:x:0:0::/:\n", "1000", "1000\n"),
        ("99999999999:x:0:0::/:\n", "99999999999", "no user"),
        ("all:x:4294967295:0::/:\n", "all", "is not an id"),
        ("all:x:-1:0::/:\n", "all", "no user"),
        ("all:x: 0:0::/:\n", "all", "no user"),
    ] {
        let mut bench = Bench::sh("busybox stat -c %u /proc/$$/status");
        fs::write(bench.image("etc/passwd"), passwd).unwrap();
        bench.spec["annotations"] = json!({"dev.hove.user": user});
        match bench.run() {
            Ok(output) => assert_eq!(output.stdout, expected, "{passwd:?}"),
            Err(e) => assert!(e.to_string().contains(expected), "{passwd:?}: {e}"),
        }
    }
}

#[test]
fn ids_that_mean_unchanged_are_refused() {
    for user in [
        json!({"uid": u32::MAX, "gid": 0}),
        json!({"uid": 0, "gid": u32::MAX}),
        json!({"uid": 0, "gid": 0, "additionalGids": [u32::MAX]}),
    ] {
        let mut bench = Bench::sh("id");
        bench.process()["user"] = user;
        let error = bench.run().unwrap_err().to_string();
        assert!(error.contains("is not an id"), "{error}");
    }
}

#[test]
fn a_huge_environment_is_an_error_that_says_so() {
    let mut bench = Bench::sh("true");
    for (env, fits) in [
        (vec![format!("A={}", "x".repeat(100_000))], true),
        // The kernel takes 128 KiB at most in one piece …
        (vec![format!("A={}", "x".repeat(1 << 18))], false),
        // … and a quarter of the stack's limit in all.
        ((0..5000).map(|i| format!("A{i}={}", "x".repeat(4096))).collect(), false),
    ] {
        bench.process()["env"] = json!(env);
        bench.process()["args"] = json!(["/bin/true"]);
        match bench.run() {
            Ok(output) => assert!(fits && output.status == 0, "{output:?}"),
            Err(e) => assert!(!fits && e.to_string().contains("are too large"), "{e}"),
        }
    }
}

#[test]
fn nothing_is_inheritable_unless_it_is_asked_for() {
    let line = |stdout: &str, key: &str| stdout.lines().find(|l| l.starts_with(key)).unwrap().to_owned();
    let mut bench = Bench::sh("echo up; sleep 1000");
    let mut running = bench.start().unwrap();
    assert_eq!(running.first_line(), "up");
    let exec = bench
        .exec(running.child.pidfd.as_fd(), |p| {
            p["args"] = json!(["cat", "/proc/self/status"])
        })
        .unwrap();
    bench.process()["args"] = json!(["cat", "/proc/self/status"]);
    for stdout in [exec.stdout, bench.stdout()] {
        assert_eq!(line(&stdout, "CapInh"), "CapInh:\t0000000000000000");
        assert_eq!(line(&stdout, "CapAmb"), "CapAmb:\t0000000000000000");
    }
}

#[test]
fn kernel_parameters_of_the_host_are_refused() {
    for key in [
        "kernel.core_pattern",
        "kernel.modprobe",
        "kernel.sysrq",
        "kernel.randomize_va_space",
        "vm.overcommit_memory",
        "fs.suid_dumpable",
        "fs.file-max",
        "fs.mqueue",
        "dev.cdrom.lock",
        "abi.vsyscall32",
        "user.max_user_namespaces",
        "net",
        "net/../kernel/core_pattern",
        "net./../kernel/core_pattern",
        "net..ipv4",
        "kernel.shmmax/../core_pattern",
        "kernel/msgmax/../sysrq",
        "",
        "/",
        ".",
    ] {
        let mut bench = Bench::sh("true");
        bench.linux()["sysctl"] = json!({key: "1"});
        let error = bench.run().unwrap_err().to_string();
        assert!(
            error.starts_with("config.json: linux.sysctl") || error.contains("os error"),
            "{key}: {error}"
        );
        assert!(!error.contains("Permission"), "{key}: {error}");
    }
}

#[test]
fn the_hosts_cgroups_are_out_of_reach() {
    let hierarchies = cgroup::Hierarchies::detect().unwrap();
    let path = format!("/hove-attack-test-{}", std::process::id());
    let group = cgroup::Cgroup::create(&hierarchies, &path).unwrap();
    for (user, access) in [(false, "ro"), (true, "ro"), (true, "rw")] {
        let mut bench = Bench::sh(
            "echo; for f in $(find /sys/fs/cgroup -name cgroup.procs -o -name release_agent); do echo $$ > $f && echo wrote $f; done; \
             find /sys/fs/cgroup -maxdepth 3 | grep -c hove-attack; ls -d /sys/fs/cgroup/*/.. | head -1",
        );
        fs::hard_link(bench.image("bin/busybox"), bench.image("bin/find")).unwrap();
        fs::hard_link(bench.image("bin/busybox"), bench.image("bin/head")).unwrap();
        bench.cgroup = Some(group.placement().unwrap());
        bench.linux()["cgroupsPath"] = json!(path);
        bench.namespace("cgroup", None);
        if user {
            bench.namespace("user", None);
            for kind in ["uidMappings", "gidMappings"] {
                bench.linux()[kind] = json!([{"containerID": 0, "hostID": 500_000, "size": 65536}]);
            }
            let at = |name: &str| bench.path().join(name).display().to_string();
            bench.root = Root::Custom(vec![starter::RootfsMount {
                kind: "overlay".into(),
                source: "overlay".into(),
                target: String::new(),
                options: vec![
                    format!("lowerdir={}", at("image")),
                    format!("upperdir={}", at("upper")),
                    format!("workdir={}", at("work")),
                    "uidmap=0:500000:65536".into(),
                    "gidmap=0:500000:65536".into(),
                ],
            }]);
        }
        bench.mount(
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                           "options": ["nosuid", "noexec", "nodev", access]}),
        );
        let output = bench.run().unwrap();
        assert!(!output.stdout.contains("wrote"), "{user} {access}: {output:?}");
    }
    group.remove().unwrap();
}

#[test]
fn a_shared_pid_namespace_does_not_lend_the_starters_binary() {
    let first = Bench::sh("echo up; sleep 1000");
    let mut running: Running = first.start().unwrap();
    assert_eq!(running.first_line(), "up");
    // While execs come and go, one inside tries to open each newcomer's program for writing.
    let look = "while :; do readlink /proc/[0-9]*/exe; for p in /proc/[0-9]*; do readlink $p/exe; done; done";
    let (stdio, mut stdout, _) = pipes();
    let process: oci_spec::runtime::Process = {
        let mut process = first.spec["process"].clone();
        process["args"] = json!(["sh", "-c", look]);
        serde_json::from_value(process).unwrap()
    };
    let spec = first.oci();
    let spy = starter::exec(starter::ExecRequest {
        process: &process,
        spec: &spec,
        init: running.child.pidfd.as_fd(),
        executable: Executable::Path,
        stdio,
        cgroup: None,
    })
    .unwrap()
    .wait()
    .unwrap()
    .start()
    .unwrap()
    .wait()
    .unwrap();
    for _ in rounds() {
        first
            .exec(running.child.pidfd.as_fd(), |p| p["args"] = json!(["/bin/true"]))
            .unwrap();
    }
    rustix::process::pidfd_send_signal(&spy.pidfd, rustix::process::Signal::KILL).unwrap();
    rustix::process::waitid(
        rustix::process::WaitId::PidFd(spy.pidfd.as_fd()),
        rustix::process::WaitIdOptions::EXITED,
    )
    .unwrap();
    drop(running);
    let mut found = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut found).unwrap();
    assert!(found.contains("/bin/sleep"), "it looked");
    let ours = std::env::current_exe().unwrap();
    let ours = ours.file_name().unwrap().to_str().unwrap();
    assert!(!found.contains(ours), "the starter's own program was in sight: {found}");
}

#[test]
fn files_of_the_host_keep_their_owners() {
    // /dev/null that is a link, in an image without a /dev of its own: what is given to the user must be a stream of ours.
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o600)).unwrap();
    let mut bench = Bench::sh("cat; true");
    fs::create_dir(bench.image("dev")).unwrap();
    symlink(outside.path(), bench.image("dev/null")).unwrap();
    let mounts = bench.spec["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| m["destination"] == "/proc");
    bench.process()["user"] = json!({"uid": 1000, "gid": 1000});
    bench.run().unwrap();
    assert_eq!(fs::metadata(outside.path()).unwrap().uid(), 0);
}

#[test]
fn a_name_with_a_nul_is_refused_before_anything_is_done() {
    let mut bench = Bench::sh("true");
    bench.process()["args"] = json!(["true", "a\0b"]);
    assert!(bench.run().unwrap_err().to_string().contains("NUL"));
    assert_eq!(fs::read_dir(bench.path().join("upper")).unwrap().count(), 0);
}
