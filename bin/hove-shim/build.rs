//! Links the supervisor at fixed addresses.
//!
//! A position-independent program relocates its tables of pointers at its start, and each page that it writes to becomes its
//! own: 330 kB for every pod, measured. At fixed addresses those pages stay the file's, shared by all pods. (`-static`
//! again, because `-no-pie` takes rustc's `-static-pie` back as a whole.)

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("ENV") == "gnu" && target("FEATURE").split(',').any(|feature| feature == "crt-static") {
        println!("cargo:rustc-link-arg-bins=-no-pie");
        println!("cargo:rustc-link-arg-bins=-static");
    }
}
