//! A log that can't be written (invariant 9): the container waits at its pipe, an event says so, no byte is lost.

use std::ffi::CString;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use end_to_end::instance::{PATIENT, condition, container};
use end_to_end::{Host, case};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

/// How many lines the container counts; with their times, several times [`SMALL`].
const LINES: usize = 20_000;
/// The log directory's size at first, and when there is space again.
const SMALL: &str = "size=256k";
const LARGE: &str = "size=64m";

fn tmpfs(path: &Path, size: &str) -> Result<()> {
    std::fs::create_dir_all(path)?;
    let data = CString::new(size)?;
    mount("tmpfs", path, "tmpfs", MountFlags::empty(), Some(data.as_c_str())).context("mount tmpfs")
}

#[test]
fn a_full_log_directory_is_told_and_loses_nothing() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let logs = node.log_dir();
        tmpfs(&logs, SMALL)?;
        let manifest = host.manifest(
            "counter.yaml",
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: counter}}\nspec:\n  restartPolicy: Never\n  \
                 terminationGracePeriodSeconds: 0\n  containers:\n  \
                 - {{name: c, image: 'localhost/hove/busybox:1', imagePullPolicy: Never, \
                 command: [sh, -c, 'n=0; while [ $n -lt {LINES} ]; do echo line $n; n=$((n + 1)); done; exec sleep 1000']}}\n"
            ),
        )?;
        node.output(["run".as_ref(), "-d".as_ref(), manifest.as_os_str()])?;
        let deadline = Instant::now() + PATIENT;
        let told = loop {
            let text = node.output(["describe", "pod", "counter"])?;
            let event = text
                .lines()
                .find(|line| line.contains("Warning") && line.contains("No space left"));
            if let Some(event) = event {
                break event.to_owned();
            }
            ensure!(
                Instant::now() < deadline,
                "no event says that the log can't be written:\n{text}"
            );
            std::thread::sleep(Duration::from_millis(50));
        };
        println!("{told}");
        // It waits; it has not ended, and was not told to.
        let pod = node.wait_for_pod("counter", |pod| {
            condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
        })?;
        ensure!(container(&pod, "c").is_some_and(|c| c["restartCount"] == 0), "{pod:#}");

        let data = CString::new(LARGE)?;
        mount_remount(&logs, MountFlags::empty(), data.as_c_str()).context("remount")?;
        let last = format!("line {}\n", LINES - 1);
        let deadline = Instant::now() + PATIENT;
        let shown = loop {
            let shown = node.output(["logs", "counter"])?;
            if shown.ends_with(&last) {
                break shown;
            }
            ensure!(Instant::now() < deadline, "{} bytes of the log came", shown.len());
            std::thread::sleep(Duration::from_millis(50));
        };
        let wanted: String = (0..LINES).map(|n| format!("line {n}\n")).collect();
        ensure!(shown == wanted, "{} bytes instead of {}", shown.len(), wanted.len());
        node.output(["delete", "pod", "counter"])?;
        unmount(&logs, UnmountFlags::DETACH).context("unmount")
    });
}
