//! Strings for the kernel.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::{Error, Result};

/// A string without NUL.
pub(crate) fn c_string(field: &str, value: &str) -> Result<CString> {
    CString::new(value).map_err(|_| Error::spec(field, value, "must not contain a NUL byte"))
}

/// A path without NUL.
pub(crate) fn c_path(field: &str, path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::spec(field, path.display(), "must not contain a NUL byte"))
}

/// An absolute path without NUL.
pub(crate) fn absolute(field: &str, path: &Path) -> Result<CString> {
    if !path.is_absolute() {
        return Err(Error::spec(field, path.display(), "must be an absolute path"));
    }
    c_path(field, path)
}
