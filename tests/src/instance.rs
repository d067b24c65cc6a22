//! One node, used as a person uses it: by running `hove`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::running::{Ended, Running, wait_for_end};
use crate::{binaries, http};

/// For a command that only asks, or changes something small.
pub const QUICK: Duration = Duration::from_secs(60);
/// For a pod to come up or go: debug binaries, on a machine that builds meanwhile.
pub const PATIENT: Duration = Duration::from_secs(180);

/// Where the harness notes which snapshots are images'.
const LAYERS: &str = "layers-after-import";

/// A node's directories and how its commands are run.
#[derive(Debug, Clone)]
pub struct Instance {
    hove: PathBuf,
    directory: PathBuf,
    config: PathBuf,
}

impl Instance {
    pub(crate) fn new(hove: PathBuf, directory: PathBuf, config: PathBuf) -> Instance {
        Instance {
            hove,
            directory,
            config,
        }
    }

    /// `--root`.
    pub fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// `--state`.
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// `--log-dir`.
    pub fn log_dir(&self) -> PathBuf {
        self.directory.join("logs")
    }

    /// Adds to its configuration. For a node that has not started.
    pub fn configure(&self, sections: &str) -> Result<()> {
        let before = std::fs::read_to_string(&self.config)?;
        Ok(std::fs::write(&self.config, before + "\n" + sections)?)
    }

    /// Starts `hove ARGS` for this node.
    pub fn spawn<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Running> {
        Running::start(self.command(args))
    }

    /// The same from a shell that has run `prelude` before: `hove` has inherited what that has changed.
    pub fn spawn_after<S: AsRef<OsStr>>(&self, prelude: &str, args: impl IntoIterator<Item = S>) -> Result<Running> {
        let mut command = self.command_of("/bin/sh".as_ref(), ["-c", &format!("{prelude} && exec \"$@\"")]);
        command.arg("sh").arg(&self.hove).args(args);
        Running::start(command)
    }

    /// The same, its standard output elsewhere.
    pub fn spawn_into<S: AsRef<OsStr>>(
        &self,
        stdout: impl Into<Stdio>,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Running> {
        Running::start_with(self.command(args), stdout.into())
    }

    /// The same on a terminal.
    pub fn spawn_on_terminal<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Running> {
        Running::start_on_terminal(self.command(args))
    }

    fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.command_of(&self.hove, args)
    }

    fn command_of<S: AsRef<OsStr>>(&self, program: &Path, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(program);
        command.args(args);
        // After the command's own arguments they would belong to `exec … --`: by environment they never do.
        command
            .env("HOVE_ROOT", self.root())
            .env("HOVE_STATE", self.state())
            .env("HOVE_LOG_DIR", self.log_dir())
            .env("HOVE_CONFIG", &self.config)
            .env("HOVE_LOG", "info,hove=debug,runtime=debug,sync=debug,network=debug")
            .env("RUST_BACKTRACE", "1")
            .current_dir(&self.directory);
        command
    }

    /// Runs `hove ARGS` to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Ended> {
        self.spawn(args)?.wait(QUICK)
    }

    /// Runs `hove ARGS`, which must succeed, and returns its standard output.
    pub fn output<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let ended = self.run(&args)?;
        ensure!(
            ended.code() == 0,
            "hove {args:?} ended with {}: {}{}",
            ended.code(),
            ended.stdout,
            ended.stderr
        );
        Ok(ended.stdout)
    }

    /// Runs `hove ARGS`, which must fail with words on standard error, and returns those.
    pub fn refused<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let ended = self.run(&args)?;
        ensure!(ended.code() != 0, "hove {args:?} succeeded: {}", ended.stdout);
        ensure!(ended.code() < 128, "hove {args:?} crashed: {}", ended.stderr);
        ensure!(!ended.stderr.trim().is_empty(), "hove {args:?} failed without a word");
        ensure!(
            !ended.stderr.contains("panicked"),
            "hove {args:?} panicked: {}",
            ended.stderr
        );
        Ok(ended.stderr)
    }

    /// Kills the node without a word.
    pub fn kill_node(&self) -> Result<()> {
        let nodes = daemons_of(&self.directory)?;
        ensure!(!nodes.is_empty(), "there is no node to kill");
        for node in nodes {
            kill_process(node, Signal::KILL).with_context(|| format!("kill {node:?}"))?;
            ensure!(wait_for_end(node, QUICK)?, "node {node:?} outlives SIGKILL");
        }
        Ok(())
    }

    /// Kills the pods' supervisors without a word; how many there were.
    pub fn kill_shims(&self) -> Result<usize> {
        let own = format!("{}/", self.directory.display());
        let processes = inspect::process::processes()?;
        let shims = processes
            .iter()
            .filter(|process| process.command.contains("hove-shim") && process.command.contains(&own));
        let shims: Vec<_> = shims.filter_map(|shim| Pid::from_raw(shim.pid.cast_signed())).collect();
        for shim in &shims {
            kill_process(*shim, Signal::KILL).with_context(|| format!("kill {shim:?}"))?;
            ensure!(wait_for_end(*shim, QUICK)?, "supervisor {shim:?} outlives SIGKILL");
        }
        Ok(shims.len())
    }

    /// Imports images that `cargo xtask images` made.
    pub fn import(&self, images: &[&str]) -> Result<()> {
        let mut args = vec!["image".into(), "import".into()];
        for image in images {
            args.push(binaries::image(image).map_err(anyhow::Error::msg)?.into_os_string());
        }
        let ended = self.spawn(&args)?.wait(PATIENT)?;
        ensure!(ended.code() == 0, "hove image import: {}{}", ended.stdout, ended.stderr);
        let layers: Vec<String> = Instance::layers(&self.directory).into_iter().collect();
        Ok(std::fs::write(self.directory.join(LAYERS), layers.join("\n"))?)
    }

    /// The snapshots of the node in `directory`: images' layers and, while there are containers, theirs.
    pub(crate) fn layers(directory: &Path) -> BTreeSet<String> {
        let entries = std::fs::read_dir(directory.join("root/snapshots"))
            .into_iter()
            .flatten()
            .flatten();
        // They are numbered; `empty` is every layerless image's.
        let numbered = |name: &String| name.bytes().all(|b| b.is_ascii_digit());
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(numbered)
            .collect()
    }

    /// Those that were there after the last import, when there were no containers: the images'.
    pub(crate) fn layers_after_import(directory: &Path) -> BTreeSet<String> {
        let listed = std::fs::read_to_string(directory.join(LAYERS)).unwrap_or_default();
        listed.lines().map(str::to_owned).collect()
    }

    /// The pod as the API has it; `None` if there is none of that name.
    pub fn pod(&self, name: &str) -> Result<Option<Value>> {
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        let response = http::get_unix(&self.api_socket(), &path, QUICK)?.response()?;
        match response.status {
            200 => Ok(Some(serde_json::from_str(&response.body)?)),
            404 => Ok(None),
            _ => bail!("GET {path}: {response:?}"),
        }
    }

    /// Waits, by a watch, until the pod is as `accept` wants it, and returns it.
    pub fn wait_for_pod(&self, name: &str, accept: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let found = self.watch(name, "", |kind, pod| {
            last = pod.clone();
            kind != "DELETED" && accept(pod)
        })?;
        ensure!(
            found,
            "pod {name} did not become what was expected; the last seen:\n{last:#}"
        );
        Ok(last)
    }

    /// Waits, by a watch, until there is no pod of that name.
    pub fn wait_for_pod_gone(&self, name: &str) -> Result<()> {
        if !self.api_socket().exists() {
            return Ok(());
        }
        let response = http::get_unix(&self.api_socket(), &of_name(name), QUICK)?.response()?;
        let list: Value = serde_json::from_str(&response.body)?;
        if list["items"].as_array().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        // From that list on: it may go before the watch begins.
        let since = list["metadata"]["resourceVersion"]
            .as_str()
            .context("a list without version")?;
        ensure!(
            self.watch(name, &format!("&resourceVersion={since}"), |kind, _| kind == "DELETED")?,
            "pod {name} is still there"
        );
        Ok(())
    }

    /// Watches until `done` says so; false if it did not in time. Without `since` the pod as it is comes first.
    fn watch(&self, name: &str, since: &str, mut done: impl FnMut(&str, &Value) -> bool) -> Result<bool> {
        let deadline = Instant::now() + PATIENT;
        while Instant::now() < deadline {
            let path = format!("{}&watch=true{since}", of_name(name));
            let mut answer = match http::get_unix(&self.api_socket(), &path, PATIENT) {
                Ok(answer) => answer,
                // The node is being started by the command that the test has just spawned.
                Err(e) if e.chain().any(is_absent) => {
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                }
                Err(e) => return Err(e),
            };
            ensure!(answer.status == 200, "watch: {:?}", answer.response()?);
            let mut buffer = Vec::new();
            while let Some(line) = answer.next_line(&mut buffer)? {
                if line.is_empty() {
                    continue;
                }
                let event: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
                let kind = event["type"].as_str().unwrap_or_default().to_owned();
                ensure!(kind != "ERROR", "watch: {event}");
                if event["object"]["metadata"]["name"] == name && done(&kind, &event["object"]) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The most memory that the node has had until now, in KiB.
    pub fn node_memory_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.daemon()?.as_raw_pid()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = peak.and_then(|peak| peak.split_whitespace().next());
        Ok(number.context("no VmHWM")?.parse()?)
    }

    /// The process that is the node.
    pub fn daemon(&self) -> Result<Pid> {
        let nodes = daemons_of(&self.directory)?;
        nodes.first().copied().context("there is no node")
    }

    /// The Pod API's socket.
    pub fn api_socket(&self) -> PathBuf {
        self.state().join("api.sock")
    }

    /// A path in this node's directory.
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.join(name)
    }
}

/// The daemons whose directories are below `directory`.
pub(crate) fn daemons_of(directory: &Path) -> Result<Vec<Pid>> {
    let own = format!("{}/", directory.display());
    let daemons = inspect::process::processes()?
        .into_iter()
        .filter(|process| process.command.contains(" daemon ") && process.command.contains(&own));
    Ok(daemons
        .filter_map(|process| Pid::from_raw(process.pid.cast_signed()))
        .collect())
}

/// The path of the list that has this pod alone.
fn of_name(name: &str) -> String {
    format!("/api/v1/namespaces/default/pods?fieldSelector=metadata.name%3D{name}")
}

fn is_absent(cause: &(dyn std::error::Error + 'static)) -> bool {
    let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    matches!(kind, Some(ErrorKind::NotFound | ErrorKind::ConnectionRefused))
}

/// A container's status in a pod, by name.
pub fn container<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    ["containerStatuses", "initContainerStatuses"]
        .iter()
        .filter_map(|list| pod["status"][list].as_array())
        .flatten()
        .find(|status| status["name"] == name)
}

/// The status of a condition: `True`, `False`, `Unknown`, or nothing.
pub fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    pod["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == kind)
}
