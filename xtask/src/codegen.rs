//! `cargo xtask codegen`: messages from our .proto files, without protoc. The results are checked in, so that a build
//! needs no generator; `cargo xtask tidy` fails when they are stale.

use std::path::Path;

use anyhow::{Context, Result};

/// What is generated, relative to the workspace.
pub const GENERATED: &[&str] = &[
    "crates/cri/src/v1.rs",
    "crates/shim-api/src/shim.rs",
    "crates/shim-api/src/shim_ttrpc.rs",
];

/// Writes [`GENERATED`] below `root`.
pub fn run(root: &Path) -> Result<()> {
    cri(root)?;
    shim(root)
}

/// The CRI's messages that runtime keeps in its records, as JSON: a sandbox's and a container's configuration, whole.
/// No other message can be written to a file by accident (credentials among them).
const STORED: [&str; 31] = [
    "CDIDevice",
    "Capability",
    "ContainerConfig",
    "ContainerMetadata",
    "DNSConfig",
    "Device",
    "HugepageLimit",
    "IDMapping",
    "ImageSpec",
    "Int64Value",
    "KeyValue",
    "LinuxContainerConfig",
    "LinuxContainerResources",
    "LinuxContainerSecurityContext",
    "LinuxPodSandboxConfig",
    "LinuxSandboxSecurityContext",
    "Mount",
    "NamespaceOption",
    "PodSandboxConfig",
    "PodSandboxMetadata",
    "PortMapping",
    "SELinuxOption",
    "SecurityProfile",
    "UserNamespace",
    "WindowsContainerConfig",
    "WindowsContainerResources",
    "WindowsContainerSecurityContext",
    "WindowsCpuGroupAffinity",
    "WindowsNamespaceOption",
    "WindowsPodSandboxConfig",
    "WindowsSandboxSecurityContext",
];

fn cri(root: &Path) -> Result<()> {
    let dir = root.join("crates/cri");
    let files = protox::compile([dir.join("proto/api.proto")], [dir.join("proto")]).context("api.proto")?;
    let out = tempfile::tempdir()?;
    let mut config = prost_build::Config::new();
    config.out_dir(out.path()).btree_map(["."]).skip_debug(["AuthConfig"]);
    for message in STORED {
        // `default`: a record written by an older Hove lacks the fields that the interface has gained since.
        config.message_attribute(
            format!(".runtime.v1.{message}"),
            "#[derive(::serde::Serialize, ::serde::Deserialize)] #[serde(default)]",
        );
    }
    config.compile_fds(files)?;
    let code = std::fs::read_to_string(out.path().join("runtime.v1.rs"))?;
    std::fs::write(dir.join("src/v1.rs"), code)?;
    Ok(())
}

fn shim(root: &Path) -> Result<()> {
    let dir = root.join("crates/shim-api");
    let out = tempfile::tempdir()?;
    ttrpc_codegen::Codegen::new()
        .out_dir(out.path())
        .input(dir.join("proto/shim.proto"))
        .include(dir.join("proto"))
        .rust_protobuf()
        .customize(ttrpc_codegen::Customize {
            async_all: true,
            ..Default::default()
        })
        .rust_protobuf_customize(ttrpc_codegen::ProtobufCustomize::default().gen_mod_rs(false))
        .run()
        .context("shim.proto")?;
    for file in ["shim.rs", "shim_ttrpc.rs"] {
        // The generator allows unsafe code that it does not write; our libraries forbid it.
        let code = std::fs::read_to_string(out.path().join(file))?.replace(concat!("#![allow(", "unsafe_code)]\n"), "");
        std::fs::write(dir.join("src").join(file), code)?;
    }
    Ok(())
}
