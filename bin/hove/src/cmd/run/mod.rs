//! `hove run`: a pod in front of you.
//!
//! - [`screen`]: progress on standard error, output on standard output, and neither in the other's way.
//! - [`follow`]: each container's output, from its start to its end.

mod follow;
mod screen;

use std::{
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use http::Method;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Event, Pod};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{follow::Followers, screen::Screen};
use super::{delete, manifest};
use crate::{
    args::Run,
    client::{Client, Lines, path, segment},
    config::Settings,
    node_api::{self, Line, LineKind},
    reach, terminal, view,
};

/// How many nodes may end within [`LOST_WITHIN`] before the command gives up: one that dies of this pod would be started for ever.
const LOST_MAX: usize = 3;
const LOST_WITHIN: Duration = Duration::from_secs(60);
/// How long a warning is kept back that the pod may turn out to end of: its status comes in milliseconds.
const UNSAID_MAX: Duration = Duration::from_millis(500);

pub async fn run(settings: Settings, args: Run) -> Result<ExitCode> {
    let pod = read(&args.file)?;
    let namespace = pod.metadata.namespace.clone().unwrap_or(args.namespace);
    let screen = Arc::new(Screen::new());
    screen.step("reaching the node");
    let client = reach::node(&settings).await?;
    // Before the pod is made: from here on Ctrl-C takes it down.
    let signals = Signals::new()?;
    let query = if args.detach {
        vec![("lease", "false".to_owned())]
    } else {
        Vec::new()
    };
    let base = format!("{}/namespaces/{}/runs", node_api::BASE, segment(&namespace));
    let lines = client
        .lines(Method::POST, &path(&base, &query), serde_json::to_vec(&pod)?.into())
        .await;
    let lines = match lines {
        Ok(lines) => lines,
        Err(error) => {
            screen.clear();
            bail!(error);
        }
    };
    let followers = Followers::new(client.clone(), namespace.clone(), &pod, screen.clone());
    let mut session = Session {
        settings,
        client,
        namespace,
        name: String::new(),
        screen,
        followers,
        last: pod,
        ending: Ending::None,
        is_leased: !args.detach,
        begin: Instant::now(),
        before_ms: 0,
        nodes_lost: Vec::new(),
        unsaid: None,
    };
    let outcome = session.watch(lines, signals, args.detach).await;
    session.screen.clear();
    outcome
}

/// The one pod of a file.
fn read(file: &Path) -> Result<Pod> {
    let mut pods = manifest::read(file)?;
    match pods.len() {
        1 => Ok(pods.remove(0)),
        count => bail!(
            "{}: has {count} pods; `hove run` takes a file with one",
            manifest::name(file)
        ),
    }
}

/// Why the pod is being taken down.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    /// It is not.
    None,
    /// Its sandbox can't be made, for this reason. A node goes on trying, since a cluster's may be mended meanwhile; a person
    /// who waits in front of it is better served by the error.
    NoSandbox(String),
    /// All its containers have ended and none will be started again.
    Finished,
    /// Its output can't be written, and who asked for it in front of them is not served by a pod that runs unseen.
    NoOutput,
    /// A signal came: the exit code is 128 and its number, as a shell has it.
    Signal(u8),
}

struct Session {
    settings: Settings,
    client: Client,
    namespace: String,
    name: String,
    screen: Arc<Screen>,
    followers: Followers,
    last: Pod,
    ending: Ending,
    /// The pod ends with this command.
    is_leased: bool,
    begin: Instant,
    /// What went by before the present node's clock began.
    before_ms: u64,
    /// When nodes have ended of late.
    nodes_lost: Vec<Instant>,
    /// A warning that is not shown yet: if it is what the pod ends of, the error says it.
    unsaid: Option<(u64, String)>,
}

impl Session {
    /// Until the pod is gone; detached: until it runs.
    async fn watch(&mut self, mut lines: Lines, mut signals: Signals, detach: bool) -> Result<ExitCode> {
        let mut told = Start::Coming;
        loop {
            let line = tokio::select! {
                // A broken connection and an answer that ends are the same: only the node's end does it.
                line = lines.next() => line.unwrap_or_default(),
                // Before the pod has its name there is nothing to take down; a signal that comes so early waits.
                number = signals.next(), if !self.name.is_empty() => {
                    self.interrupted(number).await?;
                    continue;
                }
                // What it could be the reason of has not come: it is news of its own.
                () = tokio::time::sleep(UNSAID_MAX), if self.unsaid.is_some() => {
                    self.say_unsaid();
                    continue;
                }
                () = self.screen.output_failed() => {
                    if self.ending == Ending::None {
                        self.ending = Ending::NoOutput;
                        self.take_down(None).await?;
                    }
                    continue;
                }
            };
            let Some(line) = line else {
                if detach || self.name.is_empty() {
                    bail!(self.node_ended());
                }
                match self.next_node().await? {
                    Some(again) => lines = again,
                    None => return self.gone().await,
                }
                continue;
            };
            if line.is_empty() {
                continue;
            }
            let Line {
                kind,
                elapsed_ms,
                object,
            } = serde_json::from_slice(&line)?;
            let elapsed_ms = self.before_ms + elapsed_ms;
            match kind {
                LineKind::Event => {
                    let event: Event = serde_json::from_value(object)?;
                    let warning = event.type_.as_deref() == Some("Warning");
                    let message = event.message.unwrap_or_default();
                    self.say_unsaid();
                    if warning {
                        self.unsaid = Some((elapsed_ms, message));
                    } else {
                        self.screen.event(elapsed_ms, false, &message);
                    }
                }
                LineKind::Gone => return self.gone().await,
                LineKind::Pod => {
                    self.last = serde_json::from_value(object)?;
                    self.name = self.last.metadata.name.clone().unwrap_or_default();
                    if !detach {
                        self.followers.look(&self.last);
                    }
                    if told == Start::Coming
                        && self.ending == Ending::None
                        && let Some(why) = no_sandbox(&self.last)
                    {
                        self.unsaid.take_if(|(_, warning)| why.starts_with(warning.as_str()));
                        self.ending = Ending::NoSandbox(why);
                        self.take_down(Some(0)).await?;
                    }
                    let start = Start::of(&self.last);
                    let is_over = matches!(view::phase(&self.last), "Succeeded" | "Failed");
                    if start != Start::Coming || is_over {
                        self.say_unsaid();
                    }
                    if start != told && told != Start::Up && self.ending == Ending::None {
                        match &start {
                            Start::Coming => {}
                            Start::Up => {
                                self.screen.up(elapsed_ms, &summary(&self.last, detach));
                                if detach {
                                    return Ok(ExitCode::SUCCESS);
                                }
                            }
                            // How a pod ended that is over is told in the end.
                            Start::Lacking(_) if is_over => {}
                            Start::Lacking(missing) if detach => bail!(self.lacking(missing)),
                            Start::Lacking(missing) => self.screen.up(elapsed_ms, &self.lacking(missing)),
                        }
                        if start != Start::Coming {
                            told = start;
                        }
                    }
                    if matches!(view::phase(&self.last), "Succeeded" | "Failed") {
                        if detach && self.ending == Ending::None {
                            return Ok(self.verdict());
                        }
                        self.finished().await?;
                    }
                }
            }
        }
    }

    fn say_unsaid(&mut self) {
        if let Some((elapsed_ms, warning)) = self.unsaid.take() {
            self.screen.event(elapsed_ms, true, &warning);
        }
    }

    /// A pod whose containers were all started or tried, and some could not be.
    fn lacking(&self, missing: &[String]) -> String {
        let (name, namespace) = (&self.name, &self.namespace);
        let missing = missing.join(", ");
        let mut states = view::container_statuses(&self.last)
            .iter()
            .filter_map(|status| status.state.as_ref());
        let mut text = match states.any(|state| state.running.is_some()) {
            true => format!("pod {name} runs without {missing}, which could not be started"),
            false => format!("pod {name} is not up: {missing} could not be started"),
        };
        let policy = self.last.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        if policy != Some("Never") {
            text.push_str("; it is tried again");
        }
        text.push_str(&match self.is_leased {
            true => "; Ctrl-C takes the pod down".to_owned(),
            false => format!(
                "; `hove describe pod -n {namespace} {name}` shows it, `hove delete pod -n {namespace} {name}` takes it down"
            ),
        });
        text
    }

    /// The node has ended and the pod goes on: takes the pod's lease again at the next node. `None`: the pod is gone.
    async fn next_node(&mut self) -> Result<Option<Lines>> {
        self.nodes_lost.retain(|lost| lost.elapsed() < LOST_WITHIN);
        self.nodes_lost.push(Instant::now());
        if self.nodes_lost.len() > LOST_MAX {
            bail!(
                "{} nodes have ended within {LOST_WITHIN:?}: {}",
                self.nodes_lost.len(),
                self.node_ended()
            );
        }
        self.screen.say(&format!(
            "the node has ended, pod {} goes on; reaching for the next node",
            self.name
        ));
        self.screen.step("reaching the node");
        self.followers.node_ended().await;
        self.client = reach::next_node(&self.settings)
            .await
            .with_context(|| self.node_ended())?;
        let uid = self.last.metadata.uid.clone().unwrap_or_default();
        let (namespace, name) = (segment(&self.namespace), segment(&self.name));
        let base = format!("{}/namespaces/{namespace}/runs/{name}", node_api::BASE);
        let lines = self
            .client
            .lines(Method::POST, &path(&base, &[("uid", uid)]), bytes::Bytes::new())
            .await;
        self.before_ms = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        match lines {
            Ok(lines) => {
                self.screen.say(&format!("the next node has pod {}", self.name));
                if self.ending != Ending::None {
                    // The former node may not have heard of it.
                    self.take_down(None).await?;
                }
                Ok(Some(lines))
            }
            Err(crate::client::Error::Refused { reason, .. }) if reason == "NotFound" => Ok(None),
            Err(error) => Err(anyhow::Error::new(error).context(self.node_ended())),
        }
    }

    /// The pod goes on without its node, and this command gives up.
    fn node_ended(&self) -> String {
        let (name, namespace) = (&self.name, &self.namespace);
        if self.is_leased {
            let patience = node_api::RETURN_TIMEOUT;
            return format!(
                "the node has ended; pod {name} goes on until there is one again, which takes it down {patience:?} later: \
                 `hove delete pod -n {namespace} {name}` starts one and takes it down at once"
            );
        }
        format!(
            "the node has ended; pod {name} goes on: `hove get pods -n {namespace}` starts a node that finds it again, \
             `hove delete pod -n {namespace} {name}` takes it down"
        )
    }

    /// The pod has done its work.
    async fn finished(&mut self) -> Result<()> {
        if self.ending != Ending::None {
            return Ok(());
        }
        self.ending = Ending::Finished;
        self.screen.step("taking the pod down");
        self.take_down(None).await
    }

    /// The first signal takes the pod down within its grace period, the second at once.
    async fn interrupted(&mut self, number: u8) -> Result<()> {
        let again = matches!(self.ending, Ending::Signal(_));
        self.ending = Ending::Signal(number);
        if again {
            self.screen.say("killing the containers");
            return self.take_down(Some(0)).await;
        }
        let grace = self
            .last
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds)
            .unwrap_or(30);
        self.screen.say(&format!(
            "taking {} down; its containers have {grace} s to end in (Ctrl-C again: kill them now)",
            self.name
        ));
        self.screen.step("taking the pod down");
        self.take_down(None).await
    }

    async fn take_down(&self, grace: Option<u32>) -> Result<()> {
        match delete::mark(&self.client, &self.namespace, &self.name, grace).await {
            Ok(_) => Ok(()),
            Err(crate::client::Error::Refused { reason, .. }) if reason == "NotFound" => Ok(()),
            // The node has ended, which the pod's connection tells as well: the next node is asked again.
            Err(crate::client::Error::NoNode(_) | crate::client::Error::Broken(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The pod is gone: what is left of its output, and what came of it.
    async fn gone(&mut self) -> Result<ExitCode> {
        self.say_unsaid();
        self.followers.finish().await;
        self.screen.clear();
        if let Some(failure) = self.screen.take_failure() {
            let why = format!("pod {} was taken down, since its output can't be written", self.name);
            return Err(anyhow::Error::new(failure).context(why));
        }
        match &self.ending {
            Ending::Signal(number) => {
                terminal::note(format!("{} is gone", self.name));
                Ok(ExitCode::from(128 + number))
            }
            Ending::NoSandbox(why) => bail!("pod {} could not be started and was taken down: {why}", self.name),
            Ending::Finished | Ending::NoOutput => Ok(self.verdict()),
            Ending::None => {
                terminal::note(format!("{} was deleted by somebody else", self.name));
                Ok(ExitCode::FAILURE)
            }
        }
    }

    /// The pod's own exit code.
    fn verdict(&self) -> ExitCode {
        if view::phase(&self.last) == "Succeeded" {
            return ExitCode::SUCCESS;
        }
        self.screen.clear();
        for reason in failures(&self.last) {
            terminal::note(reason);
        }
        ExitCode::FAILURE
    }
}

/// How far a pod's start is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Start {
    /// Containers are still to be started.
    Coming,
    /// All were started: those that are done already count.
    Up,
    /// All were tried, and these could not be started.
    Lacking(Vec<String>),
}

impl Start {
    fn of(pod: &Pod) -> Start {
        let wanted = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
        let statuses = view::container_statuses(pod);
        if statuses.len() != wanted || statuses.iter().any(is_coming) {
            return Start::Coming;
        }
        let missing = statuses.iter().filter(|status| could_not_start(status));
        let missing: Vec<_> = missing.map(|status| format!("container {}", status.name)).collect();
        if missing.is_empty() {
            Start::Up
        } else {
            Start::Lacking(missing)
        }
    }
}

/// Whether a container waits for its first start.
fn is_coming(status: &ContainerStatus) -> bool {
    let Some(state) = &status.state else { return true };
    let reason = state.waiting.as_ref().map(|waiting| waiting.reason.as_deref());
    matches!(reason, Some(None | Some("ContainerCreating" | "PodInitializing")))
}

/// Whether the last attempt to start a container failed, as opposed to the container.
fn could_not_start(status: &ContainerStatus) -> bool {
    let Some(state) = &status.state else { return false };
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    match (&state.waiting, &state.terminated) {
        (Some(waiting), _) if waiting.reason.as_deref() == Some("CrashLoopBackOff") => {
            last.is_some_and(was_not_started)
        }
        (Some(_), _) => true,
        (None, Some(end)) => was_not_started(end),
        (None, None) => false,
    }
}

/// A container that ended without ever having run.
fn was_not_started(end: &ContainerStateTerminated) -> bool {
    end.reason.as_deref() == Some("StartError")
}

/// Why a pod's sandbox, or what it needs, can't be made. The node goes on trying, and says this of the pod meanwhile.
fn no_sandbox(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref().filter(|_| view::phase(pod) == "Pending")?;
    status.reason.as_ref()?;
    Some(status.message.clone().unwrap_or_default())
}

fn summary(pod: &Pod, detach: bool) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut text = format!("pod {name} is up");
    if let Some(ip) = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()) {
        text.push_str(&format!(" at {ip}"));
    }
    let containers = pod.spec.as_ref().map(|spec| &spec.containers[..]).unwrap_or_default();
    let ports = containers.iter().flat_map(|container| container.ports.iter().flatten());
    for (host, inside) in ports.filter_map(|port| Some((port.host_port?, port.container_port))) {
        text.push_str(&format!(", host port {host} -> {inside}"));
    }
    if !detach {
        text.push_str("; Ctrl-C takes it down");
    }
    text
}

/// What each container that failed says of itself.
fn failures(pod: &Pod) -> Vec<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let mut lines = Vec::new();
    let why: Vec<_> = [status.reason, status.message]
        .into_iter()
        .flatten()
        .filter(|text| !text.is_empty())
        .collect();
    lines.push(match why.is_empty() {
        true => format!("pod {name} failed"),
        false => format!("pod {name} failed: {}", why.join(": ")),
    });
    for status in view::init_statuses(pod).iter().chain(view::container_statuses(pod)) {
        let end = status.state.as_ref().and_then(|state| state.terminated.as_ref());
        if let Some(end) = end.filter(|end| end.exit_code != 0) {
            let message = end.message.as_deref().filter(|text| !text.is_empty());
            let message = message.map(|text| format!(": {text}")).unwrap_or_default();
            lines.push(if was_not_started(end) {
                format!("container {} could not be started{message}", status.name)
            } else {
                let (name, code, word) = (&status.name, end.exit_code, view::end_word(end));
                format!("container {name} ended with exit code {code} ({word}){message}")
            });
        }
    }
    lines
}

/// The signals that end a command.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The number of the next.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
            _ = self.hangup.recv() => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: serde_json::Value) -> Pod {
        let spec = json!({"containers": [{"name": "web", "ports": [{"containerPort": 80, "hostPort": 8001}]}]});
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": status})).unwrap()
    }

    fn container(state: serde_json::Value) -> serde_json::Value {
        json!({"name": "web", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state})
    }

    #[test]
    fn up_is_when_every_container_was_started() {
        let lacking = || Start::Lacking(vec!["container web".into()]);
        for (state, expected) in [
            (json!({"waiting": {}}), Start::Coming),
            (json!({"waiting": {"reason": "ContainerCreating"}}), Start::Coming),
            (json!({"waiting": {"reason": "CreateContainerError"}}), lacking()),
            (json!({"running": {}}), Start::Up),
            (json!({"terminated": {"exitCode": 0}}), Start::Up),
            (
                json!({"terminated": {"exitCode": 128, "reason": "StartError"}}),
                lacking(),
            ),
        ] {
            let status = json!({"containerStatuses": [container(state.clone())]});
            assert_eq!(Start::of(&pod(status)), expected, "{state}");
        }
        assert_eq!(Start::of(&pod(json!({}))), Start::Coming);
        let mut backing_off = container(json!({"waiting": {"reason": "CrashLoopBackOff"}}));
        for (reason, expected) in [("Error", Start::Up), ("StartError", lacking())] {
            backing_off["lastState"] = json!({"terminated": {"exitCode": 1, "reason": reason}});
            assert_eq!(Start::of(&pod(json!({"containerStatuses": [backing_off]}))), expected);
        }
    }

    #[test]
    fn a_pending_pod_says_why_it_has_no_sandbox() {
        let failed = json!({"phase": "Pending", "reason": "FailedCreatePodSandBox", "message": "no address is free"});
        assert_eq!(no_sandbox(&pod(failed)).as_deref(), Some("no address is free"));
        assert_eq!(no_sandbox(&pod(json!({"phase": "Pending"}))), None);
        assert_eq!(no_sandbox(&pod(json!({"phase": "Failed", "reason": "Evicted"}))), None);
    }

    #[test]
    fn the_summary_says_where() {
        let text = summary(&pod(json!({"podIP": "10.85.0.2"})), false);
        assert_eq!(
            text,
            "pod p is up at 10.85.0.2, host port 8001 -> 80; Ctrl-C takes it down"
        );
    }

    #[test]
    fn failures_say_which_container_and_why() {
        let status = json!({"phase": "Failed", "containerStatuses": [container(json!({"terminated": {"exitCode": 3, "reason": "Error"}}))]});
        assert_eq!(
            failures(&pod(status)),
            ["pod p failed", "container web ended with exit code 3 (Error)"]
        );
    }

    #[test]
    fn a_file_has_one_pod() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pod.yaml");
        let one = "apiVersion: v1\nkind: Pod\nmetadata: {name: NAME}\nspec: {containers: [{name: c, image: i}]}\n";
        std::fs::write(&file, one.replace("NAME", "a")).unwrap();
        assert_eq!(read(&file).unwrap().metadata.name.as_deref(), Some("a"));
        std::fs::write(
            &file,
            format!("{}---\n{}", one.replace("NAME", "a"), one.replace("NAME", "b")),
        )
        .unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("has 2 pods"));
    }
}
