//! Packs the program's relocations.
//!
//! It is placed anew at each start, for which some 65,000 pointers are adjusted. A list of these with three words for each is
//! 1.5 MB, which the start reads and nobody ever after, but which stays mapped; a bitmap of them (RELR) is a hundredth of that.
//! The C library in the program must know it: glibc does since 2.36, Debian 12's.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|environment| environment == "gnu") {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
