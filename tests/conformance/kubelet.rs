//! An unmodified kubelet without an API server: pods from a directory of manifests, on a daemon's socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cgroup::{Cgroup, Hierarchies};
use end_to_end::instance::{QUICK, condition, container};
use end_to_end::{Instance, Running, example, http};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::crictl::Crictl;
use crate::{Site, client, on_a_daemon};

/// kubelet calls a pod of its directory NAME-NODE.
const NODE: &str = "n1";
/// It finds its node's address on this link: a test's host has no other.
const LINK: &str = "node0";
const ADDRESS: &str = "10.99.0.1";
/// Its settings and its own status, without and with TLS.
const READ_ONLY_PORT: u16 = 10255;
const PORT: u16 = 10250;
/// What one thing may take: kubelet looks at its directory every second, and at its pods every ten.
const PATIENT: Duration = Duration::from_secs(300);
/// kubelet looks at its images when it starts, which is too early for its own idea of the disk, and five minutes later.
const COLLECTED: Duration = Duration::from_secs(600);
/// An image that no pod is of.
const UNUSED: &str = "registry.k8s.io/e2e-test-images/httpd:2.4.39-4";
/// A log is rotated at this size.
const LOG_BYTES: usize = 20 * 1024;

/// What the manifests below come to: an init container, probes, both hooks, a volume.
const PROBED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  terminationGracePeriodSeconds: 5
  volumes: [{name: shared, emptyDir: {}}]
  initContainers:
    - name: first
      image: localhost/hove/busybox:1
      imagePullPolicy: Never
      command: [sh, -c, 'echo page > /shared/index.html']
      volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
    - name: web
      image: localhost/hove/nginx:1
      imagePullPolicy: Never
      readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}
      livenessProbe: {exec: {command: [test, -e, /usr/share/nginx/html/index.html]}, periodSeconds: 1}
      lifecycle:
        postStart: {exec: {command: [sh, -c, 'echo started > /usr/share/nginx/html/hook']}}
        preStop: {exec: {command: [sh, -c, 'echo stopped > /proc/1/fd/1']}}
      volumeMounts: [{name: shared, mountPath: /usr/share/nginx/html}]
    - name: talker
      image: localhost/hove/busybox:1
      imagePullPolicy: Never
      command: [sh, -c, 'n=0; while :; do echo number $n; n=$((n + 1)); sleep 0.005; done']
"#;

#[test]
#[ignore = "needs kubelet: cargo xtask conformance --kubelet"]
fn kubelet_runs_its_pods() {
    on_a_daemon(|site| {
        site.node.import(&["busybox", "debian", "nginx"])?;
        let own = OwnPod::run(site)?;
        let mut kubelet = Kubelet::start(site)?;
        kubelet.add("probed", PROBED)?;
        kubelet.add("two-containers", &fs::read_to_string(example("two-containers"))?)?;
        kubelet.add("zombies", &fs::read_to_string(example("zombies"))?)?;
        come_up(&kubelet)?;
        kubelet_serves_logs_and_exec(&kubelet)?;
        a_killed_container_is_restarted_with_back_off(&kubelet)?;
        logs_are_rotated(&kubelet)?;
        nothing_restarts_with_the_managers(&mut kubelet, site)?;
        a_changed_manifest_changes_the_pod(&kubelet)?;
        images_are_collected_under_disk_pressure(&mut kubelet)?;
        neither_touches_the_others(&kubelet, own)?;

        for name in ["probed", "two-containers", "zombies"] {
            fs::remove_file(kubelet.manifest(name))?;
        }
        // It forgets a pod at once, stops it within its grace, and collects what is left of it once a minute.
        kubelet.wait("no pod is left", |pods| {
            pods.is_empty() && kubelet.crictl.run(&["pods", "-q"]).is_ok_and(|pods| pods.is_empty())
        })?;
        kubelet.end()
    });
}

/// A pod of the node's own, run by a person on the same daemon. Only it uses its image.
const OWN: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: own}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: registry.k8s.io/e2e-test-images/busybox:1.29-2
      imagePullPolicy: IfNotPresent
      command: [sh, -c, 'echo begun; exec sleep 100000']
"#;
const OWN_IMAGE: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";

struct OwnPod {
    node: Instance,
    command: Running,
    container: Value,
}

impl OwnPod {
    fn run(site: &Site<'_>) -> Result<OwnPod> {
        let manifest = site.host.manifest("own", OWN)?;
        let command = site.node.spawn(["run".as_ref(), manifest.as_os_str()])?;
        command.wait_for_output("begun", PATIENT)?;
        let pod = site.node.wait_for_pod("own", ready)?;
        Ok(OwnPod {
            node: site.node.clone(),
            command,
            container: container(&pod, "main").context("no container")?.clone(),
        })
    }
}

/// All that kubelet has done meanwhile, and the death of the daemon, went by the node's own pod; and when that ends, kubelet's
/// pods do not notice.
fn neither_touches_the_others(kubelet: &Kubelet, own: OwnPod) -> Result<()> {
    let pod = own.node.pod("own")?.context("the node's own pod is gone")?;
    let now = container(&pod, "main").context("no container")?;
    for field in ["containerID", "restartCount", "state", "ready"] {
        ensure!(now[field] == own.container[field], "{:#} became {now:#}", own.container);
    }
    ensure!(own.node.output(["exec", "own", "--", "echo", "still"])? == "still\n");
    let image = kubelet.crictl.json(&["inspecti", OWN_IMAGE])?;
    ensure!(image["status"]["pinned"] == true, "{image:#}");
    let seen = kubelet.pods()?;
    ensure!(
        seen.iter()
            .all(|pod| !pod["metadata"]["name"].to_string().contains("own")),
        "{seen:#?}"
    );
    let listed = kubelet.crictl.json(&["pods", "-o", "json"])?;
    let names: Vec<&Value> = listed["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pod| &pod["metadata"]["name"])
        .collect();
    ensure!(!names.is_empty() && !names.contains(&&json!("own")), "{listed:#}");
    let shown = own.node.output(["get", "pods"])?;
    ensure!(shown.contains("own") && !shown.contains("probed"), "{shown}");

    let before = identities(&kubelet.pods()?);
    own.command.signal(Signal::INT)?;
    own.command.wait(PATIENT)?;
    own.node.wait_for_pod_gone("own")?;
    kubelet.wait_for_pod("probed", ready)?;
    let after = identities(&kubelet.pods()?);
    ensure!(after == before, "{before:#?} became {after:#?}");
    Ok(())
}

fn ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True")
}

/// Init container, probes, hooks and volume do their work; a container that has ended is not started again.
fn come_up(kubelet: &Kubelet) -> Result<()> {
    kubelet.wait_for_pod("probed", ready)?;
    kubelet.wait_for_pod("zombies", |pod| pod["status"]["phase"] == "Succeeded")?;
    kubelet.wait_for_pod("two-containers", |pod| {
        let ended = container(pod, "debian-container");
        ended.is_some_and(|writer| writer["state"]["terminated"]["reason"] == "Completed")
    })?;
    let published = ([127, 0, 0, 1], 8880).into();
    http::get_until(published, "/", PATIENT, |page| {
        page.body.contains("Hello from the debian")
    })?;
    Ok(())
}

/// What `kubectl logs` and `kubectl exec` come to at kubelet's own port.
fn kubelet_serves_logs_and_exec(kubelet: &Kubelet) -> Result<()> {
    let logs = kubelet.ask("/containerLogs/default/zombies-n1/orphans", "GET")?;
    ensure!(logs.contains("10000 orphans made, 0 zombies left"), "{logs}");
    let said = kubelet.ask(
        "/run/default/probed-n1/web?cmd=cat%20/usr/share/nginx/html/hook",
        "POST",
    )?;
    ensure!(said == "started\n", "the hook after the start: {said:?}");
    Ok(())
}

fn a_killed_container_is_restarted_with_back_off(kubelet: &Kubelet) -> Result<()> {
    for round in 1..=2 {
        let pod = kubelet.wait_for_pod("probed", |pod| {
            container(pod, "talker").is_some_and(|talker| talker["state"]["running"].is_object())
        })?;
        kill_process(kubelet.process_of(&pod, "talker")?, Signal::KILL)?;
        if round == 2 {
            // In the pod's status this shows only if kubelet looks at the pod once more before the ten seconds are over.
            let process = kubelet.process.as_ref().context("kubelet does not run")?;
            process.wait_for_words("back-off 10s restarting failed container=talker", PATIENT)?;
        }
        kubelet.wait_for_pod("probed", |pod| {
            container(pod, "talker").is_some_and(|talker| talker["restartCount"] == round)
        })?;
    }
    Ok(())
}

/// Over a rotation, no line is missing or doubled.
fn logs_are_rotated(kubelet: &Kubelet) -> Result<()> {
    let pod = kubelet.wait_for_pod("probed", ready)?;
    let uid = pod["metadata"]["uid"].as_str().context("no uid")?;
    let folder = kubelet.logs().join(format!("default_probed-n1_{uid}/talker"));
    let deadline = Instant::now() + PATIENT;
    let (rotated, current) = loop {
        let mut files: Vec<PathBuf> = fs::read_dir(&folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        files.retain(|file| {
            file.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("2.log"))
        });
        files.retain(|file| {
            !file
                .extension()
                .is_some_and(|extension| extension == "gz" || extension == "tmp")
        });
        files.sort();
        // `2.log`, then `2.log.TIME`: the youngest of these comes before the first.
        if let [current, .., rotated] = files.as_slice() {
            break (rotated.clone(), current.clone());
        }
        ensure!(
            Instant::now() < deadline,
            "no rotation in {}: {files:?}",
            folder.display()
        );
        // kubelet looks at its logs every three seconds.
        std::thread::sleep(Duration::from_millis(100));
    };
    let before = fs::read_to_string(&rotated)?;
    ensure!(
        before.len() >= LOG_BYTES,
        "{} was rotated with {} bytes",
        rotated.display(),
        before.len()
    );
    let last = number(before.lines().next_back().unwrap_or_default())?;
    let after = fs::read_to_string(&current)?;
    let first = number(after.lines().next().unwrap_or_default())?;
    ensure!(first == last + 1, "{first} follows {last}");
    Ok(())
}

/// The number at a line's end.
fn number(line: &str) -> Result<u64> {
    let digits = line.rsplit(' ').next().unwrap_or_default();
    digits.parse().with_context(|| format!("line {line:?}"))
}

/// Which containers there are, and how often each was restarted.
fn identities(pods: &[Value]) -> Vec<String> {
    let statuses = pods
        .iter()
        .flat_map(|pod| pod["status"]["containerStatuses"].as_array());
    let mut identities: Vec<String> = statuses
        .flatten()
        .map(|status| {
            format!(
                "{} {} {}",
                status["name"], status["containerID"], status["restartCount"]
            )
        })
        .collect();
    identities.sort();
    identities
}

/// kubelet is restarted, and the daemon killed while there is no kubelet: the same containers run.
fn nothing_restarts_with_the_managers(kubelet: &mut Kubelet, site: &mut Site<'_>) -> Result<()> {
    let before = identities(&kubelet.pods()?);
    ensure!(before.len() == 5, "{before:#?}");
    kubelet.stop()?;
    site.replace_daemon()?;
    kubelet.run()?;
    kubelet.wait(&format!("the same containers are there: {before:#?}"), |pods| {
        identities(pods) == before
    })?;
    kubelet.wait_for_pod("probed", ready)?;
    let after = identities(&kubelet.pods()?);
    ensure!(after == before, "{before:#?} became {after:#?}");
    Ok(())
}

fn a_changed_manifest_changes_the_pod(kubelet: &Kubelet) -> Result<()> {
    let uid = |pod: &Value| pod["metadata"]["uid"].clone();
    let before = kubelet.wait_for_pod("probed", |_| true)?;
    kubelet.add("probed", &PROBED.replace("sleep 0.005", "sleep 1"))?;
    kubelet.wait_for_pod("probed", |pod| uid(pod) != uid(&before) && ready(pod))?;
    Ok(())
}

/// With a threshold that any disk is above, kubelet removes what no container uses, when it starts and every five minutes.
fn images_are_collected_under_disk_pressure(kubelet: &mut Kubelet) -> Result<()> {
    let images = |kubelet: &Kubelet| -> Result<Vec<Value>> {
        let list = kubelet.crictl.json(&["images", "-o", "json"])?;
        Ok(list["images"].as_array().cloned().unwrap_or_default())
    };
    let before = images(kubelet)?;
    kubelet.crictl.run(&["pull", UNUSED])?;
    ensure!(images(kubelet)?.len() == before.len() + 1, "{before:#?}");

    kubelet.stop()?;
    kubelet.configure(json!({
        "imageGCHighThresholdPercent": 1,
        "imageGCLowThresholdPercent": 0,
        // 0 would mean two minutes.
        "imageMinimumGCAge": "1ns",
    }))?;
    kubelet.run()?;
    kubelet.wait_within(COLLECTED, &format!("{UNUSED} is collected"), |_| {
        images(kubelet).is_ok_and(|now| now.len() <= before.len())
    })?;
    let after = images(kubelet)?;
    ensure!(after == before, "{before:#?} became {after:#?}");
    kubelet.wait_for_pod("probed", ready)?;
    Ok(())
}

/// A kubelet, and what it needs to find on its machine.
struct Kubelet {
    directory: PathBuf,
    configuration: Value,
    crictl: Crictl,
    process: Option<Running>,
    cgroups: Cgroups,
    _tunables: Tunables,
}

impl Kubelet {
    fn start(site: &Site<'_>) -> Result<Kubelet> {
        let directory = site.host.directory().join("kubelet");
        for folder in ["manifests", "root", "logs"] {
            fs::create_dir_all(directory.join(folder))?;
        }
        // For the links in /var/log/containers, which has no setting.
        rustix::mount::mount(
            "tmpfs",
            "/var/log",
            "tmpfs",
            MountFlags::empty(),
            None::<&std::ffi::CStr>,
        )
        .context("mount tmpfs on /var/log")?;
        for arguments in [
            format!("link add {LINK} type veth peer name peer0"),
            format!("address add {ADDRESS}/24 dev {LINK}"),
            format!("link set {LINK} up"),
            format!("route add default dev {LINK}"),
        ] {
            output(Command::new("ip").args(arguments.split(' ')))?;
        }
        let cgroups = Cgroups::make(format!("/hove-kubelet-{}", std::process::id()))?;
        let configuration = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": site.endpoint,
            "staticPodPath": directory.join("manifests"),
            "fileCheckFrequency": "1s",
            "podLogsDir": directory.join("logs"),
            "containerLogMaxSize": LOG_BYTES.to_string(),
            "containerLogMonitorInterval": "3s",
            "volumePluginDir": directory.join("plugins"),
            "failCgroupV1": false,
            "failSwapOn": false,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroups.path,
            "enforceNodeAllocatable": [],
            "enableControllerAttachDetach": false,
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "port": PORT,
            "readOnlyPort": READ_ONLY_PORT,
            // The machine's disk is not this test's: at first, nothing is collected.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "10Mi"},
        });
        let mut kubelet = Kubelet {
            directory,
            configuration,
            crictl: Crictl::new(site)?,
            process: None,
            cgroups,
            _tunables: Tunables::keep()?,
        };
        kubelet.configure(json!({}))?;
        kubelet.run()?;
        Ok(kubelet)
    }

    /// What its next start goes by: these settings, the others as before.
    fn configure(&mut self, settings: Value) -> Result<()> {
        for (name, value) in settings.as_object().into_iter().flatten() {
            self.configuration[name] = value.clone();
        }
        let file = self.directory.join("config.json");
        fs::write(file, self.configuration.to_string()).context("its configuration")
    }

    fn run(&mut self) -> Result<()> {
        let mut command = Command::new(client("kubelet"));
        command
            .arg("--config")
            .arg(self.directory.join("config.json"))
            .arg("--root-dir")
            .arg(self.directory.join("root"))
            .arg("--cert-dir")
            .arg(self.directory.join("pki"))
            .args(["--hostname-override", NODE, "--node-ip", ADDRESS])
            .current_dir(&self.directory);
        self.process = Some(Running::start(command)?);
        self.wait("kubelet answers", |_| true)
    }

    fn stop(&mut self) -> Result<()> {
        let process = self.process.take().context("kubelet does not run")?;
        process.signal(Signal::TERM)?;
        process.wait(PATIENT)?;
        Ok(())
    }

    /// Ends it, and removes what it does not remove by itself: it would find all of it again.
    fn end(mut self) -> Result<()> {
        self.stop()?;
        rustix::mount::unmount(self.directory.join("root"), UnmountFlags::empty()).context("its root")?;
        for family in ["ip", "ip6"] {
            for table in ["filter", "mangle", "nat"] {
                output(Command::new("nft").args(["delete", "table", family, table]))?;
            }
        }
        output(Command::new("ip").args(["link", "delete", LINK]))?;
        self.cgroups.remove()
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.directory.join("manifests").join(format!("{name}.yaml"))
    }

    fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }

    fn add(&self, name: &str, manifest: &str) -> Result<()> {
        let new = self.directory.join("new.yaml");
        fs::write(&new, manifest)?;
        Ok(fs::rename(new, self.manifest(name))?)
    }

    /// Its pods, as it sees them.
    fn pods(&self) -> Result<Vec<Value>> {
        let answer = http::get(([127, 0, 0, 1], READ_ONLY_PORT).into(), "/pods", QUICK)?;
        let list: Value = serde_json::from_str(&answer.body).with_context(|| format!("{answer:?}"))?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    fn wait(&self, what: &str, accept: impl Fn(&[Value]) -> bool) -> Result<()> {
        self.wait_within(PATIENT, what, accept)
    }

    fn wait_within(&self, limit: Duration, what: &str, accept: impl Fn(&[Value]) -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            match self.pods() {
                Ok(pods) if accept(&pods) => return Ok(()),
                // It serves no watch.
                _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(100)),
                outcome => bail!("not within {limit:?}: {what}\n{outcome:#?}\n{}", self.said()),
            }
        }
    }

    fn wait_for_pod(&self, name: &str, accept: impl Fn(&Value) -> bool) -> Result<Value> {
        let name = format!("{name}-{NODE}");
        let is_meant = |pod: &&Value| pod["metadata"]["name"] == *name;
        self.wait(&name, |pods| pods.iter().find(is_meant).is_some_and(&accept))?;
        let pods = self.pods()?;
        pods.iter()
            .find(is_meant)
            .cloned()
            .with_context(|| format!("{name} is gone"))
    }

    /// A container's first process.
    fn process_of(&self, pod: &Value, name: &str) -> Result<Pid> {
        let id = container(pod, name).and_then(|status| status["containerID"].as_str());
        let id = id.and_then(|id| id.strip_prefix("hove://")).context("no container")?;
        let pid = self.crictl.json(&["inspect", id])?["info"]["pid"].as_i64();
        let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        pid.with_context(|| format!("no process of {id}"))
    }

    /// The answer of its port with TLS.
    fn ask(&self, path: &str, method: &str) -> Result<String> {
        let url = format!("https://127.0.0.1:{PORT}{path}");
        output(Command::new("curl").args([
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--insecure",
            "-X",
            method,
            &url,
        ]))
    }

    fn said(&self) -> String {
        let said = self.process.as_ref().map(|process| process.words()).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

/// Standard output of a command that must succeed.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let (said, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "{command:?}: {said}{error}");
    Ok(said.into_owned())
}

/// A cgroup in each hierarchy, for kubelet to make its own below.
struct Cgroups {
    path: String,
}

impl Cgroups {
    fn make(path: String) -> Result<Cgroups> {
        for hierarchy in inspect::cgroup::hierarchies()? {
            let directory = hierarchy.path.join(path.trim_start_matches('/'));
            fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        }
        Ok(Cgroups { path })
    }

    /// Fails when a process is left in one of them.
    fn remove(&self) -> Result<()> {
        for cgroup in inspect::cgroup::below(&self.path)?.iter().rev() {
            fs::remove_dir(cgroup).with_context(|| cgroup.display().to_string())?;
        }
        Ok(())
    }
}

impl Drop for Cgroups {
    /// After a failure there may still be pods.
    fn drop(&mut self) {
        let cgroup = Hierarchies::detect().and_then(|hierarchies| Cgroup::open(&hierarchies, &self.path));
        if let Ok(cgroup) = cgroup {
            let _ = cgroup.kill().and_then(|()| cgroup.remove());
        }
    }
}

/// What kubelet sets for the whole machine, to be as it was in the end.
struct Tunables(Vec<(&'static Path, String)>);

impl Tunables {
    fn keep() -> Result<Tunables> {
        let names = [
            "vm/overcommit_memory",
            "vm/panic_on_oom",
            "kernel/panic",
            "kernel/panic_on_oops",
        ];
        let keep = |name: &'static str| Ok((Path::new(name), fs::read_to_string(Path::new("/proc/sys").join(name))?));
        Ok(Tunables(names.into_iter().map(keep).collect::<Result<_>>()?))
    }
}

impl Drop for Tunables {
    fn drop(&mut self) {
        for (name, value) in &self.0 {
            let _ = fs::write(Path::new("/proc/sys").join(name), value);
        }
    }
}
