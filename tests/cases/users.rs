//! `hostUsers: false`: root in the pod, nobody on the host.

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use end_to_end::instance::{Instance, condition};
use end_to_end::{Host, case};

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: localhost/hove/busybox:1
    imagePullPolicy: Never
    command: [sh, -c, 'echo written > /v/file && exec sleep 1000']
    volumeMounts: [{name: v, mountPath: /v}]
  volumes:
  - name: v
    emptyDir: {}
";

/// The user on the host that root in the container is.
fn user_of_container(node: &Instance, pod: &str) -> Result<u32> {
    let map = node.output(["exec", pod, "--", "cat", "/proc/self/uid_map"])?;
    let words: Vec<u32> = map.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    ensure!(words.len() == 3 && words[0] == 0 && words[2] == 65536, "{map:?}");
    Ok(words[1])
}

#[test]
fn root_in_a_pod_is_not_root_on_the_host() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let mut users = Vec::new();
        for name in ["one", "two"] {
            let manifest = host.manifest(&format!("{name}.yaml"), &POD.replace("NAME", name))?;
            node.output(["run".as_ref(), "-d".as_ref(), manifest.as_os_str()])?;
            let pod = node.wait_for_pod(name, |pod| {
                condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
            })?;
            ensure!(node.output(["exec", name, "--", "id", "-u"])?.trim() == "0");
            // Its own files, those that the node made for it, and its volume are root's in it.
            let owners = "stat -c %u:%g /bin/sh /etc/hosts /dev/termination-log /v /v/file | sort -u";
            let owners = node.output(["exec", name, "--", "sh", "-c", owners])?;
            ensure!(owners.trim() == "0:0", "{owners}");
            users.push(user_of_container(&node, name)?);
            // On the disk the volume is nobody's but the node's: another pod would find it as its own.
            let uid = pod["metadata"]["uid"].as_str().context("uid")?;
            let volume = node.root().join("pods").join(uid).join("volumes/empty-dir/v/file");
            let owner = std::fs::metadata(&volume).with_context(|| volume.display().to_string())?;
            ensure!((owner.uid(), owner.gid()) == (0, 0), "{}", owner.uid());
        }
        ensure!(users[0].abs_diff(users[1]) >= 65536 && !users.contains(&0), "{users:?}");
        node.output(["delete", "pod", "--all"])?;
        Ok(())
    });
}
