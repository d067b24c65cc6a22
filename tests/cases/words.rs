//! What is said when something can't be done: what is true, in plain words, once, with the names that people gave.

use anyhow::{Result, ensure};
use end_to_end::instance::{PATIENT, QUICK, condition};
use end_to_end::{Host, case, http};
use rustix::process::Signal;
use serde_json::Value;

fn ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
}

fn pod(host: &Host, name: &str, policy: &str, more: &str, command: &str) -> Result<std::path::PathBuf> {
    host.manifest(
        &format!("{name}.yaml"),
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
             restartPolicy: {policy}\n{more}  containers:\n  \
             - {{name: c, image: 'localhost/hove/busybox:1', imagePullPolicy: Never, command: [{command}]}}\n"
        ),
    )
}

/// 127 and 126, as shells have it; the program is named once.
#[test]
fn exec_of_what_is_no_program() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let manifest = pod(host, "box", "Always", "", "sleep, '1000'")?;
        node.output(["run".as_ref(), "-d".as_ref(), manifest.as_os_str()])?;
        node.wait_for_pod("box", ready)?;
        for (program, code, why) in [
            ("nosuch", 127, "not found in PATH"),
            ("/no/such", 127, "no such file"),
            ("/etc", 126, "not executable"),
        ] {
            let ended = node.run(["exec", "box", "--", program])?;
            ensure!(ended.code() == code && ended.stdout.is_empty(), "{ended:?}");
            ensure!(ended.stderr.matches(program).count() == 1, "{ended:?}");
            ensure!(
                ended.stderr.contains(why) && ended.stderr.lines().count() == 1,
                "{ended:?}"
            );
        }
        let mut shell = node.spawn_on_terminal(["exec", "-it", "box", "--", "nosuch"])?;
        shell.wait_for_output("\"nosuch\": not found in PATH", QUICK)?;
        shell.close_input();
        ensure!(shell.wait(QUICK)?.code() == 127);
        node.output(["delete", "pod", "box"])?;
        Ok(())
    });
}

/// A pod is not up when its only container could not start.
#[test]
fn a_container_that_can_not_start() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let once = pod(host, "once", "Never", "", "nosuch")?;
        let error = node.refused(["run".as_ref(), once.as_os_str()])?;
        ensure!(
            !error.contains("is up") && !error.contains("Create:") && !error.contains("Error:"),
            "{error}"
        );
        ensure!(
            error.contains("container c could not be started: exec \"nosuch\": not found in PATH"),
            "{error}"
        );

        let again = pod(host, "again", "Always", "", "nosuch")?;
        let run = node.spawn(["run".as_ref(), again.as_os_str()])?;
        run.wait_for_words(
            "pod again is not up: container c could not be started; it is tried again; Ctrl-C takes the pod down",
            PATIENT,
        )?;
        run.signal(Signal::INT)?;
        let ended = run.wait(PATIENT)?;
        ensure!(!ended.stderr.contains("is up"), "{ended:?}");

        let error = node.refused(["run".as_ref(), "-d".as_ref(), again.as_os_str()])?;
        ensure!(
            error.contains("pod again is not up") && error.contains("hove delete pod"),
            "{error}"
        );
        node.output(["delete", "pod", "again"])?;
        Ok(())
    });
}

/// What keeps a sandbox, or what it needs, from being made ends the run with that, said once; nothing is left (the audit).
#[test]
fn a_sandbox_that_can_not_be_made() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let sysctl = "  securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: many}]}\n";
        let volume = "  volumes: [{name: v, hostPath: {path: /no/such/directory, type: Directory}}]\n";
        for (name, more, why) in [
            ("sysctl", sysctl, "shm_rmid_forced"),
            ("volume", volume, "/no/such/directory"),
        ] {
            let manifest = pod(host, name, "Always", more, "sleep, '1000'")?;
            for detach in [&["run"][..], &["run", "-d"]] {
                let args = detach.iter().map(std::ffi::OsStr::new).chain([manifest.as_os_str()]);
                let error = node.refused(args)?;
                ensure!(
                    error.contains(&format!("pod {name} could not be started and was taken down")),
                    "{error}"
                );
                ensure!(error.matches(why).count() == 1, "{error}");
                ensure!(node.pod(name)?.is_none(), "pod {name} is still there");
            }
        }
        Ok(())
    });
}

/// What is created over the API is not looked at before: the network itself says who has the port.
#[test]
fn a_port_in_use_names_the_pod() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let create = |name: &str| -> Result<()> {
            let manifest = format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
                 - {{name: c, image: 'localhost/hove/busybox:1', imagePullPolicy: Never, command: [sleep, '1000'], \
                 ports: [{{containerPort: 80, hostPort: 8321}}]}}\n"
            );
            let answer = http::post_unix(&node.api_socket(), "/api/v1/namespaces/default/pods", &manifest, QUICK)?;
            ensure!(answer.status == 201, "{:?}", answer.response()?);
            Ok(())
        };
        create("first")?;
        node.wait_for_pod("first", ready)?;
        create("second")?;
        let pod = node.wait_for_pod("second", |pod| pod["status"]["reason"].is_string())?;
        let message = pod["status"]["message"].as_str().unwrap_or_default();
        ensure!(
            message.contains("8321") && message.contains("pod default/first"),
            "{message}"
        );
        node.output(["delete", "pod", "first", "second"])?;
        Ok(())
    });
}

#[test]
fn an_image_in_use_names_its_users() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let manifest = pod(host, "box", "Always", "", "sleep, '1000'")?;
        node.output(["run".as_ref(), "-d".as_ref(), manifest.as_os_str()])?;
        let error = node.refused(["image", "rm", "localhost/hove/busybox:1"])?;
        ensure!(error.contains("is used by container c of pod default/box"), "{error}");
        node.output(["delete", "pod", "box"])?;
        node.output(["image", "rm", "localhost/hove/busybox:1"])?;
        Ok(())
    });
}

#[test]
fn a_state_directory_with_a_path_that_is_too_long() {
    case(&[], |host: &Host| -> Result<()> {
        let node = host.node()?;
        let state = node.file("a".repeat(60));
        for command in [&["get", "pods"][..], &["daemon"]] {
            let place = ["--state".as_ref(), state.as_os_str()];
            let error = node.refused(place.into_iter().chain(command.iter().map(std::ffi::OsStr::new)))?;
            ensure!(error.contains("use a shorter --state"), "{error}");
        }
        Ok(())
    });
}
