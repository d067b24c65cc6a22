//! `cargo xtask images`: the example images, from Debian packages, into target/images.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Builds what is missing and answers the archives' paths.
pub fn run(_root: &Path) -> Result<Vec<PathBuf>> {
    bail!("no image is defined yet")
}
