//! CheckpointContainer, by criu where that is installed and works with the kernel, and what is said where it is not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cri::v1::*;
use cri::{ErrorKind, RuntimeService};

use crate::host::{Host, lives, on_a_host, on_a_native_host, shell};

/// Found in the memory of the shell that has put it together.
const SCRIPT: &str = "word=of; word=memory-$word-the-shell; echo made > /made; rm /etc/group; i=0; \
                      while :; do i=$((i+1)); echo $i; sleep 0.1; done";

async fn checkpoint(host: &Host, id: &str, location: &Path) -> cri::Result<()> {
    let request = CheckpointContainerRequest {
        container_id: id.into(),
        location: location.to_string_lossy().into_owned(),
        timeout: 30,
    };
    host.runtime.checkpoint_container(request).await.map(drop)
}

/// What is said on this machine without a criu that works.
fn impossible() -> Option<&'static str> {
    match Command::new("criu").arg("check").output() {
        Ok(output) if output.status.success() => None,
        Ok(_) => Some("does not work with this kernel"),
        Err(_) => Some("is not installed: install it"),
    }
}

fn sharing(mode: NamespaceMode) -> ContainerConfig {
    let mut config = shell("main", SCRIPT);
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options = Some(NamespaceOption {
        pid: mode.into(),
        ..Default::default()
    });
    config
}

/// Waits until the container's log has another line.
async fn goes_on(host: &Host, id: &str) {
    let before = host.log(id).await.lines().count();
    let more = async {
        while host.log(id).await.lines().count() <= before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), more)
        .await
        .expect("it does not run on");
}

fn tar(arguments: &[&str], archive: &Path) -> String {
    let output = Command::new("tar").args(arguments).arg(archive).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn names(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect()
}

#[test]
fn a_container_is_written_down_and_runs_on() {
    on_a_native_host(
        "containers of other shims are theirs to write down",
        |host| async move {
            // criu looks what a socket can do, on the loopback device, which a host has and a test's does not have up.
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
            assert!(up.success());
            let directory = host.dir.path().join("checkpoints");
            fs::create_dir(&directory).unwrap();
            let sandbox = host.run(host.pod("written")).await.unwrap();
            for mode in [NamespaceMode::Container, NamespaceMode::Pod] {
                let id = host.create(&sandbox, sharing(mode)).await.unwrap();
                host.start(&id).await.unwrap();
                goes_on(&host, &id).await;
                let pid = host.container_pid(&id).await;
                let location = directory.join(format!("checkpoint-{}.tar", mode as i32));
                let made = checkpoint(&host, &id, &location).await;
                if let Some(words) = impossible() {
                    let refused = made.unwrap_err();
                    assert_eq!(refused.kind, ErrorKind::Unimplemented, "{refused}");
                    assert!(refused.message.contains(words), "{refused}");
                    println!("SKIPPED: {refused}");
                    assert_eq!(names(&directory), Vec::<PathBuf>::new());
                    host.remove_container(&id).await.unwrap();
                    continue;
                }
                made.unwrap();
                assert_eq!((host.container_pid(&id).await, lives(pid)), (pid, true));
                goes_on(&host, &id).await;
                check(&host, &id, &location).await;
                // Once more over the old one.
                checkpoint(&host, &id, &location).await.unwrap();
                goes_on(&host, &id).await;
                assert_eq!(
                    names(&directory),
                    std::slice::from_ref(&location),
                    "nothing else is left"
                );
                fs::remove_file(&location).unwrap();
                host.remove_container(&id).await.unwrap();
            }
            host.remove(&sandbox).await.unwrap();
        },
    );
}

async fn check(host: &Host, id: &str, archive: &Path) {
    assert_eq!(fs::metadata(archive).unwrap().permissions().mode() & 0o777, 0o600);
    let members = tar(&["tf"], archive);
    for member in [
        "checkpoint/inventory.img",
        "checkpoint/pstree.img",
        "config.dump",
        "spec.dump",
        "container.log",
        "rootfs-diff.tar",
        "dump.log",
        "stats-dump",
    ] {
        let is_there = members.lines().any(|m| m.trim_start_matches("./") == member);
        assert!(is_there, "{member} is missing: {members}");
    }
    let out = archive.with_extension("d");
    fs::create_dir(&out).unwrap();
    tar(&["-C", out.to_str().unwrap(), "-xf"], archive);
    let config: serde_json::Value = serde_json::from_slice(&fs::read(out.join("config.dump")).unwrap()).unwrap();
    assert_eq!(config["id"], id);
    assert_eq!(config["name"], "main");
    assert_eq!(config["rootfsImageRef"], host.image_id().await);
    let files = tar(&["tf"], &out.join("rootfs-diff.tar"));
    assert!(files.lines().any(|f| f.trim_start_matches("./") == "made"), "{files}");
    assert!(
        fs::read_to_string(out.join("container.log"))
            .unwrap()
            .contains(" stdout F 1\n")
    );
    let pages = names(&out.join("checkpoint")).into_iter();
    let memory = pages.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("pages-"));
    let word = b"memory-of-the-shell";
    let has_word = |path: PathBuf| fs::read(path).unwrap().windows(word.len()).any(|w| w == word);
    assert!(
        memory.into_iter().any(has_word),
        "the shell's memory is in no file of pages"
    );
    fs::remove_dir_all(out).unwrap();
}

#[test]
fn what_can_not_be_written_down() {
    on_a_host(|host| async move {
        let sandbox = host.run(host.pod("refused")).await.unwrap();
        let ended = host.shell(&sandbox, "ended", "exit 0").await;
        host.ended(&ended).await;
        let location = host.dir.path().join("never.tar");
        let refused = checkpoint(&host, &ended, &location).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::FailedPrecondition, "{refused}");
        let refused = checkpoint(&host, &ended, Path::new("never.tar")).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::InvalidArgument, "{refused}");
        let refused = checkpoint(&host, "nobody", &location).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::NotFound, "{refused}");

        let mut terminal = shell("terminal", "exec sleep 1000");
        terminal.tty = true;
        let terminal = host.create(&sandbox, terminal).await.unwrap();
        host.start(&terminal).await.unwrap();
        let refused = checkpoint(&host, &terminal, &location).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Unimplemented, "{refused}");
        assert!(refused.message.contains("has a terminal"), "{refused}");

        // A directory that is not there, and a node that was killed over its work.
        let runs = host.shell(&sandbox, "runs", "exec sleep 1000").await;
        let nowhere = host.dir.path().join("nowhere/x.tar");
        assert!(checkpoint(&host, &runs, &nowhere).await.is_err());
        let work = host.dir.path().join("work");
        fs::create_dir(&work).unwrap();
        fs::write(work.join("pages-1.img"), "half").unwrap();
        let note = host
            .sandbox_dir(&sandbox)
            .join("containers")
            .join(&runs)
            .join("checkpoint");
        std::os::unix::fs::symlink(&work, &note).unwrap();
        let host = host.restart().await;
        assert!(!work.exists(), "what was begun is taken away");
        assert!(note.symlink_metadata().is_err());
        host.remove(&sandbox).await.unwrap();
        assert!(!location.exists());
    });
}
