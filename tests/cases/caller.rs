//! A node outlives the command that started it, and has nothing of it.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use end_to_end::instance::{PATIENT, QUICK, container};
use end_to_end::{Host, case};
use rustix::fs::FlockOperation;
use rustix::process::Signal;

/// A user of the container reads what the pod is told, and nobody else comes to its sockets, whatever the umask; what the caller has
/// open is not kept open by the node and its pods.
#[test]
fn umask_and_descriptors_stay_the_callers() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        for umask in ["000", "077"] {
            let node = host.node()?;
            let lock = host.directory().join(format!("lock-{umask}"));
            let manifest = host.manifest(
                &format!("reads-{umask}.yaml"),
                "apiVersion: v1\nkind: Pod\nmetadata: {name: reads}\nspec:\n  hostUsers: false\n  terminationGracePeriodSeconds: 1\n  \
                 securityContext: {runAsUser: 1000}\n  containers:\n  - name: c\n    image: localhost/hove/busybox:1\n    \
                 imagePullPolicy: Never\n    command: [sh, -c, 'cat /etc/hosts /etc/hostname /etc/resolv.conf && exec sleep 1000']\n",
            )?;
            let prelude = format!("umask {umask} && exec 9>'{}' && flock 9", lock.display());
            let started = node.spawn_after(&prelude, ["get", "pods"])?.wait(QUICK)?;
            ensure!(started.code() == 0, "{started:?}");
            node.import(&["busybox"])?;
            node.output(["run".as_ref(), "--detach".as_ref(), manifest.as_os_str()])?;
            let pod = node.wait_for_pod("reads", |pod| pod["status"]["phase"] == "Running")?;
            let status = container(&pod, "c").context("no container")?;
            ensure!(status["restartCount"] == 0, "{status}");

            rustix::fs::flock(File::open(&lock)?, FlockOperation::NonBlockingLockExclusive)
                .context("the node keeps the caller's lock")?;
            let mode = |path: &Path| anyhow::Ok(std::fs::metadata(path)?.permissions().mode() & 0o777);
            ensure!(mode(&node.state())? == 0o711, "the state directory");
            for name in ["node.log", "start.lock", "lock", "api.sock"] {
                ensure!(
                    mode(&node.state().join(name))? & 0o022 == 0,
                    "{name} is everybody's to write"
                );
            }
            for sandbox in std::fs::read_dir(node.state().join("sandboxes"))? {
                for entry in std::fs::read_dir(sandbox?.path())? {
                    let path = entry?.path();
                    ensure!(
                        mode(&path)? & 0o022 == 0 || path.ends_with("shm"),
                        "{path:?} is everybody's to write"
                    );
                }
            }
            node.output(["delete", "pod", "reads"])?;
            node.wait_for_pod_gone("reads")?;
        }
        Ok(())
    });
}

/// On a full disk, a node that has something to say says nothing, and goes on.
#[test]
fn a_log_that_cant_be_written_is_done_without() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        let daemon = node.spawn_after("exec 2>/dev/full", ["daemon"])?;
        node.import(&["busybox"])?;
        let manifest = host.manifest(
            "quiet.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: quiet}\nspec:\n  restartPolicy: Never\n  containers:\n  \
             - {name: c, image: 'localhost/hove/busybox:1', imagePullPolicy: Never, command: [echo, done]}\n",
        )?;
        let said = node.output(["run".as_ref(), manifest.as_os_str()])?;
        ensure!(said.contains("done"), "{said}");
        daemon.signal(Signal::TERM)?;
        let ended = daemon.wait(PATIENT)?;
        ensure!(ended.code() == 0, "{ended:?}");
        node.output(["get", "pods"])?;
        Ok(())
    });
}
