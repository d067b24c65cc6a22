//! Tables: a configuration, and what the spec says of it.

use std::path::Path;

use cri::v1::security_profile::ProfileType;
use cri::v1::*;
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{Capability, LinuxNamespaceType, Spec};
use serde_json::json;

use super::*;

const SANDBOX_DIR: &str = "/run/hove/sandboxes/s1";
const NETNS: &str = "/run/hove/netns/s1";
const USERNS: &str = "/run/hove/userns/s1";

/// A container in a sandbox, with everything at its default; tests change what they are about.
struct Case {
    config: ContainerConfig,
    sandbox: PodSandboxConfig,
    image: ImageConfiguration,
    facts: Facts,
    netns: bool,
}

impl Case {
    fn new() -> Self {
        Case {
            config: ContainerConfig {
                metadata: Some(ContainerMetadata {
                    name: "web".into(),
                    attempt: 0,
                }),
                linux: Some(LinuxContainerConfig {
                    resources: Some(LinuxContainerResources::default()),
                    security_context: Some(LinuxContainerSecurityContext::default()),
                }),
                ..Default::default()
            },
            sandbox: PodSandboxConfig {
                metadata: Some(PodSandboxMetadata {
                    name: "pod".into(),
                    uid: "u".into(),
                    namespace: "ns".into(),
                    attempt: 0,
                }),
                ..Default::default()
            },
            image: image(json!({"Entrypoint": ["/entry"], "Cmd": ["arg"], "Env": ["A=image", "PATH=/bin"]})),
            facts: Facts {
                capabilities: [Capability::Chown, Capability::NetAdmin, Capability::SysAdmin]
                    .into_iter()
                    .collect(),
                limitable: Limitable {
                    swap: true,
                    huge_pages: true,
                },
                ..Facts::default()
            },
            netns: true,
        }
    }

    fn security(mut self, change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> Self {
        change(self.config.linux.as_mut().unwrap().security_context.as_mut().unwrap());
        self
    }

    fn resources(mut self, change: impl FnOnce(&mut LinuxContainerResources)) -> Self {
        change(self.config.linux.as_mut().unwrap().resources.as_mut().unwrap());
        self
    }

    fn config(mut self, change: impl FnOnce(&mut ContainerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    fn image(mut self, config: serde_json::Value) -> Self {
        self.image = image(config);
        self
    }

    fn mount(mut self, mount: Mount) -> Self {
        self.facts.mount_sources.push(mount.host_path.clone().into());
        self.config.mounts.push(mount);
        self
    }

    /// The namespace options of container and sandbox alike.
    fn namespaces(mut self, options: NamespaceOption) -> Self {
        self.netns = options.network != NamespaceMode::Node as i32;
        let security = LinuxSandboxSecurityContext {
            namespace_options: Some(options.clone()),
            ..Default::default()
        };
        self.sandbox.linux = Some(LinuxPodSandboxConfig {
            security_context: Some(security),
            ..Default::default()
        });
        self.security(|s| s.namespace_options = Some(options))
    }

    fn spec(&self) -> Result<Spec> {
        container(&ContainerInputs {
            id: "c1",
            config: &self.config,
            image: &self.image,
            sandbox_id: "s1",
            sandbox: &self.sandbox,
            sandbox_dir: Path::new(SANDBOX_DIR),
            netns: self.netns.then_some(Path::new(NETNS)),
            userns: user_maps(&self.sandbox).ok().flatten().map(|_| Path::new(USERNS)),
            hostname: "web-0",
            cgroup_parent: "/hove/podu",
            facts: &self.facts,
        })
    }

    fn refusal(&self) -> String {
        self.spec().unwrap_err().to_string()
    }
}

fn image(config: serde_json::Value) -> ImageConfiguration {
    serde_json::from_value(json!({
        "architecture": "amd64", "os": "linux", "config": config, "rootfs": {"type": "layers", "diff_ids": []},
    }))
    .unwrap()
}

fn process(case: Case) -> oci_spec::runtime::Process {
    case.spec().unwrap().process().clone().unwrap()
}

fn linux(case: Case) -> Linux {
    case.spec().unwrap().linux().clone().unwrap()
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

#[test]
fn command_and_args_stand_for_entrypoint_and_command() {
    for (command, args, expected) in [
        (&[][..], &[][..], &["/entry", "arg"][..]),
        (&[], &["other"], &["/entry", "other"]),
        (&["/own"], &[], &["/own"]),
        (&["/own"], &["x", "y"], &["/own", "x", "y"]),
    ] {
        let case = Case::new().config(|c| {
            c.command = strings(command);
            c.args = strings(args);
        });
        assert_eq!(process(case).args().clone().unwrap(), expected, "{command:?} {args:?}");
    }
    let refusal = Case::new().image(json!({})).refusal();
    assert!(refusal.starts_with("command: no command"), "{refusal}");
}

#[test]
fn the_containers_environment_overrides_the_images() {
    let variable = |key: &str, value: &str| KeyValue {
        key: key.into(),
        value: value.into(),
    };
    let case = Case::new().config(|c| {
        c.tty = true;
        c.envs = vec![
            variable("A", "own"),
            variable("B", "1"),
            variable("B", "2"),
            variable("HOSTNAME", "mine"),
        ];
    });
    assert_eq!(
        process(case).env().clone().unwrap(),
        ["PATH=/bin", "HOSTNAME=mine", "TERM=xterm", "A=own", "B=2"]
    );

    let bare = Case::new().image(json!({"Cmd": ["x"]}));
    let path = format!("PATH={}", super::process::DEFAULT_PATH);
    assert_eq!(process(bare).env().clone().unwrap(), [path.as_str(), "HOSTNAME=web-0"]);

    let refusal = Case::new().config(|c| c.envs = vec![variable("A=B", "")]).refusal();
    assert_eq!(refusal, "envs: \"A=B\" is no name for an environment variable");
}

#[test]
fn working_directory() {
    let dir = |case| process(case).cwd().to_string_lossy().into_owned();
    assert_eq!(dir(Case::new()), "/");
    assert_eq!(
        dir(Case::new().image(json!({"Cmd": ["x"], "WorkingDir": "/srv"}))),
        "/srv"
    );
    assert_eq!(dir(Case::new().config(|c| c.working_dir = "/own".into())), "/own");
    let refusal = Case::new().config(|c| c.working_dir = "own".into()).refusal();
    assert_eq!(refusal, "working_dir: \"own\" is not an absolute path");
}

#[test]
fn users() {
    let number = |value| Some(Int64Value { value });
    for (uid, name, gid, of_image, expected) in [
        (None, "", None, "", Ok("0")),
        (None, "", None, "www-data:33", Ok("www-data:33")),
        (number(1000), "", None, "www-data", Ok("1000")),
        (number(1000), "", number(50), "", Ok("1000:50")),
        (None, "nginx", None, "", Ok("nginx")),
        (None, "nginx", number(7), "", Ok("nginx:7")),
        (
            None,
            "",
            number(7),
            "nginx",
            Err("run_as_group: a group without run_as_user or run_as_username"),
        ),
        (
            number(-1),
            "",
            None,
            "",
            Err("run_as_user: -1 is not an id (0 to 4294967295)"),
        ),
    ] {
        let case = Case::new()
            .image(json!({"Cmd": ["x"], "User": of_image}))
            .security(|s| {
                s.run_as_user = uid;
                s.run_as_username = name.into();
                s.run_as_group = gid;
            });
        let user = case
            .spec()
            .map(|s| s.annotations().clone().unwrap()[annotations::USER].clone());
        assert_eq!(
            user.map_err(|e| e.to_string()),
            expected.map(str::to_owned).map_err(str::to_owned)
        );
    }
    let case = Case::new().security(|s| {
        s.run_as_user = number(5);
        s.supplemental_groups = vec![7, 8];
        s.supplemental_groups_policy = SupplementalGroupsPolicy::Strict.into();
    });
    let spec = case.spec().unwrap();
    let user = spec.process().clone().unwrap().user().clone();
    assert_eq!((user.uid(), user.additional_gids().clone()), (5, Some(vec![7, 8])));
    assert_eq!(
        spec.annotations().clone().unwrap()[annotations::GROUPS_POLICY],
        "Strict"
    );
}

#[test]
fn capabilities() {
    use Capability::{Chown, Kill, NetAdmin, NetRaw, SysAdmin};
    let sets = |case| process(case).capabilities().clone().unwrap();
    let change = |add: &[&str], drop: &[&str]| {
        let capability = cri::v1::Capability {
            add_capabilities: strings(add),
            drop_capabilities: strings(drop),
            add_ambient_capabilities: vec![],
        };
        Case::new().security(|s| s.capabilities = Some(capability))
    };
    let bounding = |case| sets(case).bounding().clone().unwrap();

    assert_eq!(bounding(Case::new()).len(), 14);
    assert!(bounding(change(&["net_admin"], &["CAP_KILL"])).is_superset(&[NetAdmin, NetRaw].into_iter().collect()));
    assert!(!bounding(change(&[], &["KILL"])).contains(&Kill));
    assert_eq!(
        bounding(change(&["ALL"], &["CHOWN"])),
        [NetAdmin, SysAdmin].into_iter().collect()
    );
    assert_eq!(bounding(change(&["CHOWN"], &["all"])), [Chown].into_iter().collect());
    assert_eq!(
        bounding(Case::new().security(|s| s.privileged = true)).len(),
        3,
        "no more than the node has"
    );

    // A process can't gain by execve what only a file has: inheritable is ambient, and empty by default.
    assert!(sets(Case::new()).inheritable().clone().unwrap().is_empty());
    let ambient = sets(Case::new().security(|s| {
        s.capabilities = Some(cri::v1::Capability {
            add_ambient_capabilities: strings(&["NET_ADMIN"]),
            ..Default::default()
        });
    }));
    assert_eq!(ambient.ambient().clone().unwrap(), [NetAdmin].into_iter().collect());
    assert_eq!(ambient.inheritable(), ambient.ambient());
    assert!(ambient.permitted().clone().unwrap().contains(&NetAdmin));

    let refusal = change(&["FLY"], &[]).refusal();
    assert_eq!(refusal, "capabilities.add_capabilities: \"FLY\" is not a capability");
}

/// Kind and path of each namespace, as `pid=…` or `mount` for a new one.
fn namespaces_of(spec: &Linux) -> Vec<String> {
    let all = spec.namespaces().clone().unwrap();
    let mut names: Vec<_> = all
        .iter()
        .map(|n| {
            let kind = format!("{:?}", n.typ()).to_lowercase();
            n.path()
                .as_ref()
                .map_or(kind.clone(), |p| format!("{kind}={}", p.display()))
        })
        .collect();
    names.sort();
    names
}

#[test]
fn namespaces() {
    let options = |network: NamespaceMode, pid: NamespaceMode, ipc: NamespaceMode| NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: ipc.into(),
        ..Default::default()
    };
    use NamespaceMode::{Container, Node, Pod, Target};
    let pinned = |kind: &str| format!("{kind}={SANDBOX_DIR}/ns/{kind}");
    let (net, ipc, uts, pid) = (format!("network={NETNS}"), pinned("ipc"), pinned("uts"), pinned("pid"));

    let pod = Case::new().namespaces(options(Pod, Pod, Pod));
    assert_eq!(namespaces_of(&linux(pod)), [ipc.as_str(), "mount", &net, &pid, &uts]);
    let own_pids = Case::new().namespaces(options(Pod, Container, Pod));
    assert_eq!(
        namespaces_of(&linux(own_pids)),
        [ipc.as_str(), "mount", &net, "pid", &uts]
    );
    let host_pids = Case::new().namespaces(options(Pod, Node, Pod));
    assert_eq!(namespaces_of(&linux(host_pids)), [ipc.as_str(), "mount", &net, &uts]);
    let host = Case::new().namespaces(options(Node, Node, Node));
    assert_eq!(namespaces_of(&linux(host)), ["mount"]);

    let target = Case::new().security(|s| {
        s.namespace_options = Some(NamespaceOption {
            pid: Target.into(),
            target_id: "c0".into(),
            ..Default::default()
        });
    });
    assert!(namespaces_of(&linux(target)).contains(&format!("pid={SANDBOX_DIR}/containers/c0/ns/pid")));

    let mut v2 = Case::new();
    v2.facts.cgroup_v2 = true;
    assert!(namespaces_of(&linux(v2)).contains(&"cgroup".to_owned()));

    let differs = Case::new().security(|s| s.namespace_options = Some(options(Pod, Pod, Node)));
    assert_eq!(
        differs.refusal(),
        "namespace_options.ipc: NODE differs from the sandbox's POD"
    );
    let users = Case::new().security(|s| {
        s.namespace_options = Some(NamespaceOption {
            userns_options: Some(UserNamespace::default()),
            ..Default::default()
        });
    });
    assert_eq!(
        users.refusal(),
        "namespace_options.userns_options: differs from the sandbox's"
    );
}

fn user_namespace(uids: &[(u32, u32, u32)]) -> NamespaceOption {
    let ranges: Vec<_> = uids
        .iter()
        .map(|&(container_id, host_id, length)| IdMapping {
            container_id,
            host_id,
            length,
        })
        .collect();
    NamespaceOption {
        userns_options: Some(UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: ranges.clone(),
            gids: ranges,
        }),
        ..Default::default()
    }
}

#[test]
fn a_pod_in_a_user_namespace() {
    let options = user_namespace(&[(0, 65536, 65536)]);
    let mut volume = mount("/data", "/var/data");
    volume.uid_mappings = options.userns_options.clone().unwrap().uids;
    volume.gid_mappings = volume.uid_mappings.clone();
    let case = Case::new().namespaces(options.clone()).mount(volume);
    let sandbox = sandbox_spec(&case.sandbox, true).unwrap();
    let spec = case.spec().unwrap();
    for spec in [&sandbox, &spec] {
        let linux = spec.linux().clone().unwrap();
        let user = linux.namespaces().clone().unwrap();
        let user = user.iter().find(|n| n.typ() == LinuxNamespaceType::User).unwrap();
        assert_eq!(user.path().as_deref(), Some(Path::new(USERNS)));
        let ids = linux.uid_mappings().clone().unwrap();
        assert_eq!(
            (ids[0].container_id(), ids[0].host_id(), ids[0].size()),
            (0, 65536, 65536)
        );
        assert!(linux.gid_mappings().is_some());
    }
    // A group that is not in the namespace can't be named in it.
    let sysctls = sandbox.linux().clone().unwrap().sysctl().clone().unwrap();
    assert_eq!(sysctls["net.ipv4.ping_group_range"], "0 65535");
    let volume = spec.mounts().clone().unwrap();
    let volume = volume.iter().find(|m| m.destination() == Path::new("/data")).unwrap();
    assert_eq!(volume.uid_mappings().clone().unwrap()[0].host_id(), 65536);
    assert!(volume.gid_mappings().is_some());
    // pause is a user that is there.
    let small = Case::new().namespaces(user_namespace(&[(0, 70000, 1000)]));
    let pause = sandbox_spec(&small.sandbox, true).unwrap().process().clone().unwrap();
    assert_eq!((pause.user().uid(), pause.user().gid()), (999, 999));
    // A container that says nothing of it is in its pod's all the same.
    let silent = Case::new()
        .namespaces(options.clone())
        .security(|s| s.namespace_options.as_mut().unwrap().userns_options = None);
    assert!(silent.spec().is_ok());

    let mut shared = mount("/data", "/var/data");
    shared.propagation = MountPropagation::PropagationBidirectional.into();
    let refusal = Case::new().namespaces(options.clone()).mount(shared).refusal();
    assert!(refusal.contains("can't mount on the host"), "{refusal}");
    let node = NamespaceMode::Node as i32;
    for (options, expected) in [
        (user_namespace(&[]), "0 ranges: there must be one"),
        (user_namespace(&[(0, 1, 1), (1, 2, 1)]), "2 ranges: there must be one"),
        (user_namespace(&[(1, 65536, 65536)]), "it must map 0"),
        (user_namespace(&[(0, 65536, 0)]), "are not ids"),
        (user_namespace(&[(0, u32::MAX, 1)]), "are not ids"),
        (user_namespace(&[(0, 0, 65536)]), "the host's root would be the pod's"),
        (
            NamespaceOption {
                network: node,
                ..options.clone()
            },
            "on the host's network can't be had",
        ),
        (
            NamespaceOption {
                pid: node,
                ..options.clone()
            },
            "NODE can't be had in a user namespace",
        ),
        (
            NamespaceOption { ipc: node, ..options },
            "NODE can't be had in a user namespace",
        ),
    ] {
        let case = Case::new().namespaces(options);
        let error = check_namespaces(&case.sandbox).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn sources_that_were_resolved_are_said_to_be() {
    let spec = Case::new().mount(mount("/data", "/var/data")).spec().unwrap();
    assert_eq!(
        spec.annotations().clone().unwrap()[annotations::RESOLVED_SOURCES],
        "[\"/var/data\"]"
    );
    // The pod's own files are the node's to find.
    let annotations = Case::new().spec().unwrap().annotations().clone().unwrap();
    assert!(!annotations.contains_key(annotations::RESOLVED_SOURCES));
}

fn sources(spec: &Spec) -> Vec<(String, String, String)> {
    let text = |p: &Path| p.to_string_lossy().into_owned();
    spec.mounts()
        .clone()
        .unwrap()
        .iter()
        .map(|m| {
            (
                text(m.destination()),
                text(m.source().as_deref().unwrap()),
                m.options().clone().unwrap().join(","),
            )
        })
        .collect()
}

fn mount(container_path: &str, host_path: &str) -> Mount {
    Mount {
        container_path: container_path.into(),
        host_path: host_path.into(),
        ..Default::default()
    }
}

#[test]
fn default_mounts() {
    let mounts = sources(&Case::new().spec().unwrap());
    let destinations: Vec<_> = mounts.iter().map(|m| m.0.as_str()).collect();
    assert_eq!(
        destinations,
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/dev/mqueue",
            "/sys",
            "/sys/fs/cgroup",
            "/dev/shm",
            "/etc/hostname",
            "/etc/hosts",
            "/etc/resolv.conf"
        ]
    );
    let find = |destination: &str| mounts.iter().find(|m| m.0 == destination).unwrap().clone();
    assert!(find("/sys").2.ends_with("ro"));
    assert_eq!(find("/dev/shm").1, format!("{SANDBOX_DIR}/shm"));
    assert_eq!(find("/etc/hosts").1, format!("{SANDBOX_DIR}/hosts"));

    let privileged = sources(&Case::new().security(|s| s.privileged = true).spec().unwrap());
    assert!(privileged.iter().find(|m| m.0 == "/sys").unwrap().2.ends_with("rw"));
    let readonly = sources(&Case::new().security(|s| s.readonly_rootfs = true).spec().unwrap());
    assert!(readonly.iter().find(|m| m.0 == "/etc/hosts").unwrap().2.ends_with("ro"));
}

#[test]
fn configured_mounts_replace_defaults_and_come_after_their_parents() {
    let case = Case::new()
        .mount(mount("/data/deep", "/host/deep"))
        .mount(mount("/data", "/host/data"))
        .mount(mount("/etc/hosts/", "/kubelet/hosts"));
    let mounts = sources(&case.spec().unwrap());
    let hosts: Vec<_> = mounts
        .iter()
        .filter(|m| m.0.trim_end_matches('/') == "/etc/hosts")
        .collect();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0].1, "/kubelet/hosts");
    let own: Vec<_> = mounts[mounts.len() - 3..].iter().map(|m| m.1.as_str()).collect();
    assert_eq!(own, ["/host/data", "/host/deep", "/kubelet/hosts"]);
}

#[test]
fn access_and_propagation() {
    use MountPropagation::{
        PropagationBidirectional as Both, PropagationHostToContainer as In, PropagationPrivate as Private,
    };
    for (readonly, recursive, propagation, expected) in [
        (false, false, Private, Ok("rbind,rprivate,rw")),
        (true, false, In, Ok("rbind,rslave,ro")),
        (false, false, Both, Ok("rbind,rshared,rw")),
        (true, true, Private, Ok("rbind,rprivate,rro")),
        (
            false,
            true,
            Private,
            Err("mounts[0].recursive_read_only: a recursively read-only mount must be readonly too"),
        ),
        (
            true,
            true,
            In,
            Err("mounts[0].recursive_read_only: a recursively read-only mount must have PROPAGATION_PRIVATE"),
        ),
    ] {
        let case = Case::new().mount(Mount {
            readonly,
            recursive_read_only: recursive,
            propagation: propagation.into(),
            ..mount("/data", "/host")
        });
        let options = case
            .spec()
            .map(|s| sources(&s).pop().unwrap().2)
            .map_err(|e| e.to_string());
        assert_eq!(options, expected.map(str::to_owned).map_err(str::to_owned));
    }
    let shared = Case::new().mount(Mount {
        propagation: Both.into(),
        ..mount("/data", "/host")
    });
    assert_eq!(linux(shared).rootfs_propagation().as_deref(), Some("rshared"));
    assert_eq!(linux(Case::new()).rootfs_propagation().as_deref(), None);
}

#[test]
fn limits() {
    let case = Case::new().resources(|r| {
        r.cpu_shares = 512;
        r.cpu_quota = -1;
        r.cpu_period = 100_000;
        r.memory_limit_in_bytes = 1 << 20;
        r.oom_score_adj = 5000;
        r.cpuset_cpus = "0-1".into();
    });
    let spec = case.spec().unwrap();
    let resources = spec.linux().clone().unwrap().resources().clone().unwrap();
    let cpu = resources.cpu().clone().unwrap();
    assert_eq!(
        (cpu.shares(), cpu.quota(), cpu.period()),
        (Some(512), Some(-1), Some(100_000))
    );
    assert_eq!(cpu.cpus().as_deref(), Some("0-1"));
    let memory = resources.memory().unwrap();
    assert_eq!(
        (memory.limit(), memory.swap()),
        (Some(1 << 20), Some(1 << 20)),
        "no swap unless it is asked for"
    );
    assert_eq!(spec.process().clone().unwrap().oom_score_adj(), Some(1000));

    let mut no_swap = Case::new().resources(|r| r.memory_limit_in_bytes = 1 << 20);
    no_swap.facts.limitable.swap = false;
    assert_eq!(
        linux(no_swap).resources().clone().unwrap().memory().unwrap().swap(),
        None
    );

    let huge_pages = |allowed: u64, can_be_limited: bool| {
        let mut case = Case::new().resources(|r| {
            r.hugepage_limits = vec![HugepageLimit {
                page_size: "2MB".into(),
                limit: allowed,
            }];
        });
        case.facts.limitable.huge_pages = can_be_limited;
        let limits = linux(case).resources().clone().unwrap().hugepage_limits().clone();
        limits.map(|limits| limits[0].limit())
    };
    assert_eq!(huge_pages(0, true), Some(0));
    assert_eq!(huge_pages(0, false), None, "what every container of kubelet's says");
    assert_eq!(
        huge_pages(4 << 20, false),
        Some(4 << 20),
        "a limit that was meant is not dropped"
    );

    let unlimited = linux(Case::new()).resources().clone().unwrap();
    assert!(
        unlimited.cpu().is_none() && unlimited.memory().is_none(),
        "zero means not said"
    );
}

#[test]
fn device_rules() {
    let rules = |case| -> Vec<String> {
        let resources = linux(case).resources().clone().unwrap();
        resources
            .devices()
            .clone()
            .unwrap()
            .iter()
            .map(|r| format!("{} {r}", if r.allow() { "+" } else { "-" }))
            .collect()
    };
    let default = rules(Case::new());
    assert_eq!(default[..3], ["- a *:* rwm", "+ c *:* m", "+ b *:* m"]);
    assert!(default.contains(&"+ c 1:3 rwm".to_owned()) && default.contains(&"+ c 136:* rwm".to_owned()));
    assert_eq!(rules(Case::new().security(|s| s.privileged = true)), ["+ a *:* rwm"]);

    let mut fuse = Case::new();
    fuse.facts.devices.push(HostDevice {
        container_path: "/dev/fuse".into(),
        kind: oci_spec::runtime::LinuxDeviceType::C,
        major: 10,
        minor: 229,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access: "rw".into(),
    });
    let spec = fuse.spec().unwrap();
    let devices = spec.linux().clone().unwrap().devices().clone().unwrap();
    assert_eq!(
        (devices[0].path().as_path(), devices[0].major()),
        (Path::new("/dev/fuse"), 10)
    );
    assert_eq!(rules(fuse).last().unwrap(), "+ c 10:229 rw");
}

#[test]
fn masks() {
    assert!(
        linux(Case::new())
            .masked_paths()
            .clone()
            .unwrap()
            .contains(&"/proc/kcore".to_owned())
    );
    assert!(
        linux(Case::new())
            .readonly_paths()
            .clone()
            .unwrap()
            .contains(&"/proc/sys".to_owned())
    );
    let own = linux(Case::new().security(|s| s.masked_paths = strings(&["/bin/ls"])));
    assert_eq!(own.masked_paths().clone().unwrap(), ["/bin/ls"]);
    let privileged = linux(Case::new().security(|s| s.privileged = true));
    assert!(privileged.masked_paths().is_none() && privileged.readonly_paths().is_none());
}

#[test]
fn seccomp_profiles() {
    let profile = |kind: ProfileType, file: &str| {
        Some(SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: file.into(),
        })
    };
    let context = |seccomp, path: &str, privileged| {
        #[allow(deprecated)]
        LinuxContainerSecurityContext {
            seccomp,
            seccomp_profile_path: path.into(),
            privileged,
            ..Default::default()
        }
    };
    for (context, expected) in [
        (context(None, "", false), Ok(Profile::Unconfined)),
        (
            context(profile(ProfileType::RuntimeDefault, ""), "unconfined", false),
            Ok(Profile::RuntimeDefault),
        ),
        (
            context(profile(ProfileType::RuntimeDefault, ""), "", true),
            Ok(Profile::Unconfined),
        ),
        (context(None, "runtime/default", false), Ok(Profile::RuntimeDefault)),
        (
            context(None, "localhost//p.json", false),
            Ok(Profile::Localhost("/p.json".into())),
        ),
        (
            context(profile(ProfileType::Localhost, "p.json"), "", false),
            Err("seccomp.localhost_ref: \"p.json\" is not an absolute path"),
        ),
    ] {
        assert_eq!(
            container_profile(&context).map_err(|e| e.to_string()),
            expected.map_err(str::to_owned)
        );
    }
    let case = Case::new().security(|s| s.seccomp = profile(ProfileType::RuntimeDefault, ""));
    let annotations = case.spec().unwrap().annotations().clone().unwrap();
    assert_eq!(annotations[annotations::SECCOMP], annotations::RUNTIME_DEFAULT);
}

#[test]
fn exec_is_the_first_process_with_another_command() {
    let first = process(Case::new().security(|s| s.run_as_user = Some(Int64Value { value: 5 })));
    let exec = exec(&first, &strings(&["sh"]), true);
    assert_eq!(exec.args().clone().unwrap(), ["sh"]);
    assert_eq!(exec.user().uid(), 5);
    assert_eq!(exec.terminal(), Some(true));
    assert!(exec.env().clone().unwrap().contains(&"TERM=xterm".to_owned()));
}

fn sandbox_spec(config: &PodSandboxConfig, netns: bool) -> Result<Spec> {
    sandbox(&SandboxInputs {
        id: "s1",
        config,
        image: None,
        netns: netns.then_some(Path::new(NETNS)),
        userns: user_maps(config).ok().flatten().map(|_| Path::new(USERNS)),
        hostname: "web-0",
        cgroup_parent: "/hove/podu",
        security_modules: SecurityModules::default(),
    })
}

#[test]
fn pause() {
    let spec = sandbox_spec(&Case::new().sandbox, true).unwrap();
    let process = spec.process().clone().unwrap();
    assert_eq!(process.args().clone().unwrap(), ["/pause"]);
    assert_eq!((process.user().uid(), process.oom_score_adj()), (65535, Some(-998)));
    assert!(
        process
            .capabilities()
            .clone()
            .unwrap()
            .bounding()
            .clone()
            .unwrap()
            .is_empty()
    );
    assert_eq!(spec.hostname().as_deref(), Some("web-0"));
    assert_eq!(spec.root().clone().unwrap().readonly(), Some(true));
    let linux = spec.linux().clone().unwrap();
    assert_eq!(
        namespaces_of(&linux),
        ["ipc", "mount", &format!("network={NETNS}"), "pid", "uts"]
    );
    assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/hove/podu/s1")));
    assert_eq!(
        linux.sysctl().clone().unwrap()["net.ipv4.ip_unprivileged_port_start"],
        "0"
    );

    let host = Case::new().namespaces(NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: NamespaceMode::Node.into(),
        ipc: NamespaceMode::Node.into(),
        ..Default::default()
    });
    let spec = sandbox_spec(&host.sandbox, false).unwrap();
    let linux = spec.linux().clone().unwrap();
    assert_eq!(namespaces_of(&linux), ["mount"]);
    assert!(linux.sysctl().clone().unwrap().is_empty());
    assert_eq!(spec.hostname(), &None);
}

#[test]
fn sysctls_of_the_host_are_refused() {
    let with = |name: &str| {
        let mut config = Case::new().sandbox;
        let sysctls = [(name.to_owned(), "1".to_owned())].into();
        config.linux = Some(LinuxPodSandboxConfig {
            sysctls,
            ..Default::default()
        });
        config
    };
    for (name, netns, expected) in [
        ("kernel.shm_rmid_forced", true, Ok(())),
        ("fs.mqueue.msg_max", true, Ok(())),
        ("net.core.somaxconn", true, Ok(())),
        ("net/ipv4/conf/eth0.1/forwarding", true, Ok(())),
        (
            "kernel.panic",
            true,
            Err("linux.sysctls[kernel.panic]: no namespace of a pod has its own value of it"),
        ),
        (
            "net.core.somaxconn",
            false,
            Err("linux.sysctls[net.core.somaxconn]: the pod uses the host's network, so this would change the host's"),
        ),
    ] {
        let result = sandbox_spec(&with(name), netns).map(drop).map_err(|e| e.to_string());
        assert_eq!(result, expected.map_err(str::to_owned), "{name}");
    }
    let spec = sandbox_spec(&with("net/ipv4/conf/eth0.1/forwarding"), true).unwrap();
    assert_eq!(
        spec.linux().clone().unwrap().sysctl().clone().unwrap()["net.ipv4.conf.eth0/1.forwarding"],
        "1"
    );
}

#[test]
fn a_sandbox_cant_have_what_only_containers_have() {
    let with = |options| {
        let case = Case::new().namespaces(options);
        check_namespaces(&case.sandbox).map_err(|e| e.to_string())
    };
    assert_eq!(with(NamespaceOption::default()), Ok(()));
    let target = NamespaceOption {
        pid: NamespaceMode::Target.into(),
        ..Default::default()
    };
    assert!(
        with(target)
            .unwrap_err()
            .starts_with("namespace_options.pid: TARGET is for containers")
    );
    let ipc = NamespaceOption {
        ipc: NamespaceMode::Container.into(),
        ..Default::default()
    };
    assert_eq!(
        with(ipc).unwrap_err(),
        "namespace_options.ipc: CONTAINER can't be had: it is POD or NODE"
    );
}
