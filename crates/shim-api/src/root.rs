//! The root of a container, and that of a sandbox's first process where an image takes the place of the shim's own pause.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A file system that becomes a root, as mount(2) would take it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootMount {
    /// Its type: `overlay`.
    pub kind: String,
    /// What is mounted; for an overlay any word.
    pub source: String,
    /// `lowerdir=…` and so on.
    pub options: Vec<String>,
}

impl RootMount {
    /// Where a sandbox's directory says that its first process is an image's program, `config.json`'s, in this root. Without
    /// the file it is the shim's own pause.
    pub fn of_sandbox(sandbox_dir: &Path) -> PathBuf {
        sandbox_dir.join("root.json")
    }
}
