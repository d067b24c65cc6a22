//! The seccomp filter of a plan.

use std::borrow::Cow;

use oci_spec::runtime::{LinuxSeccomp, Process, Spec};

use crate::request::SECCOMP_ANNOTATION;
pub(crate) use crate::seccomp::Program;
use crate::{Error, Result, seccomp};

/// The filter that the process of this container gets: of the profile in the config; else, if the annotation asks for
/// it, of Hove's own; else none. The same for a container's first process and for those executed into it later.
pub(crate) fn of(process: &Process, spec: &Spec) -> Result<Option<Program>> {
    let compile = |profile: Cow<'_, _>| seccomp::compile(&profile).map_err(|e| Error::Seccomp(e.to_string()));
    profile(process, spec)?.map(compile).transpose()
}

/// The profile that [`of`] compiles.
pub(crate) fn profile<'a>(process: &Process, spec: &'a Spec) -> Result<Option<Cow<'a, LinuxSeccomp>>> {
    if let Some(profile) = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()) {
        return Ok(Some(Cow::Borrowed(profile)));
    }
    match spec
        .annotations()
        .as_ref()
        .and_then(|a| a.get(SECCOMP_ANNOTATION))
        .map(String::as_str)
    {
        None => Ok(None),
        Some("runtime-default") => {
            let bounding = process
                .capabilities()
                .as_ref()
                .and_then(|c| c.bounding().clone())
                .unwrap_or_default();
            Ok(Some(Cow::Owned(seccomp::default_profile(&bounding))))
        }
        Some(other) => Err(Error::Seccomp(format!(
            "annotation {SECCOMP_ANNOTATION}: {other:?} is not \"runtime-default\""
        ))),
    }
}

/// Loads the filter into the calling thread. May be called between clone and exec.
pub(crate) fn load(program: &Program) -> rustix::io::Result<()> {
    program.load()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_s_own_profile_then_the_annotation() {
        let process = Process::default();
        let annotated = |value: &str| {
            let mut spec = Spec::default();
            spec.set_linux(None)
                .set_annotations(Some([(SECCOMP_ANNOTATION.to_owned(), value.to_owned())].into()));
            of(&process, &spec)
        };
        let default = annotated("runtime-default").unwrap().unwrap();
        assert!(default.instructions().len() > 100);
        assert!(annotated("default").is_err());
        let mut spec = Spec::default();
        spec.set_linux(None).set_annotations(None);
        assert_eq!(of(&process, &spec).unwrap(), None);
        let mut linux = oci_spec::runtime::Linux::default();
        linux.set_seccomp(Some(Default::default()));
        spec.set_linux(Some(linux));
        let own = of(&process, &spec).unwrap().unwrap();
        assert!(own.instructions().len() < 20);
    }
}
