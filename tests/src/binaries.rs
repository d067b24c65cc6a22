//! Which `hove` is tested.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::repository;

/// `hove` and, beside it, `hove-shim`: from `HOVE_BIN_DIR`, else the newest that cargo built. The reason, if there is none.
pub fn hove() -> Result<PathBuf, String> {
    if let Some(directory) = std::env::var_os("HOVE_BIN_DIR") {
        let hove = PathBuf::from(directory).join("hove");
        return if complete(&hove) {
            Ok(hove)
        } else {
            Err(format!("no hove and hove-shim in {}", hove.display()))
        };
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from);
    let built = |profile: &str| {
        let hove = target.join("x86_64-unknown-linux-gnu").join(profile).join("hove");
        let made = hove
            .metadata()
            .and_then(|metadata| metadata.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH);
        complete(&hove).then_some((made, hove))
    };
    let newest = ["release", "debug"].into_iter().filter_map(built).max();
    newest.map(|(_, hove)| hove).ok_or_else(|| {
        format!(
            "no hove and hove-shim below {}: cargo build -p hove -p hove-shim",
            target.display()
        )
    })
}

fn complete(hove: &std::path::Path) -> bool {
    hove.is_file() && hove.with_file_name("hove-shim").is_file()
}

/// The archive of an image that `cargo xtask images` makes.
pub fn image(name: &str) -> Result<PathBuf, String> {
    let archive = repository().join("target/images").join(format!("{name}.tar"));
    if archive.is_file() {
        Ok(archive)
    } else {
        Err(format!("no {}: cargo xtask images", archive.display()))
    }
}
