//! CreateContainer: everything that a container needs before it starts, and its undo.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri::ErrorKind;
use cri::v1::{ContainerConfig, ContainerEventType, ContainerMetadata, NamespaceMode};
use image::Image;
use tracing::{info, warn};

use super::{Container, facts, image_volumes, signal};
use crate::blocking::blocking;
use crate::clock::now_ns;
use crate::disk::{make_dir, remove_tree, unmount, write_json};
use crate::error::{Error, Result};
use crate::id::ContainerId;
use crate::records::{ContainerIntent, ContainerRecord, Life};
use crate::sandbox::{Phase, Sandbox};
use crate::spec;

impl Sandbox {
    /// Makes a container. Repeated with the same name, attempt and configuration, before it was started, it returns the
    /// same one: a client whose deadline has passed may ask again.
    pub(crate) async fn create_container(&mut self, config: ContainerConfig) -> Result<ContainerId> {
        self.must_be_ready("create a container in it")?;
        let Some(metadata) = config.metadata.clone().filter(|m| !m.name.is_empty()) else {
            return Err(cri::Error::invalid("metadata.name: a container needs a name").into());
        };
        if let Some(existing) = self.same_name(&metadata, &config).await? {
            return Ok(existing);
        }
        let image = self.image(&config).await?;
        let volumes = self.image_volumes(&config).await?;
        let id = ContainerId::random();
        let record = self.first_record(&id, config, &image, &volumes)?;

        let container = Container::new(record);
        self.state.containers.insert(id.clone(), Arc::new(container));
        match self.acquire(&id, &image, volumes).await {
            Ok(()) => {
                self.node().registry.add_container(&id, &self.state.record.id);
                self.publish();
                self.node()
                    .events
                    .tell(ContainerEventType::ContainerCreatedEvent, id.as_str(), &self.state);
                info!(container = %id, name = metadata.name, attempt = metadata.attempt, "container is created");
                Ok(id)
            }
            Err(error) => {
                if let Err(failures) = self.discard_container(&id).await {
                    warn!(container = %id, %failures, "a failed creation is not undone whole; removing the sandbox tries again");
                }
                Err(error)
            }
        }
    }

    /// What the container holds on the machine, each noted by the record before.
    async fn acquire(&mut self, id: &ContainerId, image: &Image, volumes: image_volumes::Images) -> Result<()> {
        let dir = self.dir().container(id);
        make_dir(dir.path())?;
        sys::failpoint!("container.create.made")?;
        self.save_container(id)?;
        sys::failpoint!("container.create.recorded")?;
        let volumes = self.mount_images(id, volumes).await?;
        let spec = self.spec(id, image, &volumes)?;
        make_dir(&dir.rootfs())?;
        write_json(&dir.spec(), &spec)?;
        sys::failpoint!("container.create.configured")?;
        if let Some(log_dir) = self.container(id)?.record.log.as_deref().and_then(Path::parent) {
            std::fs::create_dir_all(log_dir).map_err(Error::file("make", log_dir))?;
        }
        let (images, key, image_id) = (self.node().images.clone(), id.clone(), image.id);
        blocking(move || images.prepare(key.as_str(), &image_id)).await?;
        sys::failpoint!("container.create.prepared")?;
        self.with_container(id, |c| c.record.intent = ContainerIntent::Keep);
        self.save_container(id)?;
        Ok(sys::failpoint!("container.create.kept")?)
    }

    /// The one undo of a container: all that it may hold is given back, whatever state it was in. Its processes have
    /// ended before.
    pub(crate) async fn discard_container(&mut self, id: &ContainerId) -> Result<()> {
        let (images, key) = (self.node().images.clone(), id.clone());
        match blocking(move || images.remove_snapshot(key.as_str())).await {
            Ok(()) | Err(image::Error::SnapshotMissing { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        sys::failpoint!("container.remove.snapshot")?;
        // Where a handler's shim that was killed has left the container's root.
        unmount(&self.dir().container(id).foreign_rootfs())?;
        self.unmount_images(id).await?;
        remove_tree(self.dir().container(id).path())?;
        sys::failpoint!("container.remove.files")?;
        self.state.containers.remove(id);
        self.held.release(id);
        self.node().registry.remove_container(id);
        self.publish();
        Ok(())
    }

    /// A container of this name and attempt: the same one, if it is what the caller asks for and was not started.
    /// One whose creation failed, and could not be undone whole, is undone now.
    async fn same_name(
        &mut self,
        metadata: &ContainerMetadata,
        config: &ContainerConfig,
    ) -> Result<Option<ContainerId>> {
        let mut named = self
            .state
            .containers
            .values()
            .filter(|c| c.record.config.metadata.as_ref() == Some(metadata));
        let Some(holder) = named.next() else { return Ok(None) };
        if !holder.is_made() {
            let half_made = holder.record.id.clone();
            self.discard_container(&half_made).await?;
            return Ok(None);
        }
        if holder.record.life == Life::Created && holder.record.config == *config {
            return Ok(Some(holder.record.id.clone()));
        }
        Err(cri::Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "container {} has the name {:?}, attempt {} in this sandbox: remove it, or use the next attempt",
                holder.record.id, metadata.name, metadata.attempt
            ),
        )
        .into())
    }

    async fn image(&self, config: &ContainerConfig) -> Result<Arc<Image>> {
        let name = config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
        if name.is_empty() {
            return Err(cri::Error::invalid("image.image: a container needs an image").into());
        }
        let images = self.node().images.clone();
        Ok(blocking(move || images.get(&name)).await?)
    }

    async fn image_volumes(&self, config: &ContainerConfig) -> Result<image_volumes::Images> {
        if config.mounts.iter().all(|mount| mount.image.is_none()) {
            return Ok(image_volumes::Images::new());
        }
        let (images, config) = (self.node().images.clone(), config.clone());
        blocking(move || image_volumes::images(&config, &images)).await
    }

    fn spec(
        &self,
        id: &ContainerId,
        image: &Image,
        volumes: &BTreeMap<usize, PathBuf>,
    ) -> Result<oci_spec::runtime::Spec> {
        let config = &self.container(id)?.record.config;
        self.check_target(config)?;
        let facts = facts::gather(config, volumes, self.node())?;
        let sandbox = &self.state.record;
        let userns = self.user_namespace()?;
        Ok(spec::container(&spec::ContainerInputs {
            id: id.as_str(),
            config,
            image: &image.config,
            sandbox_id: sandbox.id.as_str(),
            sandbox: &sandbox.config,
            sandbox_dir: self.dir().path(),
            netns: sandbox.netns.as_deref(),
            userns: userns.as_deref(),
            hostname: &sandbox.hostname,
            cgroup_parent: &sandbox.cgroup_parent,
            facts: &facts,
        })?)
    }

    /// A PID namespace to join must be one that lives.
    fn check_target(&self, config: &ContainerConfig) -> Result<()> {
        let security = config.linux.as_ref().and_then(|l| l.security_context.as_ref());
        let options = security.and_then(|s| s.namespace_options.as_ref());
        let Some(options) = options.filter(|o| o.pid == NamespaceMode::Target as i32) else {
            return Ok(());
        };
        let target = self.container(&ContainerId::from(options.target_id.as_str()))?;
        if target.is_running() {
            return Ok(());
        }
        Err(cri::Error::new(
            ErrorKind::FailedPrecondition,
            format!(
                "namespace_options.target_id: container {} does not run, so it has no PID namespace to share",
                options.target_id
            ),
        )
        .into())
    }

    fn first_record(
        &self,
        id: &ContainerId,
        config: ContainerConfig,
        image: &Image,
        volumes: &image_volumes::Images,
    ) -> Result<ContainerRecord> {
        let stop_signal = signal::stop_signal(&config, &image.config)
            .map_err(|word| cri::Error::invalid(format!("stop_signal: {word:?} is not a signal")))?;
        Ok(ContainerRecord {
            id: id.clone(),
            sandbox_id: self.state.record.id.clone(),
            intent: ContainerIntent::Create,
            created_at_ns: now_ns(),
            image_id: image.id.to_string(),
            image_volumes: volumes
                .iter()
                .map(|(number, image)| (*number, image.id.to_string()))
                .collect(),
            stop_signal,
            log: log(&self.state.record.config.log_directory, &config.log_path),
            resources: config.linux.as_ref().and_then(|l| l.resources.clone()),
            config,
            life: Life::Created,
            user: None,
            stdin_closed: false,
        })
    }

    pub(crate) fn must_be_ready(&self, doing: &str) -> Result<()> {
        match self.state.phase {
            Phase::Ready => Ok(()),
            _ => Err(cri::Error::new(
                ErrorKind::FailedPrecondition,
                format!("sandbox {} is not ready: can't {doing}", self.state.record.id),
            )
            .into()),
        }
    }

    pub(crate) fn container(&self, id: &ContainerId) -> Result<&Arc<Container>> {
        Ok(self
            .state
            .containers
            .get(id)
            .ok_or_else(|| cri::Error::not_found(format_args!("container {id}")))?)
    }

    pub(super) fn with_container(&mut self, id: &ContainerId, change: impl FnOnce(&mut Container)) {
        if let Some(container) = self.state.containers.get_mut(id) {
            change(Arc::make_mut(container));
        }
    }

    pub(super) fn save_container(&self, id: &ContainerId) -> Result<()> {
        Ok(record::save(
            &self.dir().container(id).record(),
            &self.container(id)?.record,
        )?)
    }
}

/// Where a container's output goes: relative to the pod's log directory; nowhere without both.
fn log(directory: &str, path: &str) -> Option<PathBuf> {
    (!directory.is_empty() && !path.is_empty()).then(|| Path::new(directory).join(path))
}
