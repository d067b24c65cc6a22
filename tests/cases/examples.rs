//! The examples, and what each of them shows.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use end_to_end::instance::{PATIENT, QUICK, condition, container};
use end_to_end::{Host, case, example, http};
use rustix::process::Signal;

/// The page that one container wrote is served by the other; the writer's end leaves the pod NotReady, and the status says why.
#[test]
fn two_containers() {
    case(&["nginx", "debian"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["nginx", "debian"])?;
        let run = node.spawn(["run".as_ref(), example("two-containers").as_os_str()])?;

        let written = |answer: &http::Response| answer.body.contains("Hello from the debian container");
        http::get_until("127.0.0.1:8880".parse()?, "/", PATIENT, written)?;

        let pod = node.wait_for_pod("two-containers", |pod| {
            container(pod, "debian-container").is_some_and(|c| c["state"]["terminated"].is_object())
                && container(pod, "nginx-container").is_some_and(|c| c["state"]["running"].is_object())
                && condition(pod, "Ready").is_some_and(|c| c["status"] == "False" && c["reason"].is_string())
        })?;
        let ended = &container(&pod, "debian-container").context("status")?["state"]["terminated"];
        ensure!(ended["exitCode"] == 0 && ended["reason"] == "Completed", "{ended}");
        ensure!(pod["status"]["phase"] == "Running", "{}", pod["status"]);
        let ready = condition(&pod, "Ready").context("no Ready condition")?;
        ensure!(ready["reason"] == "ContainersNotReady", "{ready}");
        ensure!(
            ready["message"]
                .as_str()
                .unwrap_or_default()
                .contains("debian-container"),
            "{ready}"
        );
        let ip = pod["status"]["podIP"].as_str().context("no podIP")?.to_owned();
        http::get_until(format!("{ip}:80").parse()?, "/", QUICK, written)?;

        let listed = node.output(["get", "pods"])?;
        ensure!(listed.contains("two-containers") && listed.contains("1/2"), "{listed}");

        // Who shares what: the network, IPC and host name are the sandbox's, processes and files are each container's own.
        let svg = node.file("ns.svg");
        let tree = node.output([
            "ns".as_ref(),
            "two-containers".as_ref(),
            "--svg".as_ref(),
            svg.as_os_str(),
        ])?;
        for word in [
            "net",
            "sandbox",
            "shared by pause, nginx-container",
            "container nginx-container",
            "/pause",
        ] {
            ensure!(tree.contains(word), "{word:?} is not in\n{tree}");
        }
        ensure!(!tree.contains("! "), "the record and /proc disagree:\n{tree}");
        let picture = std::fs::read_to_string(&svg)?;
        ensure!(picture.starts_with("<svg") && picture.contains("nginx-container"));

        run.signal(Signal::INT)?;
        let ended = run.wait(PATIENT)?;
        ensure!(
            ended.code() < 128 || ended.code() == 130,
            "hove run ended with {}: {}",
            ended.code(),
            ended.stderr
        );
        ensure!(
            http::get("127.0.0.1:8880".parse()?, "/", Duration::from_secs(2)).is_err(),
            "the port still answers"
        );
        Ok(())
    });
}

/// An init container brings the WAR, Tomcat serves it on a port of the host.
#[test]
fn war_and_tomcat() {
    case(&["tomcat", "sample-war"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["tomcat", "sample-war"])?;
        let run = node.spawn(["run".as_ref(), example("war-and-tomcat").as_os_str()])?;
        let served = |answer: &http::Response| answer.body.contains("Hello from sample.war");
        http::get_until("127.0.0.1:8001".parse()?, "/sample/", PATIENT, served)?;
        let pod = node.wait_for_pod("war-and-tomcat", |pod| {
            condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
        })?;
        let init = container(&pod, "war").context("no status of the init container")?;
        ensure!(init["state"]["terminated"]["exitCode"] == 0, "{init}");
        let initialized = condition(&pod, "Initialized").context("no Initialized condition")?;
        ensure!(initialized["status"] == "True", "{initialized}");
        let said = node.output(["logs", "war-and-tomcat", "-c", "war"])?;
        ensure!(said.contains("sample.war"), "{said}");
        run.signal(Signal::INT)?;
        run.wait(PATIENT)?;
        Ok(())
    });
}

/// Ten thousand orphans, and pause reaps them all.
#[test]
fn zombies() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let run = node.spawn(["run".as_ref(), example("zombies").as_os_str()])?;
        run.wait_for_output("orphans made", Duration::from_secs(300))?;
        let ended = run.wait(PATIENT)?;
        ensure!(
            ended
                .stdout
                .contains("10000 orphans made, 0 zombies left, PID 1 is /pause"),
            "{}",
            ended.stdout
        );
        ensure!(
            ended.code() == 0,
            "hove run ended with {}: {}",
            ended.code(),
            ended.stderr
        );
        Ok(())
    });
}
