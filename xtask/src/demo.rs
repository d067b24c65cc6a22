//! `cargo xtask demo`: a pod on this machine, from nothing, shown and taken down again.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{images, packages, test};

/// The pod's published port, as examples/two-containers.yaml says.
const PAGE: &str = "127.0.0.1:8880";
/// Longest wait for the page, once the pod is ready.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for the node to end, once no pod is left.
const NODE_TIMEOUT: Duration = Duration::from_secs(15);

/// The demo's node: its own directories, so that it meets no other one.
struct Node {
    hove: PathBuf,
    root: PathBuf,
    state: PathBuf,
    logs: PathBuf,
}

/// Builds, imports the images, runs the pod, shows it, takes it down.
pub fn run(workspace: &Path) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "a pod is made of namespaces, mounts and cgroups: run this as root"
    );
    packages::ensure_installed(&["gcc", "libc6-dev"])?;
    step("building Hove (release, static)");
    test::build(workspace)?;
    step("making the images from Debian packages (kept under target/images)");
    let archives = images::run(workspace)?;

    let scratch = workspace.join("target/demo");
    let node = Node {
        hove: test::release_dir(workspace).join("hove"),
        root: scratch.join("root"),
        state: PathBuf::from("/run/hove-demo"),
        logs: scratch.join("log"),
    };
    fs::create_dir_all(&scratch)?;
    let shown = node.show(workspace, &archives, &scratch);
    // Whatever was shown: nothing stays but the picture.
    let cleaned = node.clean_up();
    shown.and(cleaned)
}

impl Node {
    fn show(&self, workspace: &Path, archives: &[PathBuf], scratch: &Path) -> Result<()> {
        step("importing the images");
        for archive in archives.iter().filter(|path| needed(path)) {
            self.run(&["image", "import", path(archive)?])?;
        }
        step("hove run examples/two-containers.yaml");
        let mut pod = self
            .command(&["run", path(&workspace.join("examples/two-containers.yaml"))?])
            .spawn()?;
        let shown = self.show_pod(&mut pod, scratch);
        step("Ctrl-C: the pod is taken down within its grace period");
        rustix::process::kill_process(rustix::process::Pid::from_child(&pod), rustix::process::Signal::INT)
            .context("hove run has ended by itself; its words are above")?;
        let status = pod.wait()?;
        println!("hove run: {status}");
        shown
    }

    fn show_pod(&self, pod: &mut Child, scratch: &Path) -> Result<()> {
        let page = fetch(pod)?;
        step("the page that one container wrote and the other serves, through the published port 8880");
        println!("{}", page.trim_end());
        step("hove get pods");
        self.run(&["get", "pods", "-o", "wide"])?;
        step("hove ns two-containers: who shares what");
        let picture = scratch.join("two-containers.svg");
        self.run(&["ns", "two-containers", "--svg", path(&picture)?])?;
        println!("the same as a picture: {}", picture.display());
        step("hove describe pod two-containers: the state, and when each step was done");
        self.run(&["describe", "pod", "two-containers"])
    }

    /// The node ends by itself, and its state directory with it; then nothing needs the rest.
    fn clean_up(&self) -> Result<()> {
        let deadline = Instant::now() + NODE_TIMEOUT;
        while self.state.exists() {
            ensure!(
                Instant::now() < deadline,
                "the demo's node has not ended after {NODE_TIMEOUT:?}: {} is still there; see `hove --state {} get pods`",
                self.state.display(),
                self.state.display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        for directory in [&self.root, &self.logs] {
            match fs::remove_dir_all(directory) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    bail!(
                        "{} can't be removed: {e}; a process of the demo may still run",
                        directory.display()
                    )
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.hove);
        command
            .arg("--root")
            .arg(&self.root)
            .arg("--state")
            .arg(&self.state)
            .arg("--log-dir")
            .arg(&self.logs);
        command.args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Result<()> {
        let status = self
            .command(args)
            .status()
            .with_context(|| self.hove.display().to_string())?;
        ensure!(status.success(), "hove {}: {status}", args.join(" "));
        Ok(())
    }
}

/// The demo's two images among all of them.
fn needed(archive: &Path) -> bool {
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("nginx") || name.starts_with("debian")
}

/// The page, as soon as it is served. Fails at once when the pod's command ends, and after a limit otherwise.
fn fetch(pod: &mut Child) -> Result<String> {
    let deadline = Instant::now() + PAGE_TIMEOUT;
    loop {
        if let Some(status) = pod.try_wait()? {
            bail!("hove run ended early: {status}");
        }
        match get() {
            Ok(body) if body.contains("Hello") => return Ok(body),
            answer if Instant::now() > deadline => {
                bail!("no page on http://{PAGE} after {PAGE_TIMEOUT:?}: {answer:?}")
            }
            // The port is not bound yet, or the writer has not written: ask again, as a person would.
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn get() -> Result<String> {
    let mut stream = TcpStream::connect(PAGE)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    ensure!(head.contains(" 200 "), "{}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

fn path(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

fn step(text: &str) {
    println!("\n\x1b[1m── {text}\x1b[0m");
}
