//! Who is measured. Each has an empty store of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::measure::{Cost, measure};

/// How long a daemon may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// One who can bring an image in.
pub trait Peer {
    /// From the registry, which has no TLS.
    fn pull(&mut self, reference: &str) -> Result<Cost>;
    /// From an archive of docker save.
    fn import(&mut self, archive: &Path) -> Result<Cost>;
}

/// A daemon, which ends with this, and its directory.
struct Daemon {
    process: Child,
    dir: PathBuf,
}

impl Daemon {
    /// Starts `command` and waits for its socket.
    fn start(command: &mut Command, dir: &Path, socket: &Path) -> Result<Daemon> {
        fs::create_dir_all(dir)?;
        let log = fs::File::create(dir.join("log"))?;
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn();
        let process = process.with_context(|| format!("{command:?}"))?;
        let daemon = Daemon {
            process,
            dir: dir.to_path_buf(),
        };
        let begin = Instant::now();
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            if begin.elapsed() > START_TIMEOUT {
                bail!("{command:?} does not listen: {}", fs::read_to_string(dir.join("log"))?);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
    }
}

/// `hove daemon` and `hove image`.
pub struct Hove {
    daemon: Daemon,
    program: PathBuf,
}

impl Hove {
    /// With the programs of a folder.
    pub fn start(dir: &Path, programs: &Path) -> Result<Hove> {
        let program = programs.join("hove");
        let socket = dir.join("state/api.sock");
        let daemon = Daemon::start(hove(&program, dir).arg("daemon"), dir, &socket)?;
        Ok(Hove { daemon, program })
    }

    fn image(&self) -> Command {
        let mut command = hove(&self.program, &self.daemon.dir);
        command.arg("image");
        command
    }
}

fn hove(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    for (flag, name) in [("--root", "root"), ("--state", "state"), ("--log-dir", "logs")] {
        command.arg(flag).arg(dir.join(name));
    }
    command.stderr(Stdio::null());
    command
}

impl Peer for Hove {
    fn pull(&mut self, reference: &str) -> Result<Cost> {
        measure(self.image().args(["pull", reference]), Some(&self.daemon.process))
    }

    fn import(&mut self, archive: &Path) -> Result<Cost> {
        measure(self.image().arg("import").arg(archive), Some(&self.daemon.process))
    }
}

/// `containerd` and `ctr`.
pub struct Containerd(Daemon);

impl Containerd {
    /// With a configuration of its own: no plug-in but those that images need.
    pub fn start(dir: &Path) -> Result<Containerd> {
        fs::create_dir_all(dir)?;
        let config = dir.join("config.toml");
        fs::write(
            &config,
            "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n",
        )?;
        let socket = dir.join("sock");
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&config).arg("--address").arg(&socket);
        command
            .arg("--root")
            .arg(dir.join("root"))
            .arg("--state")
            .arg(dir.join("state"));
        Ok(Containerd(Daemon::start(&mut command, dir, &socket)?))
    }

    fn image(&self) -> Command {
        let mut command = Command::new("ctr");
        command
            .arg("--address")
            .arg(self.0.dir.join("sock"))
            .arg("image")
            .stderr(Stdio::null());
        command
    }
}

impl Peer for Containerd {
    fn pull(&mut self, reference: &str) -> Result<Cost> {
        measure(
            self.image().args(["pull", "--plain-http", reference]),
            Some(&self.0.process),
        )
    }

    fn import(&mut self, archive: &Path) -> Result<Cost> {
        measure(self.image().arg("import").arg(archive), Some(&self.0.process))
    }
}

/// `podman`, which has no daemon.
pub struct Podman {
    dir: PathBuf,
}

impl Podman {
    /// With a store below `dir`.
    pub fn new(dir: &Path) -> Podman {
        Podman { dir: dir.to_path_buf() }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(self.dir.join("root"))
            .arg("--runroot")
            .arg(self.dir.join("run"));
        command.args(["--storage-driver", "overlay"]).stderr(Stdio::null());
        command
    }
}

impl Peer for Podman {
    fn pull(&mut self, reference: &str) -> Result<Cost> {
        measure(
            self.command()
                .args(["pull", "--quiet", "--tls-verify=false", reference]),
            None,
        )
    }

    fn import(&mut self, archive: &Path) -> Result<Cost> {
        measure(self.command().args(["load", "--quiet", "--input"]).arg(archive), None)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // It mounts its store on itself.
        let _ = rustix::mount::unmount(self.dir.join("root/overlay"), rustix::mount::UnmountFlags::DETACH);
    }
}
