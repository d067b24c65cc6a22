//! The command line, parsed by hand: a parser's tables would be pages in every pod.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// What `--help` prints.
pub const HELP: &str = "\
hove-shim supervises one pod. The node starts it; people seldom do.

Usage: hove-shim --id SANDBOX --dir DIR --socket-fd N
       hove-shim --version | --help

  --id SANDBOX     the sandbox's id
  --dir DIR        where its records are, such as /run/hove/sandboxes/SANDBOX
  --socket-fd N    the listening unix socket to serve ttrpc on, inherited as descriptor N
";

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Supervise a pod.
    Serve {
        /// The sandbox's id.
        id: String,
        /// Its directory.
        dir: PathBuf,
        /// The listening socket's number.
        socket_fd: i32,
    },
    /// Print the version.
    Version,
    /// Print the usage.
    Help,
}

/// Understands the arguments, the program's name left out.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Command> {
    let (mut id, mut dir, mut socket_fd) = (None, None, None);
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        let name = arg.to_string_lossy().into_owned();
        match name.as_str() {
            "--version" | "-v" | "-V" => return Ok(Command::Version),
            "--help" | "-h" => return Ok(Command::Help),
            "--id" | "--dir" | "--socket-fd" => {}
            _ => bail!("unknown argument {name} (see --help)"),
        }
        let value = args.next().with_context(|| format!("{name} needs a value"))?;
        let text = value
            .to_str()
            .with_context(|| format!("{name} {value:?}: not UTF-8"))?
            .to_string();
        match name.as_str() {
            "--id" => id = Some(text),
            "--dir" => dir = Some(PathBuf::from(value)),
            _ => {
                socket_fd = Some(
                    text.parse()
                        .with_context(|| format!("--socket-fd {text}: not a number"))?,
                )
            }
        }
    }
    Ok(Command::Serve {
        id: id.context("--id is missing (see --help)")?,
        dir: dir.context("--dir is missing (see --help)")?,
        socket_fd: socket_fd.context("--socket-fd is missing (see --help)")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn command_lines() {
        let serve = Command::Serve {
            id: "a".into(),
            dir: "/run/a".into(),
            socket_fd: 3,
        };
        assert_eq!(parsed("--id a --dir /run/a --socket-fd 3").ok(), Some(serve));
        assert_eq!(parsed("-V").ok(), Some(Command::Version));
        for bad in [
            "",
            "--id",
            "--id a --dir /run/a",
            "--id a --dir /run/a --socket-fd x",
            "start",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
