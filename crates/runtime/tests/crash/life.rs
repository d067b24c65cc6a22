//! A pod's life, as a client asks for it who wants it done: what fails is asked for again, what is there already is used.

use std::time::Duration;

use cri::v1::*;
use cri::{ErrorKind, RuntimeService};
use futures_util::StreamExt;
use runtime::Runtime;

use crate::place::{IMAGE, Place};

pub const HOST_PORT: i32 = 18080;

/// How often a request is made before its failure counts.
const ATTEMPTS: u32 = 4;

/// How long a container that ends by itself may take.
const END_LIMIT: Duration = Duration::from_secs(20);

/// How a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// And waits for each answer.
    Patient,
    /// And gives up after so long, to ask for the same again, twice at a time.
    Hasty(Duration),
}

/// A client of the runtime.
pub struct Client<'a> {
    pub runtime: &'a Runtime,
    pub manner: Manner,
    pub log_dir: String,
    /// Of the node: each pod has a cgroup of its own below it, as kubelet wants it.
    cgroup_parent: String,
    /// Of the pod.
    pub name: String,
    /// Its published port; 0: none.
    pub host_port: i32,
}

type Answer<T> = cri::Result<T>;

impl<'a> Client<'a> {
    pub fn new(runtime: &'a Runtime, place: &Place, manner: Manner) -> Client<'a> {
        Client {
            runtime,
            manner,
            log_dir: place.dir.join("logs").to_string_lossy().into_owned(),
            cgroup_parent: place.cgroup_parent.clone(),
            name: "pod".into(),
            host_port: HOST_PORT,
        }
    }

    /// A patient client whose pod has this name, and publishes no port.
    pub fn named(runtime: &'a Runtime, place: &Place, name: &str) -> Client<'a> {
        Client {
            name: name.into(),
            host_port: 0,
            ..Client::new(runtime, place, Manner::Patient)
        }
    }

    /// The whole of it.
    pub async fn lead(&self) -> Answer<()> {
        let sandbox = self.run().await?;
        let main = self.running(&sandbox, "main", "exec sleep 1000").await?;
        let code = self.insist(|| self.exec(&main, &["/bin/true"])).await?;
        if code != 0 {
            return Err(cri::Error::internal(format!("the command ended with {code}")));
        }
        let short = self.running(&sandbox, "short", "exit 3").await?;
        let ended = self.ended(&short).await?;
        if (ended.exit_code, ended.reason.as_str()) != (3, "Error") {
            return Err(cri::Error::internal(format!(
                "the container ended otherwise: {ended:?}"
            )));
        }
        self.stop_container(&main).await?;
        self.insist(|| self.remove_container(&main)).await?;
        self.insist(|| self.stop(&sandbox)).await?;
        self.insist(|| self.remove(&sandbox)).await?;
        Ok(())
    }

    /// The same for a pod that may lose its supervisor: what can't go on is taken down, and begins anew.
    pub async fn lead_persistently(&self) -> Answer<()> {
        for _ in 1..ATTEMPTS {
            if let Err(error) = self.lead().await {
                println!("once more: {error}");
            } else {
                return Ok(());
            }
            for sandbox in self.sandboxes().await {
                self.insist(|| self.stop(&sandbox.id)).await?;
                self.insist(|| self.remove(&sandbox.id)).await?;
            }
        }
        self.lead().await
    }

    /// Makes a request until it succeeds.
    async fn insist<T: PartialEq + std::fmt::Debug, F: Future<Output = Answer<T>>>(
        &self,
        request: impl Fn() -> F,
    ) -> Answer<T> {
        let mut attempt = 1;
        loop {
            let answer = self.ask(&request).await;
            match answer {
                Err(e) if attempt < ATTEMPTS && is_retried(&e) => attempt += 1,
                answer => return answer,
            }
        }
    }

    async fn ask<T: PartialEq + std::fmt::Debug, F: Future<Output = Answer<T>>>(
        &self,
        request: &impl Fn() -> F,
    ) -> Answer<T> {
        let Manner::Hasty(deadline) = self.manner else {
            return request().await;
        };
        let _ = tokio::time::timeout(deadline, request()).await;
        let (one, other) = tokio::join!(request(), request());
        let (one, other) = (one?, other?);
        assert_eq!(one, other, "the same request, made twice at a time, has two answers");
        Ok(one)
    }

    pub fn pod(&self) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: self.name.clone(),
                uid: format!("{}-uid", self.name),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: self.name.clone(),
            log_directory: self.log_dir.clone(),
            port_mappings: vec![PortMapping {
                container_port: 80,
                host_port: self.host_port,
                ..Default::default()
            }],
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/pod{}", self.cgroup_parent, self.name),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// One RunPodSandbox.
    pub async fn run_once(&self) -> Answer<String> {
        let request = RunPodSandboxRequest {
            config: Some(self.pod()),
            runtime_handler: String::new(),
        };
        Ok(self.runtime.run_pod_sandbox(request).await?.pod_sandbox_id)
    }

    /// One CreateContainer and one StartContainer.
    pub async fn start_once(&self, sandbox: &str, name: &str, script: &str) -> Answer<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(shell(name, script)),
            sandbox_config: None,
        };
        let id = self.runtime.create_container(request).await?.container_id;
        let request = StartContainerRequest {
            container_id: id.clone(),
        };
        self.runtime.start_container(request).await?;
        Ok(id)
    }

    /// A sandbox of the pod's name that is ready: one that has stopped is removed, as SyncPod does it.
    pub async fn run(&self) -> Answer<String> {
        let mut attempt = 1;
        loop {
            match self.ask(&|| self.run_once()).await {
                Err(e) if attempt < ATTEMPTS => {
                    attempt += 1;
                    if e.kind == ErrorKind::AlreadyExists {
                        let mine = |s: &PodSandbox| s.metadata.as_ref().is_some_and(|m| m.name == self.name);
                        for sandbox in self.sandboxes().await.into_iter().filter(mine) {
                            self.insist(|| self.stop(&sandbox.id)).await?;
                            self.insist(|| self.remove(&sandbox.id)).await?;
                        }
                    }
                }
                answer => return answer,
            }
        }
    }

    /// A container of this name that was started: one that could not be is removed, as SyncPod does it.
    pub async fn running(&self, sandbox: &str, name: &str, script: &str) -> Answer<String> {
        let mut attempt = 1;
        loop {
            match self.try_running(sandbox, name, script).await {
                Err(e) if attempt < ATTEMPTS && is_retried(&e) => {
                    attempt += 1;
                    for container in self.containers().await {
                        let failed = container.state() == ContainerState::ContainerExited;
                        let failed = failed && container.pod_sandbox_id == sandbox;
                        if failed && container.metadata.as_ref().is_some_and(|m| m.name == name) {
                            self.insist(|| self.remove_container(&container.id)).await?;
                        }
                    }
                }
                answer => return answer,
            }
        }
    }

    async fn try_running(&self, sandbox: &str, name: &str, script: &str) -> Answer<String> {
        let there = self.containers().await.into_iter();
        let named = |c: &Container| c.metadata.as_ref().is_some_and(|m| m.name == name);
        let mut there = there.filter(|c| c.pod_sandbox_id == sandbox && named(c));
        if let Some(started) = there.find(|c| c.state() != ContainerState::ContainerCreated) {
            let status = self.status(&started.id).await?;
            // One that ended otherwise than its script says has come to harm.
            if started.state() == ContainerState::ContainerRunning || status.exit_code == 3 {
                return Ok(started.id);
            }
            return Err(cri::Error::internal("it has ended"));
        }
        let id = self
            .ask(&|| async {
                let request = CreateContainerRequest {
                    pod_sandbox_id: sandbox.into(),
                    config: Some(shell(name, script)),
                    sandbox_config: None,
                };
                Ok(self.runtime.create_container(request).await?.container_id)
            })
            .await?;
        self.ask(&|| async {
            let request = StartContainerRequest {
                container_id: id.clone(),
            };
            match self.runtime.start_container(request).await {
                // It was started by the request before, and has ended.
                Err(e) if e.kind == ErrorKind::FailedPrecondition && self.status(&id).await?.exit_code == 3 => Ok(()),
                other => other.map(drop),
            }
        })
        .await?;
        Ok(id)
    }

    pub async fn exec(&self, container: &str, command: &[&str]) -> Answer<i32> {
        let request = ExecSyncRequest {
            container_id: container.into(),
            cmd: command.iter().map(|c| (*c).to_owned()).collect(),
            timeout: 20,
        };
        Ok(self.runtime.exec_sync(request).await?.exit_code)
    }

    /// The container's status once it has ended, as the stream of events tells.
    async fn ended(&self, container: &str) -> Answer<ContainerStatus> {
        let mut events = self.runtime.get_container_events(GetEventsRequest {}).await?;
        loop {
            let status = self.status(container).await?;
            if status.state() == ContainerState::ContainerExited {
                return Ok(status);
            }
            let next = tokio::time::timeout(END_LIMIT, events.next()).await;
            let _ = next.unwrap_or_else(|_| panic!("the container does not end: {status:?}"));
        }
    }

    async fn stop_container(&self, container: &str) -> Answer<()> {
        self.insist(|| async {
            let request = StopContainerRequest {
                container_id: container.into(),
                timeout: 0,
            };
            self.runtime.stop_container(request).await.map(drop)
        })
        .await
    }

    async fn remove_container(&self, container: &str) -> Answer<()> {
        let request = RemoveContainerRequest {
            container_id: container.into(),
        };
        self.runtime.remove_container(request).await.map(drop)
    }

    pub async fn stop(&self, sandbox: &str) -> Answer<()> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: sandbox.into(),
        };
        self.runtime.stop_pod_sandbox(request).await.map(drop)
    }

    pub async fn remove(&self, sandbox: &str) -> Answer<()> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: sandbox.into(),
        };
        self.runtime.remove_pod_sandbox(request).await.map(drop)
    }

    pub async fn sandboxes(&self) -> Vec<PodSandbox> {
        let request = ListPodSandboxRequest { filter: None };
        self.runtime.list_pod_sandbox(request).await.unwrap().items
    }

    pub async fn containers(&self) -> Vec<Container> {
        let request = ListContainersRequest { filter: None };
        self.runtime.list_containers(request).await.unwrap().containers
    }

    async fn status(&self, container: &str) -> Answer<ContainerStatus> {
        let request = ContainerStatusRequest {
            container_id: container.into(),
            verbose: false,
        };
        Ok(self.runtime.container_status(request).await?.status.unwrap())
    }
}

/// What asking again may help against; a failed expectation it does not.
fn is_retried(error: &cri::Error) -> bool {
    !matches!(error.kind, ErrorKind::InvalidArgument | ErrorKind::Unimplemented)
}

pub fn shell(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: name.into(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: IMAGE.into(),
            ..Default::default()
        }),
        command: ["/bin/sh", "-c", script].map(Into::into).into(),
        log_path: format!("{name}.log"),
        mounts: vec![Mount {
            container_path: "/image".into(),
            readonly: true,
            image: Some(ImageSpec {
                image: IMAGE.into(),
                ..Default::default()
            }),
            ..Default::default()
        }],
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources::default()),
            security_context: Some(LinuxContainerSecurityContext::default()),
        }),
        ..Default::default()
    }
}
