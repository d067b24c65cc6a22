//! From a Pod to the CRI's configurations.

#![allow(clippy::unwrap_used, clippy::missing_docs_in_private_items)]

use std::{collections::BTreeMap, path::PathBuf};

use cri::v1::{self, NamespaceMode, security_profile::ProfileType};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use sync::{
    config::{Node, container, hosts, resources, sandbox, security},
    decide::Start,
};

fn pod(spec: &str) -> Pod {
    let text = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: web, namespace: ns, uid: u-1, labels: {{app: x}}, annotations: {{note: hello}}}}, spec: {spec}}}"
    );
    pod::load(&text, "p")
        .unwrap_or_else(|problems| panic!("{problems}"))
        .remove(0)
        .pod
}

fn node() -> Node {
    Node {
        name: "n".into(),
        ips: vec!["192.0.2.1".into()],
        memory_bytes: 1 << 30,
        cgroup_v2: true,
        resolv_conf: "# c\nnameserver 192.0.2.53\nsearch example.org lan\noptions ndots:2 edns0\n".into(),
        hosts: "127.0.0.1 localhost\n".into(),
        cgroup_parent: "/hove".into(),
        log_root: "/var/log/pods".into(),
        pods_root: "/var/lib/hove/pods".into(),
    }
}

fn made(pod: &Pod, n: usize) -> v1::ContainerConfig {
    try_made(pod, n).unwrap()
}

fn try_made(pod: &Pod, n: usize) -> Result<v1::ContainerConfig, String> {
    let volumes = BTreeMap::from([("v".to_owned(), PathBuf::from("/host/v"))]);
    let around = container::Surroundings {
        node: &node(),
        pod_ips: &["10.0.0.2".into()],
        volumes: &volumes,
        image_id: "sha256:1",
    };
    let spec = &pod.spec.as_ref().unwrap().containers[n];
    let start = Start {
        name: spec.name.clone(),
        attempt: 3,
        restart_delay_s: 40,
        made: None,
    };
    container::config(pod, spec, &start, &around)
}

#[test]
fn a_sandbox_is_found_again_by_its_labels() {
    let pod = pod(
        "{hostname: h, containers: [{name: c, image: i, ports: [{containerPort: 80, hostPort: 8880, hostIP: 127.0.0.1}, {containerPort: 53, hostPort: 53, protocol: UDP}, {containerPort: 1}]}]}",
    );
    let config = sandbox::config(&pod, 2, &node());
    let metadata = config.metadata.unwrap();
    assert_eq!(
        (
            metadata.name.as_str(),
            metadata.uid.as_str(),
            metadata.namespace.as_str(),
            metadata.attempt
        ),
        ("web", "u-1", "ns", 2)
    );
    assert_eq!(config.hostname, "h");
    assert_eq!(config.log_directory, "/var/log/pods/ns_web_u-1");
    for (label, value) in [
        ("app", "x"),
        ("io.kubernetes.pod.name", "web"),
        ("io.kubernetes.pod.namespace", "ns"),
        ("io.kubernetes.pod.uid", "u-1"),
        ("hove.dev/owner", "sync"),
    ] {
        assert_eq!(config.labels[label], value);
    }
    assert_eq!(config.annotations["note"], "hello");
    let ports: Vec<_> = config
        .port_mappings
        .iter()
        .map(|port| {
            (
                port.protocol,
                port.container_port,
                port.host_port,
                port.host_ip.as_str(),
            )
        })
        .collect();
    assert_eq!(ports, [(0, 80, 8880, "127.0.0.1"), (1, 53, 53, "")]);
    let dns = config.dns_config.unwrap();
    assert_eq!(
        (dns.servers, dns.searches, dns.options),
        (
            vec!["192.0.2.53".to_owned()],
            vec!["example.org".to_owned(), "lan".into()],
            vec!["ndots:2".to_owned(), "edns0".into()]
        )
    );
    let linux = config.linux.unwrap();
    assert_eq!(linux.cgroup_parent, "/hove/podu-1");
    let options = linux.security_context.unwrap().namespace_options.unwrap();
    assert_eq!(
        (options.network, options.pid, options.ipc),
        (
            NamespaceMode::Pod as i32,
            NamespaceMode::Container as i32,
            NamespaceMode::Pod as i32
        )
    );
}

#[test]
fn namespaces_of_the_host_and_of_the_pod() {
    let on_host = pod(
        "{hostNetwork: true, hostPID: true, hostIPC: true, containers: [{name: c, image: i, ports: [{containerPort: 80}]}]}",
    );
    let config = sandbox::config(&on_host, 0, &node());
    assert!(config.hostname.is_empty() && config.port_mappings.is_empty());
    let options = config
        .linux
        .unwrap()
        .security_context
        .unwrap()
        .namespace_options
        .unwrap();
    assert_eq!((options.network, options.pid, options.ipc), (2, 2, 2));
    let shared = pod("{shareProcessNamespace: true, containers: [{name: c, image: i}]}");
    let context = security::container(
        shared.spec.as_ref().unwrap(),
        &shared.spec.as_ref().unwrap().containers[0],
    );
    assert_eq!(context.namespace_options.unwrap().pid, NamespaceMode::Pod as i32);
    assert!(hosts::text(on_host.spec.as_ref().unwrap(), &[], "h", "1.2.3.4 other\n").contains("1.2.3.4 other"));
    let alias = pod("{hostAliases: [{ip: 10.1.1.1, hostnames: [a, b]}], containers: [{name: c, image: i}]}");
    let text = hosts::text(alias.spec.as_ref().unwrap(), &["10.0.0.2".into()], "web", "");
    assert!(
        text.contains("10.0.0.2\tweb\n") && text.contains("10.1.1.1\ta\tb\n"),
        "{text}"
    );
}

#[test]
fn dns_policies() {
    let none = pod(
        "{dnsPolicy: None, dnsConfig: {nameservers: [192.0.2.1], options: [{name: ndots, value: '5'}, {name: trust-ad}]}, containers: [{name: c, image: i}]}",
    );
    let dns = sandbox::config(&none, 0, &node()).dns_config.unwrap();
    assert_eq!(
        (dns.servers, dns.searches.len(), dns.options),
        (
            vec!["192.0.2.1".to_owned()],
            0,
            vec!["ndots:5".to_owned(), "trust-ad".into()]
        )
    );
    let merged = pod(
        "{dnsConfig: {searches: [svc.lan], options: [{name: ndots, value: '5'}]}, containers: [{name: c, image: i}]}",
    );
    let dns = sandbox::config(&merged, 0, &node()).dns_config.unwrap();
    assert_eq!(dns.searches, ["example.org", "lan", "svc.lan"]);
    assert_eq!(dns.options, ["edns0", "ndots:5"]);
}

#[test]
fn a_container_has_its_mounts_log_and_annotations() {
    let pod = pod(
        "{volumes: [{name: v, emptyDir: {}}], containers: [{name: c, image: 'i:1', command: [sh, -c], args: ['echo $(WHO) $$(WHO) $(NO)'], workingDir: /w, env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: WHO, value: 'pod $(NAME)'}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, {name: L, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app']\"}}}], volumeMounts: [{name: v, mountPath: /data, readOnly: true}], tty: true, stdin: true}]}",
    );
    let config = made(&pod, 0);
    assert_eq!(config.log_path, "c/3.log");
    assert_eq!(config.command, ["sh", "-c"]);
    assert_eq!(config.args, ["echo pod web $(WHO) $(NO)"]);
    let envs: Vec<(String, String)> = config
        .envs
        .iter()
        .map(|env| (env.key.clone(), String::from_utf8(env.value.clone()).unwrap()))
        .collect();
    let env = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        envs,
        [
            env("NAME", "web"),
            env("WHO", "pod web"),
            env("IP", "10.0.0.2"),
            env("L", "x")
        ]
    );
    let mounts: Vec<_> = config
        .mounts
        .iter()
        .map(|m| (m.container_path.as_str(), m.host_path.as_str(), m.readonly))
        .collect();
    assert_eq!(
        mounts,
        [
            ("/data", "/host/v", true),
            ("/etc/hosts", "/var/lib/hove/pods/u-1/etc-hosts", false),
            ("/dev/termination-log", "/var/lib/hove/pods/u-1/containers/c/3", false)
        ]
    );
    assert_eq!(config.annotations["io.kubernetes.container.restartCount"], "3");
    assert_eq!(config.annotations["hove.dev/restart-delay-seconds"], "40");
    assert_eq!(config.annotations["io.kubernetes.pod.terminationGracePeriod"], "30");
    assert_eq!(config.labels["io.kubernetes.container.name"], "c");
    assert!(config.tty && config.stdin && !config.stdin_once);
    let image = config.image.unwrap();
    assert_eq!(
        (image.image.as_str(), image.user_specified_image.as_str()),
        ("sha256:1", "i:1")
    );
}

#[test]
fn security_of_the_container_comes_before_that_of_the_pod() {
    let pod = pod(
        "{securityContext: {runAsUser: 5, runAsGroup: 6, fsGroup: 7, supplementalGroups: [8], seccompProfile: {type: Unconfined}}, containers: [{name: a, image: i, securityContext: {runAsUser: 9, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL], add: [CAP_NET_BIND_SERVICE]}}}, {name: b, image: i, securityContext: {privileged: true, seccompProfile: {type: RuntimeDefault}}}]}",
    );
    let spec = pod.spec.as_ref().unwrap();
    let a = security::container(spec, &spec.containers[0]);
    assert_eq!((a.run_as_user.unwrap().value, a.run_as_group.unwrap().value), (9, 6));
    assert_eq!(a.supplemental_groups, [7, 8]);
    assert!(a.no_new_privs && a.readonly_rootfs && !a.masked_paths.is_empty());
    let capabilities = a.capabilities.unwrap();
    assert_eq!(
        (capabilities.add_capabilities, capabilities.drop_capabilities),
        (vec!["NET_BIND_SERVICE".to_owned()], vec!["ALL".to_owned()])
    );
    assert_eq!(a.seccomp.unwrap().profile_type, ProfileType::Unconfined as i32);
    let b = security::container(spec, &spec.containers[1]);
    assert!(b.privileged && b.masked_paths.is_empty() && b.readonly_paths.is_empty());
    assert_eq!(
        b.seccomp.unwrap().profile_type,
        ProfileType::Unconfined as i32,
        "privileged is unconfined"
    );
    assert!(security::sandbox(spec).privileged);
    let plain = self::pod("{containers: [{name: c, image: i}]}");
    let spec = plain.spec.as_ref().unwrap();
    assert_eq!(
        security::container(spec, &spec.containers[0])
            .seccomp
            .unwrap()
            .profile_type,
        ProfileType::RuntimeDefault as i32
    );
}

#[test]
fn run_as_non_root_asks_the_image() {
    let pod = pod(
        "{securityContext: {runAsNonRoot: true}, containers: [{name: c, image: i}, {name: d, image: i, securityContext: {runAsUser: 1}}]}",
    );
    let spec = pod.spec.as_ref().unwrap();
    let image = |uid: Option<i64>, username: &str| v1::Image {
        uid: uid.map(|value| v1::Int64Value { value }),
        username: username.into(),
        ..Default::default()
    };
    let check = |n: usize, image: &v1::Image| security::check_non_root(spec, &spec.containers[n], image);
    assert!(check(0, &image(Some(0), "")).unwrap_err().contains("will run as root"));
    assert!(check(0, &image(None, "")).unwrap_err().contains("will run as root"));
    assert!(
        check(0, &image(None, "www"))
            .unwrap_err()
            .contains("non-numeric user (www)")
    );
    assert_eq!(check(0, &image(Some(101), "")), Ok(()));
    assert_eq!(check(1, &image(Some(0), "")), Ok(()));
}

fn spec_with_resources(text: &str) -> PodSpec {
    pod(&format!("{{containers: [{{name: c, image: i, resources: {text}}}]}}"))
        .spec
        .unwrap()
}

#[test]
fn resources_are_cgroup_values_and_a_class() {
    for (text, class, shares, quota, memory, oom) in [
        ("{}", "BestEffort", 2, 0, 0, 1000),
        ("{requests: {cpu: 100m}}", "Burstable", 102, 0, 0, 999),
        ("{requests: {cpu: 1, memory: 512Mi}}", "Burstable", 1024, 0, 0, 500),
        (
            "{limits: {cpu: 500m, memory: 64Mi}}",
            "Guaranteed",
            512,
            50_000,
            64 << 20,
            -997,
        ),
        ("{limits: {cpu: 1m}}", "Burstable", 2, 1000, 0, 999),
        (
            "{limits: {memory: 1Gi}, requests: {memory: 512Mi}}",
            "Burstable",
            2,
            0,
            1 << 30,
            500,
        ),
    ] {
        let spec = spec_with_resources(text);
        let resources = resources::container(&spec, &spec.containers[0], &node());
        assert_eq!(resources::qos_class(&spec).name(), class, "{text}");
        assert_eq!(
            (
                resources.cpu_shares,
                resources.cpu_quota,
                resources.memory_limit_in_bytes,
                resources.oom_score_adj
            ),
            (shares, quota, memory, oom),
            "{text}"
        );
    }
}

#[test]
fn a_container_dies_whole_where_the_kernel_can_do_it() {
    let spec = spec_with_resources("{limits: {memory: 64Mi}}");
    let unified = |node: &Node| resources::container(&spec, &spec.containers[0], node).unified;
    assert_eq!(unified(&node()).get("memory.oom.group").map(String::as_str), Some("1"));
    let v1 = Node {
        cgroup_v2: false,
        ..node()
    };
    assert!(unified(&v1).is_empty());
}

/// A small spec may mean an endless text: it is refused before it is there.
#[test]
fn references_that_double_are_refused() {
    let bomb = |last: usize| {
        let doubled = (1..=last).map(|n| format!("{{name: A{n}, value: \"$(A{})$(A{})\"}}", n - 1, n - 1));
        let env: Vec<String> = std::iter::once("{name: A0, value: xx}".to_owned())
            .chain(doubled)
            .collect();
        env.join(", ")
    };
    let with = |rest: String| pod(&format!("{{containers: [{{name: c, image: i, {rest}}}]}}"));
    let longest = with(format!("env: [{}]", bomb(16)));
    assert_eq!(made(&longest, 0).envs[16].value.len(), 128 << 10);
    let why = try_made(&with(format!("env: [{}]", bomb(60))), 0).unwrap_err();
    assert!(why.starts_with("env A17: longer than 131072 bytes"), "{why}");
    let why = try_made(&with(format!("env: [{}], args: [a, \"$(A16)$(A16)\"]", bomb(16))), 0).unwrap_err();
    assert!(why.starts_with("args[1]: longer than"), "{why}");
    let many = vec!["\"$(A16)\""; 49].join(", ");
    let why = try_made(&with(format!("env: [{}], command: [{many}]", bomb(16))), 0).unwrap_err();
    assert!(why.starts_with("command[48]: more than 6291456 bytes"), "{why}");
}
