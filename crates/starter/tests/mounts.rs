//! The root and what is mounted in it.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;
use starter::RootfsMount;
use support::{Bench, Root, in_mount_namespace, make_shared, mount_tmpfs};

fn host_mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

/// The options of a mount as the container sees them.
fn options<'a>(mounts: &'a str, at: &str) -> Vec<&'a str> {
    let line = mounts
        .lines()
        .rfind(|l| l.split(' ').nth(1) == Some(at))
        .unwrap_or_else(|| panic!("no {at} in {mounts}"));
    line.split(' ').nth(3).unwrap().split(',').collect()
}

#[test]
fn an_overlay_root_leaves_no_trace_in_the_hosts_mounts() {
    let bench = Bench::sh("echo hello > /tmp/file; cat /proc/mounts; ps -o pid,args; true");
    let stdout = bench.stdout();
    assert!(stdout.starts_with("overlay / overlay rw"), "{stdout}");
    assert!(stdout.contains("    1 sh -c"), "{stdout}");
    assert!(!stdout.contains("/dev/vda"), "no mount of the host's is left: {stdout}");
    assert_eq!(
        fs::read_to_string(bench.path().join("upper/tmp/file")).unwrap(),
        "hello\n"
    );
    assert!(!host_mounts().contains(bench.path().to_str().unwrap()));
}

#[test]
fn more_layers_than_their_paths_would_fit_a_page() {
    let mut bench = Bench::sh("cat /layer-0 /layer-59");
    // As long as snapshot directories may be; what they share does not count.
    let base = bench
        .path()
        .join("a-directory-with-a-rather-long-name-as-snapshots-may-have-them");
    let image = base.join("image");
    fs::create_dir(&base).unwrap();
    fs::rename(bench.image(""), &image).unwrap();
    for name in ["upper", "work"] {
        fs::create_dir(base.join(name)).unwrap();
    }
    let mut layers: Vec<_> = (0..60)
        .map(|i| {
            let dir = base.join(format!("{i}/fs"));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(format!("layer-{i}")), format!("{i}\n")).unwrap();
            dir.display().to_string()
        })
        .collect();
    layers.push(image.display().to_string());
    let lower = layers.join(":");
    assert!(lower.len() > 4096);
    let at = |name: &str| base.join(name).display().to_string();
    bench.root = Root::Custom(vec![RootfsMount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            format!("lowerdir={lower}"),
            format!("upperdir={}", at("upper")),
            format!("workdir={}", at("work")),
        ],
    }]);
    assert_eq!(bench.stdout(), "0\n59\n");
}

#[test]
fn a_bound_and_a_read_only_root() {
    let mut bench = Bench::sh("touch /x /tmp/x /dev/shm/x; ls /");
    bench.mount(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
    bench.spec["root"]["readonly"] = json!(true);
    let output = bench.run().unwrap();
    assert_eq!(output.stderr, "touch: /x: Read-only file system\n");
    bench.spec["root"]["readonly"] = json!(false);
    bench.root = Root::Directory;
    assert_eq!(bench.run().unwrap().stderr, "");
    assert!(bench.image("x").exists());
    let image = bench.image("").display().to_string();
    bench.root = Root::Custom(vec![RootfsMount {
        kind: "bind".into(),
        source: image,
        target: String::new(),
        options: vec!["rbind".into(), "ro".into()],
    }]);
    fs::remove_file(bench.image("x")).unwrap();
    assert_eq!(bench.run().unwrap().stderr, "touch: /x: Read-only file system\n");
}

#[test]
fn masked_and_read_only_paths() {
    let mut bench = Bench::sh(
        "cat /etc/passwd; ls /home; cat /proc/timer_list | wc -c; touch /home/y /etc/y /proc/sys/kernel/hostname; echo x > /proc/sys/kernel/domainname; cat /proc/mounts",
    );
    fs::write(bench.image("home/secret"), "").unwrap();
    bench.linux()["maskedPaths"] = json!([
        "/etc/passwd",
        "/home",
        "/proc/timer_list",
        "/proc/scsi",
        "/nosuch/x",
        "/proc/acpi"
    ]);
    bench.linux()["readonlyPaths"] = json!(["/etc", "/proc/sys", "/nosuch"]);
    let output = bench.run().unwrap();
    assert!(output.stdout.starts_with("0\n"), "{output:?}");
    for path in ["/home/y", "/etc/y"] {
        assert!(
            output.stderr.contains(&format!("{path}: Read-only file system")),
            "{output:?}"
        );
    }
    assert!(
        output.stderr.contains("/proc/sys/kernel/domainname: Read-only"),
        "{output:?}"
    );
    // Protecting a mount again keeps its other attributes.
    assert!(
        ["ro", "nosuid", "nodev", "noexec"]
            .iter()
            .all(|o| options(&output.stdout, "/proc/sys").contains(o))
    );
}

#[test]
fn attributes_are_as_the_options_say() {
    let mut bench = Bench::new(&["cat", "/proc/mounts"]);
    let source = bench.path().join("source");
    fs::create_dir(&source).unwrap();
    for (at, options) in [
        ("/a", json!(["bind", "ro", "nosuid"])),
        ("/b", json!(["rbind", "nodev", "noexec", "noatime"])),
        ("/c", json!(["bind", "rro", "rnosuid"])),
    ] {
        bench.mount(json!({"destination": at, "type": "bind", "source": source, "options": options}));
    }
    bench.mount(json!({"destination": "/t", "type": "tmpfs", "source": "t", "options": ["ro", "noexec", "size=4k", "mode=700"]}));
    let stdout = bench.stdout();
    for (at, yes, no) in [
        ("/a", &["ro", "nosuid"][..], &["nodev", "noexec"][..]),
        ("/b", &["rw", "nodev", "noexec", "noatime"], &["nosuid"]),
        ("/c", &["ro", "nosuid"], &["nodev"]),
        ("/t", &["ro", "noexec", "size=4k", "mode=700"], &["nosuid"]),
        ("/sys", &["ro", "nosuid", "nodev", "noexec"], &[]),
    ] {
        let found = options(&stdout, at);
        assert!(yes.iter().all(|o| found.contains(o)), "{at}: {found:?}");
        assert!(!no.iter().any(|o| found.contains(o)), "{at}: {found:?}");
    }
}

#[test]
fn recursively_read_only() {
    in_mount_namespace(|| {
        let mut bench = Bench::sh("touch /ro/top /ro/below/x /rro/top /rro/below/x");
        let source = bench.path().join("source");
        fs::create_dir_all(source.join("below")).unwrap();
        mount_tmpfs(&source.join("below"));
        bench.mount(json!({"destination": "/ro", "type": "bind", "source": source, "options": ["rbind", "ro"]}));
        bench.mount(json!({"destination": "/rro", "type": "bind", "source": source, "options": ["rbind", "rro"]}));
        let output = bench.run().unwrap();
        let failed: Vec<_> = output.stderr.lines().map(|l| l.split(": ").nth(1).unwrap()).collect();
        assert_eq!(failed, ["/ro/top", "/rro/top", "/rro/below/x"], "{output:?}");
    });
}

/// What a mount of either side shows on the other: (the container's on the host, the host's in the container).
fn propagation(mode: &'static str) -> (bool, bool) {
    in_mount_namespace(move || {
        let mut bench = Bench::sh(
            "mount -t tmpfs t /v/inside; echo up; while ! test -e /tmp/go; do sleep 0.01; done; cat /proc/mounts",
        );
        let source = bench.path().join("source");
        fs::create_dir(&source).unwrap();
        mount_tmpfs(&source);
        make_shared(&source);
        for dir in ["inside", "outside"] {
            fs::create_dir(source.join(dir)).unwrap();
        }
        let options = if mode.is_empty() {
            json!(["rbind"])
        } else {
            json!(["rbind", mode])
        };
        bench.mount(json!({"destination": "/v", "type": "bind", "source": source, "options": options}));
        bench.mount(json!({"destination": "/tmp", "type": "bind", "source": bench.path(), "options": ["bind"]}));
        let mut running = bench.start().unwrap();
        assert_eq!(running.first_line(), "up");
        mount_tmpfs(&source.join("outside"));
        let seen_here = fs::read_to_string("/proc/thread-self/mounts")
            .unwrap()
            .contains("source/inside");
        fs::write(bench.path().join("go"), "").unwrap();
        let seen_there = running.output().stdout.contains(" /v/outside ");
        (seen_here, seen_there)
    })
}

#[test]
fn mounts_propagate_as_asked_and_no_further() {
    for (mode, expected) in [
        ("", (false, false)),
        ("rprivate", (false, false)),
        ("private", (false, false)),
        ("rslave", (false, true)),
        ("slave", (false, true)),
        ("rshared", (true, true)),
        ("shared", (true, true)),
        ("unbindable", (false, false)),
    ] {
        assert_eq!(propagation(mode), expected, "{mode}");
    }
}

#[test]
fn a_destination_that_is_a_link_stays_inside_the_root() {
    let mut bench = Bench::sh("cat /etc/hove-test-target /real/file /up; ls /run/x");
    fs::write(bench.path().join("source"), "bound\n").unwrap();
    fs::create_dir(bench.path().join("dir")).unwrap();
    fs::write(bench.path().join("dir/seen"), "").unwrap();
    fs::create_dir(bench.image("real")).unwrap();
    fs::create_dir(bench.image("var")).unwrap();
    symlink("/etc/hove-test-target", bench.image("absolute")).unwrap();
    symlink("/real", bench.image("linked")).unwrap();
    symlink("/run", bench.image("var/run")).unwrap();
    for (at, from) in [
        ("/absolute", "source"),
        ("/linked/file", "source"),
        ("/../../up", "source"),
        ("/var/run/x", "dir"),
    ] {
        bench.mount(json!({"destination": at, "type": "bind", "source": bench.path().join(from), "options": ["bind"]}));
    }
    assert_eq!(bench.stdout(), "bound\nbound\nbound\nseen\n");
    assert!(!Path::new("/etc/hove-test-target").exists() && !Path::new("/run/x").exists());
}

#[test]
fn devices() {
    let mut bench = Bench::sh(
        "for d in null zero full random urandom tty hove ptmx; do stat -L -c '%n %t:%T %a %u:%g' /dev/$d; done; for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; echo x > /dev/null; dd if=/dev/zero bs=4 count=1 2>/dev/null | wc -c; stat -c '%F %a' /dev/pipe",
    );
    bench.linux()["devices"] = json!([
        {"path": "/dev/hove", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 33, "gid": 34},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600, "major": 0, "minor": 0},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666},
    ]);
    let expected = "/dev/null 1:3 666 0:0\n/dev/zero 1:5 666 0:0\n/dev/full 1:7 666 0:0\n/dev/random 1:8 666 0:0\n\
        /dev/urandom 1:9 666 0:0\n/dev/tty 5:0 666 0:0\n/dev/hove 1:3 640 33:34\n/dev/ptmx 5:2 666 0:0\n\
        /proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n4\nfifo 600\n";
    assert_eq!(bench.stdout(), expected);
    // A /dev of the user's is left as it is.
    let mut bench = Bench::sh("ls /dev");
    fs::create_dir(bench.path().join("dev")).unwrap();
    bench.spec["mounts"] =
        json!([{"destination": "/dev", "type": "bind", "source": bench.path().join("dev"), "options": ["bind"]}]);
    assert_eq!(bench.stdout(), "");
}

#[test]
fn a_step_that_fails_is_named_with_its_object_and_errno() {
    let error = |mount: serde_json::Value| {
        let mut bench = Bench::sh("true");
        bench.mount(mount);
        bench.run().unwrap_err().to_string()
    };
    for (mount, expected) in [
        (
            json!({"destination": "/x", "type": "bind", "source": "/nosuch/source", "options": ["bind"]}),
            "cannot open the mount source /nosuch/source: No such file or directory (os error 2)",
        ),
        (
            json!({"destination": "/x", "type": "tmpfs", "source": "t", "options": ["nosuchoption=1"]}),
            "cannot mount tmpfs at /x: Invalid argument (os error 22)",
        ),
        (
            json!({"destination": "/x", "type": "nosuchfs", "source": "t"}),
            "cannot mount nosuchfs at /x: No such device (os error 19)",
        ),
        (
            json!({"destination": "/etc", "type": "bind", "source": "/etc/hostname", "options": ["bind"]}),
            "cannot bind /etc/hostname at /etc: Is a directory (os error 21)",
        ),
        (
            json!({"destination": "/x", "type": "bind", "source": "relative", "options": ["bind"]}),
            "config.json: mounts[6].source: must be an absolute path (is \"relative\")",
        ),
        (
            json!({"destination": "/x", "type": "bind", "source": "/etc", "options": ["bind", "size=1"]}),
            "config.json: mounts[6].options: is not an option of a bind mount (is \"size=1\")",
        ),
        (
            json!({"destination": "/x/..", "type": "bind", "source": "/etc", "options": ["bind"]}),
            "config.json: mounts[6].destination: must not be the root (is \"/x/..\")",
        ),
    ] {
        assert_eq!(error(mount), expected);
    }
    let mut bench = Bench::sh("true");
    bench.root = Root::Custom(vec![RootfsMount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec!["lowerdir=/nosuch/1:/nosuch/2".into()],
    }]);
    let message = bench.run().unwrap_err().to_string();
    assert!(
        message.starts_with("cannot mount the overlay (lowerdir=1:2) at "),
        "{message}"
    );
    assert!(
        message.ends_with("from /nosuch: No such file or directory (os error 2)"),
        "{message}"
    );
}

#[test]
fn what_is_not_supported_is_refused() {
    let mut bench = Bench::sh("true");
    bench.spec["hooks"] = json!({"prestart": [{"path": "/bin/true"}]});
    assert_eq!(
        bench.run().unwrap_err().to_string(),
        "config.json: hooks: running hooks is not supported"
    );
    let mut bench = Bench::sh("true");
    bench.process()["selinuxLabel"] = json!("some");
    assert_eq!(
        bench.run().unwrap_err().to_string(),
        "config.json: process.selinuxLabel: SELinux is not supported"
    );
}

#[test]
fn an_image_with_links_in_dev_and_proc_cannot_make_us_write_outside() {
    // Without a tmpfs on /dev the devices are made in the image's own, which is a link to the host's here.
    let mut bench = Bench::sh("ls -l /elsewhere");
    symlink("/elsewhere", bench.image("dev")).unwrap();
    bench.spec["mounts"] = json!([]);
    let output = bench.run().unwrap();
    assert!(output.stdout.contains("urandom"), "{output:?}");
    assert!(!Path::new("/elsewhere").exists());
}
