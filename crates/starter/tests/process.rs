//! What a container's process is: user, groups, capabilities, limits, environment, program, terminal.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use starter::{Executable, Size};
use support::{Bench, pipes};

/// A line of /proc/self/status.
fn status(stdout: &str, key: &str) -> String {
    let line = stdout
        .lines()
        .find_map(|l| l.strip_prefix(key))
        .unwrap_or_else(|| panic!("no {key} in {stdout}"));
    line.trim_start_matches(':').trim().to_owned()
}

#[test]
fn capabilities_are_those_asked_for() {
    let mut bench = Bench::new(&["cat", "/proc/self/status"]);
    bench.process()["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN"],
        "inheritable": ["CAP_KILL"],
    });
    let stdout = bench.stdout();
    assert_eq!(status(&stdout, "CapBnd"), "0000000000000421");
    assert_eq!(status(&stdout, "CapInh"), "0000000000000020");
    // With no_new_privs, root's exec does not add what the bounding set would allow.
    assert_eq!(status(&stdout, "CapPrm"), "0000000000000021");
    assert_eq!(status(&stdout, "NoNewPrivs"), "1");

    // Another user keeps the ambient ones alone.
    bench.process()["user"] = json!({"uid": 1000, "gid": 1000});
    bench.process()["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"],
        "permitted": ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"],
        "effective": ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"],
        "inheritable": ["CAP_NET_BIND_SERVICE"],
        "ambient": ["CAP_NET_BIND_SERVICE"],
    });
    bench.process()["noNewPrivileges"] = json!(false);
    let stdout = bench.stdout();
    for (key, expected) in [
        ("CapBnd", "0000000000000401"),
        ("CapPrm", "0000000000000400"),
        ("CapEff", "0000000000000400"),
        ("CapInh", "0000000000000400"),
        ("CapAmb", "0000000000000400"),
        ("NoNewPrivs", "0"),
    ] {
        assert_eq!(status(&stdout, key), expected, "{key}");
    }

    bench.process()["capabilities"] = json!(null);
    assert_eq!(status(&bench.stdout(), "CapBnd"), "0000000000000000");
}

#[test]
fn capabilities_that_we_lack_are_told_and_not_given() {
    let mut bench = Bench::new(&["cat", "/proc/self/status"]);
    let all = json!(["CAP_CHOWN", "CAP_SYS_RESOURCE"]);
    bench.process()["capabilities"] = json!({"bounding": all, "permitted": all, "effective": all});
    let output = bench.run().unwrap();
    let we_have_it = rustix::thread::capabilities(None)
        .unwrap()
        .permitted
        .contains(rustix::thread::CapabilitySet::SYS_RESOURCE);
    match we_have_it {
        true => assert_eq!(output.notices, Vec::<String>::new()),
        false => assert_eq!(
            output.notices,
            ["not given, because Hove itself lacks it: CAP_SYS_RESOURCE"]
        ),
    }
}

#[test]
fn user_and_groups_by_number() {
    let mut bench = Bench::sh("id; echo $HOME");
    bench.process()["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [4, 50]});
    let output = bench.run().unwrap();
    assert_eq!(output.stdout, "uid=1000 gid=1001 groups=4(log),50(staff)\n/\n");
    assert_eq!(output.identity.groups, [4, 50]);
}

#[test]
fn user_by_name_comes_from_the_containers_files() {
    let mut bench = Bench::sh("id; echo $HOME");
    bench.process()["env"] = json!(["PATH=/bin"]);
    bench.process()["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [77]});
    bench.spec["annotations"] = json!({"dev.hove.user": "web"});
    let output = bench.run().unwrap();
    assert_eq!(
        output.stdout,
        "uid=33(web) gid=34(web) groups=4(log),34(web),77\n/srv/www\n"
    );
    assert_eq!(
        (output.identity.uid, output.identity.gid, output.identity.home.as_str()),
        (33, 34, "/srv/www")
    );

    bench.spec["annotations"] = json!({"dev.hove.user": "web:staff", "dev.hove.supplemental-groups-policy": "Strict"});
    assert_eq!(
        bench.stdout(),
        "uid=33(web) gid=50(staff) groups=50(staff),77\n/srv/www\n"
    );

    bench.spec["annotations"] = json!({"dev.hove.user": "nginx"});
    let error = bench.run().unwrap_err().to_string();
    assert_eq!(
        error,
        "user \"nginx\": no user \"nginx\" in the container's /etc/passwd"
    );
}

#[test]
fn a_passwd_file_cannot_lead_out_of_the_root_nor_hold_us_up() {
    let mut bench = Bench::sh("echo $HOME");
    bench.process()["env"] = json!(["PATH=/bin"]);
    fs::remove_file(bench.image("etc/passwd")).unwrap();
    std::os::unix::fs::symlink("/../../../../../etc/passwd", bench.image("etc/passwd")).unwrap();
    assert_eq!(bench.stdout(), "/\n");
    fs::remove_file(bench.image("etc/passwd")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        bench.image("etc/passwd"),
        rustix::fs::FileType::Fifo,
        mode,
        0,
    )
    .unwrap();
    assert_eq!(bench.stdout(), "/\n");
}

#[test]
fn the_program_is_looked_up_in_path_and_errors_say_what_is_wrong() {
    let error = |bench: &Bench| bench.run().unwrap_err().to_string();
    let mut bench = Bench::new(&["nosuch"]);
    assert_eq!(error(&bench), "exec \"nosuch\": not found in PATH \"/usr/bin:/bin\"");
    bench.process()["args"] = json!(["/bin/nosuch"]);
    assert_eq!(error(&bench), "exec \"/bin/nosuch\": no such file in the container");

    fs::write(bench.image("bin/plain"), "#!/bin/sh\n").unwrap();
    bench.process()["args"] = json!(["plain"]);
    assert_eq!(
        error(&bench),
        "exec \"plain\": not executable by this user: Permission denied (os error 13)"
    );

    fs::write(bench.image("bin/script"), "#!/bin/python\n").unwrap();
    fs::set_permissions(bench.image("bin/script"), fs::Permissions::from_mode(0o755)).unwrap();
    bench.process()["args"] = json!(["script"]);
    assert!(
        error(&bench).ends_with("the interpreter or loader that it names is not"),
        "{}",
        error(&bench)
    );

    fs::write(bench.image("bin/script"), "no program\n").unwrap();
    assert!(
        error(&bench).contains("not a program for this machine"),
        "{}",
        error(&bench)
    );

    bench.process()["args"] = json!([]);
    assert_eq!(
        error(&bench),
        "config.json: process.args: must name a program (is \"nothing\")"
    );
}

#[test]
fn environment_directory_and_umask() {
    let mut bench = Bench::sh("env | sort; pwd; umask; ls -ld /made/here | cut -c1-10");
    std::os::unix::fs::symlink("busybox", bench.image("bin/cut")).unwrap();
    bench.process()["env"] = json!(["PATH=/bin", "HOME=/x", "A=b c", "EMPTY="]);
    bench.process()["cwd"] = json!("/made/here");
    bench.process()["user"] = json!({"uid": 0, "gid": 0, "umask": 0o27});
    let stdout = bench.stdout();
    assert!(stdout.starts_with("A=b c\nEMPTY=\nHOME=/x\nPATH=/bin\n"), "{stdout}");
    assert!(stdout.ends_with("/made/here\n0027\ndrwxr-xr-x\n"), "{stdout}");
}

#[test]
fn a_directory_that_the_user_may_not_enter_is_entered_all_the_same_but_none_outside() {
    let mut bench = Bench::sh("pwd");
    fs::create_dir(bench.image("closed")).unwrap();
    fs::set_permissions(bench.image("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    bench.process()["user"] = json!({"uid": 1000, "gid": 1000});
    bench.process()["cwd"] = json!("/closed");
    assert_eq!(bench.stdout(), "/closed\n");
    // A descriptor of the host's that leaked would be a way out.
    bench.process()["cwd"] = json!("/proc/self/fd/3");
    let error = bench.run().unwrap_err().to_string();
    assert!(error.contains("/proc/self/fd/3"), "{error}");
}

#[test]
fn resource_limits_are_set_and_what_cannot_be_raised_is_told() {
    let mut bench = Bench::sh("ulimit -n; ulimit -Hn; ulimit -c");
    bench.process()["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]);
    assert_eq!(bench.stdout(), "100\n200\n0\n");

    let highest = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .maximum
        .unwrap();
    bench.process()["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": highest + 1, "hard": highest + 1}]);
    let output = bench.run().unwrap();
    if !rustix::thread::capabilities(None)
        .unwrap()
        .permitted
        .contains(rustix::thread::CapabilitySet::SYS_RESOURCE)
    {
        assert_eq!(output.stdout.lines().next().unwrap(), highest.to_string());
        assert!(
            output.notices[0].starts_with(&format!("RLIMIT_NOFILE is limited to {highest}")),
            "{output:?}"
        );
    }

    bench.process()["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}]);
    assert!(
        bench
            .run()
            .unwrap_err()
            .to_string()
            .contains("soft must not exceed hard")
    );
}

#[test]
fn oom_score_adj_is_set_or_told() {
    let mut bench = Bench::new(&["cat", "/proc/self/oom_score_adj"]);
    bench.process()["oomScoreAdj"] = json!(500);
    assert_eq!(bench.stdout(), "500\n");
    bench.process()["oomScoreAdj"] = json!(-998);
    let output = bench.run().unwrap();
    match output.stdout.trim() {
        "-998" => assert!(output.notices.is_empty()),
        kept => assert_eq!(
            output.notices,
            [format!(
                "oom_score_adj stays at {kept}: lowering it to -998 takes CAP_SYS_RESOURCE"
            )]
        ),
    }
}

#[test]
fn nothing_is_inherited_but_stdio_and_no_signal_is_ignored_or_blocked() {
    let leak = fs::File::open("/etc/hostname").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    assert_eq!(Bench::sh("ls /proc/$$/fd; true").stdout(), "0\n1\n2\n");
    let stdout = Bench::new(&["cat", "/proc/self/status"]).stdout();
    assert_eq!(status(&stdout, "SigBlk"), "0000000000000000");
    assert_eq!(status(&stdout, "SigIgn"), "0000000000000000");
}

#[test]
fn a_terminal_is_the_containers_own() {
    let bench = Bench::sh(
        "read line; tty; stty size; echo got $line; ls -l /dev/console; ps -o tty,args | grep ps; test -t 2 && echo yes",
    );
    let mut running = bench.start_in_terminal(Size { rows: 33, columns: 77 }).unwrap();
    let mut terminal = fs::File::from(running.terminal.take().unwrap());
    terminal.write_all(b"hello\n").unwrap();
    let mut text = Vec::new();
    // At the end of the session the master reads EIO.
    let mut part = [0; 512];
    while let Ok(n) = terminal.read(&mut part) {
        if n == 0 {
            break;
        }
        text.extend_from_slice(&part[..n]);
    }
    let text = String::from_utf8(text).unwrap();
    assert_eq!(running.wait(), 0, "{text}");
    for expected in [
        "hello\r\n",
        "/dev/pts/0\r\n",
        "33 77\r\n",
        "got hello\r\n",
        "/dev/console\r\n",
        "136,0",
        "yes\r\n",
    ] {
        assert!(text.contains(expected), "no {expected:?} in {text}");
    }
}

#[test]
fn the_terminals_session_gets_its_signals() {
    // Only the controlling terminal turns ^C into SIGINT.
    let bench = Bench::sh("trap 'echo caught; exit 7' INT; echo ready; while true; do read x; done");
    let mut running = bench.start_in_terminal(Size::default()).unwrap();
    let mut terminal = fs::File::from(running.terminal.take().unwrap());
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"ready") {
        terminal.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    terminal.write_all(b"\x03").unwrap();
    assert_eq!(running.wait(), 7);
}

#[test]
fn one_that_is_not_started_is_killed_when_dropped() {
    let bench = Bench::sh("echo never");
    let (stdio, mut stdout, _stderr) = pipes();
    let created = bench.create_with(Executable::Path, stdio).unwrap();
    let pidfd = created.pidfd().try_clone_to_owned().unwrap();
    drop(created);
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
    // Reaped as well, unless the machine is slow: then it is left to us.
    let options = rustix::process::WaitIdOptions::EXITED;
    match rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd.as_fd()), options) {
        Ok(end) => assert_eq!(end.unwrap().terminating_signal(), Some(9)),
        Err(errno) => assert_eq!(errno, rustix::io::Errno::CHILD),
    }
}

#[test]
fn one_that_is_killed_before_it_is_started_is_an_error_and_not_a_success() {
    let (stdio, _stdout, _stderr) = pipes();
    let created = Bench::sh("echo never").create_with(Executable::Path, stdio).unwrap();
    rustix::process::pidfd_send_signal(created.pidfd(), rustix::process::Signal::KILL).unwrap();
    let mut poll = [rustix::event::PollFd::from_borrowed_fd(
        created.pidfd(),
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut poll, None).unwrap();
    let error = created.start().and_then(|s| s.wait()).unwrap_err().to_string();
    assert_eq!(error, "the process ended before it was ready: killed by signal 9");
}
