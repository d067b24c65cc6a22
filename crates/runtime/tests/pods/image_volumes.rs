//! Image volumes over the life of their image, their container and the node. (What one looks like from inside, the suite that
//! any implementation has to pass checks.)

use std::fs;

use cri::ImageService;
use cri::v1::*;

use crate::host::{Host, IMAGE, on_a_host, shell};

fn with_volume(name: &str, script: &str, image: &str) -> ContainerConfig {
    ContainerConfig {
        mounts: vec![Mount {
            container_path: "/volume".into(),
            readonly: true,
            image: Some(spec(image)),
            ..Default::default()
        }],
        ..shell(name, script)
    }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.into(),
        ..Default::default()
    }
}

/// Mounts of images below the node's state directory.
fn mounted(host: &Host) -> usize {
    let state = host.config.state.to_string_lossy().into_owned();
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let is_ours = |line: &&str| line.contains(&state) && line.contains("/images/");
    table.lines().filter(is_ours).count()
}

/// An image with nothing but a file.
fn import(host: &Host, name: &str, content: &str) {
    let root = host.dir.path().join("data");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), content).unwrap();
    let config = image::ImageConfig::default();
    host.images
        .import_rootfs(&root, &name.parse().unwrap(), &config)
        .unwrap();
    fs::remove_dir_all(root).unwrap();
}

const DATA: &str = "localhost/library/data:1";

#[test]
fn an_image_is_kept_for_as_long_as_it_is_a_volume() {
    on_a_host(|host| async move {
        import(&host, DATA, "model");
        let sandbox = host.run(host.pod("volume")).await.unwrap();
        let id = host
            .create(&sandbox, with_volume("main", "exec sleep 1000", DATA))
            .await
            .unwrap();
        assert_eq!(mounted(&host), 1);
        assert!(
            host.images.prune(true).unwrap().0.is_empty(),
            "a volume's image is in use"
        );

        // RemoveImage takes its name; the files stay until nobody uses them.
        let request = RemoveImageRequest {
            image: Some(spec(DATA)),
        };
        host.runtime.remove_image(request).await.unwrap();
        host.images.collect().unwrap();
        host.start(&id).await.unwrap();
        assert_eq!(host.exec(&id, &["cat", "/volume/file"]).await.unwrap().stdout, b"model");
        let used = host.images.fs_info().unwrap().images;

        host.stop_container(&id, 0).await.unwrap();
        host.remove_container(&id).await.unwrap();
        assert_eq!(mounted(&host), 0);
        assert!(
            host.images.fs_info().unwrap().images.inodes < used.inodes,
            "its layer is collected"
        );
        host.remove(&sandbox).await.unwrap();
    });
}

#[test]
fn a_node_that_was_killed_finds_its_volumes() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("found")).await.unwrap();
        let running = host
            .create(&sandbox, with_volume("running", "exec sleep 1000", IMAGE))
            .await
            .unwrap();
        host.start(&running).await.unwrap();
        let created = host
            .create(&sandbox, with_volume("created", "test -x /volume/bin/sh", IMAGE))
            .await
            .unwrap();

        let host = host.restart().await;
        assert_eq!(mounted(&host), 2);
        let found = host.exec(&running, &["test", "-x", "/volume/bin/sh"]).await.unwrap();
        assert_eq!(found.exit_code, 0);
        host.start(&created).await.unwrap();
        assert_eq!(host.ended(&created).await.exit_code, 0);

        // One that was being made: as a node leaves it that dies before the answer.
        let record = host
            .sandbox_dir(&sandbox)
            .join("containers")
            .join(&created)
            .join("container.json");
        let text = fs::read_to_string(&record).unwrap();
        fs::write(&record, text.replace("\"intent\":\"Keep\"", "\"intent\":\"Create\"")).unwrap();
        let host = host.restart().await;
        assert_eq!(mounted(&host), 1, "what nobody knows of is undone");
        assert_eq!(host.images.snapshots().len(), 2, "the other's root and volume");
        host.remove(&sandbox).await.unwrap();
        assert_eq!(mounted(&host), 0);
    });
}

#[test]
fn what_belongs_to_a_broken_record_is_unmounted() {
    on_a_host(|host| async move {
        // The node's cgroup goes with its last sandbox that has a record.
        let sound = host.run(host.pod("sound")).await.unwrap();
        let sandbox = host.run(host.pod("broken")).await.unwrap();
        host.create(&sandbox, with_volume("main", "exec sleep 1000", IMAGE))
            .await
            .unwrap();
        fs::write(host.sandbox_dir(&sandbox).join("sandbox.json"), "{ torn").unwrap();
        let host = host.restart().await;
        assert_eq!(mounted(&host), 0);
        host.remove(&sound).await.unwrap();
    });
}
