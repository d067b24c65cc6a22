//! Masked and read-only paths, and the working directory.

use oci_spec::runtime::{Process, Spec};

use super::mounts::normal;
use super::step::Step;
use super::text::{absolute, c_path};
use crate::{Error, Result};

/// A path that is not there needs no mask. A file is covered by /dev/null, a directory by an empty read-only one.
pub(crate) fn mask(spec: &Spec, steps: &mut Vec<Step>) -> Result<()> {
    let paths = spec
        .linux()
        .as_ref()
        .and_then(|l| l.masked_paths().as_deref())
        .unwrap_or_default();
    for path in paths {
        steps.push(Step::Mask {
            path: absolute("linux.maskedPaths", path.as_ref())?,
        });
    }
    Ok(())
}

/// A path that is not there needs no protection.
pub(crate) fn readonly(spec: &Spec, steps: &mut Vec<Step>) -> Result<()> {
    let paths = spec
        .linux()
        .as_ref()
        .and_then(|l| l.readonly_paths().as_deref())
        .unwrap_or_default();
    for path in paths {
        steps.push(Step::MakeReadonly {
            path: absolute("linux.readonlyPaths", path.as_ref())?,
        });
    }
    Ok(())
}

/// It is made where the image lacks it, as other runtimes do.
pub(crate) fn working_directory(process: &Process, steps: &mut Vec<Step>) -> Result<()> {
    let cwd = process.cwd();
    if !cwd.is_absolute() {
        return Err(Error::spec("process.cwd", cwd.display(), "must be an absolute path"));
    }
    let path = normal(cwd);
    if path.as_os_str() != "/" {
        steps.push(Step::MakeDirectory {
            path: c_path("process.cwd", &path)?,
        });
    }
    Ok(())
}
