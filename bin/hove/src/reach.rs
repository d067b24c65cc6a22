//! Finds the node, or starts one.

use std::{
    fs::{File, Permissions},
    io::ErrorKind,
    os::{
        fd::OwnedFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use http::Method;
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

use crate::{
    client::{Client, Error},
    config::Settings,
    node_api,
};

/// How long a node may take to start: recovery of many pods included.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long somebody else may take to start the next node.
const RESTART_PATIENCE: Duration = Duration::from_secs(2);
/// How often to look whether that is done.
const RESTART_LOOK: Duration = Duration::from_millis(100);
/// How many lines of a failed node's log are shown.
const LOG_LINES: usize = 10;

/// What a node that was started by a command says on its standard output, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Started {
    /// The API answers.
    Ready,
    /// It could not start, and why.
    Failed(String),
}

/// A client of the node that owns the state directory; starts one where there is none.
pub async fn node(settings: &Settings) -> Result<Client> {
    let client = Client::new(settings.api_socket());
    if answers(&client).await? {
        return Ok(client);
    }
    if !rustix::process::geteuid().is_root() {
        bail!("a node needs root: run this command as root (sudo hove …)");
    }
    create_state_directory(&settings.state)?;
    // Two commands at once start one node: the second waits here until the first has started it.
    let _starting = lock(&settings.state.join("start.lock"), FlockOperation::LockExclusive).await?;
    if answers(&client).await? {
        return Ok(client);
    }
    if let Err(error) = start(settings).await {
        // A daemon that was starting by itself has the directory.
        if answers(&client).await? {
            return Ok(client);
        }
        remove_unused(&settings.state);
        return Err(error);
    }
    Ok(client)
}

/// Removes a state directory that no node has put anything into. The caller holds `start.lock`.
fn remove_unused(state: &Path) {
    let ours = ["start.lock", "node.log"];
    let mut entries = std::fs::read_dir(state).into_iter().flatten().flatten();
    if entries.all(|entry| ours.iter().any(|name| entry.file_name() == *name)) {
        for name in ours {
            let _ = std::fs::remove_file(state.join(name));
        }
        let _ = std::fs::remove_dir(state);
    }
}

/// A client of the next node, after the one that was there has ended. Whoever keeps nodes running (an init system) has
/// [`RESTART_PATIENCE`] to start it, so that nothing is put in its place.
pub async fn next_node(settings: &Settings) -> Result<Client> {
    let client = Client::new(settings.api_socket());
    match timeout(RESTART_PATIENCE, begins(&client)).await {
        Ok(began) => began.map(|()| client),
        Err(_) => node(settings).await,
    }
}

/// Returns when a node answers.
pub async fn begins(client: &Client) -> Result<()> {
    while !answers(client).await? {
        tokio::time::sleep(RESTART_LOOK).await;
    }
    Ok(())
}

/// Whether a node answers; an error when one may be there that this user can't reach.
pub async fn answers(client: &Client) -> Result<bool> {
    match client.get::<serde_json::Value>("/version").await {
        Ok(_) => Ok(true),
        Err(Error::NoNode(error)) if error.kind() == ErrorKind::PermissionDenied => {
            bail!(
                "{}: permission denied: run this command as root (sudo hove …)",
                client.socket().display()
            )
        }
        Err(Error::NoNode(_)) => Ok(false),
        // It was there a moment ago, and ends.
        Err(Error::Broken(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Asks the node to make room for one that comes to stay. One that was started to stay refuses.
pub async fn retire(client: &Client) -> Result<bool> {
    let path = format!("{}/node:retire", node_api::BASE);
    match client.json::<serde_json::Value>(Method::POST, &path, None).await {
        // It may be gone before it has answered.
        Ok(_) | Err(Error::NoNode(_) | Error::Broken(_)) => Ok(true),
        Err(Error::Refused { .. }) => Ok(false),
    }
}

async fn start(settings: &Settings) -> Result<()> {
    let log_path = settings.state.join("node.log");
    let log = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log_path)
        .with_context(|| log_path.display().to_string())?;
    let mut command = Command::new(std::env::current_exe().context("/proc/self/exe")?);
    command.arg("daemon").args(["--until-idle", "--detached"]);
    let places = [
        ("--root", Some(&settings.root)),
        ("--state", Some(&settings.state)),
        ("--log-dir", Some(&settings.log_dir)),
        ("--shim", Some(&settings.shim)),
        ("--config", settings.config.as_ref()),
    ];
    if let Some(endpoint) = &settings.runtime_endpoint {
        command.args(["--runtime-endpoint", endpoint]);
    }
    for (flag, path) in places {
        if let Some(path) = path {
            command.arg(flag).arg(path);
        }
    }
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    let mut child = command.spawn().context("hove daemon")?;
    let stdout = child.stdout.take().context("hove daemon has no standard output")?;
    let line = timeout(START_TIMEOUT, BufReader::new(stdout).lines().next_line()).await;
    match line {
        Ok(Ok(Some(line))) => match serde_json::from_str(&line)? {
            Started::Ready => Ok(()),
            Started::Failed(why) => bail!("the node did not start: {why}"),
        },
        Ok(_) => {
            let status = child.wait().await?;
            bail!("the node did not start ({status}): {}", last_lines(&log_path))
        }
        Err(_) => bail!(
            "the node did not start within {START_TIMEOUT:?}; see {}",
            log_path.display()
        ),
    }
}

/// Makes the state directory, for root alone.
pub fn create_state_directory(path: &Path) -> Result<()> {
    let made = || {
        if path.is_dir() {
            return Ok(());
        }
        std::fs::create_dir_all(path)?;
        // Whatever the caller's umask.
        std::fs::set_permissions(path, Permissions::from_mode(0o711))
    };
    made().with_context(|| path.display().to_string())
}

/// Opens and locks `path`, waiting for the lock if `operation` does. The file's owner removes it in the end, so a lock
/// counts only if it is still on the file of that name.
pub async fn lock(path: &Path, operation: FlockOperation) -> Result<OwnedFd> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || lock_blocking(&path, operation)).await?
}

/// Locks `path` if nobody else has it.
pub fn try_lock(path: &Path) -> Result<Option<OwnedFd>> {
    match lock_blocking(path, FlockOperation::NonBlockingLockExclusive) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.downcast_ref() == Some(&Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error),
    }
}

fn lock_blocking(path: &Path, operation: FlockOperation) -> Result<OwnedFd> {
    loop {
        // The former owner may remove the file and its directory at any time before the lock is ours.
        create_state_directory(path.parent().unwrap_or(Path::new("/")))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::NOENT) => continue,
            file => file.with_context(|| format!("open {}", path.display()))?,
        };
        rustix::fs::flock(&file, operation).with_context(|| format!("flock {}", path.display()))?;
        let locked = rustix::fs::fstat(&file)?;
        match rustix::fs::stat(path) {
            Ok(named) if (named.st_dev, named.st_ino) == (locked.st_dev, locked.st_ino) => return Ok(file),
            _ => {}
        }
    }
}

fn last_lines(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(LOG_LINES).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lock_on_a_file_that_is_gone_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/lock");
        create_state_directory(path.parent().unwrap()).unwrap();
        let first = lock(&path, FlockOperation::LockExclusive).await.unwrap();
        assert!(try_lock(&path).unwrap().is_none(), "it is held");
        let waiting = tokio::spawn({
            let path = path.clone();
            async move { lock(&path, FlockOperation::LockExclusive).await }
        });
        // As an idle node does: the file goes, then the directory, then the lock.
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_dir(path.parent().unwrap()).unwrap();
        drop(first);
        let second = waiting.await.unwrap().unwrap();
        assert!(
            path.exists() && try_lock(&path).unwrap().is_none(),
            "the second holds the file of that name"
        );
        drop(second);
        assert!(try_lock(&path).unwrap().is_some());
    }

    #[test]
    fn a_log_s_end_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.log");
        let text: String = (0..20).map(|number| format!("line {number}\n")).collect();
        std::fs::write(&path, text).unwrap();
        let shown = last_lines(&path);
        assert!(shown.starts_with("line 10\n") && shown.ends_with("line 19"), "{shown}");
        assert_eq!(last_lines(Path::new("/no/such")), "");
    }
}
