//! The command line, parsed by hand: a parser's tables would be pages in every pod.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use shim::Start;

/// What `--help` prints.
pub const HELP: &str = "\
hove-shim supervises one pod. The node starts it; people seldom do.

Usage: hove-shim --id SANDBOX --dir DIR --socket-fd N
       hove-shim --id SANDBOX --dir DIR --adopt --handover-fd N
       hove-shim -namespace NS -id ID -address SOCKET [-publish-binary PROGRAM] start
       hove-shim -namespace NS -id ID -address SOCKET -bundle DIR delete
       hove-shim --version | --help

  --id SANDBOX     the sandbox's id
  --dir DIR        where its records are, such as /run/hove/sandboxes/SANDBOX
  --socket-fd N    the listening unix socket to serve ttrpc on, inherited as descriptor N
  --adopt          take over a pod whose shim has died
  --handover-fd N  the connection over which the node hands over the socket, and the pidfds that it holds
  --remove-socket PATH   remove this file at the end

start and delete are containerd's: start serves the bundle in the working directory and prints the address.
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
        /// How it begins.
        start: Start,
        /// The socket's path, if it is this process's to remove at its end.
        remove_socket: Option<PathBuf>,
    },
    /// containerd: start a shim for the bundle in the working directory.
    Start(Containerd),
    /// containerd: take away what is left of the container in this bundle.
    Delete(Containerd, PathBuf),
    /// Print the version.
    Version,
    /// Print the usage.
    Help,
}

/// What containerd names a container by.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Containerd {
    /// Its namespace in containerd.
    pub namespace: String,
    /// The container's id.
    pub id: String,
    /// containerd's own socket.
    pub address: String,
}

/// containerd's flags, with one dash or two, and its verb last.
fn parse_containerd(args: &[String], verb: &str) -> Result<Command> {
    let (mut who, mut bundle) = (Containerd::default(), None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let name = arg.trim_start_matches('-');
        if name == "debug" {
            continue;
        }
        let value = args.next().with_context(|| format!("{arg} needs a value"))?.clone();
        match name {
            "namespace" => who.namespace = value,
            "id" => who.id = value,
            "address" => who.address = value,
            "bundle" => bundle = Some(PathBuf::from(value)),
            // Nothing is published: who wants to know of an end asks Task.Wait.
            "publish-binary" => {}
            _ => bail!("unknown argument {arg} (see --help)"),
        }
    }
    if who.id.is_empty() || who.namespace.is_empty() {
        bail!("{verb}: -id and -namespace are needed (see --help)");
    }
    match (verb, bundle) {
        ("start", _) => Ok(Command::Start(who)),
        (_, Some(bundle)) => Ok(Command::Delete(who, bundle)),
        (_, None) => bail!("delete: -bundle is needed (see --help)"),
    }
}

/// Understands the arguments, the program's name left out.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Command> {
    let (mut id, mut dir, mut socket_fd, mut remove_socket) = (None, None, None, None);
    let (mut adopt, mut handover_fd) = (false, None);
    let all: Vec<OsString> = args.collect();
    if let Some(verb) = all
        .last()
        .and_then(|arg| arg.to_str())
        .filter(|verb| ["start", "delete"].contains(verb))
    {
        let flags = all[..all.len() - 1]
            .iter()
            .map(|arg| arg.to_string_lossy().into_owned());
        return parse_containerd(&flags.collect::<Vec<_>>(), verb);
    }
    let mut args = all.into_iter();
    while let Some(arg) = args.next() {
        let name = arg.to_string_lossy().into_owned();
        match name.as_str() {
            "--version" | "-v" | "-V" => return Ok(Command::Version),
            "--help" | "-h" => return Ok(Command::Help),
            "--adopt" => {
                adopt = true;
                continue;
            }
            "--id" | "--dir" | "--socket-fd" | "--handover-fd" | "--remove-socket" => {}
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
            "--remove-socket" => remove_socket = Some(PathBuf::from(value)),
            _ => {
                let number = text.parse().with_context(|| format!("{name} {text}: not a number"))?;
                match name.as_str() {
                    "--handover-fd" => handover_fd = Some(number),
                    _ => socket_fd = Some(number),
                }
            }
        }
    }
    let start = if adopt {
        Start::Adopting(handover_fd.context("--handover-fd is missing (see --help)")?)
    } else {
        Start::Anew(socket_fd.context("--socket-fd is missing (see --help)")?)
    };
    Ok(Command::Serve {
        id: id.context("--id is missing (see --help)")?,
        dir: dir.context("--dir is missing (see --help)")?,
        start,
        remove_socket,
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
            start: Start::Anew(3),
            remove_socket: None,
        };
        let adopt = Command::Serve {
            id: "a".into(),
            dir: "/run/a".into(),
            start: Start::Adopting(4),
            remove_socket: None,
        };
        assert_eq!(parsed("--id a --dir /run/a --adopt --handover-fd 4").ok(), Some(adopt));
        assert_eq!(parsed("--id a --dir /run/a --socket-fd 3").ok(), Some(serve));
        assert_eq!(parsed("-V").ok(), Some(Command::Version));
        let who = || Containerd {
            namespace: "k8s.io".into(),
            id: "a".into(),
            address: "/run/c.sock".into(),
        };
        let flags = "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id a";
        assert_eq!(
            parsed(&format!("{flags} -debug start")).ok(),
            Some(Command::Start(who()))
        );
        let delete = Command::Delete(who(), "/b".into());
        assert_eq!(parsed(&format!("{flags} -bundle /b delete")).ok(), Some(delete));
        for bad in [
            "-id a start",
            "-namespace n -id a delete",
            "-namespace n -id a -what x start",
            "",
            "--id",
            "--id a --dir /run/a",
            "--id a --dir /run/a --socket-fd x",
            "--id a --dir /run/a --socket-fd 3 --adopt",
            "start",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
