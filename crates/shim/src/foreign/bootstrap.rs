//! How another vendor's shim is started: its program with the verb `start`, run in the bundle, leaves a shim behind and says
//! on standard output where that serves. containerd's shims have said it in three forms:
//!
//! | since | form | Task API |
//! |---|---|---|
//! | 1.4 | `unix:///run/containerd/s/…`, bare | 2 |
//! | 1.7 | `{"version":3,"address":"unix://…","protocol":"ttrpc"}` | as it says |
//! | 2.3 | the same three, as a protobuf message, BootstrapResult | as it says |

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use containerd_shim_protos::bootstrap_api::BootstrapResult;
use protobuf::Message;
use rustix::process::{Pid, Signal};
use serde::Deserialize;
use tokio::net::unix::pipe;

use super::calls::{Address, Shim};
use super::{Foreign, NAMESPACE};
use crate::event::Key;
use crate::failure::{self, Failure, Result};
use crate::records;

/// How long the program may take.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The newest version of the Task API that is spoken here; the program is told.
const NEWEST: u32 = 3;

/// What a program may say at most.
const ANSWER_MAX: usize = 64 << 10;

/// Where the address of a sandbox's shim is written down.
pub(super) fn record_path(dir: &Path) -> PathBuf {
    dir.join("foreign.json")
}

impl Foreign {
    /// Starts the shim for a sandbox whose bundle is `bundle`, and connects.
    pub(super) fn start(&self, bundle: &Path) -> Result<impl Future<Output = Result<Shim>> + use<>> {
        let command = self.command(bundle, "start", &[])?;
        let input = self.options.write_to_bytes().unwrap_or_default();
        let (program, id, record) = (self.handler.shim.clone(), self.id.clone(), record_path(&self.dir));
        Ok(async move {
            let said = run(command, &input).await?;
            let address = parse(&said.stdout).map_err(|why| {
                Failure::Precondition(format!(
                    "{} start: {why}: {}",
                    program.display(),
                    String::from_utf8_lossy(&said.stderr).trim()
                ))
            })?;
            let shim = Shim::connect(address, &id).await?;
            // Before anything runs in it: whoever takes over finds it.
            record::save(&record, &*shim.address)?;
            Ok(shim)
        })
    }

    /// Finds the shim that a dead keeper has started. An error: it does not run any more.
    pub(crate) async fn reconnect(&mut self) -> Result<()> {
        let address: Address = record::load(&record_path(&self.dir))?;
        let shim = Shim::connect(address, &self.id).await?;
        self.shim = Some(shim);
        self.undo_unstarted().await;
        Ok(())
    }

    /// Containers whose start was never announced: they may be asked for again.
    async fn undo_unstarted(&self) {
        for entry in std::fs::read_dir(self.dir.join("containers"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let known = record::load::<records::Process>(&records::process(&entry.path()));
            if known.is_ok_and(|known| known.started_at_ns != 0) {
                continue;
            }
            let key = Key::Container(entry.file_name().to_string_lossy().into_owned());
            if let Ok(task) = self.task(&key) {
                // One that is not there needs neither.
                let _ = task.kill(Signal::KILL.as_raw().unsigned_abs(), true).await;
                let _ = task.delete().await;
            }
        }
    }

    /// The program with one of its verbs, in `bundle`.
    pub(super) fn command(&self, bundle: &Path, verb: &str, more: &[&str]) -> Result<Command> {
        let socket = self.dir.join("shim.sock");
        // What it publishes comes to the keeper's own socket, at which the keeper's successor listens as well.
        let events = socket.to_string_lossy().into_owned();
        let own = std::env::current_exe().map_err(|e| failure::system("readlink(/proc/self/exe)", &e))?;
        let mut command = Command::new(&self.handler.shim);
        command
            .args(["-namespace", NAMESPACE, "-address", &events, "-publish-binary"])
            .arg(own)
            .args(more)
            .arg(verb)
            .env("TTRPC_ADDRESS", &events)
            .env("GRPC_ADDRESS", &events)
            .env("MAX_SHIM_VERSION", NEWEST.to_string())
            .env("GOMAXPROCS", "2")
            .env_remove("GLIBC_TUNABLES")
            .current_dir(bundle)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }
}

/// What a program has said.
pub(super) struct Said {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

/// Runs a program to the end of its output. (Its exit status goes to the reaper with those of all children; a program that
/// fails says no address.)
pub(super) async fn run(mut command: Command, input: &[u8]) -> Result<Said> {
    let program = PathBuf::from(command.get_program());
    let mut child = command
        .spawn()
        .map_err(|e| failure::system(format_args!("execve({program:?})"), &e))?;
    // Nothing has reaped it yet: that is done by a task of this same thread.
    let pidfd = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .map(sys::pidfd::open);
    if let Some(mut stdin) = child.stdin.take() {
        // Options fit a pipe; a program that does not want them may have closed it.
        let _ = std::io::Write::write_all(&mut stdin, input);
    }
    let (stdout, stderr) = (
        child.stdout.take().map(OwnedFd::from),
        child.stderr.take().map(OwnedFd::from),
    );
    let both = async { tokio::join!(read_all(stdout), read_all(stderr)) };
    match tokio::time::timeout(START_LIMIT, both).await {
        Ok((stdout, stderr)) => Ok(Said {
            stdout: stdout?,
            stderr: stderr?,
        }),
        Err(_) => {
            if let Some(Ok(pidfd)) = pidfd {
                let _ = sys::pidfd::send_signal(pidfd, Signal::KILL);
            }
            Err(Failure::TimedOut(format!(
                "{} did not finish within {START_LIMIT:?}",
                program.display()
            )))
        }
    }
}

async fn read_all(from: Option<OwnedFd>) -> Result<Vec<u8>> {
    let Some(from) = from else { return Ok(Vec::new()) };
    let failed = |e: std::io::Error| Failure::from(failure::system("read(pipe)", &e));
    let from = pipe::Receiver::from_owned_fd(from).map_err(failed)?;
    let mut all = Vec::new();
    while all.len() < ANSWER_MAX {
        from.readable().await.map_err(failed)?;
        match from.try_read_buf(&mut all) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(all)
}

/// The second form.
#[derive(Deserialize)]
struct Json {
    version: u32,
    address: String,
    #[serde(default)]
    protocol: String,
}

/// Understands where a shim says that it serves.
fn parse(answer: &[u8]) -> std::result::Result<Address, String> {
    let text = std::str::from_utf8(answer).unwrap_or_default().trim();
    if text.starts_with("unix://") || text.starts_with('/') {
        return address(text, 2, "");
    }
    if let Ok(Json {
        version,
        address: at,
        protocol,
    }) = serde_json::from_str(text)
    {
        return address(&at, version, &protocol);
    }
    match BootstrapResult::parse_from_bytes(answer) {
        Ok(result) if !result.address.is_empty() => {
            let version = u32::try_from(result.version).unwrap_or(0);
            address(&result.address, version, &result.protocol)
        }
        _ => Err("it does not say where the shim serves".into()),
    }
}

fn address(at: &str, version: u32, protocol: &str) -> std::result::Result<Address, String> {
    if !matches!(protocol, "" | "ttrpc") {
        return Err(format!("the shim speaks {protocol}; Hove speaks ttrpc"));
    }
    if !(2..=NEWEST).contains(&version) {
        return Err(format!(
            "the shim speaks version {version} of the Task API; Hove speaks 2 and {NEWEST}"
        ));
    }
    let path = at.strip_prefix("unix://").unwrap_or(at);
    if !path.starts_with('/') {
        return Err(format!("the shim serves on {at}, which is no unix socket"));
    }
    Ok(Address {
        socket: path.into(),
        version,
        process: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(socket: &str, version: u32) -> Option<Address> {
        Some(Address {
            socket: socket.into(),
            version,
            process: None,
        })
    }

    #[test]
    fn the_three_forms() {
        let message = BootstrapResult {
            version: 3,
            address: "unix:///run/x".into(),
            protocol: "ttrpc".into(),
            ..Default::default()
        };
        for (answer, expected) in [
            (b"unix:///run/containerd/s/abc".to_vec(), at("/run/containerd/s/abc", 2)),
            (b"unix:///run/x\n".to_vec(), at("/run/x", 2)),
            (
                br#"{"version":3,"address":"unix:///run/x","protocol":"ttrpc"}"#.to_vec(),
                at("/run/x", 3),
            ),
            (br#"{"version":2,"address":"unix:///run/x"}"#.to_vec(), at("/run/x", 2)),
            (message.write_to_bytes().unwrap(), at("/run/x", 3)),
            (
                br#"{"version":3,"address":"unix:///run/x","protocol":"grpc"}"#.to_vec(),
                None,
            ),
            (
                br#"{"version":9,"address":"unix:///run/x","protocol":"ttrpc"}"#.to_vec(),
                None,
            ),
            (
                br#"{"version":3,"address":"vsock://3:1","protocol":"ttrpc"}"#.to_vec(),
                None,
            ),
            (b"".to_vec(), None),
            (b"no such runtime".to_vec(), None),
        ] {
            assert_eq!(parse(&answer).ok(), expected, "{}", String::from_utf8_lossy(&answer));
        }
    }
}
