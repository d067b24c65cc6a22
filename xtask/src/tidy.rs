//! What the compiler does not check, in the order of the checks below. `cargo xtask tidy`, and an ordinary test.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::codegen;

/// Who may use whom: the architecture's edges. A crate that is not listed may use none of ours.
const EDGES: &[(&str, &[&str])] = &[
    (
        "hove",
        &[
            "apiserver",
            "cgroup",
            "cri",
            "cri-grpc",
            "image",
            "inspect",
            "logs",
            "network",
            "objects",
            "pause",
            "pod",
            "record",
            "runtime",
            "shim-api",
            "streaming",
            "sync",
            "sys",
            "volume",
        ],
    ),
    ("hove-shim", &["pause", "shim", "sys"]),
    ("apiserver", &["cri", "logs", "objects", "pod"]),
    ("cgroup", &["sys"]),
    ("cri-grpc", &["cri"]),
    ("database", &["record"]),
    ("image", &["database", "record", "sys"]),
    ("inspect", &["sys"]),
    ("logs", &["sys"]),
    ("network", &["record", "sys"]),
    ("objects", &["database", "pod"]),
    ("record", &["sys"]),
    (
        "runtime",
        &["cgroup", "cri", "image", "network", "record", "shim-api", "sys"],
    ),
    ("shim", &["cgroup", "logs", "record", "shim-api", "starter", "sys"]),
    ("starter", &["cgroup", "sys"]),
    ("streaming", &["cri"]),
    ("sync", &["cri", "logs", "objects", "pod", "volume"]),
    ("volume", &["sys"]),
    // Not on the way of a pod: they may look at everything.
    ("end-to-end", &["cgroup", "cri", "image", "inspect", "pod", "sys"]),
    ("xtask", &["image"]),
];

/// Where unsafe code may stand.
const UNSAFE: &[&str] = &["crates/sys/", "bin/pause/"];

/// Names that say nothing of what a module is for.
const HOMELESS: &[&str] = &["common", "helper", "helpers", "misc", "types", "util", "utils"];

/// Runs every check below `root` and prints what they found.
pub fn run(root: &Path) -> Result<()> {
    let mut findings = Vec::new();
    findings.extend(edges(root)?);
    let sources = sources(root)?;
    for path in &sources {
        findings.extend(source(root, path)?);
    }
    findings.extend(code_map(root)?);
    findings.extend(stale(root)?);
    ensure!(
        findings.is_empty(),
        "{} findings:\n{}",
        findings.len(),
        findings.join("\n")
    );
    println!(
        "tidy: {} sources, {} crates with edges, nothing found",
        sources.len(),
        EDGES.len()
    );
    Ok(())
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<PathBuf>,
}

/// Every normal dependency between our crates is an allowed edge. (Tests may use more, since they compose.)
fn edges(root: &Path) -> Result<Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .context("cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    let allowed: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let allowed = allowed.get(package.name.as_str()).copied().unwrap_or_default();
        for dependency in package
            .dependencies
            .iter()
            .filter(|d| d.path.is_some() && d.kind.is_none())
        {
            if !allowed.contains(&dependency.name.as_str()) {
                findings.push(format!(
                    "{} → {}: not an edge of ARCHITECTURE.md; call through an allowed one, or change the architecture",
                    package.name, dependency.name
                ));
            }
        }
    }
    Ok(findings)
}

/// All Rust files of ours, relative to `root`.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
        .current_dir(root)
        .output()
        .context("git ls-files")?;
    ensure!(
        output.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let listed = String::from_utf8(output.stdout)?;
    Ok(listed
        .lines()
        .map(PathBuf::from)
        .filter(|path| root.join(path).exists())
        .collect())
}

/// One file: its name, its overview if it is a crate's root, and no unsafe code but where it may stand.
fn source(root: &Path, path: &Path) -> Result<Vec<String>> {
    let shown = path.display().to_string();
    let text = fs::read_to_string(root.join(path)).with_context(|| shown.clone())?;
    let mut findings = Vec::new();
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    let folder = path
        .parent()
        .and_then(Path::file_name)
        .and_then(|s| s.to_str())
        .unwrap_or_default();
    for name in [stem, folder] {
        if HOMELESS.contains(&name) {
            findings.push(format!(
                "{shown}: “{name}” says nothing; name the module after what it does"
            ));
        }
    }
    let is_root = stem == "lib" || stem == "main";
    if is_root && !text.starts_with("//!") {
        findings.push(format!(
            "{shown}: begins without an overview (//!) that a newcomer can start from"
        ));
    }
    let may = UNSAFE.iter().any(|prefix| shown.starts_with(prefix));
    if !may {
        if is_root && !text.contains("#![forbid(unsafe_code)]") {
            findings.push(format!("{shown}: lacks #![forbid(unsafe_code)]"));
        }
        // In two parts, so that this file does not find itself.
        if text.contains(concat!("allow(", "unsafe_code)")) {
            findings.push(format!("{shown}: allows unsafe code; it belongs in crates/sys"));
        }
    }
    Ok(findings)
}

/// Every folder of the workspace stands in ARCHITECTURE.md's code map.
fn code_map(root: &Path) -> Result<Vec<String>> {
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let mut findings = Vec::new();
    for parent in ["bin", "crates"] {
        for entry in fs::read_dir(root.join(parent))? {
            let name = format!("{parent}/{}", entry?.file_name().to_string_lossy());
            if !map.contains(&name) {
                findings.push(format!("{name}: missing in ARCHITECTURE.md's code map"));
            }
        }
    }
    Ok(findings)
}

/// The checked-in generated code is what the .proto files say.
fn stale(root: &Path) -> Result<Vec<String>> {
    let fresh = tempfile::tempdir()?;
    let mut findings = Vec::new();
    for crate_dir in ["crates/cri", "crates/shim-api"] {
        let copy = fresh.path().join(crate_dir);
        fs::create_dir_all(copy.join("src"))?;
        fs::create_dir_all(copy.join("proto"))?;
        for file in fs::read_dir(root.join(crate_dir).join("proto"))? {
            let file = file?;
            fs::copy(file.path(), copy.join("proto").join(file.file_name()))?;
        }
    }
    codegen::run(fresh.path())?;
    for generated in codegen::GENERATED {
        if fs::read(root.join(generated))? != fs::read(fresh.path().join(generated))? {
            findings.push(format!("{generated}: stale; run `cargo xtask codegen`"));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_workspace_is_tidy() {
        super::run(&crate::workspace()).unwrap();
    }
}
