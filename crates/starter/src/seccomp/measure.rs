//! What a filter costs at a container's start, and that the kernel takes and obeys it. A filter stays for the rest of a
//! thread's life, so each load has a thread of its own; loading touches only the calling thread.

use std::time::Instant;

use oci_spec::runtime::Capabilities;
use rustix::thread::set_no_new_privs;

use super::*;

fn in_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(f).join().unwrap())
}

#[test]
fn the_kernel_obeys_the_default_profile() {
    let program = compile(&default_profile(&Capabilities::default())).unwrap();
    in_thread(|| {
        set_no_new_privs(true).unwrap();
        program.load().unwrap();
        use rustix::net::{AddressFamily, SocketType, socket};
        let vsock = socket(AddressFamily::from_raw(40), SocketType::STREAM, None);
        assert_eq!(vsock.unwrap_err(), Errno::PERM);
        assert!(socket(AddressFamily::UNIX, SocketType::STREAM, None).is_ok());
        assert_eq!(rustix::process::chroot("/").unwrap_err(), Errno::PERM);
        assert!(std::fs::read("/proc/self/status").is_ok());
        // Threads need clone, after clone3 was refused.
        std::thread::spawn(|| ()).join().unwrap();
    });
}

#[test]
fn without_privilege_or_no_new_privs_it_is_refused() {
    let program = compile(&default_profile(&Capabilities::default())).unwrap();
    in_thread(|| {
        let sets = rustix::thread::CapabilitySets {
            effective: rustix::thread::CapabilitySet::empty(),
            permitted: rustix::thread::CapabilitySet::empty(),
            inheritable: rustix::thread::CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, sets).unwrap();
        assert_eq!(program.load(), Err(Errno::ACCESS));
        set_no_new_privs(true).unwrap();
        assert_eq!(program.load(), Ok(()));
    });
}

#[test]
#[ignore = "a measurement: cargo test -p starter --release seccomp -- --ignored --nocapture"]
fn load_time() {
    let profile = default_profile(&Capabilities::default());
    let mut program = compile(&profile).unwrap();
    let mut compiling: Vec<_> = (0..100)
        .map(|_| {
            let start = Instant::now();
            program = compile(&default_profile(&Capabilities::default())).unwrap();
            start.elapsed()
        })
        .collect();
    println!("default profile made and compiled: first {:?}", compiling[0]);
    compiling.sort();
    println!("default profile made and compiled: p50 {:?} of 100", compiling[50]);
    let mut allow_all = LinuxSeccomp::default();
    allow_all.set_architectures(Some(vec![oci_spec::runtime::Arch::ScmpArchX86]));
    let mut native = profile.clone();
    native.set_architectures(None);
    let mut two = profile.clone();
    two.set_architectures(Some(vec![oci_spec::runtime::Arch::ScmpArchX86]));
    for (name, program) in [
        ("default profile", program),
        ("the same without x32", compile(&two).unwrap()),
        ("the same, native ABI alone", compile(&native).unwrap()),
        ("allow all (the kernel's floor)", compile(&allow_all).unwrap()),
    ] {
        let mut times: Vec<_> = (0..200)
            .map(|_| {
                in_thread(|| {
                    set_no_new_privs(true).unwrap();
                    let start = Instant::now();
                    program.load().unwrap();
                    start.elapsed()
                })
            })
            .collect();
        times.sort();
        let (p50, min, p95) = (times[100], times[0], times[190]);
        println!(
            "{name}: {} instructions, loaded in {p50:?} (p50 of 200; min {min:?}, p95 {p95:?})",
            program.instructions().len()
        );
    }
}
