//! What can be asked of a pod while it runs, from other terminals.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use end_to_end::instance::{PATIENT, QUICK, condition};
use end_to_end::{Host, case};
use serde_json::Value;

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: box}
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  containers:
  - name: talker
    image: localhost/hove/busybox:1
    imagePullPolicy: Never
    command: [sh, -c, 'echo first; echo to stderr >&2; while read line; do echo got $line; done < /tmp/pipe & mkfifo /tmp/pipe; echo ready; exec sleep 1000']
    env: [{name: GREETING, value: hello}]
  - name: silent
    image: localhost/hove/busybox:1
    imagePullPolicy: Never
    command: [sleep, '1000']
";

#[test]
fn exec_logs_and_ns() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let manifest = host.manifest("box.yaml", POD)?;
        node.output(["run".as_ref(), "-d".as_ref(), manifest.as_os_str()])?;
        node.wait_for_pod("box", |pod| {
            condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
        })?;

        // exec: output, exit code, environment, standard input, the other container.
        let said = node.output([
            "exec",
            "box",
            "-c",
            "talker",
            "--",
            "sh",
            "-c",
            "echo $GREETING from $(hostname)",
        ])?;
        ensure!(said.trim() == "hello from box", "{said:?}");
        let ended = node.run([
            "exec",
            "box",
            "-c",
            "talker",
            "--",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 7",
        ])?;
        ensure!((ended.code(), ended.stdout.as_str()) == (7, "out\n"), "{ended:?}");
        ensure!(ended.stderr.contains("err"), "{ended:?}");
        let mut cat = node.spawn(["exec", "-i", "box", "-c", "silent", "--", "cat"])?;
        cat.write("through and back\n")?;
        cat.wait_for_output("through and back", QUICK)?;
        cat.close_input();
        ensure!(cat.wait(QUICK)?.code() == 0);

        // logs: what was, and what comes.
        let logs = node.output(["logs", "box", "-c", "talker"])?;
        ensure!(logs.contains("first") && logs.contains("to stderr"), "{logs}");
        let follow = node.spawn(["logs", "-f", "box", "-c", "talker"])?;
        follow.wait_for_output("first", QUICK)?;
        node.output([
            "exec",
            "box",
            "-c",
            "talker",
            "--",
            "sh",
            "-c",
            "echo and more > /proc/1/fd/1",
        ])?;
        follow.wait_for_output("and more", QUICK)?;

        // Two containers, one network, two file systems.
        node.output(["exec", "box", "-c", "talker", "--", "touch", "/only-here"])?;
        ensure!(
            node.run(["exec", "box", "-c", "silent", "--", "test", "-e", "/only-here"])?
                .code()
                == 1
        );
        let net = |name| node.output(["exec", "box", "-c", name, "--", "readlink", "/proc/self/ns/net"]);
        ensure!(net("talker")? == net("silent")?);

        // ns: as data, and the same as the containers see themselves.
        let text = node.output(["ns", "box", "-o", "json"])?;
        let view: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let inode = net("silent")?
            .trim()
            .trim_start_matches("net:[")
            .trim_end_matches(']')
            .to_owned();
        ensure!(text.contains(&inode), "{inode} is not in {view:#}");
        ensure!(view["discrepancies"].as_array().is_none_or(Vec::is_empty), "{view:#}");

        let listed = node.output(["get", "pods", "box", "-o", "json"])?;
        let pod: Value = serde_json::from_str(&listed)?;
        ensure!(pod["status"]["phase"] == "Running", "{pod:#}");
        ensure!(node.output(["image", "ls"])?.contains("localhost/hove/busybox"));

        node.output(["delete", "pod", "box"])?;
        ensure!(node.pod("box")?.is_none());
        let ended = follow.wait(PATIENT)?;
        ensure!(ended.code() == 0, "logs -f ends with its container: {ended:?}");
        Ok(())
    });
}

/// By name, by labels, by a manifest, all of them.
#[test]
fn pods_are_taken_down_as_they_are_meant() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let mut manifests = Vec::new();
        for (name, tier) in [("a", "front"), ("b", "back"), ("c", "back"), ("d", "none")] {
            let manifest = host.manifest(
                &format!("{name}.yaml"),
                &format!(
                    "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{tier: {tier}}}}}\nspec:\n  \
                     terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: c, image: 'localhost/hove/busybox:1', \
                     imagePullPolicy: Never, command: [sleep, '1000']}}\n"
                ),
            )?;
            node.output(["run".as_ref(), "-d".as_ref(), manifest.as_os_str()])?;
            manifests.push(manifest);
        }
        let names = || node.output(["get", "pods", "-o", "name"]);
        ensure!(names()? == "pod/a\npod/b\npod/c\npod/d\n", "{}", names()?);
        ensure!(node.output(["delete", "pod", "-l", "tier=back"])? == "pod \"b\" deleted\npod \"c\" deleted\n");
        node.output(["delete".as_ref(), "-f".as_ref(), manifests[0].as_os_str()])?;
        ensure!(names()? == "pod/d\n", "{}", names()?);
        let gone = node.refused(["delete".as_ref(), "-f".as_ref(), manifests[0].as_os_str()])?;
        ensure!(gone.contains("\"a\" not found"), "{gone}");
        node.output(["delete", "pod", "--all"])?;
        let none = node.run(["delete", "pod", "--all"])?;
        ensure!(
            none.code() == 0 && none.stderr.contains("No resources found"),
            "{none:?}"
        );
        Ok(())
    });
}

/// A terminal: what the program writes and reads goes through one, and it knows.
#[test]
fn exec_with_a_terminal() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let manifest = host.manifest("box.yaml", POD)?;
        node.output(["run".as_ref(), "-d".as_ref(), manifest.as_os_str()])?;
        node.wait_for_pod("box", |pod| {
            condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
        })?;
        let mut shell = node.spawn_on_terminal(["exec", "-it", "box", "-c", "silent", "--", "sh"])?;
        shell.write("tty && echo is-a-$((1 + 1))-tty\n")?;
        shell.wait_for_output("is-a-2-tty", QUICK)?;
        shell.write("exit 3\n")?;
        ensure!(shell.wait(Duration::from_secs(30))?.code() == 3);
        node.output(["delete", "pod", "box", "--now"])?;
        Ok(())
    });
}
