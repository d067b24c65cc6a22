//! The row of steps that makes a sandbox. Each step is recorded before it acquires anything, and [`super::undo`] has its
//! opposite; so a step that fails just returns.

use std::os::fd::OwnedFd;

use cri::v1::{PodSandboxConfig, PortMapping, Protocol};
use rustix::mount::MountFlags;

use super::owner::Sandbox;
use super::{Step, files};
use crate::blocking::blocking;
use crate::config::Config;
use crate::disk::{make_dir, write_json};
use crate::error::{Error, Result};
use crate::records::{Intent, ProcessName};
use crate::shim::{ShimClient, ShimError, ShimProcess, log_tail};
use crate::spec;

/// Size of a pod's /dev/shm, as everywhere in the field.
const SHM_BYTES: u64 = 64 << 20;

impl Sandbox {
    /// Climbs the row.
    pub(super) async fn make(&mut self) -> Result<()> {
        for step in Step::ROW {
            self.state.record.step = step;
            if step != Step::Reserved {
                self.save()?;
            }
            match step {
                Step::Reserved => self.reserve()?,
                Step::Namespaced => self.make_namespaces().await?,
                Step::Networked => self.join_network().await?,
                Step::Supervised => self.start_shim().await?,
                Step::Ready => self.start_pause().await?,
            }
        }
        self.state.record.intent = Intent::Run;
        self.save()?;
        Ok(sys::failpoint!("sandbox.ready.recorded")?)
    }

    /// The directory and the first record. (The name was reserved in the table, under the same lock that found it free.)
    fn reserve(&mut self) -> Result<()> {
        make_dir(self.dir.path())?;
        make_dir(&self.dir.containers())?;
        sys::failpoint!("sandbox.reserve.made")?;
        self.save()?;
        Ok(sys::failpoint!("sandbox.reserve.recorded")?)
    }

    async fn make_namespaces(&mut self) -> Result<()> {
        self.hold_image().await?;
        if self.state.record.netns.is_some() {
            let (network, id) = (self.node.network.clone(), self.state.record.id.clone());
            let maps = spec::user_maps(&self.state.record.config)?.map(|m| m.maps());
            blocking(move || match maps {
                Some(maps) => network.make_namespace_in(id.as_str(), &maps),
                None => network.make_namespace(id.as_str()),
            })
            .await?;
        }
        sys::failpoint!("sandbox.namespaces.made")?;
        self.mount_shared_memory()?;
        Ok(sys::failpoint!("sandbox.shm.mounted")?)
    }

    /// One tmpfs for all of the pod's containers, since System V's and POSIX's shared memory belong together.
    fn mount_shared_memory(&self) -> Result<()> {
        let shm = self.dir.shm();
        make_dir(&shm)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        // Its root's, where the pod has a user namespace.
        let owner = spec::user_maps(&self.state.record.config)?
            .map_or(String::new(), |m| format!(",uid={},gid={}", m.host_uid, m.host_gid));
        let data = std::ffi::CString::new(format!("mode=1777,size={SHM_BYTES}{owner}")).unwrap_or_default();
        rustix::mount::mount("shm", &shm, "tmpfs", flags, Some(data.as_c_str()))
            .map_err(Error::call(format_args!("mount({shm:?}, \"tmpfs\", {data:?})")))
    }

    async fn join_network(&mut self) -> Result<()> {
        if self.state.record.netns.is_some() {
            let ports = ports(&self.state.record.config.port_mappings)?;
            let (network, id) = (self.node.network.clone(), self.state.record.id.clone());
            let name = self.state.record.config.metadata.clone().unwrap_or_default();
            let holder = format!("pod {}/{}", name.namespace, name.name);
            let attachment = blocking(move || network.attach_as(id.as_str(), &holder, &ports)).await?;
            // Saved with the next step: until then, an undo needs no addresses to release them.
            self.state.record.ips = attachment.ips;
        }
        sys::failpoint!("sandbox.network.joined")?;
        files::write(&self.dir, &self.state.record, &self.node.config.resolv_conf)?;
        Ok(sys::failpoint!("sandbox.files.written")?)
    }

    /// Starts the shim in the supervisors' cgroup, and lets it read pause's spec.
    async fn start_shim(&mut self) -> Result<()> {
        let record = &self.state.record;
        let userns = self.user_namespace()?;
        let image = self.image_config().await?;
        let spec = spec::sandbox(&spec::SandboxInputs {
            id: record.id.as_str(),
            config: &record.config,
            image: image.as_ref().map(|image| &image.config),
            netns: record.netns.as_deref(),
            userns: userns.as_deref(),
            hostname: &record.hostname,
            cgroup_parent: &record.cgroup_parent,
            security_modules: self.node.security_modules,
        })?;
        write_json(&self.dir.spec(), &spec)?;
        self.write_root().await?;
        if let Some(handler) = &self.state.record.foreign {
            write_json(&shim_api::Handler::file(self.dir.path()), handler)?;
        }
        sys::failpoint!("sandbox.shim.configured")?;
        self.note_missing_cgroups()?;
        let (name, pidfd) = self.spawn_shim().await?;
        self.state.record.shim = Some(name);
        // The undo must find it, whatever fails from here on.
        let process = ShimProcess::new(name, pidfd)?;
        self.process = Some(process.clone());
        sys::failpoint!("sandbox.shim.spawned")?;
        self.save()?;
        sys::failpoint!("sandbox.shim.recorded")?;
        let connected = ShimClient::connect(&self.dir.socket()).await;
        let client = self.explain_death(connected, &process).await?;
        let (id, netns) = (self.state.record.id.clone(), self.state.record.netns.clone());
        let created = client
            .create_sandbox(id.as_str(), self.dir.path(), netns.as_deref())
            .await;
        self.explain_death(created, &process).await?;
        sys::failpoint!("sandbox.shim.created")?;
        self.attend(client, process).await?;
        Ok(sys::failpoint!("sandbox.shim.attended")?)
    }

    /// Where the pod's user namespace is bound, if it has one.
    pub(crate) fn user_namespace(&self) -> Result<Option<std::path::PathBuf>> {
        let record = &self.state.record;
        let maps = spec::user_maps(&record.config)?;
        Ok(maps.map(|_| self.node.network.user_namespace_path(record.id.as_str())))
    }

    async fn start_pause(&mut self) -> Result<()> {
        let (Some(shim), Some(process)) = (self.state.shim.clone(), self.process.clone()) else {
            return Err(Error::OwnerGone("the shim".into()));
        };
        let started = shim.start_sandbox(self.state.record.id.as_str()).await;
        let pid = self.explain_death(started, &process).await?;
        let pid = i32::try_from(pid).unwrap_or(0);
        let start_time_ticks = rustix::process::Pid::from_raw(pid)
            .and_then(sys::spawn::start_time_ticks)
            .unwrap_or(0);
        self.state.pause = Some(ProcessName { pid, start_time_ticks });
        Ok(sys::failpoint!("sandbox.pause.started")?)
    }

    /// Records which of the cgroups above the sandbox will have been made by us.
    fn note_missing_cgroups(&mut self) -> Result<()> {
        let mut missing = self.node.cgroups.missing(&self.state.record.cgroup_parent);
        missing.extend(self.node.cgroups.missing(&self.supervisors_cgroup()));
        missing.sort();
        missing.dedup();
        self.state.record.cgroups_made = missing;
        self.save()
    }

    async fn spawn_shim(&self) -> Result<(ProcessName, OwnedFd)> {
        let (node, dir, record) = (self.node.clone(), self.dir.clone(), self.state.record.clone());
        let shims = self.supervisors_cgroup();
        blocking(move || {
            node.cgroups
                .acquire(&record.cgroup_parent, &record.id, &record.cgroups_made)?;
            node.cgroups.acquire(&shims, &record.id, &record.cgroups_made)?;
            sys::failpoint!("sandbox.shim.cgroups")?;
            let placement = node.cgroups.placement(&shims)?;
            ShimProcess::spawn(&node.config.shim, &record.id, &dir, &placement)
        })
        .await
    }

    /// “Does not answer” is no explanation where the shim's own last words are there to be read.
    async fn explain_death<T>(&self, result: std::result::Result<T, ShimError>, process: &ShimProcess) -> Result<T> {
        match result {
            Err(e) if e.is_gone() && process.exited_within(std::time::Duration::from_secs(1)).await => {
                Err(ShimError::Died {
                    log: log_tail(&self.dir.shim_log()),
                }
                .into())
            }
            other => Ok(other?),
        }
    }
}

/// The cgroup below which a sandbox goes: the one that its configuration names, absolute, else the node's.
pub(crate) fn cgroup_parent(config: &PodSandboxConfig, node: &Config) -> String {
    let configured = config
        .linux
        .as_ref()
        .map(|l| l.cgroup_parent.as_str())
        .unwrap_or_default();
    let parent = if configured.is_empty() {
        &node.cgroup_parent
    } else {
        configured
    };
    format!("/{}", parent.trim_matches('/'))
}

/// The published ports. A mapping without a host port publishes nothing; it only says what the container listens on.
fn ports(mappings: &[PortMapping]) -> Result<Vec<network::PortMapping>> {
    mappings.iter().filter(|m| m.host_port != 0).map(port).collect()
}

fn port(mapping: &PortMapping) -> Result<network::PortMapping> {
    let number = |field: &str, value: i32| {
        u16::try_from(value)
            .ok()
            .filter(|p| *p != 0)
            .ok_or_else(|| cri::Error::invalid(format!("port_mappings.{field}: {value} is not a port (1 to 65535)")))
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        ip => Some(
            ip.parse()
                .map_err(|_| cri::Error::invalid(format!("port_mappings.host_ip: {ip:?} is not an address")))?,
        ),
    };
    Ok(network::PortMapping {
        host_ip,
        host_port: number("host_port", mapping.host_port)?,
        container_port: number("container_port", mapping.container_port)?,
        protocol: match Protocol::try_from(mapping.protocol) {
            Ok(Protocol::Tcp) => network::Protocol::Tcp,
            Ok(Protocol::Udp) => network::Protocol::Udp,
            Ok(Protocol::Sctp) => network::Protocol::Sctp,
            Err(_) => {
                return Err(cri::Error::invalid(format!(
                    "port_mappings.protocol: {} is not a protocol",
                    mapping.protocol
                ))
                .into());
            }
        },
    })
}
