//! crictl's verbs, each as a person types it.

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use end_to_end::instance::QUICK;
use end_to_end::running::Ended;
use end_to_end::{Running, http};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{Site, client, on_a_daemon};

const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
const NGINX: &str = "registry.k8s.io/e2e-test-images/nginx:1.14-2";
const PAUSE: &str = "registry.k8s.io/pause:3.9";
/// What port-forward listens on.
const LOCAL_PORT: u16 = 18080;

/// An empty file, in the place of the machine's own settings.
const SETTINGS: &str = "crictl.yaml";

/// crictl, pointed at a daemon.
pub struct Crictl {
    directory: PathBuf,
    endpoint: String,
}

impl Crictl {
    pub fn new(site: &Site<'_>) -> Result<Crictl> {
        let directory = site.host.directory().to_owned();
        fs::write(directory.join(SETTINGS), "")?;
        Ok(Crictl {
            directory,
            endpoint: site.endpoint.clone(),
        })
    }

    fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut crictl = Command::new(client("crictl"));
        crictl
            .args(["--runtime-endpoint", &self.endpoint, "--image-endpoint", &self.endpoint])
            .args(args)
            .env("CRI_CONFIG_FILE", self.directory.join(SETTINGS))
            .current_dir(&self.directory);
        crictl
    }

    fn try_run(&self, args: &[&str]) -> Result<Ended> {
        Running::start(self.command(args))?.wait(QUICK)
    }

    /// Runs `crictl ARGS`, which must succeed; what it says, without the line's end.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let ended = self.try_run(args)?;
        ensure!(ended.code() == 0, "crictl {args:?}: {}{}", ended.stdout, ended.stderr);
        Ok(ended.stdout.trim_end().to_owned())
    }

    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let said = self.run(args)?;
        serde_json::from_str(&said).with_context(|| format!("crictl {args:?}: {said}"))
    }

    fn file(&self, name: &str, content: &Value) -> Result<String> {
        let path = self.directory.join(name);
        fs::write(&path, content.to_string())?;
        Ok(path.display().to_string())
    }
}

#[test]
#[ignore = "needs crictl: cargo xtask conformance"]
fn every_verb_of_crictl_works() {
    on_a_daemon(|site| {
        let crictl = Crictl::new(site)?;
        the_node(&crictl)?;
        images(&crictl)?;
        a_pod(&crictl)
    });
}

#[test]
#[ignore = "needs crictl: cargo xtask conformance"]
fn a_sandbox_image_is_pulled_and_pinned() {
    on_a_daemon(|site| {
        site.configure(&format!("[sandbox]\nimage = {PAUSE:?}\n"))?;
        let crictl = Crictl::new(site)?;
        ensure!(!crictl.run(&["images"])?.contains("pause"), "it is here already");
        let metadata = json!({"name": "own", "namespace": "crictl", "uid": "own-1"});
        let config = crictl.file("own.json", &json!({"metadata": metadata, "linux": {}}))?;
        let sandbox = crictl.run(&["runp", &config])?;
        let image = crictl.json(&["inspecti", PAUSE])?;
        ensure!(image["status"]["pinned"] == true, "{image:#}");
        let info = crictl.json(&["inspectp", &sandbox])?["info"].take();
        ensure!(info["image"] == image["status"]["id"], "{info:#}");
        let program = fs::read_link(format!("/proc/{}/exe", info["pid"]))?;
        ensure!(program == Path::new("/pause"), "{program:?}");
        crictl.run(&["rmi", "--prune"])?;
        crictl.run(&["inspecti", PAUSE])?;
        crictl.run(&["stopp", &sandbox])?;
        crictl.run(&["rmp", &sandbox])?;
        crictl.run(&["rmi", PAUSE])?;
        Ok(())
    });
}

/// version, info, runtime-config.
fn the_node(crictl: &Crictl) -> Result<()> {
    let version = crictl.run(&["version"])?;
    ensure!(version.contains("RuntimeName:  hove"), "{version}");
    let info = crictl.json(&["info"])?;
    let conditions = info["status"]["conditions"].as_array().context("no conditions")?;
    for wanted in ["RuntimeReady", "NetworkReady"] {
        ensure!(
            conditions.iter().any(|c| c["type"] == wanted && c["status"] == true),
            "{info:#}"
        );
    }
    let driver = crictl.run(&["runtime-config"])?;
    ensure!(driver.contains("CGROUPFS"), "{driver}");
    Ok(())
}

/// pull, images, inspecti, imagefsinfo, rmi.
fn images(crictl: &Crictl) -> Result<()> {
    let pulled = crictl.run(&["pull", BUSYBOX])?;
    ensure!(pulled.starts_with("Image is up to date for "), "{pulled}");
    crictl.run(&["pull", NGINX])?;
    let images = crictl.json(&["images", "-o", "json"])?;
    let tags: Vec<&Value> = images["images"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|i| &i["repoTags"][0])
        .collect();
    ensure!(
        tags.contains(&&json!(BUSYBOX)) && tags.contains(&&json!(NGINX)),
        "{images:#}"
    );
    let image = crictl.json(&["inspecti", NGINX])?;
    ensure!(image["status"]["repoTags"][0] == NGINX, "{image:#}");
    let file_system = crictl.json(&["imagefsinfo"])?;
    let used = &file_system["status"]["imageFilesystems"][0]["usedBytes"]["value"];
    ensure!(number(used) > 1_000_000, "{file_system:#}");

    let absent = crictl.try_run(&["pull", "registry.k8s.io/no-such-image:1"])?;
    ensure!(
        absent.code() != 0 && absent.stderr.contains("no-such-image"),
        "{absent:?}"
    );
    one_image_of_two_registries(crictl)?;
    crictl.run(&["pull", PAUSE])?;
    crictl.run(&["rmi", PAUSE])?;
    ensure!(!crictl.run(&["images"])?.contains("pause"), "rmi left it");
    Ok(())
}

/// The same image under another registry's name is the same image, with both names, and goes with both.
fn one_image_of_two_registries(crictl: &Crictl) -> Result<()> {
    let elsewhere = "k8s.gcr.io/pause:3.9";
    crictl.run(&["pull", PAUSE])?;
    crictl.run(&["pull", elsewhere])?;
    let [first, second] = [PAUSE, elsewhere].map(|name| crictl.json(&["inspecti", name]));
    let (first, second) = (first?["status"].take(), second?["status"].take());
    ensure!(first == second, "{first:#} {second:#}");
    for name in [PAUSE, elsewhere] {
        let tags = first["repoTags"].as_array().context("no tags")?;
        ensure!(tags.contains(&json!(name)), "{first:#}");
        let repository = name.trim_end_matches(":3.9");
        let digests = first["repoDigests"].as_array().context("no digests")?;
        let is_of_it = |digest: &&Value| {
            digest
                .as_str()
                .is_some_and(|d| d.starts_with(&format!("{repository}@sha256:")))
        };
        ensure!(digests.iter().any(|digest| is_of_it(&digest)), "{first:#}");
    }
    crictl.run(&["rmi", elsewhere])?;
    ensure!(!crictl.run(&["images"])?.contains("pause"), "rmi left a name");
    Ok(())
}

/// A pod, made and taken down by crictl.
struct Pod<'a> {
    crictl: &'a Crictl,
    /// The file that it was made from: crictl wants it for each container as well.
    config: String,
    sandbox: String,
}

/// runp, pods, inspectp, then what is done with containers, then stopp, rmp; events tell of it all.
fn a_pod(crictl: &Crictl) -> Result<()> {
    let events = Running::start(crictl.command(["events"]))?;
    let metadata = json!({"name": "web", "namespace": "crictl", "uid": "web-1"});
    let config = crictl.file(
        "pod.json",
        &json!({"metadata": metadata, "log_directory": crictl.directory.join("pod-logs"), "linux": {}}),
    )?;
    let sandbox = crictl.run(&["runp", &config])?;
    ensure!(crictl.run(&["pods", "--name", "web", "-q"])? == sandbox, "pods");
    let status = crictl.json(&["inspectp", &sandbox])?;
    ensure!(status["status"]["state"] == "SANDBOX_READY", "{status:#}");
    let address = status["status"]["network"]["ip"].as_str().context("no address")?;

    let pod = Pod {
        crictl,
        config,
        sandbox,
    };
    pod.a_server(address.parse()?)?;
    pod.a_terminal()?;
    pod.a_process()?;

    crictl.run(&["stopp", &pod.sandbox])?;
    crictl.run(&["rmp", &pod.sandbox])?;
    ensure!(crictl.run(&["pods", "-q"])?.is_empty(), "rmp left it");
    for kind in ["CREATED", "STARTED", "STOPPED", "DELETED"] {
        events.wait_for_output(&format!("CONTAINER_{kind}_EVENT"), QUICK)?;
    }
    events.signal(Signal::TERM)?;
    events.wait(QUICK)?;
    Ok(())
}

impl Pod<'_> {
    /// create, start.
    fn start(&self, name: &str, mut config: Value) -> Result<String> {
        config["metadata"] = json!({"name": name});
        config["log_path"] = json!(format!("{name}.log"));
        config["linux"] = json!({});
        let file = self.crictl.file(&format!("{name}.json"), &config)?;
        let id = self.crictl.run(&["create", &self.sandbox, &file, &self.config])?;
        self.crictl.run(&["start", &id])?;
        Ok(id)
    }

    /// ps, inspect, port-forward, stats, statsp.
    fn a_server(&self, address: IpAddr) -> Result<()> {
        let crictl = self.crictl;
        let web = self.start("web", json!({"image": {"image": NGINX}}))?;
        ensure!(crictl.run(&["ps", "-q", "--name", "web"])? == web, "ps");
        let status = crictl.json(&["inspect", &web])?;
        ensure!(status["status"]["state"] == "CONTAINER_RUNNING", "{status:#}");

        let get = |place: SocketAddr| http::get_until(place, "/", QUICK, |page| page.status == 200);
        get((address, 80).into())?;
        // Only now: crictl gives a forward up when one connection of it is refused.
        let ports = format!("{LOCAL_PORT}:80");
        let forward = Running::start(crictl.command(["port-forward", &self.sandbox, &ports]))?;
        forward.wait_for_output("Forwarding from", QUICK)?;
        get(([127, 0, 0, 1], LOCAL_PORT).into())?;
        forward.signal(Signal::TERM)?;
        forward.wait(QUICK)?;

        let stats = crictl.json(&["stats", "-o", "json", "--id", &web])?;
        let memory = &stats["stats"][0]["memory"]["workingSetBytes"]["value"];
        ensure!(number(memory) > 100_000, "{stats:#}");
        let stats = crictl.json(&["statsp", "-o", "json", "--id", &self.sandbox])?;
        ensure!(stats["stats"][0]["linux"]["cpu"].is_object(), "{stats:#}");
        Ok(())
    }

    /// attach, exec -it.
    fn a_terminal(&self) -> Result<()> {
        let image = json!({"image": BUSYBOX});
        let shell = self.start(
            "shell",
            json!({"image": image, "command": ["sh"], "stdin": true, "tty": true}),
        )?;
        let mut terminal = Running::start_on_terminal(self.crictl.command(["exec", "-it", &shell, "sh"]))?;
        terminal.write("test -t 0 && echo term\"inal\"\n")?;
        terminal.wait_for_output("terminal", QUICK)?;
        terminal.write("exit\n")?;
        ensure!(terminal.wait(QUICK)?.code() == 0, "exec -it");

        let mut attached = Running::start_on_terminal(self.crictl.command(["attach", "-it", &shell]))?;
        attached.write("echo att\"ached\"\n")?;
        attached.wait_for_output("attached", QUICK)?;
        attached.signal(Signal::TERM)?;
        attached.wait(QUICK)?;
        Ok(())
    }

    /// logs, exec, update, stop, rm.
    fn a_process(&self) -> Result<()> {
        let crictl = self.crictl;
        let script = "echo one; echo two >&2; exec sleep 1000";
        let image = json!({"image": BUSYBOX});
        let id = self.start("process", json!({"image": image, "command": ["sh", "-c", script]}))?;
        let follow = Running::start(crictl.command(["logs", "-f", &id]))?;
        follow.wait_for_output("one", QUICK)?;
        follow.wait_for_words("two", QUICK)?;

        ensure!(crictl.run(&["exec", "-s", &id, "echo", "sync"])? == "sync", "exec -s");
        for transport in ["spdy", "websocket"] {
            let said = crictl.run(&["exec", "--transport", transport, &id, "echo", "stream"])?;
            ensure!(said == "stream", "exec over {transport}: {said}");
        }
        let failed = crictl.try_run(&["exec", &id, "sh", "-c", "exit 7"])?;
        ensure!(
            failed.code() != 0 && failed.stderr.contains("exit code 7"),
            "{failed:?}"
        );

        crictl.run(&["update", "--cpu-share", "512", &id])?;
        let status = crictl.json(&["inspect", &id])?;
        ensure!(
            number(&status["status"]["resources"]["linux"]["cpuShares"]) == 512,
            "{status:#}"
        );

        crictl.run(&["stop", "--timeout", "0", &id])?;
        follow.wait(QUICK)?;
        crictl.run(&["rm", &id])?;
        ensure!(crictl.try_run(&["inspect", &id])?.code() != 0, "it is still there");
        Ok(())
    }
}

/// protobuf's JSON has large numbers as strings; what is none is 0.
fn number(value: &Value) -> u64 {
    value.as_str().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
