//! AppArmor profiles, on a kernel that has AppArmor. Elsewhere each of these is skipped and says so.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use serde_json::json;
use support::Bench;

/// A profile in the kernel, for as long as a test takes.
struct Profile(String);

impl Profile {
    /// One that denies writing /etc/denied, and reading /etc/group. `None`: this kernel has no AppArmor.
    fn load(test: &str) -> Option<Profile> {
        let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
        if !enabled.starts_with('Y') {
            println!("SKIPPED: {test}: this kernel has no AppArmor (cargo xtask vm has one)");
            return None;
        }
        let name = format!("hove-test-{test}-{}", std::process::id());
        let policy = format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{\n\
             file,\n capability,\n network,\n umount,\n signal,\n ptrace,\n mount,\n\
             deny /etc/denied w,\n deny /etc/group r,\n}}\n"
        );
        parser(&["--replace", "--skip-cache"], &policy);
        Some(Profile(name))
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        parser(&["--remove"], &format!("profile {} {{ }}\n", self.0));
    }
}

fn parser(args: &[&str], policy: &str) {
    let mut parser = Command::new("apparmor_parser")
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .spawn()
        .expect("the package apparmor");
    parser.stdin.take().unwrap().write_all(policy.as_bytes()).unwrap();
    assert!(parser.wait().unwrap().success());
}

#[test]
fn a_profile_confines_a_container_and_what_is_executed_in_it() {
    let Some(profile) = Profile::load("confines") else {
        return;
    };
    let script =
        "cat /proc/self/attr/apparmor/current; touch /etc/denied; cat /etc/group; touch /etc/allowed && echo allowed";
    for no_new_privileges in [true, false] {
        let mut bench = Bench::sh(&format!("{script}; echo up; sleep 1000"));
        bench.process()["noNewPrivileges"] = json!(no_new_privileges);
        bench.process()["apparmorProfile"] = json!(profile.0);
        let mut running = bench.start().unwrap();
        let label = format!("{} (enforce)", profile.0);
        for expected in [label.as_str(), "allowed", "up"] {
            assert_eq!(running.first_line(), expected);
        }
        let output = bench
            .exec(running.child.pidfd.as_fd(), |p| p["args"] = json!(["sh", "-c", script]))
            .unwrap();
        assert_eq!(output.stdout, format!("{label}\nallowed\n"), "{output:?}");
        assert_eq!(output.stderr.matches("Permission denied").count(), 2, "{output:?}");
        assert!(!bench.path().join("upper/etc/denied").exists());
    }
}

/// The profile that the node loads when it starts (`runtime::apparmor`, whose own test loads it too).
#[test]
fn hoves_own_profile_lets_a_container_work() {
    let loaded = fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
    if !loaded.contains("hove-default (enforce)") {
        println!("SKIPPED: hoves_own_profile_lets_a_container_work: no node has loaded hove-default into this kernel");
        return;
    }
    let mut bench = Bench::sh(
        "cat /proc/self/attr/apparmor/current; id -u; ps | wc -l; ls /sys/class/net; echo x > /dev/null; echo x > /tmp/x; sleep 1000 & \
         kill $!; cat /proc/self/status > /dev/null && echo 500 > /proc/self/oom_score_adj; ln -s x /tmp/y && echo works; \
         mount -t tmpfs t /tmp; echo 9 > /proc/sys/vm/swappiness; echo x > /proc/sys/kernel/domainname; echo b > /proc/sysrq-trigger; \
         echo x > /sys/kernel/profiling; echo exec x > /proc/self/attr/apparmor/exec; true",
    );
    bench.process()["apparmorProfile"] = json!("hove-default");
    let sys = bench.spec["mounts"].as_array_mut().unwrap();
    let sys = sys.iter_mut().find(|m| m["destination"] == "/sys").unwrap();
    sys["options"] = json!(["rw"]);
    let output = bench.run().unwrap();
    assert!(output.stdout.starts_with("hove-default (enforce)\n0\n"), "{output:?}");
    assert!(output.stdout.ends_with("works\n"), "{output:?}");
    for denied in [
        "mount: ",
        "swappiness",
        "domainname",
        "sysrq-trigger",
        "profiling",
        "attr/apparmor/exec",
    ] {
        assert!(
            output.stderr.lines().any(|l| l.contains(denied)),
            "{denied} was possible: {output:?}"
        );
    }
}

#[test]
fn a_profile_holds_in_a_user_namespace() {
    let Some(profile) = Profile::load("user") else { return };
    let mut bench = Bench::sh("cat /proc/self/attr/apparmor/current; touch /etc/denied");
    bench.root = support::Root::Directory;
    for dir in ["proc", "dev", "sys"] {
        fs::create_dir(bench.image(dir)).unwrap();
    }
    bench.namespace("user", None);
    for kind in ["uidMappings", "gidMappings"] {
        bench.linux()[kind] = json!([{"containerID": 0, "hostID": 300_000, "size": 65536}]);
    }
    bench.process()["apparmorProfile"] = json!(profile.0);
    let output = bench.run().unwrap();
    assert_eq!(output.stdout, format!("{} (enforce)\n", profile.0), "{output:?}");
    assert!(output.stderr.contains("Permission denied"), "{output:?}");
}

#[test]
fn a_missing_profile_is_an_error_and_not_a_container_without_one() {
    let mut bench = Bench::sh("true");
    bench.process()["apparmorProfile"] = json!("hove-test-no-such-profile");
    let error = bench.run().unwrap_err().to_string();
    match Profile::load("missing") {
        Some(_) => assert!(error.contains("must be loaded into the kernel"), "{error}"),
        None => assert_eq!(
            error,
            "config.json: process.apparmorProfile: AppArmor, by this kernel, is not supported"
        ),
    }
    bench.process()["apparmorProfile"] = json!("unconfined");
    assert_eq!(bench.run().unwrap().status, 0);
}

/// A label that is written through a volume's false /proc (CVE-2019-19921, CVE-2025-52881) would not be written at all: the
/// order goes to the host's /proc, before the container's mounts are there.
#[test]
fn a_false_proc_in_the_container_does_not_take_the_label_away() {
    let Some(profile) = Profile::load("false") else { return };
    let mut bench = Bench::sh("touch /etc/denied; true");
    let decoy = bench.path().join("proc");
    for dir in ["self/attr/apparmor", "thread-self/attr/apparmor"] {
        fs::create_dir_all(decoy.join(dir)).unwrap();
        fs::write(decoy.join(dir).join("exec"), "decoy").unwrap();
    }
    bench.mount(json!({"destination": "/proc", "type": "bind", "source": decoy, "options": ["bind"]}));
    bench.process()["apparmorProfile"] = json!(profile.0);
    let output = bench.run().unwrap();
    assert!(output.stderr.contains("Permission denied"), "{output:?}");
    assert_eq!(
        fs::read_to_string(decoy.join("thread-self/attr/apparmor/exec")).unwrap(),
        "decoy"
    );
}
