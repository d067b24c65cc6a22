//! Compiles pause and lays out its file, for the library to carry.
//!
//! It can't be a binary of the workspace: it needs `panic = "abort"` and no unwind tables in every profile, which cargo
//! can't set for one package, and no part of the static C runtime that all other binaries have. So: one rustc call to
//! an object file, one call of the linker, the same in every profile and under clippy. Needs rustc and binutils.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let var = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"));
    let source = Path::new(&var("CARGO_MANIFEST_DIR")).to_owned();
    let out = PathBuf::from(var("OUT_DIR"));
    for input in ["src/pause.rs", "src/arch", "pause.ld", "build.rs"] {
        println!("cargo:rerun-if-changed={}", source.join(input).display());
    }
    println!("cargo:rerun-if-env-changed=PAUSE_LD");

    let arch = var("CARGO_CFG_TARGET_ARCH");
    let needed = source.join(format!("src/arch/{arch}.rs"));
    assert!(
        needed.exists(),
        "pause has not been brought to {arch} yet: it needs {}",
        needed.display()
    );

    let object = out.join("pause.o");
    let mut rustc = Command::new(var("RUSTC"));
    rustc
        .args([
            "--edition=2024",
            "--crate-type=lib",
            "--crate-name=pause_elf",
            "--emit=obj",
        ])
        .arg(format!("--target={}", var("TARGET")))
        .args([
            "-Copt-level=z",
            "-Ccodegen-units=1",
            "-Cpanic=abort",
            "-Cforce-unwind-tables=no",
        ])
        .args([
            "-Crelocation-model=static",
            "-Coverflow-checks=no",
            "-Cdebug-assertions=no",
            "-Cdebuginfo=0",
        ])
        .arg("-o")
        .arg(&object)
        .arg(source.join("src/pause.rs"));
    run(rustc, "compile pause");

    let mut ld = Command::new(linker(&var("HOST"), &var("TARGET"), &arch));
    ld.args([
        "-nostdlib",
        "-static",
        "--gc-sections",
        "--oformat=binary",
        "--build-id=none",
    ])
    .arg("-T")
    .arg(source.join("pause.ld"))
    .arg("-o")
    .arg(out.join("pause"))
    .arg(&object);
    run(ld, "link pause (binutils' ld is needed; PAUSE_LD names another one)");
}

fn linker(host: &str, target: &str, arch: &str) -> String {
    env::var("PAUSE_LD").unwrap_or_else(|_| {
        if host.split('-').next() == target.split('-').next() {
            "ld".to_owned()
        } else {
            format!("{arch}-linux-gnu-ld")
        }
    })
}

fn run(mut command: Command, what: &str) {
    let status = command
        .status()
        .unwrap_or_else(|e| panic!("could not {what}: {:?}: {e}", command.get_program()));
    assert!(status.success(), "could not {what}: {command:?}: {status}");
}
