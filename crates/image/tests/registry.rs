//! Pulls and pushes: Debian's docker-registry, and a server that behaves as badly as it is told to.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use image::registry::{Credentials, Error};
use image::{Digest, Reference, Source, Store, limits::Limits};
use support::registry::{DockerRegistry, Manners, Node, Server, archive};
use tokio::net::TcpListener;

#[tokio::test]
async fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    for ignores_ranges in [false, true] {
        let server = Server::start(Manners {
            breaks_after: Some(500_000),
            ignores_ranges,
            ..Manners::default()
        })
        .await;
        let node = Node::new();
        let image = node.pull(&server.image()).await.unwrap();
        assert_eq!(image.tags, [server.image()]);
        assert!(server.seen.ranges.load(Ordering::SeqCst) >= 4);
        let overlay = node.store.prepare("c", &image.id).unwrap();
        assert_eq!(std::fs::read(overlay.lower[0].join("hello")).unwrap(), b"hello\n");
    }
}

#[tokio::test]
async fn who_asks_for_an_image_that_is_being_pulled_waits_for_it() {
    let server = Server::start(Manners::default()).await;
    let node = Node::new();
    let name = server.image();
    let pulls = (0..8).map(|_| node.pull(&name));
    let images = futures_util::future::join_all(pulls).await;
    assert!(images.iter().all(|image| image.is_ok()));
    assert_eq!(server.seen.layers.load(Ordering::SeqCst), 1);
    // What is there is not fetched again.
    node.pull(&name).await.unwrap();
    assert_eq!(server.seen.layers.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_layer_of_two_images_is_fetched_once() {
    let server = Server::start(Manners::default()).await;
    let node = Node::new();
    let names = [server.image(), server.image().replace(":1", ":2")];
    let (one, two) = tokio::join!(node.pull(&names[0]), node.pull(&names[1]));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.id, two.id);
    assert_eq!(one.layers[0].digest, two.layers[0].digest);
    assert_eq!(server.seen.layers.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_that_sends_nothing_is_given_up() {
    let server = Server::start(Manners {
        stalls: true,
        ..Manners::default()
    })
    .await;
    let node = Node::with(|config| config.stall = Duration::from_millis(300));
    let error = node.pull(&server.image()).await.unwrap_err().to_string();
    assert!(
        error.contains("no byte came for 300ms") && error.contains(&server.address),
        "{error}"
    );
    assert!(node.store.list().is_empty());

    let mute = Server::start(Manners {
        is_mute: true,
        ..Manners::default()
    })
    .await;
    let error = node.pull(&mute.image()).await.unwrap_err().to_string();
    assert!(error.contains("no byte came for 300ms"), "{error}");
    assert_eq!(mute.seen.requests.load(Ordering::SeqCst), 1, "it is not asked again");
}

#[tokio::test]
async fn bytes_that_are_not_what_was_promised_are_not_used() {
    let server = Server::start(Manners {
        lies: true,
        ..Manners::default()
    })
    .await;
    let node = Node::new();
    let error = node.pull(&server.image()).await.unwrap_err().to_string();
    assert!(error.contains("was promised"), "{error}");
    assert!(node.store.list().is_empty());
}

#[tokio::test]
async fn tokens_are_had_by_name_and_password_and_go_nowhere_else() {
    let server = Server::start(Manners {
        wants_token: true,
        ..Manners::default()
    })
    .await;
    let node = Node::new();
    let denied = node.pull(&server.image()).await.unwrap_err();
    assert!(matches!(denied, Error::Denied { .. }), "{denied}");
    assert!(denied.to_string().contains("who are you?"), "{denied}");

    let me = Credentials::Password {
        name: "me".to_owned(),
        password: "secret".to_owned(),
    };
    node.pull_as(&server.image(), Some(me.clone())).await.unwrap();
    // Docker's own configuration does as well.
    let node = Node::new();
    let auths = format!(r#"{{"auths": {{"{}": {{"auth": "bWU6c2VjcmV0"}}}}}}"#, server.address);
    node.write("config.json", &auths);
    node.pull(&server.image()).await.unwrap();

    // A mirror is not shown what is the registry's, and what it lacks the registry has.
    let mirror = Server::start(Manners::default()).await;
    let node = Node::new();
    let hosts = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
        server.address, mirror.address
    );
    node.write("certs.d/example.org/hosts.toml", &hosts);
    let image = node.pull_as("example.org/app:1", Some(me)).await.unwrap();
    assert_eq!(
        image.tags,
        ["example.org/app:1"],
        "the name is the one that was asked for"
    );
    assert_eq!(mirror.seen.layers.load(Ordering::SeqCst), 1);
    assert!(mirror.seen.authorizations.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_servers_words() {
    let server = Server::start(Manners::default()).await;
    let node = Node::new();
    let missing = node.pull(&format!("{}/app:typo", server.address)).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
    assert!(
        missing.to_string().contains("manifest unknown to this server"),
        "{missing}"
    );
    // Nobody listens on a port that was just given back.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = node.pull(&format!("{free}/app:1")).await.unwrap_err();
    assert!(matches!(nobody, Error::Unavailable { .. }), "{nobody}");
    assert!(nobody.to_string().contains("refused"), "{nobody}");
}

/// A server's words may quote what it was told, and orders for a terminal.
#[tokio::test]
async fn no_secret_is_shown_that_a_server_quotes() {
    let server = Server::start(Manners {
        wants_token: true,
        ..Manners::default()
    })
    .await;
    let me = |password: &str| {
        Some(Credentials::Password {
            name: "me".to_owned(),
            password: password.to_owned(),
        })
    };
    let node = Node::new();
    let hosts = format!(
        "[host.\"http://{0}\".header]\nx-secret = \"configured\"\n",
        server.address
    );
    node.write(
        "certs.d/example.org/hosts.toml",
        &format!("server = \"http://{}\"\n{hosts}", server.address),
    );
    let wrong = node
        .pull_as(&server.image(), me("hunter2"))
        .await
        .unwrap_err()
        .to_string();
    assert!(wrong.contains("You said: Basic …"), "{wrong}");
    let typo = format!("{}/app:typo", server.address);
    let typo = node.pull_as(&typo, me("secret")).await.unwrap_err().to_string();
    assert!(typo.contains("this server[31mYou said: Bearer …"), "{typo:?}");
    let mirrored = node
        .pull_as("example.org/app:typo", me("secret"))
        .await
        .unwrap_err()
        .to_string();
    assert!(!mirrored.contains("configured"), "{mirrored}");
}

#[tokio::test]
async fn images_come_from_a_real_registry() {
    let (gzip, zstd) = ([0x1f, 0x8b].as_slice(), [0x28, 0xb5, 0x2f, 0xfd].as_slice());
    // What tells chunked from plain zstd are frames to be skipped, the last of which ends in these letters.
    let footer = b"GnUlInUx";
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path());
    let node = Node::new();
    let mut ids = Vec::new();
    for (format, compression, start) in [
        ("oci", "gzip", gzip),
        ("oci", "zstd", zstd),
        ("oci", "zstd:chunked", zstd),
        ("v2s2", "gzip", gzip),
    ] {
        // Each in a registry of its own: skopeo takes a layer that is there, however it is compressed.
        let Some(registry) = DockerRegistry::start("").await else {
            return;
        };
        let format = format!("--format={format}");
        let compressed = format!("--dest-compress-format={compression}");
        registry.push(&archive, "team/app:1", &[&format, &compressed]);
        let name = format!("{}/team/app:1", registry.address);
        let image = node.pull(&name).await.unwrap();
        let digest = image
            .digests
            .iter()
            .find(|digest| digest.starts_with(&registry.address));
        let digest = digest.unwrap();
        let again = node.pull(digest).await.unwrap();
        assert_eq!(image.id, again.id, "{digest}");
        let key = format!("c{}", ids.len());
        ids.push(node.store.prepare(&key, &image.id).unwrap().lower);

        // Where nothing of it is, it is unpacked from its own compression.
        let fresh = Node::new();
        let image = fresh.pull(&name).await.unwrap();
        let overlay = fresh.store.prepare("c", &image.id).unwrap();
        assert_eq!(std::fs::read(overlay.lower[0].join("hello")).unwrap(), b"hello\n");
        let content = fresh.dir.path().join("root/images/content/sha256");
        let layer = std::fs::read(content.join(image.layers[0].digest.hex())).unwrap();
        assert!(layer.starts_with(start), "{compression}");
        assert_eq!(layer.ends_with(footer), compression == "zstd:chunked");
        let error = node.pull(&name.replace("app:1", "app:typo")).await.unwrap_err();
        assert!(error.to_string().contains("manifest unknown"), "{error}");
    }
    assert!(
        ids.windows(2).all(|pair| pair[0] == pair[1]),
        "the same files are unpacked once"
    );
}

#[tokio::test]
async fn the_image_for_this_machine_is_taken_from_an_index() {
    let Some(registry) = DockerRegistry::start("").await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path());
    let node = Node::new();
    let mut manifests = Vec::new();
    for (tag, architecture, format) in [("ours", "amd64", "--format=oci"), ("theirs", "s390x", "--format=v2s2")] {
        registry.push(&archive, &format!("team/app:{tag}"), &[format]);
        let image = node
            .pull(&format!("{}/team/app:{tag}", registry.address))
            .await
            .unwrap();
        let digests = image
            .digests
            .iter()
            .map(|name| name.rsplit_once('@').unwrap().1.to_owned());
        let is_new = |digest: &String| !manifests.iter().any(|(_, known)| known == digest);
        let digest = digests.into_iter().find(is_new).unwrap();
        manifests.push((architecture, digest));
    }
    let kinds = [
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ];
    let described = manifests.iter().zip(kinds).map(|((architecture, digest), kind)| {
        let size = Command::new("curl")
            .args(["-sf", "-H", &format!("Accept: {kind}")])
            .arg(format!("http://{}/v2/team/app/manifests/{digest}", registry.address))
            .output()
            .unwrap()
            .stdout
            .len();
        let platform = format!(r#"{{"os":"linux","architecture":"{architecture}"}}"#);
        format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size},"platform":{platform}}}"#)
    });
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#,
        described.collect::<Vec<_>>().join(",")
    );
    registry.put_manifest("team/app", "all", INDEX, index.as_bytes());
    let name = format!("{}/team/app:all", registry.address);
    let fresh = Node::new();
    let image = fresh.pull(&name).await.unwrap();
    assert_eq!(image.manifest.unwrap().to_string(), manifests[0].1);
    let by_index = name.replace(":all", &format!("@{}", Digest::of(index.as_bytes())));
    assert_eq!(
        image.digests,
        std::slice::from_ref(&by_index),
        "the registry knows it by its index"
    );
    assert_eq!(fresh.pull(&by_index).await.unwrap().id, image.id);

    let only = index.replace("\"amd64\"", "\"riscv64\"");
    registry.put_manifest("team/app", "others", INDEX, only.as_bytes());
    let error = fresh
        .pull(&name.replace("all", "others"))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("there is: linux/riscv64, linux/s390x"), "{error}");
}

/// The media type of an index.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[tokio::test]
async fn a_real_registry_wants_a_password() {
    let auth = "auth: {htpasswd: {realm: here, path: DIR/htpasswd}}\n";
    let Some(registry) = DockerRegistry::start(auth).await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    registry.push(&archive(dir.path()), "team/app:1", &["--dest-creds=me:correct horse"]);
    let node = Node::new();
    let name = format!("{}/team/app:1", registry.address);
    let with = |password: &str| {
        Some(Credentials::Password {
            name: "me".to_owned(),
            password: password.to_owned(),
        })
    };
    for wrong in [None, with("hunter2")] {
        let error = node.pull_as(&name, wrong).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    node.pull_as(&name, with("correct horse")).await.unwrap();
}

fn password(password: &str) -> Option<Credentials> {
    Some(Credentials::Password {
        name: "me".to_owned(),
        password: password.to_owned(),
    })
}

#[tokio::test]
async fn what_is_pushed_is_what_is_pulled() {
    let auth = "auth: {htpasswd: {realm: here, path: DIR/htpasswd}}\n";
    let Some(registry) = DockerRegistry::start(auth).await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let from = Node::new();
    let image = from.store.import(Source::Archive(archive(dir.path())), None, &|_| {});
    let image = image.unwrap().remove(0);
    let name = |path: &str| -> Reference { format!("{}/{path}", registry.address).parse().unwrap() };
    let denied = from.registries.push(&image, &name("team/app:1"), None, |_| {}).await;
    assert!(matches!(denied, Err(Error::Denied { .. })), "{denied:?}");
    let mut reports = Vec::new();
    let to = name("team/app:1");
    let pushed = from
        .registries
        .push(&image, &to, password("correct horse"), |report| reports.push(*report));
    let pushed = pushed.await.unwrap();
    assert!(reports.iter().any(|report| report.stage == image::Stage::Ready));

    let to = Node::new();
    let pulled = to
        .pull_as(&name("team/app:1").to_string(), password("correct horse"))
        .await
        .unwrap();
    assert_eq!((pulled.id, pulled.manifest), (image.id, Some(pushed)));
    assert_eq!(pulled.digests, [name("team/app:1").with_digest(&pushed)]);
    // Back under other names: the same bytes, which the registry need not be sent again.
    for other in ["team/copy:2", "team/app:3"] {
        let again = to
            .registries
            .push(&pulled, &name(other), password("correct horse"), |_| {})
            .await;
        assert_eq!(again.unwrap(), pushed);
    }
    let by_digest = name(&format!("team/app@{}", Digest::of(b"another")));
    let refused = to
        .registries
        .push(&pulled, &by_digest, password("correct horse"), |_| {})
        .await;
    assert!(refused.unwrap_err().to_string().contains(&pushed.to_string()));
}

/// The same image from an archive and from a registry, where its layer has been compressed: what goes out is what the registry's name
/// by digest, and a signature, are about. It is not fetched a second time either, and what is damaged does not go out at all.
#[tokio::test]
async fn an_image_that_came_twice_goes_out_as_registries_know_it() {
    let Some(registry) = DockerRegistry::start("").await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path());
    registry.push(&archive, "app:1", &["--format=oci", "--dest-compress-format=zstd"]);
    let node = Node::new();
    let name = |path: &str| -> Reference { format!("{}/{path}", registry.address).parse().unwrap() };
    let imported = node
        .store
        .import(Source::Archive(archive), None, &|_| {})
        .unwrap()
        .remove(0);
    let pulled = node.pull(&name("app:1").to_string()).await.unwrap();
    assert_eq!(pulled.id, imported.id);
    assert_eq!(pulled.tags.len(), 2);
    assert_ne!(pulled.layers[0].digest, imported.layers[0].digest);
    let pushed = node
        .registries
        .push(&pulled, &name("copy:1"), None, |_| {})
        .await
        .unwrap();
    assert_eq!(pulled.digests, [name("app:1").with_digest(&pushed)]);
    node.store.collect().unwrap();
    assert_eq!(
        node.pull(&name("app:1").to_string()).await.unwrap().manifest,
        Some(pushed)
    );
    assert_eq!(node.store.collect().unwrap().blobs, 0, "nothing was fetched again");
    // Nor does an archive that comes later change what a name by digest promises.
    let again = Source::Archive(dir.path().join("image.tar"));
    assert_eq!(
        node.store.import(again, None, &|_| {}).unwrap()[0].manifest,
        Some(pushed)
    );

    let blob = node
        .dir
        .path()
        .join("root/images/content/sha256")
        .join(pulled.layers[0].digest.hex());
    let mut bytes = std::fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let damaged = node.store.export(&[(None, pulled)], &mut std::io::sink()).unwrap_err();
    assert!(damaged.to_string().contains("is damaged on this disk"), "{damaged}");
}

#[tokio::test]
async fn another_registry_understands_us_as_well() {
    let Some(registry) = DockerRegistry::other().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let from = Node::new();
    let image = from.store.import(Source::Archive(archive(dir.path())), None, &|_| {});
    let image = image.unwrap().remove(0);
    let name: Reference = format!("{}/team/app:1", registry.address).parse().unwrap();
    let pushed = from.registries.push(&image, &name, None, |_| {}).await.unwrap();
    let to = Node::new();
    let pulled = to.pull(&name.to_string()).await.unwrap();
    assert_eq!((pulled.id, pulled.manifest), (image.id, Some(pushed)));
    let copy: Reference = format!("{}/team/copy:2", registry.address).parse().unwrap();
    assert_eq!(to.registries.push(&pulled, &copy, None, |_| {}).await.unwrap(), pushed);
    let again = tempfile::tempdir().unwrap();
    registry.push(
        &archive(again.path()),
        "team/app:zstd",
        &["--dest-compress-format=zstd"],
    );
    to.pull(&name.to_string().replace(":1", ":zstd")).await.unwrap();
    let error = to
        .pull(&name.to_string().replace("app:1", "app:typo"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn where_a_server_sends_us_on_nobody_learns_who_we_are() {
    let other = Server::start(Manners::default()).await;
    let server = Server::start(Manners {
        redirects_to: Some(other.address.parse().unwrap()),
        wants_token: true,
        ..Manners::default()
    })
    .await;
    let node = Node::new();
    let hosts = format!(
        "server = \"http://{0}\"\n[host.\"http://{0}\"]\n[host.\"http://{0}\".header]\nx-secret = \"hunter2\"\n",
        server.address
    );
    node.write(&format!("certs.d/{}/hosts.toml", server.address), &hosts);
    // The host of the file is a mirror, which has credentials of its own.
    let auths = format!(r#"{{"auths": {{"{}": {{"auth": "bWU6c2VjcmV0"}}}}}}"#, server.address);
    node.write("config.json", &auths);
    node.pull(&server.image()).await.unwrap();
    let seen = server.seen.authorizations.lock().unwrap().clone();
    assert!(
        seen.contains(&"Bearer the-token".to_owned()) && seen.contains(&"hunter2".to_owned()),
        "{seen:?}"
    );
    assert_eq!(other.seen.layers.load(Ordering::SeqCst), 1);
    assert!(other.seen.authorizations.lock().unwrap().is_empty());
}

/// Set for a test that runs again as a child: `ROOT IMAGE`, to be pulled there.
const CHILD: &str = "HOVE_IMAGE_TEST_PULL";

/// Not a test: what the killed child does.
#[tokio::test]
async fn child() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let (root, image) = task.split_once(' ').unwrap();
    let store = std::sync::Arc::new(Store::open(Path::new(root)).unwrap());
    let registries = image::registry::Registries::new(store.clone(), Default::default());
    registries.pull(&image.parse().unwrap(), None, |_| {}).await.unwrap();
    store.settle().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_was_killed_anywhere_is_taken_up() {
    let server = Server::start(Manners::default()).await;
    let mut killed = 0;
    for point in sys::failpoint::IMAGE_POINTS {
        for count in [1, 4] {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("root");
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child"])
                .env(CHILD, format!("{} {}", root.display(), server.image()))
                .env(sys::failpoint::VARIABLE, format!("{point}@{count}=kill"))
                .stdout(Stdio::null())
                .status()
                .unwrap();
            if child.success() {
                assert_eq!(count, 4, "nobody comes by {point}");
                continue;
            }
            assert_eq!(child.signal(), Some(9));
            killed += 1;
            let ranges = server.seen.ranges.load(Ordering::SeqCst);
            let layers = server.seen.layers.load(Ordering::SeqCst);
            let node = Node::at(dir, |_| {});
            for image in node.store.list() {
                let overlay = node.store.prepare("seen", &image.id).unwrap();
                assert_eq!(
                    std::fs::read(overlay.lower[0].join("hello")).unwrap(),
                    b"hello\n",
                    "{point}"
                );
                node.store.remove_snapshot("seen").unwrap();
            }
            let image = node.pull(&server.image()).await.unwrap();
            let overlay = node.store.prepare("c", &image.id).unwrap();
            assert_eq!(
                std::fs::read(overlay.lower[0].join("hello")).unwrap(),
                b"hello\n",
                "{point}"
            );
            if *point == "image.blob.part" {
                assert_eq!(
                    server.seen.ranges.load(Ordering::SeqCst),
                    ranges + 1,
                    "it goes on where it was"
                );
            } else {
                assert_eq!(
                    server.seen.layers.load(Ordering::SeqCst),
                    layers,
                    "{point}: what was there is used"
                );
            }
            node.store.remove_snapshot("c").unwrap();
            node.store.remove(&server.image(), false).unwrap();
            assert_eq!(node.store.fs_info().unwrap().images.inodes, 0, "nothing leaks");
        }
    }
    assert!(killed >= 7, "{killed}");
}

#[tokio::test]
async fn images_take_no_more_than_they_may() {
    let server = Server::start(Manners::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let open = |store_bytes| {
        let limits = Limits {
            store_bytes: Some(store_bytes),
            ..Limits::default()
        };
        std::sync::Arc::new(Store::with_limits(&dir.path().join(store_bytes.to_string()), limits).unwrap())
    };
    // The layer has 2.4 MB, and takes as much again when it is unpacked.
    for (quota, fits) in [(1_000_000, false), (3_000_000, false), (6_000_000, true)] {
        let store = open(quota);
        let registries = image::registry::Registries::new(store.clone(), Default::default());
        let pulled = registries.pull(&server.image().parse().unwrap(), None, |_| {}).await;
        match pulled {
            Ok(image) => {
                assert!(fits, "{quota}");
                // Another one takes the place of what nothing uses, and never of what is pinned or used.
                let other = dir.path().join("other");
                std::fs::create_dir(&other).unwrap();
                std::fs::write(other.join("file"), vec![7; 2_000_000]).unwrap();
                let again = || store.import_rootfs(&other, &"localhost/other:1".parse().unwrap(), &Default::default());
                store.pin(&[format!("{}/*", server.address)]);
                assert!(again().unwrap_err().to_string().contains("quota_bytes"));
                store.pin(&[]);
                store.prepare("c", &image.id).unwrap();
                assert!(again().is_err());
                store.remove_snapshot("c").unwrap();
                again().unwrap();
                assert_eq!(store.list().len(), 1);
                // For what can't fit nothing goes.
                store
                    .import_rootfs(&other, &"localhost/other:1".parse().unwrap(), &Default::default())
                    .unwrap();
                std::fs::write(other.join("file"), vec![7; 20_000_000]).unwrap();
                assert!(again().unwrap_err().to_string().contains("quota_bytes"));
                assert_eq!(store.list().len(), 1);
            }
            Err(error) => {
                assert!(!fits && error.to_string().contains("quota_bytes"), "{quota}: {error}");
                assert!(store.list().is_empty());
                assert_eq!(store.fs_info().unwrap().images.inodes, 0, "the space is given back");
            }
        }
    }
}
