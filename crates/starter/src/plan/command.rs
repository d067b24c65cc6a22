//! The program, its arguments, its environment, and where it is looked for.

use std::ffi::CString;

use oci_spec::runtime::Process;
use rustix::io::Errno;
use sys::process::StringArray;

use super::step::{Handle, Inherited};
use super::story::detail;
use super::text::c_string;
use crate::handshake::MAX_HOME;
use crate::request::Executable;
use crate::{Error, Result};

/// Where a program is looked for when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the child execs.
#[derive(Debug)]
pub(crate) struct Command {
    pub program: Program,
    pub argv: StringArray,
    pub envp: StringArray,
    /// Whether HOME has to be added once the user is known.
    pub add_home: bool,
    names: Names,
}

#[derive(Debug)]
pub(crate) enum Program {
    /// Tried one after the other.
    Candidates(Vec<CString>),
    /// This very file.
    File(Handle),
}

/// The program's name, and where it was looked for, for errors.
#[derive(Debug)]
pub(crate) struct Names {
    program: String,
    /// The PATH; none for a name with a slash.
    searched: Option<String>,
}

impl Command {
    pub fn new(
        process: &Process,
        executable: Executable,
        add_home: bool,
        inherited: &mut Inherited<'_>,
    ) -> Result<Command> {
        let args = process.args().as_deref().unwrap_or_default();
        let program = args.first().filter(|a| !a.is_empty());
        let program = program.ok_or_else(|| Error::spec("process.args", "nothing", "must name a program"))?;
        let env = process.env().as_deref().unwrap_or_default();
        let path = env
            .iter()
            .rev()
            .find_map(|e| e.strip_prefix("PATH="))
            .unwrap_or(DEFAULT_PATH);
        let searched = (!program.contains('/')).then(|| path.to_owned());
        let strings = |field: &str, list: &[String]| -> Result<Vec<CString>> {
            list.iter().map(|s| c_string(field, s)).collect()
        };
        let names = Names {
            program: program.clone(),
            searched,
        };
        Ok(Command {
            program: match executable {
                Executable::Fd(fd) => Program::File(inherited.own(super::stdio::above_stdio(fd)?)),
                Executable::Path => Program::Candidates(
                    candidates(program, path)
                        .iter()
                        .map(|c| c_string("process.args[0]", c))
                        .collect::<Result<_>>()?,
                ),
            },
            argv: StringArray::new(strings("process.args", args)?, 0),
            envp: StringArray::new(strings("process.env", env)?, if add_home { MAX_HOME + 8 } else { 0 }),
            add_home,
            names,
        })
    }

    pub fn into_names(self) -> Names {
        self.names
    }
}

/// Every file that the program's name may mean. As in a shell, an empty entry of PATH is the working directory.
fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    path.split(':')
        .map(|dir| format!("{}/{program}", if dir.is_empty() { "." } else { dir }))
        .collect()
}

impl Names {
    /// The sentence for an exec that failed.
    pub fn failure(&self, errno: Errno, detail: u64) -> Error {
        let program = self.program.clone();
        let missing = matches!(errno, Errno::NOENT | Errno::NOTDIR);
        if missing && detail & detail::FILE_EXISTS != 0 {
            let reason = "the file is there, but the interpreter or loader that it names is not".to_owned();
            return Error::NotFound { program, reason };
        }
        if missing && detail & detail::DENIED == 0 {
            let reason = match &self.searched {
                Some(path) => format!("not found in PATH {path:?}"),
                None => "no such file in the container".to_owned(),
            };
            return Error::NotFound { program, reason };
        }
        let (reason, errno) = match errno {
            _ if detail & detail::DENIED != 0 => ("not executable by this user", Errno::ACCESS),
            Errno::ACCESS | Errno::PERM => ("not executable by this user", errno),
            Errno::NOEXEC => ("not a program for this machine, and no script with a #! line", errno),
            Errno::TXTBSY => ("open for writing by another process", errno),
            Errno::TOOBIG => ("its arguments and environment are too large", errno),
            _ => ("cannot be executed", errno),
        };
        Error::NotExecutable { program, reason, errno }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_follow_the_path() {
        assert_eq!(candidates("sh", "/bin::/usr/bin"), ["/bin/sh", "./sh", "/usr/bin/sh"]);
        assert_eq!(candidates("./sh", "/bin"), ["./sh"]);
        assert_eq!(candidates("/bin/sh", ""), ["/bin/sh"]);
    }

    #[test]
    fn a_failed_exec_says_what_to_do_about_it() {
        let searched = Names {
            program: "foo".into(),
            searched: Some("/bin:/sbin".into()),
        };
        let given = Names {
            program: "/x/foo".into(),
            searched: None,
        };
        for (names, errno, detail, expected) in [
            (
                &searched,
                Errno::NOENT,
                0,
                "exec \"foo\": not found in PATH \"/bin:/sbin\"",
            ),
            (
                &given,
                Errno::NOENT,
                0,
                "exec \"/x/foo\": no such file in the container",
            ),
            (
                &given,
                Errno::NOENT,
                1,
                "exec \"/x/foo\": the file is there, but the interpreter or loader that it names is not",
            ),
            (
                &searched,
                Errno::NOENT,
                2,
                "exec \"foo\": not executable by this user: Permission denied (os error 13)",
            ),
            (
                &given,
                Errno::NOEXEC,
                0,
                "exec \"/x/foo\": not a program for this machine, and no script with a #! line: Exec format error (os error 8)",
            ),
        ] {
            assert_eq!(names.failure(errno, detail).to_string(), expected);
        }
    }
}
