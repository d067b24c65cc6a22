//! Which boot this is.

use std::sync::OnceLock;

use crate::error::{Error, Result};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The kernel's random name of this boot, as in /proc/sys/kernel/random/boot_id (see random(4)).
pub fn boot_id() -> Result<&'static str> {
    static ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = ID.get() {
        return Ok(id);
    }
    let id = std::fs::read_to_string(BOOT_ID).map_err(Error::BootId)?;
    Ok(ID.get_or_init(|| id.trim().to_string()))
}
