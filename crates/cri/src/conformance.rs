//! What the interface asks of any implementation, in process or behind a socket. (Feature `conformance`.)
//!
//! [`run`] puts a [`Subject`] through every case and answers with the failures. A case makes its own sandboxes, under
//! names that no other case uses, and removes them.

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

mod image_volumes;
mod metrics;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use crate::v1::*;
use crate::{ErrorKind, ImageService, Result, RuntimeService};
use image_volumes::{
    a_part_of_an_image_is_a_volume, an_image_is_a_read_only_volume, an_image_volume_that_can_not_be_is_refused,
};
use metrics::metrics_are_described_and_have_values;

/// How long a container that has nothing to do may take to end.
const END_LIMIT: Duration = Duration::from_secs(30);

/// The pause between two looks at a container's state: the suite can't rely on events, which are optional.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// An implementation, and what the suite may use of it.
#[derive(Clone)]
pub struct Subject {
    /// The runtime service.
    pub runtime: Arc<dyn RuntimeService>,
    /// The image service.
    pub images: Arc<dyn ImageService>,
    /// An image on the node with /bin/sh, sleep and cat.
    pub image: String,
    /// A directory for logs, on the node and readable here.
    pub logs: PathBuf,
}

type Outcome = std::result::Result<(), String>;
type Case = (&'static str, for<'a> fn(&'a Subject) -> BoxFuture<'a, Outcome>);

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        &[$((stringify!($name), |subject| Box::pin($name(subject)))),*]
    };
}

/// Every case, in the order in which [`run`] takes them.
const CASES: &[Case] = cases![
    it_says_what_it_is,
    what_is_not_there,
    a_sandbox_lives_and_is_removed,
    a_name_means_one_sandbox,
    a_container_lives_once,
    a_container_is_killed_after_its_grace,
    exec_sync_answers_with_the_output,
    an_image_has_one_id,
    an_image_is_a_read_only_volume,
    a_part_of_an_image_is_a_volume,
    an_image_volume_that_can_not_be_is_refused,
    metrics_are_described_and_have_values,
    streams_are_lists,
];

/// Puts `subject` through every case; the names of those that failed, and why.
pub async fn run(subject: &Subject) -> Vec<(&'static str, String)> {
    let mut failures = Vec::new();
    for (name, case) in CASES {
        if let Err(why) = case(subject).await {
            failures.push((*name, why));
        }
    }
    failures
}

async fn it_says_what_it_is(s: &Subject) -> Outcome {
    let version = said(s.runtime.version(VersionRequest::default()).await)?;
    ensure!(
        version.runtime_api_version == "v1",
        "runtime_api_version is {:?}",
        version.runtime_api_version
    );
    ensure!(!version.runtime_name.is_empty(), "the runtime has no name");
    let status = said(s.runtime.status(StatusRequest::default()).await)?;
    let conditions = status.status.unwrap_or_default().conditions;
    for kind in ["RuntimeReady", "NetworkReady"] {
        ensure!(
            conditions.iter().any(|c| c.r#type == kind && c.status),
            "{kind} is not true: {conditions:?}"
        );
    }
    ensure!(
        status.runtime_handlers.iter().any(|h| h.name.is_empty()),
        "the default handler is not listed"
    );
    Ok(())
}

/// Stopping and removing what is not there succeeds; asking about it is NotFound; an image is simply absent.
async fn what_is_not_there(s: &Subject) -> Outcome {
    let id = || "0123456789abcdef0123456789abcdef".to_owned();
    said(
        s.runtime
            .stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id() })
            .await,
    )?;
    said(
        s.runtime
            .remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id() })
            .await,
    )?;
    said(
        s.runtime
            .stop_container(StopContainerRequest {
                container_id: id(),
                timeout: 1,
            })
            .await,
    )?;
    said(
        s.runtime
            .remove_container(RemoveContainerRequest { container_id: id() })
            .await,
    )?;
    let status = PodSandboxStatusRequest {
        pod_sandbox_id: id(),
        verbose: false,
    };
    refused(s.runtime.pod_sandbox_status(status).await, ErrorKind::NotFound)?;
    let status = ContainerStatusRequest {
        container_id: id(),
        verbose: false,
    };
    refused(s.runtime.container_status(status).await, ErrorKind::NotFound)?;
    refused(s.start(&id()).await, ErrorKind::NotFound)?;
    let exec = ExecSyncRequest {
        container_id: id(),
        cmd: vec!["true".into()],
        timeout: 1,
    };
    refused(s.runtime.exec_sync(exec).await, ErrorKind::NotFound)?;

    let image = || {
        Some(ImageSpec {
            image: "conformance.invalid/nothing:none".into(),
            ..Default::default()
        })
    };
    let status = s
        .images
        .image_status(ImageStatusRequest {
            image: image(),
            verbose: false,
        })
        .await;
    ensure!(said(status)?.image.is_none(), "an image that is not there has a status");
    said(s.images.remove_image(RemoveImageRequest { image: image() }).await)?;
    Ok(())
}

async fn a_sandbox_lives_and_is_removed(s: &Subject) -> Outcome {
    let config = s.sandbox("life");
    let id = said(s.run(&config).await)?;
    let status = s.sandbox_status(&id).await?;
    ensure!(
        status.state() == PodSandboxState::SandboxReady,
        "a new sandbox is {:?}",
        status.state()
    );
    ensure!(
        status.metadata == config.metadata && status.created_at > 0,
        "the status lacks something: {status:?}"
    );
    ensure!(
        status.labels == config.labels && status.annotations == config.annotations,
        "labels or annotations changed"
    );
    ensure!(
        s.listed(&id).await? == Some(PodSandboxState::SandboxReady),
        "it is not listed as ready"
    );

    for _ in 0..2 {
        said(
            s.runtime
                .stop_pod_sandbox(StopPodSandboxRequest {
                    pod_sandbox_id: id.clone(),
                })
                .await,
        )?;
        let state = s.sandbox_status(&id).await?.state();
        ensure!(
            state == PodSandboxState::SandboxNotready,
            "a stopped sandbox is {state:?}"
        );
    }
    let late = s.create(&id, &config, s.shell("late", "true")).await;
    ensure!(late.is_err(), "a stopped sandbox takes a new container");
    for _ in 0..2 {
        said(
            s.runtime
                .remove_pod_sandbox(RemovePodSandboxRequest {
                    pod_sandbox_id: id.clone(),
                })
                .await,
        )?;
    }
    ensure!(s.listed(&id).await?.is_none(), "a removed sandbox is listed");
    Ok(())
}

async fn a_name_means_one_sandbox(s: &Subject) -> Outcome {
    let config = s.sandbox("same");
    let (first, second) = futures_util::future::join(s.run(&config), s.run(&config)).await;
    let (first, second) = (said(first)?, said(second)?);
    ensure!(first == second, "two callers got {first} and {second}");
    let mut next = config.clone();
    next.metadata.get_or_insert_default().attempt = 1;
    let next = said(s.run(&next).await)?;
    ensure!(next != first, "the next attempt is the same sandbox");
    s.drop_sandbox(&first).await?;
    s.drop_sandbox(&next).await
}

async fn a_container_lives_once(s: &Subject) -> Outcome {
    let config = s.sandbox("once");
    let sandbox = said(s.run(&config).await)?;
    let script = "echo to stdout; echo to stderr >&2; exit 3";
    let id = said(s.create(&sandbox, &config, s.shell("main", script)).await)?;
    let created = s.status(&id).await?;
    ensure!(
        created.state() == ContainerState::ContainerCreated,
        "a new container is {:?}",
        created.state()
    );
    ensure!(
        created.created_at > 0 && created.image_ref == created.image_id,
        "the status lacks something: {created:?}"
    );

    said(s.start(&id).await)?;
    let ended = s.ended(&id).await?;
    ensure!(
        ended.exit_code == 3 && ended.reason == "Error",
        "exit {} ({})",
        ended.exit_code,
        ended.reason
    );
    ensure!(
        ended.started_at > 0 && ended.finished_at >= ended.started_at,
        "its times are wrong: {ended:?}"
    );
    let log = std::fs::read_to_string(&ended.log_path).map_err(|e| format!("{}: {e}", ended.log_path))?;
    for line in [" stdout F to stdout", " stderr F to stderr"] {
        ensure!(
            log.lines().any(|l| l.ends_with(line)),
            "{line:?} is not in the log: {log:?}"
        );
    }
    let again = s.start(&id).await;
    ensure!(again.is_err(), "a container that has ended starts again");
    for _ in 0..2 {
        said(
            s.runtime
                .remove_container(RemoveContainerRequest {
                    container_id: id.clone(),
                })
                .await,
        )?;
    }
    let gone = ContainerStatusRequest {
        container_id: id,
        verbose: false,
    };
    refused(s.runtime.container_status(gone).await, ErrorKind::NotFound)?;
    s.drop_sandbox(&sandbox).await
}

async fn a_container_is_killed_after_its_grace(s: &Subject) -> Outcome {
    let config = s.sandbox("grace");
    let sandbox = said(s.run(&config).await)?;
    let id = said(
        s.create(&sandbox, &config, s.shell("deaf", "trap '' TERM; sleep 1000"))
            .await,
    )?;
    said(s.start(&id).await)?;
    for _ in 0..2 {
        said(
            s.runtime
                .stop_container(StopContainerRequest {
                    container_id: id.clone(),
                    timeout: 1,
                })
                .await,
        )?;
        let status = s.status(&id).await?;
        ensure!(
            status.state() == ContainerState::ContainerExited,
            "a stopped container is {:?}",
            status.state()
        );
    }
    s.drop_sandbox(&sandbox).await
}

async fn exec_sync_answers_with_the_output(s: &Subject) -> Outcome {
    let config = s.sandbox("exec");
    let sandbox = said(s.run(&config).await)?;
    let id = said(s.create(&sandbox, &config, s.shell("main", "sleep 1000")).await)?;
    said(s.start(&id).await)?;
    let exec = |script: &str, timeout| ExecSyncRequest {
        container_id: id.clone(),
        cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        timeout,
    };
    let done = said(s.runtime.exec_sync(exec("echo out; echo err >&2; exit 5", 20)).await)?;
    ensure!(
        done.stdout == b"out\n" && done.stderr == b"err\n" && done.exit_code == 5,
        "it answered {done:?}"
    );
    refused(
        s.runtime.exec_sync(exec("sleep 1000", 1)).await,
        ErrorKind::DeadlineExceeded,
    )?;
    s.drop_sandbox(&sandbox).await
}

/// Image.id, PullImageResponse.image_ref, Container.image_id and ContainerStatus.image_id name the same thing, whichever
/// name the container's creator used.
async fn an_image_has_one_id(s: &Subject) -> Outcome {
    let id = s.image_id().await?;
    let pulled = s
        .images
        .pull_image(PullImageRequest {
            image: Some(s.image_spec()),
            ..Default::default()
        })
        .await;
    let pulled = said(pulled)?.image_ref;
    ensure!(pulled == id, "PullImage answers {pulled}, the id is {id}");
    let listed = said(s.images.list_images(ListImagesRequest::default()).await)?.images;
    ensure!(
        listed.iter().filter(|image| image.id == id).count() == 1,
        "{id} is not listed once"
    );

    let config = s.sandbox("image");
    let sandbox = said(s.run(&config).await)?;
    let by_name = s.shell("by-name", "true");
    let mut by_id = s.shell("by-id", "true");
    // As kubelet does it.
    by_id.image = Some(ImageSpec {
        image: id.clone(),
        user_specified_image: s.image.clone(),
        ..Default::default()
    });
    for config_of_container in [by_name, by_id] {
        let container = said(s.create(&sandbox, &config, config_of_container).await)?;
        let status = s.status(&container).await?;
        let filter = Some(ContainerFilter {
            id: container,
            ..Default::default()
        });
        let listed = said(s.runtime.list_containers(ListContainersRequest { filter }).await)?.containers;
        let listed = listed.first().ok_or("it is not listed")?;
        ensure!(
            [&status.image_id, &status.image_ref, &listed.image_id, &listed.image_ref] == [&id; 4],
            "the image's id is {id}; {status:?} {listed:?}"
        );
        let written = status.image.unwrap_or_default().image;
        ensure!(written == s.image, "the container is said to be of the image {written}");
    }
    s.drop_sandbox(&sandbox).await
}

/// A stream has each item of the list once. It is optional.
async fn streams_are_lists(s: &Subject) -> Outcome {
    let config = s.sandbox("stream");
    let sandbox = said(s.run(&config).await)?;
    match s
        .runtime
        .stream_pod_sandboxes(StreamPodSandboxesRequest::default())
        .await
    {
        Err(e) if e.kind == ErrorKind::Unimplemented => {}
        stream => {
            let messages: Vec<_> = said(stream)?.collect().await;
            let mut streamed = 0;
            for message in messages {
                streamed += said(message)?.pod_sandboxes.iter().filter(|p| p.id == sandbox).count();
            }
            ensure!(streamed == 1, "the stream has the sandbox {streamed} times");
        }
    }
    s.drop_sandbox(&sandbox).await
}

impl Subject {
    fn sandbox(&self, name: &str) -> PodSandboxConfig {
        let name = format!("conformance-{name}");
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.clone(),
                uid: format!("{name}-uid"),
                namespace: "conformance".into(),
                attempt: 0,
            }),
            hostname: name.clone(),
            log_directory: self.logs.join(&name).to_string_lossy().into_owned(),
            labels: [("suite".to_owned(), "conformance".to_owned())].into(),
            annotations: [("case".to_owned(), name)].into(),
            ..Default::default()
        }
    }

    fn image_spec(&self) -> ImageSpec {
        ImageSpec {
            image: self.image.clone(),
            ..Default::default()
        }
    }

    async fn image_id(&self) -> std::result::Result<String, String> {
        let request = ImageStatusRequest {
            image: Some(self.image_spec()),
            verbose: false,
        };
        let image = said(self.images.image_status(request).await)?.image;
        Ok(image.ok_or_else(|| format!("{} is not on the node", self.image))?.id)
    }

    fn shell(&self, name: &str, script: &str) -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: name.into(),
                attempt: 0,
            }),
            image: Some(self.image_spec()),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig::default()),
            ..Default::default()
        }
    }

    async fn run(&self, config: &PodSandboxConfig) -> Result<String> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        Ok(self.runtime.run_pod_sandbox(request).await?.pod_sandbox_id)
    }

    async fn create(&self, sandbox: &str, of: &PodSandboxConfig, config: ContainerConfig) -> Result<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: Some(of.clone()),
        };
        Ok(self.runtime.create_container(request).await?.container_id)
    }

    async fn start(&self, id: &str) -> Result<()> {
        let container_id = id.into();
        let started = self.runtime.start_container(StartContainerRequest { container_id });
        started.await.map(drop)
    }

    async fn sandbox_status(&self, id: &str) -> std::result::Result<PodSandboxStatus, String> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.into(),
            verbose: false,
        };
        said(self.runtime.pod_sandbox_status(request).await)?
            .status
            .ok_or_else(|| "the status is empty".into())
    }

    async fn status(&self, id: &str) -> std::result::Result<ContainerStatus, String> {
        let request = ContainerStatusRequest {
            container_id: id.into(),
            verbose: false,
        };
        said(self.runtime.container_status(request).await)?
            .status
            .ok_or_else(|| "the status is empty".into())
    }

    async fn ended(&self, id: &str) -> std::result::Result<ContainerStatus, String> {
        let ended = async {
            loop {
                let status = self.status(id).await?;
                if status.state() == ContainerState::ContainerExited {
                    return Ok(status);
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let in_time = tokio::time::timeout(END_LIMIT, ended).await;
        in_time.unwrap_or_else(|_| Err(format!("container {id} has not ended after {END_LIMIT:?}")))
    }

    async fn listed(&self, id: &str) -> std::result::Result<Option<PodSandboxState>, String> {
        let filter = Some(PodSandboxFilter {
            id: id.into(),
            ..Default::default()
        });
        let items = said(self.runtime.list_pod_sandbox(ListPodSandboxRequest { filter }).await)?.items;
        Ok(items.first().map(PodSandbox::state))
    }

    async fn drop_sandbox(&self, id: &str) -> Outcome {
        said(
            self.runtime
                .stop_pod_sandbox(StopPodSandboxRequest {
                    pod_sandbox_id: id.into(),
                })
                .await,
        )?;
        said(
            self.runtime
                .remove_pod_sandbox(RemovePodSandboxRequest {
                    pod_sandbox_id: id.into(),
                })
                .await,
        )?;
        Ok(())
    }
}

fn said<T>(result: Result<T>) -> std::result::Result<T, String> {
    result.map_err(|e| format!("{:?}: {e}", e.kind))
}

fn refused<T>(result: Result<T>, kind: ErrorKind) -> Outcome {
    match result {
        Err(e) if e.kind == kind => Ok(()),
        Err(e) => Err(format!("{kind:?} was expected, not {:?}: {e}", e.kind)),
        Ok(_) => Err(format!("{kind:?} was expected, and it succeeded")),
    }
}
