//! A sandbox whose first process is an image's program, in the place of Hove's own pause.

use std::fs;
use std::path::Path;

use cri::ImageService;
use cri::v1::*;
use runtime::Runtime;

use crate::host::{Host, dies, kill, lives, on_a_host, on_a_native_host, shell, told};

const PAUSE: &str = "localhost/library/own-pause:1";

/// Imports an image whose program is busybox's: `sleep` for ever as a user of the image's, with a file to be known by.
fn import(host: &Host, command: &[&str]) {
    let root = host.dir.path().join("own-pause");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::write(root.join("etc/passwd"), "sleeper:x:1234:1234::/:/bin/false\n").unwrap();
    fs::write(root.join("mark"), "own").unwrap();
    let busybox = Path::new("/bin/busybox");
    for program in ["bin/busybox", "bin/sleep"] {
        fs::copy(busybox, root.join(program)).unwrap();
    }
    for library in crate::host::libraries(busybox) {
        let target = root.join(library.strip_prefix("/").unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&library, target).unwrap();
    }
    let config = image::ImageConfig {
        entrypoint: command.iter().map(|word| (*word).to_owned()).collect(),
        env: vec!["PATH=/bin".into(), "WHOSE=own".into()],
        user: "sleeper".into(),
        ..Default::default()
    };
    host.images
        .import_rootfs(&root, &PAUSE.parse().unwrap(), &config)
        .unwrap();
    fs::remove_dir_all(root).unwrap();
}

/// The same host, whose node has a sandbox image, pinned as a node pins it.
async fn with_image(mut host: Host, name: &str) -> Host {
    host.config.sandbox_image = Some(name.to_owned());
    host.images.pin(&[name.to_owned()]);
    host.restart().await
}

fn command_line(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline"))
        .unwrap()
        .replace('\0', " ")
}

/// What is true of such a first process: the image's program, user, environment and files, with no rights.
async fn check(pid: i32) {
    // An OCI runtime has said that it is started a moment before it becomes its program.
    let becomes = async {
        while command_line(pid) != "sleep 100000 " {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), becomes)
        .await
        .unwrap_or_else(|_| panic!("it is {:?}", command_line(pid)));
    let root = Path::new("/proc").join(pid.to_string()).join("root");
    assert_eq!(fs::read_to_string(root.join("mark")).unwrap(), "own");
    let refused = fs::write(root.join("new"), "").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(30), "its root is read-only: {refused}");
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.contains("WHOSE=own\0"), "{environment}");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t1234\t1234"), "{status}");
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
}

async fn listed(host: &Host) -> Image {
    let request = ListImagesRequest::default();
    let images = host.runtime.list_images(request).await.unwrap().images;
    let ours = images
        .into_iter()
        .find(|image| image.repo_tags.iter().any(|t| t == PAUSE));
    ours.expect("the sandbox image is listed")
}

#[test]
fn its_program_is_the_first_process() {
    on_a_host(|host| async move {
        import(&host, &["sleep", "100000"]);
        let host = with_image(host, PAUSE).await;
        let mut pod = host.pod("own");
        let options = NamespaceOption {
            pid: NamespaceMode::Pod.into(),
            ..Default::default()
        };
        let security = LinuxSandboxSecurityContext {
            namespace_options: Some(options.clone()),
            ..Default::default()
        };
        pod.linux.get_or_insert_default().security_context = Some(security);
        let sandbox = host.run(pod).await.unwrap();
        check(host.sandbox_pid(&sandbox, "pid").await).await;

        let mut config = shell("main", "exec sleep 1000");
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.namespace_options = Some(options);
        let id = host.create(&sandbox, config).await.unwrap();
        host.start(&id).await.unwrap();
        let first = host.exec(&id, &["cat", "/proc/1/cmdline"]).await.unwrap();
        assert_eq!(first.stdout, b"sleep\x00100000\0", "the pod's PID 1");

        assert!(listed(&host).await.pinned);
        let status = host.runtime.image_status(ImageStatusRequest {
            image: Some(ImageSpec {
                image: PAUSE.into(),
                ..Default::default()
            }),
            verbose: false,
        });
        assert!(status.await.unwrap().image.unwrap().pinned);

        // The node comes back with another setting: what runs stays what it is.
        let mut host = host;
        host.config.sandbox_image = None;
        let host = host.restart().await;
        check(host.sandbox_pid(&sandbox, "pid").await).await;
        let other = host.run(host.pod("usual")).await.unwrap();
        assert_ne!(command_line(host.sandbox_pid(&other, "pid").await), "sleep 100000 ");
        host.remove(&other).await.unwrap();
        host.stop(&sandbox).await.unwrap();
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn garbage_collection_leaves_it() {
    on_a_host(|host| async move {
        import(&host, &["sleep", "100000"]);
        // As careful people name one: by tag and digest.
        let digest = host.images.get(PAUSE).unwrap().digests[0].clone();
        let (_, digest) = digest.split_once('@').unwrap();
        let host = with_image(host, &format!("{PAUSE}@{digest}")).await;
        host.images.prune(true).unwrap();
        let sandbox = host.run(host.pod("first")).await.unwrap();
        host.images.prune(true).unwrap();
        host.remove(&sandbox).await.unwrap();
        host.images.prune(true).unwrap();
        assert!(listed(&host).await.pinned);
        let again = host.run(host.pod("again")).await.unwrap();
        // Removed by name it goes, as the CRI has it; the pod that runs keeps its files.
        let request = RemoveImageRequest {
            image: Some(ImageSpec {
                image: PAUSE.into(),
                ..Default::default()
            }),
        };
        host.runtime.remove_image(request).await.unwrap();
        check(host.sandbox_pid(&again, "pid").await).await;
        host.remove(&again).await.unwrap();
    });
}

#[test]
fn without_it_no_pod_starts_and_it_is_said_why() {
    on_a_host(|host| async move {
        let host = with_image(host, PAUSE).await;
        let refused = host.run(host.pod("missing")).await.unwrap_err();
        assert_eq!(refused.kind, cri::ErrorKind::NotFound);
        for part in [PAUSE, "can't be had", "[sandbox] image", "a pause of its own"] {
            assert!(refused.message.contains(part), "{refused}");
        }
        // Nobody answers there; kubelet knows such a failure by its word.
        let host = with_image(host, "127.0.0.1:9/pause:1").await;
        let refused = host.run(host.pod("unreachable")).await.unwrap_err();
        assert_eq!(refused.kind, cri::ErrorKind::Unavailable, "{refused}");
        assert!(refused.message.contains("RegistryUnavailable"), "{refused}");

        import(&host, &[]);
        let host = with_image(host, PAUSE).await;
        let refused = host.run(host.pod("idle")).await.unwrap_err();
        let words = "[sandbox] image: the image has neither entrypoint nor command";
        assert!(refused.message.contains(words), "{refused}");
        import_again(&host);
        let sandbox = host.run(host.pod("idle")).await.unwrap();
        check(host.sandbox_pid(&sandbox, "pid").await).await;
        host.remove(&sandbox).await.unwrap();
    });
}

fn import_again(host: &Host) {
    host.images.remove(PAUSE, true).unwrap();
    import(host, &["sleep", "100000"]);
}

#[test]
fn it_starts_again_when_it_or_its_supervisor_dies() {
    let why = "its pods end with their first process";
    on_a_native_host(why, |host| async move {
        import(&host, &["sleep", "100000"]);
        let mut host = with_image(host, PAUSE).await;
        let sandbox = host.run(host.pod("deaths")).await.unwrap();
        let options = NamespaceOption {
            pid: NamespaceMode::Container.into(),
            ..Default::default()
        };
        let mut config = shell("main", "exec sleep 1000");
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.namespace_options = Some(options);
        let id = host.create(&sandbox, config).await.unwrap();
        host.start(&id).await.unwrap();
        let container = host.container_pid(&id).await;
        let mut notices = host.runtime.notices();

        // pause alone.
        let pause = host.sandbox_pid(&sandbox, "pid").await;
        kill(pause);
        told(&mut notices, "PauseRestarted").await;
        let pause = another(&host, &sandbox, pause).await;
        check(pause).await;

        // The supervisor alone, and then pause, which the next one starts anew.
        let shim = host.sandbox_pid(&sandbox, "shimPid").await;
        kill(shim);
        told(&mut notices, "SupervisorReplaced").await;
        check(host.sandbox_pid(&sandbox, "pid").await).await;
        kill(pause);
        told(&mut notices, "PauseRestarted").await;
        let pause = another(&host, &sandbox, pause).await;
        check(pause).await;

        // All three.
        let shim = host.sandbox_pid(&sandbox, "shimPid").await;
        drop(host.runtime);
        kill(shim);
        kill(pause);
        assert!(dies(shim).await && dies(pause).await);
        host.runtime = Runtime::open(host.config.clone(), host.images.clone(), host.network.clone())
            .await
            .unwrap();
        let pause = another(&host, &sandbox, pause).await;
        check(pause).await;
        assert_eq!(host.container_pid(&id).await, container, "no container was restarted");
        assert!(lives(container));
        host.remove(&sandbox).await.unwrap();
    });
}

/// The sandbox's first process, once it is another one than `old` and has become its program.
async fn another(host: &Host, sandbox: &str, old: i32) -> i32 {
    let limit = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let pid = host.sandbox_pid(sandbox, "pid").await;
        if pid != old && pid != 0 && lives(pid) && command_line(pid) == "sleep 100000 " {
            return pid;
        }
        assert!(tokio::time::Instant::now() < limit, "no other first process appears");
        tokio::task::yield_now().await;
    }
}

#[test]
fn in_a_user_namespace() {
    on_a_native_host("its pods have no user namespaces", |host| async move {
        import(&host, &["sleep", "100000"]);
        let host = with_image(host, PAUSE).await;
        let pod = crate::users::pod(&host, "mapped", NamespaceMode::Pod);
        let sandbox = host.run(pod).await.unwrap();
        let pid = host.sandbox_pid(&sandbox, "pid").await;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let outside = crate::users::HOST_ID + 1234;
        assert!(status.contains(&format!("Uid:\t{outside}\t{outside}")), "{status}");
        host.remove(&sandbox).await.unwrap();
    });
}
